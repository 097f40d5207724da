"""Heaps of integers, the least on top, in which a search keeps the largest it has found.

Slot 1 is the top, and slots 2·i and 2·i + 1 lie below slot i. A heap has as many slots as its
levels have room for; those without an item hold FULL, which is above all items and so sinks.
"""

from __future__ import annotations

from dataclasses import dataclass

from netc.codegen.cpu.emit import Function, Int, Val

FULL = (1 << 63) - 1


@dataclass(frozen=True)
class Heap:
    """A heap in memory: where slot 0 would be, and how many levels lie below the top."""

    f: Function
    base: Val
    depth: Val

    def clear(self) -> None:
        """FULL in every slot."""
        with self.f.loop(1, self.f.shl(2, self.depth)) as turn:
            self.set(turn.index, self.f.const(FULL))

    def set(self, slot: Val, item: Val) -> None:
        """Put an item in a slot, whatever lies around it."""
        self.f.store(item, self.f.gep(self.base, slot, 8), 8)

    def top(self) -> Val:
        """The least item."""
        return self.f.load("i64", self.f.gep(self.base, 8), 8)

    def order(self) -> None:
        """Make a heap of what lies in the slots, from the lowest level but one up."""
        f = self.f
        with f.loop(1, f.add(self.depth, 1)) as height:
            first = f.shl(1, f.sub(self.depth, height.index))
            with f.loop(first, f.add(first, first)) as turn:
                item = f.load("i64", f.gep(self.base, turn.index, 8), 8)
                self._sink(turn.index, item, height.index)

    def replace_top(self, item: Int) -> None:
        """Another item for the least one."""
        self._sink(self.f.const(1), self.f.const(item), self.depth)

    def _sink(self, slot: Val, item: Val, levels: Val) -> None:
        """An item to its place in or below a slot, so many levels above the lowest.

        Below its place the walk goes on with the item that lies there, which changes nothing.
        """
        f = self.f
        with f.loop(0, levels, carry=[slot, item]) as turn:
            slot, item = turn.values
            pair = f.gep(self.base, slot, 16)
            left, right = f.load("i64", pair, 8), f.load("i64", f.gep(pair, 8), 8)
            side = f.icmp("slt", right, left)
            lesser = f.select(side, right, left)
            sinks = f.icmp("slt", lesser, item)
            self.set(slot, f.select(sinks, lesser, item))
            below = f.or_(f.add(slot, slot), f.zext(side))
            turn.next([below, f.select(sinks, item, lesser)])
        self.set(*turn.results)
