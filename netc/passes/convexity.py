"""Whether groups of a growing partition of a graph can be joined without making a cycle.

Every group has a set of its ancestors, a bit mask. Groups can be one when no group outside that
feeds them directly has one of them as an ancestor: a path that leaves and comes back must come
back through such a group.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from netc.ir.graph import Node

if TYPE_CHECKING:
    from netc.passes.fuse import Group


class Convexity:
    """Ancestor sets over the groups in `of`, kept up as groups join."""

    def __init__(self, of: Mapping[Node, Group]) -> None:
        self.of = of
        self.bits: dict[Group, int] = {}  # the group's own bit, or bits once it has joined others
        self.ancestors: dict[Group, int] = {}
        self.readers: dict[Node, list[Node]] = {}
        self._count = 0

    def feeding(self, group: Group) -> list[Group]:
        """The groups that make its operands."""
        made_by = (self.of.get(v.node) for n in group.nodes for v in n.inputs)
        return [g for g in dict.fromkeys(made_by) if g is not None and g is not group]

    def add(self, group: Group) -> None:
        """A new group, read by none yet."""
        self.bits[group] = 1 << self._count
        self._count += 1
        self.ancestors[group] = self._above(group)
        for node in group.nodes:
            for v in node.inputs:
                self.readers.setdefault(v.node, []).append(node)

    def _above(self, group: Group) -> int:
        mask = 0
        for g in self.feeding(group):
            mask |= self.bits[g] | self.ancestors[g]
        return mask

    def between(self, parts: tuple[Group, ...]) -> Group | None:
        """A group on a path from one of the parts to another, None when there is none."""
        own = self._own(parts)
        for part in parts:
            for g in self.feeding(part):
                if g not in parts and self.ancestors[g] & own:
                    return g
        return None

    def _own(self, parts: tuple[Group, ...]) -> int:
        mask = 0
        for part in parts:
            mask |= self.bits[part]
        return mask

    def merge(self, union: Group, parts: tuple[Group, ...]) -> None:
        """The parts are `union` now, and `of` says so already."""
        own = self._own(parts)
        known = [self.ancestors.pop(p) | self.bits.pop(p) for p in parts]
        self.bits[union] = own
        above = self._above(union)
        self.ancestors[union] = above
        if all(above & ~k == 0 for k in known):
            return  # whatever follows one of the parts has all these ancestors already
        todo = [union]
        while todo:
            for g in self._reading(todo.pop()):
                if (above | own) & ~self.ancestors[g]:  # else what follows g knows them too
                    self.ancestors[g] |= above | own
                    todo.append(g)

    def _reading(self, group: Group) -> set[Group]:
        """The groups that read what a group makes."""
        return {self.of[r] for n in group.nodes for r in self.readers.get(n, ())} - {group}
