"""Units of work over several axes, cut among threads in contiguous runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from netc.codegen.cpu.anchors.folds import Nest
from netc.codegen.cpu.emit import Function, Int, Val


def share(f: Function, total: Val, tid: Val, nthreads: Val) -> tuple[Val, Val]:
    """The first unit of this thread, and the one behind its last."""
    start = f.sdiv(f.mul(total, tid), nthreads)
    return start, f.sdiv(f.mul(total, f.add(tid, 1)), nthreads)


def ceil_div(f: Function, a: Val, b: Int) -> Val:
    """⌈a / b⌉ of positive integers."""
    if isinstance(b, int) and b & (b - 1) == 0:
        return f.ashr(f.add(a, b - 1), b.bit_length() - 1)
    return f.sdiv(f.add(a, f.sub(b, 1)), b)


@contextmanager
def units(f: Function, sizes: Sequence[Val]) -> Iterator[list[Val]]:
    """The indices of every unit of this thread: an odometer, its last axis the fastest."""
    _, tid, nthreads = f.args
    start, stop = share(f, count(f, sizes), tid, nthreads)
    with walk(f, start, stop, sizes) as turn:
        yield turn.indices


def count(f: Function, sizes: Sequence[Val]) -> Val:
    """How many units there are."""
    total = f.const(1)
    for d in sizes:
        total = f.mul(total, d)
    return total


@contextmanager
def walk(
    f: Function, start: Val, stop: Val, sizes: Sequence[Val], carry: Sequence[Val] = ()
) -> Iterator[Nest]:
    """A run of units, in one loop that carries values."""
    carried = len(carry)
    with f.loop(start, stop, carry=[*carry, *_decode(f, start, sizes)]) as turn:
        indices = turn.values[carried:]
        yield (inner := Nest(indices, turn.values[:carried]))
        turn.next([*inner.following, *_advance(f, indices, sizes)])
    inner.results = turn.results[:carried]


def _decode(f: Function, number: Val, sizes: Sequence[Val]) -> list[Val]:
    indices: list[Val] = []
    for d in reversed(sizes[1:]):
        size = f.smax(d, 1)  # of an empty result too
        indices.append(f.srem(number, size))
        number = f.sdiv(number, size)
    return [*([number] if sizes else []), *reversed(indices)]


def _advance(f: Function, indices: Sequence[Val], sizes: Sequence[Val]) -> list[Val]:
    out: list[Val] = []
    carry: Val = f.const(1)
    for index, d in zip(reversed(indices), reversed(sizes), strict=True):
        up = f.add(index, carry)
        full = f.icmp("sge", up, d)
        carry = f.zext(full)
        out.append(f.select(full, f.const(0), up))
    return out[::-1]
