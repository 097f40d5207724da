"""The tables of the GPU benchmark: one line a configuration, then what it comes to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

Row = dict[str, Any]
PEERS = ("eager", "compile")
# The largest error against float64, of the largest output: float32 sums of deep nets; products
# of 10, 8 (bf16) and 11 bits. Where torch at the same precision errs as much, netc may too.
BOUNDS = {"exact": 1e-3, "high": 1e-3, "medium": 2e-2, "low": 1e-1, "fp16": 2e-2}
AS_TORCH = 3.0  # times eager's own error is right too


def verdict(row: Row) -> str:
    """Whether netc's results are right: "ok", "WRONG", or "–" where they are not known."""
    error = row["errors"].get("netc")
    if error is None:
        return "–"
    theirs = row["errors"].get("eager") or 0.0
    right = error <= max(BOUNDS[row["precision"]], AS_TORCH * theirs)
    return "ok" if right else "WRONG"


def milliseconds(row: Row, engine: str) -> float | None:
    """The median time of an engine, of its turns."""
    figures = row["engines"].get(engine, {})
    return figures["median"] * 1e3 if "median" in figures else None


def ratio(row: Row, engines: Sequence[str] = PEERS) -> float | None:
    """netc's time over the best of these engines'; below 1 netc is faster."""
    mine = milliseconds(row, "netc")
    times = [t for t in (milliseconds(row, e) for e in engines) if t]
    return mine / min(times) if mine and times else None


def line(row: Row) -> str:
    """A configuration in one line."""
    cells = [milliseconds(row, e) for e in ("netc", *PEERS)]
    best = ratio(row)
    text = f"{row['net']:<13}{row['batch']:>5} {row['precision']:<7}"
    text += "".join(f"{c:>11.4f}" if c else f"{'–':>11}" for c in cells)
    text += f"{best:>8.2f}" if best else f"{'–':>8}"
    errors = [row["errors"].get(e) for e in ("netc", "eager")]
    text += "".join(f"{e:>10.1e}" if e is not None else f"{'–':>10}" for e in errors)
    return text + f" {verdict(row)}"


HEAD = (
    f"{'net':<13}{'batch':>5} {'prec.':<7}{'netc ms':>11}{'eager ms':>11}{'compile ms':>11}"
    f"{'÷ best':>8}{'error':>10}{'eager err':>10}"
)


def geomean(numbers: Iterable[float | None]) -> float | None:
    """The geometric mean of those that are known."""
    known = [n for n in numbers if n]
    return math.exp(sum(map(math.log, known)) / len(known)) if known else None


def print_summary(rows: Sequence[Row], facts: Row, out: TextIO) -> None:
    """All configurations, geometric means, what went wrong, and the machine."""
    print("\nGPU time of one run, median of replays; error of the largest output", file=out)
    print(HEAD, file=out)
    for row in rows:
        print(line(row), file=out)
    print("\ngeometric means of netc's time over the peers'; below 1 netc is faster", file=out)
    print(f"{'precision':<10}{'batch':>6}{'nets':>6}{'÷ eager':>10}{'÷ compile':>11}"
          f"{'÷ best':>9}{'÷ best where both ran':>24}", file=out)  # fmt: skip
    groups = sorted({(row["precision"], row["batch"]) for row in rows})
    for precision, batch in [*groups, *dict.fromkeys((p, 0) for p, _ in groups)]:
        mine = [r for r in rows if r["precision"] == precision and batch in (0, r["batch"])]
        print(_means(mine, precision, batch), file=out)
    for row in rows:
        for engine, figures in row["engines"].items():
            if "error" in figures:
                where = f"{row['net']} b{row['batch']} {row['precision']}"
                print(f"not timed: {engine} on {where}: {figures['error']}", file=out)
    print("", file=out)
    for name, value in facts.items():
        print(f"{name}: {_rates(value) if name == 'rates' else value}", file=out)
    out.flush()


def _means(rows: Sequence[Row], precision: str, batch: int) -> str:
    both = [r for r in rows if all(milliseconds(r, e) for e in PEERS)]
    cells = [geomean(ratio(r, [e]) for r in rows) for e in PEERS]
    cells += [geomean(map(ratio, rows)), geomean(map(ratio, both))]
    timed = sum(ratio(r) is not None for r in rows)
    text = f"{precision:<10}{batch or 'all':>6}{timed:>6}"
    shown = (f"{c:.3f}" if c else "–" for c in cells)
    return text + "".join(f"{c:>{n}}" for c, n in zip(shown, (10, 11, 9, 24), strict=True))


def _rates(rates: dict[str, float]) -> str:
    return ", ".join(f"{name} {rate / 1e12:.3g} T{'B' if name == 'copy' else 'FLOP'}/s"
                     for name, rate in rates.items())  # fmt: skip
