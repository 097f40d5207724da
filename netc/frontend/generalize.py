"""From the sizes a file gives to the sizes a net can take: batch, and height and width.

A net is built with fixed sizes first, which finds every mistake. Then it is built again with the
batch as a symbol, and height and width too, free or as multiples (`32*H`), which fit where a net
halves its maps and enlarges them again. The most general form in which every shape rule holds is
kept, and what stood in the way of a more general one is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from math import gcd

from netc.errors import GraphError
from netc.ir.dims import Dim, sym, symbols
from netc.ir.graph import Graph
from netc.ir.solve import line_of

Shape = tuple[Dim, ...]
Shapes = Mapping[str, Shape]
Build = Callable[[Shapes], Graph]

_MOST = 64  # what a net's maps are smaller by than its images, where it enlarges them again


def generalized(
    graph: Graph, fixed: Mapping[str, Shape], build: Build, resized: bool = False
) -> Graph:
    """`graph` in its most general form; `build` makes it for other shapes of its inputs.

    `fixed` are the shapes it was built with. Height and width stay where the net itself
    brings images to one size (`resized`).
    """
    reasons: dict[str, str] = {}
    for what, forms in _forms(fixed, resized).items():
        found: Graph | None = None
        for shapes in forms:  # each more general than the one before
            try:
                made = build(shapes)
            except (GraphError, TypeError) as e:  # TypeError: a symbol was compared with a number
                reasons.setdefault(what, _reason(e))
                break
            found = replace(made, usual=_usual(shapes, fixed))
        if found is not None:
            return replace(found, notes=(*graph.notes, _sizes(fixed), *_said(what, reasons)))
    return replace(graph, notes=(*graph.notes, *_said("", reasons)))


_FREE, _TIMES, _BATCH = "free", "multiples", "batch"


def _said(form: str, reasons: Mapping[str, str]) -> Iterator[str]:
    """Why a net has no more general form than this one."""
    if form != _FREE and _FREE in reasons:
        are = "multiples, not free" if form == _TIMES else "fixed"
        yield f"height and width are {are}: {reasons[_FREE]}"
    if not form and _BATCH in reasons:
        yield f"the batch is fixed: {reasons[_BATCH]}"


def _forms(fixed: Shapes, resized: bool) -> dict[str, list[Shapes]]:
    """Batch, height and width as symbols; height and width as multiples; the batch alone.

    Symbols that are given stay.
    """
    first = next((s for s in fixed.values() if s), None)
    image = next((s[2:] for s in fixed.values() if len(s) == 4), None)
    if first is None:
        return {}
    taken = {name for s in fixed.values() for d in s for name in symbols(d)}
    batch = {name: _with_batch(s, first[0], taken) for name, s in fixed.items()}
    if image is None or resized:
        return {_BATCH: [batch]}

    def sized(times: int) -> Shapes:
        sides = [_free(d, name, taken, times) for d, name in zip(image, "HW", strict=True)]
        return {
            name: (*s[:-2], *sides) if len(s) > 2 and fixed[name][-2:] == image else s
            for name, s in batch.items()
        }

    numbers = [d for d in image if isinstance(d, int)]
    most = gcd(_MOST, *numbers) if numbers else 1
    times = [most >> i for i in range(most.bit_length() - 1)]  # down to 2
    return {_FREE: [sized(1)], _TIMES: list(map(sized, times)), _BATCH: [batch]}


def _free(size: Dim, name: str, taken: Collection[str], times: int = 1) -> Dim:
    """A size as so many times this symbol, where it is a number and the name is free."""
    return times * sym(name) if isinstance(size, int) and name not in taken else size


def _with_batch(shape: Shape, batch: Dim, taken: Collection[str]) -> Shape:
    return (_free(batch, "N", taken), *shape[1:]) if shape and shape[0] == batch else shape


def _usual(shapes: Mapping[str, Shape], fixed: Mapping[str, Shape]) -> dict[str, int]:
    """What the file gives for each symbol but the batch."""
    pairs = (
        (line_of(d), size)
        for name, shape in shapes.items()
        for d, size in zip(shape[1:], fixed[name][1:], strict=True)
        if isinstance(size, int)
    )
    found = ((line.symbol, line.solve(size)) for line, size in pairs if line is not None)
    return {symbol: size for symbol, size in found if isinstance(size, int)}


def _sizes(fixed: Mapping[str, Shape]) -> str:
    """The sizes in the file, as `--shape` takes them."""
    return "sizes given: " + " ".join(f"{n}={','.join(map(str, s))}" for n, s in fixed.items())


def _reason(e: Exception) -> str:
    if isinstance(e, GraphError):
        d = e.diagnostics[0]
        return f"{d.message} ({d.span})" if d.span.line else d.message
    return "a rule needs the size as a number"
