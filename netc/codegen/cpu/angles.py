"""Angles in quarter turns: size = n · π/2 + r, |r| little above π/4, for every float32 size >= 0.

Up to 2²⁰, n · π/2 is taken off in parts (Cody and Waite, 1980), the first of them without rounding.
Beyond, size is m · 2ᵉ with a whole m, and the bits of 2/π that m · 2ᵉ does not lift above 4, the
first 96 of them, times m are the quarter turns modulo 4 with 62 bits behind the point (Payne and
Hanek, 1983). That is done where a lane needs it; no lane's result depends on its neighbours.
"""

from __future__ import annotations

from itertools import pairwise

from netc.codegen.cpu.emit import Function, Val, const_float, const_int, vec

_FAR = 2.0**20  # the largest angle that parts are taken off
_FAR_EXPONENT = 147  # the exponent field of a float32 beyond: size = m · 2^(field − 150)
# 2/π behind five zeros, by words of 32 bits: the first window begins with the first of these bits.
_TWO_OVER_PI = (0x0517CC1B, 0x727220A9, 0x4FE13ABE, 0x8FA9A6EE, 0x06DB14AC, 0xC9E21C82, 0x0FF28B1D)

_ROUND = 12582912.0  # 1.5 · 2²³: adding it leaves the nearest integer in the low bits
_ROUND_WIDE = 6755399441055744.0  # 1.5 · 2⁵²
_TURNS = 0.6366197723675814  # 2/π, quarter turns in a unit of angle
_PARTS = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)  # of π/2
_PARTS_WIDE = (1.5707963267341256, 6.077100506506192e-11)  # the first has 33 bits, n has 20
_PARTS_FAR = (3.4061216748705226e-19, -9.478396428567739e-27)  # of π/2 · 2⁻⁶²


def quarters(f: Function, size: Val) -> tuple[Val, Val]:
    """n, right in its two lowest bits, and r; NaN for infinity."""
    far = f.fcmp("ogt", size, f.f32(_FAR, size.lanes))
    near = _near(f, size) if f.target.fma else _near_wide(f, size)
    with f.if_(_any(f, far)) as branch:
        pairs = zip(_far(f, size), near, strict=True)
        branch.give([f.select(far, a, b) for a, b in pairs])
        branch.otherwise()
        branch.give(near)
    n, r = branch.results
    return n, r


def _any(f: Function, mask: Val) -> Val:
    if mask.lanes == 1:
        return mask
    bits = f.cast("bitcast", mask, f"i{mask.lanes}")
    return f.icmp("ne", bits, const_int(0, bits.type))


def _near(f: Function, size: Val) -> tuple[Val, Val]:
    k = size.lanes
    shifted = f.fma(size, f.f32(_TURNS, k), f.f32(_ROUND, k))
    whole = f.fsub(shifted, f.f32(_ROUND, k))
    r = size
    for part in _PARTS:
        r = f.fma(whole, f.f32(-part, k), r)
    return f.cast("bitcast", shifted, vec(k, "i32")), r


def _near_wide(f: Function, size: Val) -> tuple[Val, Val]:
    """The same in float64, for processors that round a product before they add to it."""
    k, wide = size.lanes, vec(size.lanes, "double")
    turns, magic = const_float(_TURNS, wide), const_float(_ROUND_WIDE, wide)
    r = f.cast("fpext", size, wide)
    shifted = f.fadd(f.fmul(r, turns), magic)
    whole = f.fsub(shifted, magic)
    for part in _PARTS_WIDE:
        r = f.fsub(r, f.fmul(whole, const_float(part, wide)))
    n = f.cast("trunc", f.cast("bitcast", shifted, vec(k, "i64")), vec(k, "i32"))
    return n, f.cast("fptrunc", r, size.type)


def _far(f: Function, size: Val) -> tuple[Val, Val]:
    k, ints, longs = size.lanes, vec(size.lanes, "i32"), vec(size.lanes, "i64")
    bits = f.cast("bitcast", size, ints)
    first = f.sub(f.lshr(bits, const_int(23, ints)), const_int(_FAR_EXPONENT, ints))
    m = f.or_(f.and_(bits, const_int(0x7FFFFF, ints)), const_int(0x800000, ints))
    high, middle, low = (f.mul(f.zext(m, longs), f.zext(word, longs)) for word in _window(f, first))
    total = f.add(f.shl(high, const_int(32, longs)), middle)
    total = f.add(total, f.lshr(low, const_int(32, longs)))
    nearest = f.lshr(f.add(total, const_int(1 << 61, longs)), const_int(62, longs))
    rest = f.sub(total, f.shl(nearest, const_int(62, longs)))  # signed, 2⁻⁶² quarter turns
    angle = f.cast("sitofp", rest, size.type)
    r = f.fma(angle, f.f32(_PARTS_FAR[0], k), f.fmul(angle, f.f32(_PARTS_FAR[1], k)))
    return f.cast("trunc", nearest, ints), f.fadd(r, f.fsub(size, size))


def _window(f: Function, first: Val) -> list[Val]:
    """The 96 bits of 2/π from bit `first` on, 0 to 107, in three words."""
    words = [const_int(word, first.type) for word in _TWO_OVER_PI]
    for step in (2, 1):  # words
        passed = f.and_(first, const_int(32 * step, first.type))
        skip = f.icmp("ne", passed, const_int(0, first.type))
        pairs = zip(words, words[step:], strict=False)
        words = [f.select(skip, later, word) for word, later in pairs]
    shift = f.and_(first, const_int(31, first.type))
    return [f.intrinsic("llvm.fshl", word, following, shift) for word, following in pairwise(words)]
