"""A layered layout: longest-path layers, barycentre ordering, least-squares coordinates.

After Sugiyama, Tagawa, Toda (1981). Edges that cross layers pass through points of their own,
which take part in ordering and placing like small boxes. Coordinates of one layer minimize the
weighted squared distance to where the neighbours want them, with the order and the gaps kept:
isotonic regression, solved by pooling adjacent violators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.errors import ResourceError

MAX_POINTS = 60_000
_SWEEPS = 12
_GAP = 26.0  # pixels between neighbours of a layer
_STRAIGHT = 8.0  # how much more a long edge wants to be straight than a short one to be short


@dataclass(frozen=True)
class Layout:
    """Where each node is (centre x, layer), and the points each edge passes, ends excluded."""

    x: list[float]
    layer: list[int]
    routes: list[list[tuple[float, int]]]

    @property
    def depth(self) -> int:
        """How many layers."""
        return max(self.layer, default=-1) + 1


def layout(widths: Sequence[float], edges: Sequence[tuple[int, int]]) -> Layout:
    """Lay out nodes numbered so that every edge goes from a lower to a higher number."""
    layer = _assign(len(widths), edges)
    net = _Net(list(widths), list(layer))
    chains = [net.chain(a, b) for a, b in edges]
    net.order()
    x = net.place()
    routes = [[(x[p], net.layer[p]) for p in chain] for chain in chains]
    return Layout(x[: len(widths)], layer, routes)


def _assign(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Layers by longest path; sources sink to just above their first reader."""
    layer = [0] * count
    below: list[list[int]] = [[] for _ in range(count)]
    is_source = [True] * count
    for a, b in sorted(edges, key=lambda e: e[0]):
        layer[b] = max(layer[b], layer[a] + 1)
        below[a].append(b)
        is_source[b] = False
    for a in range(count):
        if is_source[a] and below[a]:
            layer[a] = min(layer[b] for b in below[a]) - 1
    return layer


class _Net:
    """Boxes and bend points with their neighbours above and below."""

    def __init__(self, widths: list[float], layer: list[int]) -> None:
        self.widths, self.layer = widths, layer
        self.boxes = len(widths)
        self.above: list[list[int]] = [[] for _ in widths]
        self.below: list[list[int]] = [[] for _ in widths]
        self.rows: list[list[int]] = []

    def chain(self, a: int, b: int) -> list[int]:
        """Connect a to b through one point for each layer between; gives the points."""
        points = []
        last = a
        for row in range(self.layer[a] + 1, self.layer[b]):
            points.append(self._point(row))
            self._link(last, points[-1])
            last = points[-1]
        self._link(last, b)
        return points

    def _point(self, row: int) -> int:
        if len(self.widths) >= MAX_POINTS:
            raise ResourceError(f"the drawing needs more than {MAX_POINTS} points")
        self.widths.append(8.0)
        self.layer.append(row)
        self.above.append([])
        self.below.append([])
        return len(self.widths) - 1

    def _link(self, a: int, b: int) -> None:
        self.below[a].append(b)
        self.above[b].append(a)

    def order(self) -> None:
        """Order each row to have few crossings; the best of the sweeps is kept."""
        self.rows = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for p in self._depth_first():
            self.rows[self.layer[p]].append(p)
        best, fewest = [list(r) for r in self.rows], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            self._sweep(down=sweep % 2 == 0)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(r) for r in self.rows], crossings
        self.rows = best

    def _depth_first(self) -> list[int]:
        seen: dict[int, None] = {}
        for root in range(len(self.widths)):
            stack = [] if self.above[root] else [root]
            while stack:
                p = stack.pop()
                if p not in seen:
                    seen[p] = None
                    stack += reversed(self.below[p])
        return list(seen)

    def _sweep(self, down: bool) -> None:
        rows = self.rows[1:] if down else self.rows[-2::-1]
        near = self.above if down else self.below
        rank = {p: i for row in self.rows for i, p in enumerate(row)}
        for row in rows:
            wish = {
                p: sum(rank[q] for q in near[p]) / len(near[p]) if near[p] else rank[p] for p in row
            }
            row.sort(key=lambda p: wish[p])
            rank.update((p, i) for i, p in enumerate(row))

    def _crossings(self) -> int:
        total = 0
        for row, following in zip(self.rows, self.rows[1:], strict=False):
            rank = {p: i for i, p in enumerate(following)}
            ends = [r for p in row for r in sorted(rank[q] for q in self.below[p])]
            total += _inversions(ends, len(following))
        return total

    def place(self) -> list[float]:
        """The x of every box and point."""
        x = [0.0] * len(self.widths)
        for row in self.rows:
            at = 0.0
            for p in row:
                x[p] = at + self.widths[p] / 2
                at += self.widths[p] + _GAP
            middle = (at - _GAP) / 2
            for p in row:
                x[p] -= middle
        for sweep in range(2 * _SWEEPS):
            rows = self.rows if sweep % 2 == 0 else self.rows[::-1]
            for row in rows:
                self._settle(row, x)
        left = min((x[p] - self.widths[p] / 2 for p in range(len(x))), default=0.0)
        return [v - left for v in x]

    def _settle(self, row: list[int], x: list[float]) -> None:
        """Move one row to where its neighbours want it."""
        wishes, weights, shift = [], [], 0.0
        shifts = []
        for i, p in enumerate(row):
            if i:
                shift += (self.widths[row[i - 1]] + self.widths[p]) / 2 + _GAP
            near = [(q, self._pull(p, q)) for q in (*self.above[p], *self.below[p])]
            weight = sum(w for _, w in near)
            wish = sum(x[q] * w for q, w in near) / weight if near else x[p]
            wishes.append(wish - shift)
            weights.append(weight or 0.1)
            shifts.append(shift)
        for p, value, moved in zip(row, isotonic(wishes, weights), shifts, strict=True):
            x[p] = value + moved

    def _pull(self, p: int, q: int) -> float:
        return _STRAIGHT if p >= self.boxes and q >= self.boxes else 1.0


def _inversions(values: list[int], size: int) -> int:
    """Pairs out of order, by a binary indexed tree."""
    tree = [0] * (size + 1)
    total = 0
    for seen, value in enumerate(values):
        at, smaller = value + 1, 0
        while at > 0:
            smaller += tree[at]
            at &= at - 1
        total += seen - smaller
        at = value + 1
        while at <= size:
            tree[at] += 1
            at += at & -at
    return total


def isotonic(wishes: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing values nearest to the wishes in weighted least squares."""
    pools: list[list[float]] = []  # mean, weight, count
    for wish, weight in zip(wishes, weights, strict=True):
        pools.append([wish, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, mass, count = pools.pop()
            last = pools[-1]
            last[0] = (last[0] * last[1] + mean * mass) / (last[1] + mass)
            last[1] += mass
            last[2] += count
    return [mean for mean, _, count in pools for _ in range(int(count))]
