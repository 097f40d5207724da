"""The order of passes, here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from netc.ir.device import Device
from netc.ir.graph import Node
from netc.passes.base import Pass
from netc.passes.canonicalize import Canonicalize
from netc.passes.collectives import Collectives
from netc.passes.cse import Cse
from netc.passes.fold_norms import FoldNorms
from netc.passes.fold_params import FoldParams
from netc.passes.fuse import Accepts, Fuse
from netc.passes.layout import AssignLayout
from netc.passes.lift_rows import LiftRows
from netc.passes.merge_siblings import MergeSiblings
from netc.passes.place import Place
from netc.passes.pull_strides import PullStrides
from netc.passes.shardings import Shardings
from netc.passes.simplify import Simplify

INFERENCE: tuple[Pass, ...] = (
    Shardings(),
    Collectives(),
    Canonicalize(),
    Simplify(),
    Cse(),
    FoldNorms(),
    Simplify(),
    Cse(),
    LiftRows(),
    PullStrides(),
    FoldParams(),
    MergeSiblings(),
    FoldParams(),
    AssignLayout(),
    Place(),
    Fuse(),
)
# What lowering needs: full attributes, parameters as arrays, every node a kernel.
MINIMAL: tuple[Pass, ...] = (
    Shardings(),
    Collectives(),
    Canonicalize(),
    FoldParams(),
    Place(),
    Fuse(join=False),
)

PASSES: dict[str, Pass] = {p.name: p for p in INFERENCE}


def never(node: Node) -> str | None:
    """No node is refused."""
    return None


def for_back_end(
    passes: tuple[Pass, ...],
    accepts: Accepts | None = None,
    refuses: Callable[[Node], str | None] = never,
    device: Device | None = None,
) -> tuple[Pass, ...]:
    """The passes, asking a back end what it has kernels for and which nodes stay row-major."""

    def told(p: Pass) -> Pass:
        match p:
            case Fuse() if accepts is not None:
                return replace(p, accepts=accepts)
            case AssignLayout():
                return replace(p, refuses=refuses)
            case Place() if device is not None:
                return replace(p, default=device)
        return p

    return tuple(told(p) for p in passes)
