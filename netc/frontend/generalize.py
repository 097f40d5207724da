"""From the sizes a file gives to the sizes a net can take: batch, and height and width.

A net is built with fixed sizes first, which finds every mistake. Then it is built again with the
batch as a symbol, and height and width too; the most general form in which every shape rule holds
is kept, and what stood in the way of a more general one is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from netc.errors import GraphError
from netc.ir.dims import Dim, sym, symbols
from netc.ir.graph import Graph

Shape = tuple[Dim, ...]
Build = Callable[[Mapping[str, Shape]], Graph]


def generalized(
    graph: Graph, fixed: Mapping[str, Shape], build: Build, resized: bool = False
) -> Graph:
    """`graph` in its most general form; `build` makes it for other shapes of its inputs.

    `fixed` are the shapes it was built with. Height and width stay where the net itself
    brings images to one size (`resized`).
    """
    reasons: list[str] = []
    for what, shapes in _forms(fixed, resized):
        try:
            found = build(shapes)
            notes = (*graph.notes, _sizes(fixed), *reasons)
            return replace(found, notes=notes, usual=_usual(shapes, fixed))
        except (GraphError, TypeError) as e:  # TypeError: a rule compared a symbol with a number
            reasons.append(f"{what} fixed: {_reason(e)}")
    return replace(graph, notes=(*graph.notes, *reasons))


def _forms(fixed: Mapping[str, Shape], resized: bool) -> list[tuple[str, Mapping[str, Shape]]]:
    """Batch, height and width as symbols; the batch alone. Symbols that are given stay."""
    first = next((s for s in fixed.values() if s), None)
    image = next((s[2:] for s in fixed.values() if len(s) == 4), None)
    if first is None:
        return []
    taken = {name for s in fixed.values() for d in s for name in symbols(d)}
    batch = {name: _with_batch(s, first[0], taken) for name, s in fixed.items()}
    if image is None or resized:
        return [("the batch is", batch)]
    sides = [_free(d, name, taken) for d, name in zip(image, "HW", strict=True)]
    sized = {
        name: (*s[:-2], *sides) if len(s) > 2 and fixed[name][-2:] == image else s
        for name, s in batch.items()
    }
    return [("height and width are", sized), ("the batch is", batch)]


def _free(size: Dim, name: str, taken: Collection[str]) -> Dim:
    """A size as the symbol of this name, where it is a number and the name is free."""
    return sym(name) if isinstance(size, int) and name not in taken else size


def _with_batch(shape: Shape, batch: Dim, taken: Collection[str]) -> Shape:
    return (_free(batch, "N", taken), *shape[1:]) if shape and shape[0] == batch else shape


def _usual(shapes: Mapping[str, Shape], fixed: Mapping[str, Shape]) -> dict[str, int]:
    """What the file gives for each symbol but the batch."""
    pairs = (
        (str(d), size)
        for name, shape in shapes.items()
        for d, size in zip(shape[1:], fixed[name][1:], strict=True)
        if not isinstance(d, int) and isinstance(size, int)
    )
    return dict(pairs)


def _sizes(fixed: Mapping[str, Shape]) -> str:
    """The sizes in the file, as `--shape` takes them."""
    return "sizes given: " + " ".join(f"{n}={','.join(map(str, s))}" for n, s in fixed.items())


def _reason(e: Exception) -> str:
    if isinstance(e, GraphError):
        d = e.diagnostics[0]
        return f"{d.message} ({d.span})" if d.span.line else d.message
    return "a rule needs the size as a number"
