"""What words say of channels: how groups share them, and what has one number for each."""

from __future__ import annotations

from netc.errors import GraphError
from netc.ir.dims import Dim
from netc.ir.graph import Value
from netc.ir.ops.windows import axis_of


def grouped(count: Dim, groups: int) -> Dim:
    """The channels of a group. Raises GraphError where groups are uneven."""
    if groups < 1:
        raise GraphError(f"groups {groups} must be at least 1")
    if isinstance(count, int) and count % groups:
        raise GraphError(f"{groups} groups do not divide {count} channels")
    return count // groups


def per_channel(x: Value, axis: int = 1) -> tuple[Dim, ...]:
    """[C,1,1…]: one number per channel that joins x[n, c, …]."""
    at = axis_of(axis, x.type.rank)
    return (x.type.shape[at], *(1 for _ in x.type.shape[at + 1 :]))
