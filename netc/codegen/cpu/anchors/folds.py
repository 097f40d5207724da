"""Sums and maxima of many elements: in blocks, so that errors stay small, in a fixed order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.emit import Function, Val, vec

Join = Callable[[Function, Val, Val], Val]
Load = Callable[[Val, int, Val | None], Val]  # element, lanes, mask -> vector

BLOCK_TURNS = 16  # turns of the inner loop between additions to the outer sum


def add(f: Function, a: Val, b: Val) -> Val:
    """The sum, as a Join."""
    return f.fadd(a, b)


def largest(f: Function, a: Val, b: Val) -> Val:
    """The maximum, as a Join."""
    return mathlib.maximum(f, a, b)


def across(f: Function, v: Val, join: Join, down_to: int = 1) -> Val:
    """The lanes of a vector joined, halves first, until `down_to` are left."""
    while v.lanes > down_to:
        half = v.lanes // 2
        low = f.shuffle(v, v, range(half))
        high = f.shuffle(v, v, range(half, v.lanes))
        if half == 1:
            low, high = f.extract(v, 0), f.extract(v, 1)
        v = join(f, low, high)
    return v


def tree(f: Function, values: Sequence[Val], join: Join) -> Val:
    """Values joined in pairs."""
    items = list(values)
    while len(items) > 1:
        pairs = [join(f, a, b) for a, b in zip(items[::2], items[1::2], strict=False)]
        items = pairs + items[2 * len(pairs) :]
    return items[0]


def fold_vectors(
    f: Function, count: Val, lanes: int, accs: int, load: Load, join: Join, start: float
) -> tuple[Val, Val]:
    """Whole groups of `accs` vectors folded into one vector, and how many elements that were."""
    step = accs * lanes
    whole = f.and_(count, -step)
    first = f.f32(start, lanes)
    block = step * BLOCK_TURNS
    with f.loop(0, whole, block, carry=[first]) as outer:
        stop = f.smin(f.add(outer.index, block), whole)
        with f.loop(outer.index, stop, step, carry=[first] * accs) as turn:
            parts = [load(f.add(turn.index, i * lanes), lanes, None) for i in range(accs)]
            joined = [join(f, a, x) for a, x in zip(turn.values, parts, strict=True)]
            turn.next(joined)
        outer.next([join(f, outer.values[0], tree(f, turn.results, join))])
    return outer.results[0], whole


def fold_row(
    f: Function, count: Val, load: Load, join: Join, start: float, masked: bool = True
) -> Val:
    """All elements of a row folded into a scalar. `masked`: loads under a mask are possible."""
    lanes = f.target.lanes
    total, done = fold_vectors(f, count, lanes, 4, load, join, start)
    if masked and lanes > 4:
        with f.loop(done, count, lanes, carry=[total]) as turn:
            mask = f.lane_mask(f.sub(count, turn.index), lanes)
            value = f.select(mask, load(turn.index, lanes, mask), f.f32(start, lanes))
            turn.next([join(f, turn.values[0], value)])
        return across(f, turn.results[0], join)
    with f.loop(done, count, carry=[f.f32(start)]) as turn:
        turn.next([join(f, turn.values[0], load(turn.index, 1, None))])
    return join(f, across(f, total, join), turn.results[0])


Body = Callable[[Val, int, Val | None], None]


def each_vector(f: Function, count: Val, body: Body, even: bool = True) -> None:
    """`body(element, lanes, mask)` over a row: whole vectors, then a masked one or singles."""
    lanes = f.target.lanes if even else 1
    whole = f.and_(count, -lanes)
    with f.loop(0, whole, lanes) as turn:
        body(turn.index, lanes, None)
    if lanes > 4:
        with f.if_(f.icmp("slt", whole, count)):
            body(whole, lanes, f.lane_mask(f.sub(count, whole), lanes))
    elif lanes > 1:
        with f.loop(whole, count) as turn:
            body(turn.index, 1, None)


def each_of(f: Function, count: Val, lanes: int, body: Callable[[Val, Val | None], None]) -> None:
    """`body(element, mask)` for every so many elements of a row, the last under a mask."""
    whole = f.and_(count, -lanes)
    with f.loop(0, whole, lanes) as turn:
        body(turn.index, None)
    with f.if_(f.icmp("slt", whole, count)):
        body(whole, f.lane_mask(f.sub(count, whole), lanes))


def get(f: Function, address: Val, lanes: int, mask: Val | None) -> Val:
    """A vector, its elements under a mask where there is one."""
    return f.load(vec(lanes), address) if mask is None else f.masked_load(address, mask, vec(lanes))


def put(f: Function, value: Val, address: Val, mask: Val | None) -> None:
    """The same, stored."""
    if mask is None:
        f.store(value, address)
    else:
        f.masked_store(value, address, mask)


@contextmanager
def nest(f: Function, sizes: Sequence[Val], carry: list[Val]) -> Iterator[Nest]:
    """Loops over several axes that carry values; `Nest.next` ends a turn of the innermost."""
    if not sizes:
        yield (inner := Nest([], carry))
        inner.results = inner.following
        return
    with f.loop(0, sizes[0], carry=carry) as turn:
        with nest(f, sizes[1:], turn.values) as rest:
            yield (inner := Nest([turn.index, *rest.indices], rest.values))
            rest.following = inner.following
        turn.next(rest.results)
    inner.results = turn.results


class Nest:
    """The turn in flight of a nest of loops."""

    def __init__(self, indices: list[Val], values: list[Val]) -> None:
        self.indices, self.values = indices, values
        self.following = values
        self.results = values

    def next(self, values: Sequence[Val]) -> None:
        """The carried values as the next turn sees them."""
        self.following = list(values)
