"""How the command line prints: tables on standard output, progress on standard error."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from netc.errors import Diagnostic, clean

if TYPE_CHECKING:
    from rich.console import Console

_TOP = 5
_FEW = 8  # values of an output that are printed
_NUMBER = re.compile(r"([-+]?(\d[\d.,]*(e[-+]?\d+)?|inf|nan)( \S+)?)?")  # `9.1e-07`, `26.7 MB`, ``


def console() -> Console:
    """Standard output: plain text where it is not a terminal, never cut to its width."""
    from rich.console import Console

    out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True)
    if not out.is_terminal:
        out = Console(
            file=sys.stdout, highlight=False, markup=False, emoji=False, soft_wrap=True, width=200
        )
    return out


def say(text: str = "") -> None:
    """A line on standard output."""
    print(text, file=sys.stdout)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "", numbers: int = 0
) -> None:
    """A table; the last `numbers` columns stand at the right.

    On a narrow terminal names are shortened, the longest first; numbers stay whole.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=title or None, box=SIMPLE_HEAD, title_justify="left", pad_edge=False)
    texts = [[clean(cell) for cell in row] for row in rows]
    for i, name in enumerate(columns):
        cells = [row[i] for row in texts]
        whole = all(map(_NUMBER.fullmatch, cells))
        shown.add_column(
            Text(name, no_wrap=True, overflow="ellipsis"),
            justify="right" if i >= len(columns) - numbers else "left",
            no_wrap=whole,  # where a column may be wrapped its width may change
            min_width=max(map(len, (name, *cells))) if whole else None,
        )
    for row in texts:
        shown.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in row))
    console().print(shown)


def amount(value: float, unit: str = "") -> str:
    """`3.17 G`, `512`: three digits and a prefix."""
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def size(count: float) -> str:
    """Bytes for people: `26.7 MB`."""
    return amount(count, "B")


def milliseconds(seconds: float) -> str:
    """`0.153`: three digits that matter."""
    ms = seconds * 1e3
    return f"{ms:.1f}" if ms >= 100 else f"{ms:.3g}" if ms >= 1 else f"{ms:.3f}"


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a text that may change, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(text)) as status:
        yield lambda text: status.update(Text(text))


@contextmanager
def counting(text: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar that is told how many of how many are done, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
    from rich.text import Text

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(Text(text).plain, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def top(scores: NDArray[Any], labels: Sequence[str]) -> list[str]:
    """The best classes of one row of scores, best first, as a person reads them."""
    flat = np.asarray(scores, np.float64).ravel()
    best = np.argsort(-flat, kind="stable")[:_TOP]
    share = is_probability(flat)
    names = [clean(labels[i]) if i < len(labels) else f"class {i}" for i in best]
    wide = max(map(len, names))
    marks = [f"{flat[i] * 100:6.2f} %" if share else f"{flat[i]:10.4g}" for i in best]
    return [f"  {name:<{wide}}  {mark}" for name, mark in zip(names, marks, strict=True)]


def is_probability(row: NDArray[Any]) -> bool:
    """Whether a row of scores is a distribution over at least two classes."""
    inside = row.size > 1 and np.isfinite(row).all() and (row >= 0).all()
    return bool(inside and abs(float(row.sum()) - 1) < 1e-3)


def outputs(results: Mapping[str, NDArray[Any]], labels: Sequence[str]) -> None:
    """Every output: the best classes where it is scores, boxes, or a few values."""
    from netc.cli.detections import is_found, listed

    tables = {name: _rows(array) for name, array in results.items()}
    widths = {rows.shape[1] for rows in tables.values()}
    found = {name for name, array in results.items() if is_found(array)}
    if labels and len(labels) not in widths and not found:
        tell_of_labels(len(labels))
    for name, array in results.items():
        rows, named = tables[name], tables[name].shape[1] == len(labels)
        say(f"{clean(name)}  {array.dtype}{list(array.shape)}")
        if name in found:
            say("\n".join(listed(array, labels)))
            continue
        few = 0 < len(rows) <= 16
        if few and (named or (not labels and is_probability(rows[0]))):
            for i, row in enumerate(rows):
                if len(rows) > 1:
                    say(f" [{i}]")
                say("\n".join(top(row, labels)))
        else:
            say("  " + _few(array))


def tell_of_labels(count: int) -> None:
    """Remark that so many names of classes are of no use."""
    from netc.frontend.net.fill import tell

    tell(Diagnostic(f"no output has {count} classes", severity="warning"), None)


def _rows(array: NDArray[Any]) -> NDArray[Any]:
    """The values of each of a batch in one row."""
    batch, *sizes = array.shape if array.ndim >= 2 else (1, array.size)
    return array.reshape(batch, math.prod(sizes))


def _few(array: NDArray[Any]) -> str:
    flat = array.reshape(-1)
    if not flat.size:
        return "empty"
    shown = " ".join(f"{v:.5g}" for v in flat[:_FEW].tolist())
    if flat.size <= _FEW:
        return shown
    low, high, mean = flat.min(), flat.max(), flat.mean(dtype=np.float64)
    return f"{shown} …  (min {low:.5g}, max {high:.5g}, mean {mean:.5g})"
