"""Kernels whose every result is found on its own: a rule gives the value at one point.

Operands are given by their strides over the result's axes, so a point has the address of each;
whatever else the value needs are numbers. Blocked results are taken eight lanes at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from netc.codegen.cpu.anchors.access import Access, Args
from netc.codegen.cpu.anchors.elementwise import map_rows
from netc.codegen.cpu.anchors.formula import ELEMENTS, Tail
from netc.codegen.cpu.anchors.results import Lane, Results, Writer, lanes_of
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Emit, Lowering
from netc.codegen.operand import Call, Kernel
from netc.ir.dims import Dim
from netc.ir.plan import IntArg
from netc.ir.types import DType

NAN = float("nan")


@dataclass(frozen=True)
class Point:
    """One place of the result at run time."""

    f: Function
    indices: list[Val]
    sizes: list[Val]  # of the result
    addresses: list[Val]
    numbers: list[Val]
    lane: Lane

    def load(self, address: Val) -> Val:
        """The float32 lanes at an address of a pixel."""
        return self.f.load(vec(self.lane.count), self.f.gep(address, 4 * self.lane.first))

    def at(self, operand: int, offset: Val | None = None) -> Val:
        """The lanes of an operand here, or some bytes further on."""
        base = self.addresses[operand]
        return self.load(base if offset is None else self.f.gep(base, offset))


Value = Callable[[Point], Val]


def lower_points(
    ctx: Lowering,
    k: Kernel,
    key: Hashable,
    operands: Sequence[Access],
    numbers: Sequence[Dim],
    value: Value,
) -> Call:
    """A kernel that computes `value` at every point; `key` names the code of `value`."""
    results = Results(ctx, k)

    def emit(f: Function) -> None:
        _emit(f, results, len(operands), len(numbers), value)

    return over_results(ctx, results, ("points", key, len(operands)), operands, numbers, emit)


def over_results(
    ctx: Lowering,
    results: Results,
    key: Hashable,
    operands: Sequence[Access],
    numbers: Sequence[Dim],
    emit: Emit,
) -> Call:
    """A kernel of operands, numbers and results, in this order; `key` names the code of `emit`."""
    args = Args()
    for a in operands:
        args.access(a)
    for d in numbers:
        args.size(d)
    results.arguments(args)
    symbol = ctx.code((key, results.key, results.axes), emit)
    return Call(symbol, tuple(args.items))


def _emit(f: Function, results: Results, operands: int, numbers: int, value: Value) -> None:
    axes = results.axes
    slots = axes + 2
    bases = [f.slot(f.args[0], i * slots, "ptr") for i in range(operands)]
    strides = [[f.slot(f.args[0], i * slots + 1 + j) for j in range(axes)] for i in range(operands)]
    first = operands * slots
    known = [f.slot(f.args[0], first + i) for i in range(numbers)]
    writer = Writer(f, results, first + numbers)
    with units(f, writer.sizes[:-1]) as outer:
        row = writer.row(outer)
        with f.loop(0, writer.sizes[-1]) as turn:
            indices = [*outer, turn.index]
            places = []
            for base, steps in zip(bases, strides, strict=True):
                for i, s in zip(indices, steps, strict=True):
                    base = f.gep(base, f.mul(s, i))
                places.append(base)
            at = f.shl(turn.index, 3) if results.blocked else turn.index
            for lane in lanes_of(f, results.blocked):
                point = Point(f, indices, writer.sizes, places, known, lane)
                row.put(value(point), at, lane.first)
    f.ret()


def counter(strides: Sequence[Dim]) -> Access:
    """An operand whose address is a number: Σ index · stride."""
    return Access(IntArg(0), DType.U8, tuple(strides))


def number(f: Function, address: Val) -> Val:
    """The number that a counter's address is."""
    return f.cast("ptrtoint", address, "i64")


def whole_number(f: Function, address: Val, dtype: DType) -> Val:
    """An index read from memory, cut toward zero; -1 where it is not a number."""
    value = f.load(ELEMENTS[dtype], address, dtype.size)
    if dtype is not DType.F32:
        return value if dtype is DType.I64 else f.cast(_wider(dtype), value, "i64")
    real = f.select(f.fcmp("ord", value, value), value, f.f32(-1.0))
    name = f.module.declare("llvm.fptosi.sat.i64.f32", "i64", ["float"])
    return f.value("i64", f"call i64 @{name}({real})")


def _wider(dtype: DType) -> str:
    return "zext" if dtype is DType.U8 else "sext"


def inside(f: Function, index: Val, size: Val) -> Val:
    """Whether 0 <= index < size."""
    return f.icmp("ult", index, size)


def guarded(f: Function, condition: Val, value: Callable[[], Val], other: Val) -> Val:
    """`value()` where the condition holds, else `other`, without evaluating it."""
    with f.if_(condition) as side:
        side.give([value()])
        side.otherwise()
        side.give([other])
    return side.results[0]


def with_tail(ctx: Lowering, k: Kernel, first: Call) -> tuple[Call, ...]:
    """Where `first` writes the anchor's result to the first output: the tail, in place."""
    tail = Tail(k)
    if tail.plain:
        return (first,)
    return first, map_rows(ctx, tail.formula, [k.outs[0], *tail.operands], k.outs)
