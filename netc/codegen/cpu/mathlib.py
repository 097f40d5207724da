"""Elementary functions over vectors of float32, written out in LLVM instructions.

Each is within 2 to 4 units in the last place of the true value, and right for NaN, infinities,
zeros of either sign and denormals. Reductions and polynomials follow Cephes (Moshier), but those of
`erf` were fitted by us; `power` works in float64; `angles` reduces what `sin` and `cos` are given.
Scalars (one lane) run the same instructions and give the same bits.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

from netc.codegen.cpu.angles import quarters
from netc.codegen.cpu.emit import Function, Val, const_int, vec

_ROUND = 12582912.0  # 1.5 · 2²³: adding it leaves the nearest integer in the low bits
_ROUND64 = 6755399441055744.0  # 1.5 · 2⁵²
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # the high part has 10 bits: n · high is exact
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
        5.0000001201e-1)  # fmt: skip
_LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
_ERF = (7.853860734e-5, -8.010193706e-4, 5.188327748e-3, -2.685381286e-2, 1.128358543e-1,
        -3.761262596e-1, 1.283791067e-1)  # fmt: skip
_ERFC = (-1.855740702e-4, 2.939607948e-3, -2.180531994e-2, 1.030373722e-1, 6.382256746e-1,
         1.127040029, 3.537187586e-4)  # fmt: skip
_TANH = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
         -3.33332819422e-1)  # fmt: skip
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2, -0.5, 1.0)


def _horner(f: Function, x: Val, coefficients: Sequence[float]) -> Val:
    acc = f.f32(coefficients[0], x.lanes)
    for c in coefficients[1:]:
        acc = f.fma(acc, x, f.f32(c, x.lanes))
    return acc


def _bits(f: Function, x: Val) -> Val:
    return f.cast("bitcast", x, vec(x.lanes, "i32"))


def _power_of_two(f: Function, n: Val) -> Val:
    """2ⁿ for a vector of i32 between -126 and 127."""
    return f.cast("bitcast", f.shl(f.add(n, 127), const_int(23, n.type)), vec(n.lanes))


def at_least(f: Function, x: Val, low: Val) -> Val:
    """x held above `low`; NaN stays NaN. One instruction on x86."""
    return f.select(f.fcmp("ogt", low, x), low, x)


def at_most(f: Function, x: Val, high: Val) -> Val:
    """x held below `high`; NaN stays NaN."""
    return f.select(f.fcmp("olt", high, x), high, x)


def maximum(f: Function, a: Val, b: Val) -> Val:
    """The larger; NaN when either is."""
    return f.select(f.fcmp("uno", a, a), a, at_least(f, b, a))


def minimum(f: Function, a: Val, b: Val) -> Val:
    """The smaller; NaN when either is."""
    return f.select(f.fcmp("uno", a, a), a, at_most(f, b, a))


def _reduce(f: Function, x: Val) -> tuple[Val, Val]:
    """n and r with x = n · ln 2 + r, |r| <= ln 2 / 2."""
    k = x.lanes
    shifted = f.fma(x, f.f32(math.log2(math.e), k), f.f32(_ROUND, k))
    whole = f.fsub(shifted, f.f32(_ROUND, k))
    magic = struct.unpack("<i", struct.pack("<f", _ROUND))[0]
    n = f.sub(_bits(f, shifted), const_int(magic, vec(k, "i32")))
    r = f.fma(whole, f.f32(-_LN2_HIGH, k), x)
    return n, f.fma(whole, f.f32(-_LN2_LOW, k), r)


def _expm1_core(f: Function, r: Val) -> Val:
    """eʳ − 1 near zero."""
    return f.fma(f.fmul(r, r), _horner(f, r, _EXP), r)


def exp(f: Function, x: Val) -> Val:
    """eˣ."""
    k = x.lanes
    x = at_most(f, at_least(f, x, f.f32(-104.0, k)), f.f32(89.0, k))
    n, r = _reduce(f, x)
    y = f.fadd(_expm1_core(f, r), f.f32(1.0, k))
    half = f.ashr(n, const_int(1, n.type))  # two factors: 2ⁿ itself may be no float
    return f.fmul(f.fmul(y, _power_of_two(f, half)), _power_of_two(f, f.sub(n, half)))


def expm1(f: Function, x: Val) -> Val:
    """eˣ − 1, exact near zero."""
    k = x.lanes
    held = at_most(f, at_least(f, x, f.f32(-20.0, k)), f.f32(89.0, k))
    n, r = _reduce(f, held)
    near = _expm1_core(f, r)
    half = _power_of_two(f, f.sub(n, const_int(1, n.type)))  # 2¹²⁸ is no float, its half is
    far = f.fma(half, near, f.fsub(half, f.f32(0.5, k)))
    small = f.icmp("eq", n, const_int(0, n.type))
    signed = f.select(f.fcmp("oeq", x, f.f32(0.0, k)), x, near)
    return f.select(small, signed, f.fadd(far, far))


def log(f: Function, x: Val) -> Val:
    """The natural logarithm."""
    k, ints = x.lanes, vec(x.lanes, "i32")
    tiny = f.fcmp("olt", x, f.f32(2.0**-126, k))
    scaled = f.select(tiny, f.fmul(x, f.f32(2.0**23, k)), x)
    bits = _bits(f, scaled)
    root = struct.unpack("<i", struct.pack("<f", math.sqrt(0.5)))[0]
    above = f.sub(bits, const_int(root, ints))  # mantissas then run from √½ to √2
    n = f.ashr(above, const_int(23, ints))
    m = f.cast("bitcast", f.sub(bits, f.shl(n, const_int(23, ints))), x.type)
    e = f.cast("sitofp", n, x.type)
    e = f.select(tiny, f.fsub(e, f.f32(23.0, k)), e)
    m = f.fsub(m, f.f32(1.0, k))
    z = f.fmul(m, m)
    y = f.fmul(f.fmul(m, z), _horner(f, m, _LOG))
    y = f.fma(e, f.f32(_LN2_LOW, k), y)
    y = f.fma(z, f.f32(-0.5, k), y)
    out = f.fma(e, f.f32(_LN2_HIGH, k), f.fadd(m, y))
    infinite = f.f32(math.inf, k)
    out = f.select(f.fcmp("olt", x, infinite), out, x)  # +inf and NaN are their own logarithms
    out = f.select(f.fcmp("oeq", x, f.f32(0.0, k)), f.f32(-math.inf, k), out)
    return f.select(f.fcmp("olt", x, f.f32(0.0, k)), f.f32(math.nan, k), out)


def log1p(f: Function, x: Val) -> Val:
    """log(1 + x), exact near zero."""
    k = x.lanes
    u = f.fadd(x, f.f32(1.0, k))
    lost = f.fsub(x, f.fsub(u, f.f32(1.0, k)))  # what rounding 1 + x dropped
    direct = log(f, u)
    better = f.fadd(direct, f.fdiv(lost, u))
    positive = f.fcmp("ogt", u, f.f32(0.0, k))
    regular = f.and_(positive, f.fcmp("olt", u, f.f32(math.inf, k)))
    return f.select(regular, better, direct)


def tanh(f: Function, x: Val) -> Val:
    """The hyperbolic tangent."""
    k = x.lanes
    size = f.intrinsic("llvm.fabs", x)
    z = f.fmul(x, x)
    near = f.fma(f.fmul(x, z), _horner(f, z, _TANH), x)
    grown = exp(f, f.fadd(size, size))
    far = f.fsub(f.f32(1.0, k), f.fdiv(f.f32(2.0, k), f.fadd(grown, f.f32(1.0, k))))
    return f.select(f.fcmp("olt", size, f.f32(0.625, k)), near, copysign(f, far, x))


def erf(f: Function, x: Val) -> Val:
    """Gauss' error function."""
    k = x.lanes
    size = f.intrinsic("llvm.fabs", x)
    near = f.fma(x, _horner(f, f.fmul(x, x), _ERF), x)
    tail = _horner(f, at_most(f, size, f.f32(4.0, k)), _ERFC)  # −log erfc
    far = f.fsub(f.f32(1.0, k), exp(f, f.fneg(tail)))
    return f.select(f.fcmp("olt", size, f.f32(1.0, k)), near, copysign(f, far, x))


def sin(f: Function, x: Val) -> Val:
    """The sine of an angle in radians; NaN for infinities."""
    n, r = quarters(f, f.intrinsic("llvm.fabs", x))
    half = f.and_(f.lshr(_bits(f, x), const_int(30, n.type)), const_int(2, n.type))
    return _wave(f, f.xor(n, half), r)  # below zero half a turn later


def cos(f: Function, x: Val) -> Val:
    """The cosine of an angle in radians, the sine a quarter turn later; NaN for infinities."""
    n, r = quarters(f, f.intrinsic("llvm.fabs", x))
    return _wave(f, f.add(n, const_int(1, n.type)), r)


def _wave(f: Function, n: Val, r: Val) -> Val:
    """sin(n · π/2 + r)."""
    z = f.fmul(r, r)
    sine = f.fma(f.fmul(r, z), _horner(f, z, _SIN), r)
    odd = f.icmp("ne", f.and_(n, const_int(1, n.type)), const_int(0, n.type))
    out = _bits(f, f.select(odd, _horner(f, z, _COS), sine))
    below = f.shl(f.lshr(n, const_int(1, n.type)), const_int(31, n.type))
    return f.cast("bitcast", f.xor(out, below), r.type)


def copysign(f: Function, size: Val, sign: Val) -> Val:
    """The size of one value with the sign of another."""
    return f.intrinsic("llvm.copysign", size, sign)


def rational_power(f: Function, x: Val, exponent: float) -> Val | None:
    """x to 2, 3, 0.5, −0.5 or −0.75 without logarithms, x not below zero; else None."""
    one = f.f32(1.0, x.lanes)
    if exponent == 2.0:
        return f.fmul(x, x)
    if exponent == 3.0:
        return f.fmul(f.fmul(x, x), x)
    if exponent not in (0.5, -0.5, -0.75):
        return None
    root = f.intrinsic("llvm.sqrt", x)
    if exponent == 0.5:
        return root
    if exponent == -0.75:
        root = f.fmul(root, f.intrinsic("llvm.sqrt", root))
    return f.fdiv(one, root)


def power(f: Function, x: Val, y: Val, exponent: float | None = None) -> Val:
    """x to the y as C's pow; `exponent` is y where it is a known number."""
    if exponent is not None:
        safe = x
        if exponent in (0.5, -0.5, -0.75):  # pow(−0, ½) = +0 and pow(−∞, ½) = +∞
            k = x.lanes
            lowest = f.fcmp("oeq", x, f.f32(-math.inf, k))
            safe = f.select(lowest, f.f32(math.inf, k), f.fadd(x, f.f32(0.0, k)))
        made = rational_power(f, safe, exponent)
        if made is not None:
            return made
    if x.lanes > 8:
        half = x.lanes // 2
        low, high = list(range(half)), list(range(half, x.lanes))
        parts = [_power(f, f.shuffle(x, x, s), f.shuffle(y, y, s)) for s in (low, high)]
        return f.shuffle(parts[0], parts[1], range(x.lanes))
    return _power(f, x, y)


def _power(f: Function, x: Val, y: Val) -> Val:
    k = x.lanes
    size = f.intrinsic("llvm.fabs", x)
    wide = vec(k, "double")
    t = f.fmul(f.cast("fpext", y, wide), _log2_wide(f, f.cast("fpext", size, wide)))
    out = f.cast("fptrunc", _exp2_wide(f, t), x.type)
    zero, one, nan = f.f32(0.0, k), f.f32(1.0, k), f.f32(math.nan, k)
    whole = f.fcmp("oeq", f.intrinsic("llvm.floor", y), y)
    half = f.fmul(y, f.f32(0.5, k))
    odd = f.and_(whole, f.fcmp("one", f.intrinsic("llvm.floor", half), half))
    out = f.select(odd, copysign(f, out, x), out)
    below = f.and_(f.fcmp("olt", x, zero), f.fcmp("ogt", x, f.f32(-math.inf, k)))
    out = f.select(f.and_(below, f.xor(whole, const_int(-1, whole.type))), nan, out)
    infinite = f.fcmp("oeq", f.fmul(y, y), f.f32(math.inf, k))
    unit = f.and_(f.fcmp("oeq", size, one), infinite)  # log(1) · ∞ was no number
    certain = f.or_(f.fcmp("oeq", x, one), unit)
    return f.select(f.or_(certain, f.fcmp("oeq", y, zero)), one, out)


def _wide(f: Function, value: float, lanes: int) -> Val:
    literal = f"0x{struct.pack('>d', value).hex().upper()}"
    type = vec(lanes, "double")
    return Val(type, literal if lanes == 1 else f"splat (double {literal})")


def _log2_wide(f: Function, x: Val) -> Val:
    """log₂ of float64 values that were positive float32: 2 atanh((m − 1)/(m + 1)) as a series."""
    k, longs = x.lanes, vec(x.lanes, "i64")
    bits = f.cast("bitcast", x, longs)
    root = struct.unpack("<q", struct.pack("<d", math.sqrt(0.5)))[0]
    n = f.ashr(f.sub(bits, const_int(root, longs)), const_int(52, longs))
    m = f.cast("bitcast", f.sub(bits, f.shl(n, const_int(52, longs))), x.type)
    one = _wide(f, 1.0, k)
    s = f.fdiv(f.fsub(m, one), f.fadd(m, one))
    z = f.fmul(s, s)
    acc = _wide(f, 1 / 17, k)
    for odd in range(15, 0, -2):
        acc = f.fma(acc, z, _wide(f, 1 / odd, k))
    e = f.cast("sitofp", f.cast("trunc", n, vec(k, "i32")), x.type)
    out = f.fma(f.fmul(s, acc), _wide(f, 2 / math.log(2), k), e)
    out = f.select(f.fcmp("olt", x, _wide(f, math.inf, k)), out, x)
    zero = f.fcmp("oeq", x, _wide(f, 0.0, k))
    return f.select(zero, _wide(f, -math.inf, k), out)


def _exp2_wide(f: Function, t: Val) -> Val:
    """2 to a float64 power, exact enough for a float32 result."""
    k, longs = t.lanes, vec(t.lanes, "i64")
    low, high = _wide(f, -160.0, k), _wide(f, 160.0, k)
    t = at_most(f, at_least(f, t, low), high)
    shifted = f.fadd(t, _wide(f, _ROUND64, k))
    r = f.fsub(t, f.fsub(shifted, _wide(f, _ROUND64, k)))
    acc = _wide(f, math.log(2) ** 10 / math.factorial(10), k)
    for i in range(9, -1, -1):
        acc = f.fma(acc, r, _wide(f, math.log(2) ** i / math.factorial(i), k))
    magic = struct.unpack("<q", struct.pack("<d", _ROUND64))[0]
    n = f.sub(f.cast("bitcast", shifted, longs), const_int(magic - 1023, longs))
    return f.fmul(acc, f.cast("bitcast", f.shl(n, const_int(52, longs)), t.type))
