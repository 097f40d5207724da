"""Elementary functions as Triton text, within 4 units in the last place, and a rounding.

The same reductions and polynomials as the processor's (Cephes, Moshier; see
`netc.codegen.cpu.mathlib`): Triton's own `exp` and `log` are approximations whose error grows with
the argument, and its `sin` and `cos` keep a table in local memory. `quarters` is the way of
`netc.codegen.cpu.angles` beyond 2²⁰, here from 1 on, without a branch. `tf32` rounds to 10 bits
behind the point, to nearest even. A kernel text begins with those of them that it calls.
"""

from __future__ import annotations

import re

_EXPM1_CORE = """
@triton.jit
def expm1_core(r):
    y = tl.full(r.shape, 1.9875691500e-4, tl.float32)
    y = tl.fma(y, r, 1.3981999507e-3)
    y = tl.fma(y, r, 8.3334519073e-3)
    y = tl.fma(y, r, 4.1665795894e-2)
    y = tl.fma(y, r, 1.6666665459e-1)
    y = tl.fma(y, r, 5.0000001201e-1)
    return tl.fma(r * r, y, r)
"""
_POWER_OF_TWO = """
@triton.jit
def power_of_two(n):
    return ((n + 127) << 23).to(tl.float32, bitcast=True)
"""
_EXP = """
@triton.jit
def exp(x):
    held = tl.where(x < -104.0, -104.0, tl.where(x > 89.0, 89.0, x))
    whole = tl.floor(tl.fma(held, 1.4426950408889634, 0.5))
    r = tl.fma(whole, -0.693359375, held)
    r = tl.fma(whole, 2.12194440e-4, r)
    y = expm1_core(r) + 1.0
    n = whole.to(tl.int32)
    half = n >> 1
    return (y * power_of_two(half)) * power_of_two(n - half)
"""
_EXPM1 = """
@triton.jit
def expm1(x):
    held = tl.where(x < -20.0, -20.0, tl.where(x > 89.0, 89.0, x))
    whole = tl.floor(tl.fma(held, 1.4426950408889634, 0.5))
    r = tl.fma(whole, -0.693359375, held)
    r = tl.fma(whole, 2.12194440e-4, r)
    near = expm1_core(r)
    n = whole.to(tl.int32)
    half = power_of_two(n - 1)
    far = tl.fma(half, near, half - 0.5)
    return tl.where(n == 0, tl.where(x == 0.0, x, near), far + far)
"""
_LOG = """
@triton.jit
def log(x):
    tiny = x < 1.1754943508222875e-38
    bits = tl.where(tiny, x * 8388608.0, x).to(tl.int32, bitcast=True)
    n = (bits - 1060439283) >> 23
    m = (bits - (n << 23)).to(tl.float32, bitcast=True) - 1.0
    e = n.to(tl.float32) - tl.where(tiny, 23.0, 0.0)
    z = m * m
    y = tl.full(x.shape, 7.0376836292e-2, tl.float32)
    y = tl.fma(y, m, -1.1514610310e-1)
    y = tl.fma(y, m, 1.1676998740e-1)
    y = tl.fma(y, m, -1.2420140846e-1)
    y = tl.fma(y, m, 1.4249322787e-1)
    y = tl.fma(y, m, -1.6668057665e-1)
    y = tl.fma(y, m, 2.0000714765e-1)
    y = tl.fma(y, m, -2.4999993993e-1)
    y = tl.fma(y, m, 3.3333331174e-1)
    y = (m * z) * y
    y = tl.fma(e, -2.12194440e-4, y)
    y = tl.fma(z, -0.5, y)
    out = tl.fma(e, 0.693359375, m + y)
    out = tl.where(x < float("inf"), out, x)
    out = tl.where(x == 0.0, float("-inf"), out)
    return tl.where(x < 0.0, float("nan"), out)
"""
_LOG1P = """
@triton.jit
def log1p(x):
    u = x + 1.0
    lost = x - (u - 1.0)
    direct = log(u)
    better = direct + tl.div_rn(lost, u)
    return tl.where((u > 0.0) & (u < float("inf")), better, direct)
"""
_TANH = """
@triton.jit
def tanh(x):
    size = tl.abs(x)
    z = x * x
    y = tl.full(x.shape, -5.70498872745e-3, tl.float32)
    y = tl.fma(y, z, 2.06390887954e-2)
    y = tl.fma(y, z, -5.37397155531e-2)
    y = tl.fma(y, z, 1.33314422036e-1)
    y = tl.fma(y, z, -3.33332819422e-1)
    near = tl.fma(x * z, y, x)
    far = 1.0 - tl.div_rn(2.0 + 0.0 * size, exp(size + size) + 1.0)
    return tl.where(size < 0.625, near, tl.where(x < 0.0, -far, far))
"""
_ERF = """
@triton.jit
def erf(x):
    size = tl.abs(x)
    z = x * x
    y = tl.full(x.shape, 7.853860734e-5, tl.float32)
    y = tl.fma(y, z, -8.010193706e-4)
    y = tl.fma(y, z, 5.188327748e-3)
    y = tl.fma(y, z, -2.685381286e-2)
    y = tl.fma(y, z, 1.128358543e-1)
    y = tl.fma(y, z, -3.761262596e-1)
    y = tl.fma(y, z, 1.283791067e-1)
    near = tl.fma(x, y, x)
    held = tl.where(size > 4.0, 4.0, size)
    t = tl.full(x.shape, -1.855740702e-4, tl.float32)
    t = tl.fma(t, held, 2.939607948e-3)
    t = tl.fma(t, held, -2.180531994e-2)
    t = tl.fma(t, held, 1.030373722e-1)
    t = tl.fma(t, held, 6.382256746e-1)
    t = tl.fma(t, held, 1.127040029)
    t = tl.fma(t, held, 3.537187586e-4)
    far = 1.0 - exp(-t)
    return tl.where(size < 1.0, near, tl.where(x < 0.0, -far, far))
"""
_WINDOW = """
@triton.jit
def window(first):
    skip = (first & 64) != 0
    w0 = tl.where(skip, 0x220A94FE, 0x00000051)
    w1 = tl.where(skip, 0x13ABE8FA, 0x7CC1B727)
    w2 = tl.where(skip, 0x9A6EE06D, 0x220A94FE)
    w3 = tl.where(skip, 0xB14ACC9E, 0x13ABE8FA)
    w4 = tl.where(skip, 0x21C820FF, 0x9A6EE06D)
    skip = (first & 32) != 0
    a = tl.where(skip, w1, w0).to(tl.int64) & 0xFFFFFFFF
    b = tl.where(skip, w2, w1).to(tl.int64) & 0xFFFFFFFF
    c = tl.where(skip, w3, w2).to(tl.int64) & 0xFFFFFFFF
    d = tl.where(skip, w4, w3).to(tl.int64) & 0xFFFFFFFF
    shift = (first & 31).to(tl.int64)
    high = ((((a << 32) | b) << shift) >> 32) & 0xFFFFFFFF
    middle = ((((b << 32) | c) << shift) >> 32) & 0xFFFFFFFF
    low = ((((c << 32) | d) << shift) >> 32) & 0xFFFFFFFF
    return high, middle, low
"""
_QUARTERS = """
@triton.jit
def quarters(size):
    bits = size.to(tl.int32, bitcast=True)
    high, middle, low = window((bits >> 23) - 127)
    m = ((bits & 0x7FFFFF) | 0x800000).to(tl.int64)
    total = ((m * high) << 32) + m * middle + ((m * low) >> 32)
    nearest = (total + 0x2000000000000000) >> 62
    angle = (total - (nearest << 62)).to(tl.float32)
    far = tl.fma(angle, 3.4061216748705226e-19, angle * -9.478396428567739e-27) + (size - size)
    turned = size > 0.7853981633974483
    near = tl.where(turned, (size - 1.5707963705062866) + 4.371138828673793e-08, size)
    n = tl.where(size < 1.0, turned.to(tl.int32), nearest.to(tl.int32))
    return n, tl.where(size < 1.0, near, far)
"""
_WAVE = """
@triton.jit
def wave(n, r):
    z = r * r
    y = tl.full(r.shape, -1.9515295891e-4, tl.float32)
    y = tl.fma(y, z, 8.3321608736e-3)
    y = tl.fma(y, z, -1.6666654611e-1)
    sine = tl.fma(r * z, y, r)
    y = tl.full(r.shape, 2.443315711809948e-5, tl.float32)
    y = tl.fma(y, z, -1.388731625493765e-3)
    y = tl.fma(y, z, 4.166664568298827e-2)
    y = tl.fma(y, z, -0.5)
    cosine = tl.fma(y, z, 1.0)
    bits = tl.where((n & 1) != 0, cosine, sine).to(tl.int32, bitcast=True)
    return (bits ^ ((n >> 1) << 31)).to(tl.float32, bitcast=True)
"""
_SIN = """
@triton.jit
def sin(x):
    n, r = quarters(tl.abs(x))
    return wave(n ^ ((x.to(tl.int32, bitcast=True) >> 31) & 2), r)
"""
_COS = """
@triton.jit
def cos(x):
    n, r = quarters(tl.abs(x))
    return wave(n + 1, r)
"""
_POWER = """
@triton.jit
def power(x, y):
    size = tl.abs(x)
    wide = size.to(tl.float64)
    bits = wide.to(tl.int64, bitcast=True)
    n = (bits - 4604544271217802189) >> 52
    m = (bits - (n << 52)).to(tl.float64, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    a = z * 0.0 + 0.058823529411764705
    a = a * z + 0.06666666666666667
    a = a * z + 0.07692307692307693
    a = a * z + 0.09090909090909091
    a = a * z + 0.1111111111111111
    a = a * z + 0.14285714285714285
    a = a * z + 0.2
    a = a * z + 0.3333333333333333
    a = a * z + 1.0
    g = s * a * 2.8853900817779268 + n.to(tl.float64)
    g = tl.where(wide < float("inf"), g, wide)
    g = tl.where(wide == 0.0, float("-inf"), g)
    t = y.to(tl.float64) * g
    t = tl.where(t < -160.0, -160.0, tl.where(t > 160.0, 160.0, t))
    whole = tl.floor(t + 0.5)
    r = t - whole
    b = r * 0.0 + 7.054911620801123e-09
    b = b * r + 1.017808600923970e-07
    b = b * r + 1.321548679014431e-06
    b = b * r + 1.525273380405984e-05
    b = b * r + 1.540353039338161e-04
    b = b * r + 1.333355814642844e-03
    b = b * r + 9.618129107628477e-03
    b = b * r + 5.550410866482158e-02
    b = b * r + 2.402265069591007e-01
    b = b * r + 6.931471805599453e-01
    b = b * r + 1.0
    k = (whole.to(tl.int64) + 1023) << 52
    out = (b * k.to(tl.float64, bitcast=True)).to(tl.float32)
    half = y * 0.5
    integer = tl.floor(y) == y
    odd = integer & (tl.floor(half) != half) & (y == y)
    out = tl.where(odd & (x.to(tl.int32, bitcast=True) < 0), -out, out)
    out = tl.where((x < 0.0) & (x > float("-inf")) & (integer == 0), float("nan"), out)
    out = tl.where((x != x) | (y != y), float("nan"), out)
    unit = (size == 1.0) & (y * y == float("inf"))
    return tl.where((x == 1.0) | unit | (y == 0.0), 1.0, out)
"""
_TF32 = """
@triton.jit
def tf32(x):
    bits = x.to(tl.int32, bitcast=True)
    near = (bits + 4095 + ((bits >> 13) & 1)) & -8192
    return tl.where(x == x, near.to(tl.float32, bitcast=True), x)
"""
_FUNCTIONS = {  # in an order that has every function after those it calls
    "expm1_core": _EXPM1_CORE,
    "power_of_two": _POWER_OF_TWO,
    "exp": _EXP,
    "expm1": _EXPM1,
    "log": _LOG,
    "log1p": _LOG1P,
    "tanh": _TANH,
    "erf": _ERF,
    "window": _WINDOW,
    "quarters": _QUARTERS,
    "wave": _WAVE,
    "sin": _SIN,
    "cos": _COS,
    "power": _POWER,
    "tf32": _TF32,
}


def prelude(text: str) -> str:
    """The functions that a text calls, and those that they call."""
    wanted: set[str] = set()
    rest = text
    for name, body in reversed(_FUNCTIONS.items()):
        if re.search(rf"(?<![\w.]){name}\(", rest):
            wanted.add(name)
            rest += body
    return "".join(f"{body.strip()}\n\n\n" for name, body in _FUNCTIONS.items() if name in wanted)
