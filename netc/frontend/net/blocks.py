"""What repeats in a net becomes a block.

A window is a run of statements. Windows that differ in names, numbers and texts only, and whose
values flow alike, are calls of one block: what differs becomes its parameters. The window that
saves most text is taken first; then its calls are statements like any other, so blocks come to
hold blocks.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from netc.frontend.net import ast
from netc.frontend.net.leaves import Leaf, filled, leaves
from netc.frontend.net.mistakes import KEYWORDS
from netc.frontend.net.pipes import piped, wrapped
from netc.frontend.net.show import expr
from netc.frontend.net.template import templates
from netc.frontend.net.words import words

MAX_WINDOW = 12  # statements
MAX_PARAMS = 12
MAX_BLOCKS = 24
_OVERHEAD = 24  # characters of a block besides its statements
_PER_PARAM = 3  # what a parameter weighs, times their number: many make a block hard to read
_TENSORS = ("x", "y", "z", "u", "v", "w")
_LOCALS = ("a", "b", "c", "d", "e", "f", "g", "h", "p", "q", "r", "s")


class Safe(Protocol):
    """Names that no layer of the net needs: see `write.Names`."""

    def local(self, wanted: Iterable[str]) -> str:
        """The first of these that is free."""

    @property
    def step(self) -> str:
        """What a line that is broken off is called."""


def with_blocks(
    body: list[ast.Bind], outputs: Iterable[str], names: Safe, used: set[str]
) -> tuple[list[ast.Block], list[ast.Bind]]:
    """The statements of a net with calls for what repeats, and the blocks that they call."""
    found: list[ast.Block] = []
    kept = frozenset(outputs)
    lines = [_Line(s) for s in piped(body, kept, light=True)]
    while len(found) < MAX_BLOCKS:
        best = _best(lines, kept)
        if best is None:
            break
        block, lines = _extracted(best, lines, names, used | {b.name for b in found})
        found.append(block)
    return found, [line.bind for line in lines]


class _Line:
    """A statement, and what is asked of it again and again."""

    def __init__(self, bind: ast.Bind) -> None:
        self.bind = bind
        self.targets = [t.id for t in bind.targets]
        self.leaves = list(leaves(bind.value))
        self.reads = [x.value for x in self.leaves if x.kind == "name"]
        self.length = len(expr(bind.value)) + len(self.targets[0]) + 5
        self.shape = self._shape()

    def _shape(self) -> str:
        """The statement with holes for what may differ. A parameter has its own name: no block
        can make it."""
        value = self.bind.value
        if isinstance(value, ast.Call) and value.word == "param":
            return f"param {self.targets[0]}"
        return f"{len(self.targets)}={expr(filled(value, (_HOLES[x.kind] for x in self.leaves)))}"


_HOLES: dict[str, ast.Expr] = {
    "name": ast.Name("_"),
    "number": ast.Number(0),
    "text": ast.Text("_"),
}


@dataclass
class _Window:
    """The same run of statements at several places."""

    length: int
    starts: list[int]
    leaves: list[list[Leaf]] = field(default_factory=list)  # of each place, in one order
    outside: list[list[str]] = field(default_factory=list)  # names read from before, each place
    given: list[tuple[int, int]] = field(default_factory=list)  # (statement, target) read after


def _best(lines: Sequence[_Line], outputs: frozenset[str]) -> _Window | None:
    """The window that saves most, if any saves something."""
    last = {name: i for i, line in enumerate(lines) for name in line.reads}
    last.update(dict.fromkeys(outputs, len(lines)))
    best, most = None, 0
    for length in range(1, min(MAX_WINDOW, len(lines) // 2) + 1):
        for starts in _repeats(lines, length):
            window = _window(lines, last, length, starts)
            saved = _saving(window, lines) * len(starts)
            if saved > most:
                best, most = window, saved
    return best


def _repeats(lines: Sequence[_Line], length: int) -> Iterator[list[int]]:
    """Places of windows of one form, apart from each other."""
    alike: dict[tuple[str, ...], list[int]] = {}
    for i in range(len(lines) - length + 1):
        alike.setdefault(tuple(line.shape for line in lines[i : i + length]), []).append(i)
    for candidates in alike.values():
        places: dict[tuple[int, ...], list[int]] = {}
        for i in candidates if len(candidates) > 1 else ():
            found = places.setdefault(_flow(lines[i : i + length]), [])
            if not found or found[-1] + length <= i:
                found.append(i)
        yield from (starts for starts in places.values() if len(starts) > 1)


def _flow(run: Sequence[_Line]) -> tuple[int, ...]:
    """For each name read: which one it is, by the order in which they appear."""
    seen: dict[str, int] = {}
    out = []
    for line in run:
        out += [seen.setdefault(name, len(seen)) for name in line.reads]
        for name in line.targets:
            seen[name] = len(seen)
    return tuple(out)


def _window(
    lines: Sequence[_Line], last: Mapping[str, int], length: int, starts: list[int]
) -> _Window:
    window = _Window(length, starts)
    given: set[tuple[int, int]] = set()
    for start in starts:
        run = lines[start : start + length]
        window.leaves.append([x for line in run for x in line.leaves])
        own = {t: (i, j) for i, line in enumerate(run) for j, t in enumerate(line.targets)}
        reads = (n for line in run for n in line.reads if n not in own)
        window.outside.append([*dict.fromkeys(reads)])
        given |= {at for name, at in own.items() if last.get(name, 0) >= start + length}
    window.given = sorted(given)
    return window


def _saving(window: _Window, lines: Sequence[_Line]) -> int:
    """Characters of text that the block saves; 0 where it cannot be one."""
    params = _params(window)
    if params is None or not window.given or len(window.given) > 3:
        return 0
    size = len(params) + len(window.outside[0]) + 3 * (len(window.given) - 1)
    first = window.starts[0]
    whole = [_length(lines[s : s + window.length]) for s in window.starts]
    calls = [
        16
        + sum(len(n) + 2 for n in window.outside[k])
        + sum(len(str(values[k])) + 2 for values in params)
        + sum(len(lines[s + i].targets[j]) + 2 for i, j in window.given)
        for k, s in enumerate(window.starts)
    ]
    own = _length(lines[first : first + window.length]) + _OVERHEAD
    return sum(whole) - sum(calls) - own - _PER_PARAM * size * size


def _length(run: Sequence[_Line]) -> int:
    return sum(line.length for line in run)


def _params(window: _Window) -> list[tuple[Any, ...]] | None:
    """The different columns of values that differ between places; None when there are too many."""
    columns: dict[tuple[Any, ...], None] = {}
    for values in zip(*window.leaves, strict=True):
        kind = values[0].kind
        if kind == "name" or len({v.value for v in values}) == 1:
            continue
        columns[_column(kind, [v.value for v in values])[0]] = None
    return None if len(columns) > MAX_PARAMS else [*columns]


def _column(kind: str, values: list[Any]) -> tuple[tuple[Any, ...], str, str]:
    """What differs, and what stands before and after it: for texts, the middle."""
    if kind != "text":
        return tuple(values), "", ""
    before, middles, after = templates(values)
    return tuple(middles), before, after


def _extracted(
    window: _Window, lines: Sequence[_Line], names: Safe, used: set[str]
) -> tuple[ast.Block, list[_Line]]:
    """The block of a window, and the statements with calls of it."""
    maker = _Maker(window, lines, names, used)
    block = maker.block()
    place = {s: k for k, s in enumerate(window.starts)}
    inside = {s + i for s in window.starts for i in range(window.length)}
    out = []
    for i, line in enumerate(lines):
        if i in place:
            out.append(_Line(maker.call(place[i])))
        elif i not in inside:
            out.append(line)
    return block, out


class _Maker:
    def __init__(
        self, window: _Window, lines: Sequence[_Line], names: Safe, used: set[str]
    ) -> None:
        self.window, self.names = window, names
        runs = [lines[s : s + window.length] for s in window.starts]
        self.runs = [[line.bind for line in run] for run in runs]
        self.columns: dict[tuple[Any, ...], str] = {}  # values by place -> parameter
        self.kinds: dict[str, str] = {}
        self.bound: set[str] = set()
        self.renamed: dict[str, str] = {}  # of the first place's names, within the block
        self.prefix = ""  # what the layers in the block are called first
        self.tensors = [self._local(_TENSORS) for _ in window.outside[0]]
        self.renamed.update(zip(window.outside[0], self.tensors, strict=True))
        self.values = iter(self._values())
        self.body = self._body()
        self.name = self._name(used)

    def _local(self, wanted: Sequence[str]) -> str:
        every = itertools.chain(wanted, (f"{wanted[0]}_{i}" for i in itertools.count(2)))
        name = self.names.local(n for n in every if n not in self.bound)
        self.bound.add(name)
        return name

    def _values(self) -> list[ast.Expr | None]:
        """For each leaf: what stands in the block; None for a name of a value."""
        out: list[ast.Expr | None] = []
        for same in zip(*self.window.leaves, strict=True):
            kind, values = same[0].kind, [v.value for v in same]
            if kind == "name":
                out.append(None)
            elif len(set(values)) == 1:
                out.append(ast.Number(values[0]) if kind == "number" else ast.Text(values[0]))
                self._note(kind, values[0])
            else:
                out.append(self._param(same[0], kind, values))
        return out

    def _param(self, leaf: Leaf, kind: str, values: list[Any]) -> ast.Expr:
        column, before, after = _column(kind, values)
        if column not in self.columns:
            hint = leaf.hint if kind == "number" else "n"
            self.columns[column] = self._local((hint,))
            self.kinds[self.columns[column]] = kind
        name = self.columns[column]
        if kind == "number" or not (before or after):
            return ast.Name(name)
        self._note(kind, before)
        return ast.Text(f"{before}{{{name}}}{after}")

    def _note(self, kind: str, before: str) -> None:
        if kind == "text" and not self.prefix:
            self.prefix = before

    def _body(self) -> list[ast.Bind]:
        out = []
        for s in self.runs[0]:
            holes = []
            for leaf in leaves(s.value):
                value = next(self.values)
                holes.append(ast.Name(self.renamed[leaf.value]) if value is None else value)
            targets = []
            for t in s.targets:
                self.renamed[t.id] = self._local(_LOCALS)
                targets.append(ast.Name(self.renamed[t.id]))
            out.append(ast.Bind(tuple(targets), filled(s.value, holes)))
        return out

    def _name(self, used: set[str]) -> str:
        """After the layers in it, or after its words."""
        plain = re.sub(r"\W+", "_", self.prefix).strip("_0123456789").lower()
        calls = re.findall(r"\b([a-z_]\w*)\(|\|> (\w+)", expr(self.runs[0][0].value))
        wanted = plain if len(plain) > 2 else "_".join((a or b) for a, b in calls[:3]) or "block"
        wanted = f"{wanted}_block" if wanted in words() else wanted
        name, n = wanted, 2
        while name in used or name in KEYWORDS or name in self.bound:
            name, n = f"{wanted}_{n}", n + 1
        return name

    def block(self) -> ast.Block:
        """The definition. Layers have their whole names, so the block adds none of its own."""
        params = [*self.tensors, *self.columns.values()]
        given = [self.runs[0][i].targets[j].id for i, j in self.window.given]
        names = tuple(ast.Name(self.renamed[g]) for g in given)
        body: list[ast.Statement] = [*piped(self.body, [n.id for n in names])]
        last = body[-1]
        if len(names) == 1 and isinstance(last, ast.Bind) and last.targets == names:
            body[-1] = ast.Return((last.value,))
        else:
            body.append(ast.Return(names))
        unnamed = ast.Parameter("name", ast.Text(""))
        step = self._local(("t", "step"))
        parameters = (*map(ast.Parameter, params), unnamed)
        return ast.Block(self.name, parameters, wrapped(body, step))

    def call(self, k: int) -> ast.Bind:
        """The call at place k."""
        args: list[ast.Expr] = [ast.Name(n) for n in self.window.outside[k]]
        for values, name in self.columns.items():
            number = self.kinds[name] == "number"
            args.append(ast.Number(values[k]) if number else ast.Text(values[k]))
        targets = tuple(self.runs[k][i].targets[j] for i, j in self.window.given)
        return ast.Bind(targets, ast.Call(self.name, tuple(args)))
