"""Element-wise chains and strided copies."""

from __future__ import annotations

from netc.codegen.operand import Kernel
from netc.codegen.triton.flat import Flat
from netc.codegen.triton.lowering import Launch, Lowering, rule
from netc.ir.ops.devices import Copy
from netc.ir.ops.elementwise import Cast


@rule(Cast)
def pointwise(ctx: Lowering, k: Kernel) -> list[Launch]:
    """One launch for each shape among the body's outputs."""
    launches = []
    for shape in dict.fromkeys(o.type.shape for o in k.outs):
        chosen = [i for i, o in enumerate(k.outs) if o.type.shape == shape]
        outs = [k.outs[i] for i in chosen]
        flat = Flat(ctx, k, outs, merge=(*outs, *k.ins))
        launches.append(flat.finish({}, only=chosen))
    return launches


@rule(Copy)
def copy(ctx: Lowering, k: Kernel) -> Launch:
    """A value brought from another GPU of this process, element by element."""
    assert k.anchor is not None
    flat = Flat(ctx, k, merge=(*k.outs, *k.ins))
    x = flat.body.at(k.anchor.inputs[0], flat.coords, flat.tile, {})
    return flat.finish({k.anchor.out: x})
