"""Local response normalization across channels."""

from __future__ import annotations

from netc.codegen.operand import Kernel
from netc.codegen.triton.body import Coord
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.formula import TritonScalars
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.codegen.triton.window import UNROLLED
from netc.ir.ops.normalization import Lrn
from netc.ir.scalar import S, power


@rule(Lrn)
def lrn(ctx: Lowering, k: Kernel) -> Launch:
    """Every lane reads the channels around its own."""
    assert k.anchor is not None
    op, (x,) = k.anchor.op, k.anchor_operands()
    assert isinstance(op, Lrn)
    flat = Flat(ctx, k)
    src, channels = flat.src, x.type.shape[1]
    reach = op.size // 2
    if isinstance(channels, int):
        reach = min(reach, max(0, channels - 1))
    own = flat.body.read(x, flat.coords, flat.tile)
    src.line(f"total = tl.zeros_like({flat.lane}).to(tl.float32)")

    def add(by: str) -> None:
        at = src.let(f"{flat.coords[1].text} + {by}")
        inside = f"({at} >= 0) & ({at} < {src.size(channels)})"
        coords = [flat.coords[0], Coord(at, "lane"), *flat.coords[2:]]
        there = flat.body.read(x, coords, flat.tile, inside)
        src.line(f"total = tl.fma({there}, {there}, total)")

    if channels == 1:
        src.line(f"total = total + {own} * {own}")
    elif 2 * reach + 1 <= UNROLLED:
        for by in range(-reach, reach + 1):
            add(str(by))
    else:
        with src.block(f"for by in range({-reach}, {reach + 1}):"):
            add("by")
    b = TritonScalars(src, flat.lane)
    base = S(b, "total") * (op.alpha / op.size) + op.k
    out = S(b, own) / base if op.beta == 1.0 else S(b, own) * power(base, -op.beta)
    return flat.finish({k.anchor.out: out.h})
