"""Products of two values on the matrix kernels: y is packed in every run, as weights are once.

The products of a batch are groups of one matrix kernel; those of one y are rows of one product. x
is read as it lies where its rows are contiguous and lie evenly apart; else it is copied first. Both
copies are scratch memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netc.codegen.cpu.anchors.access import Access, Args, plain_access
from netc.codegen.cpu.anchors.elementwise import Formula, map_accesses
from netc.codegen.cpu.anchors.few_rows import few_rows, swapped
from netc.codegen.cpu.anchors.matrices import (
    Matrix,
    matrix_call,
    pixels_together,
    with_scratch,
)
from netc.codegen.cpu.anchors.pairs import are_pairs, paired_panels, rounded_rows
from netc.codegen.cpu.anchors.points import with_tail
from netc.codegen.cpu.anchors.transpose import to_channels
from netc.codegen.cpu.anchors.units import ceil_div as rounded_up
from netc.codegen.cpu.anchors.units import units
from netc.codegen.cpu.emit import Function, Val, vec
from netc.codegen.cpu.lowering import Lowering, rule
from netc.codegen.operand import BLOCK, SCRATCH, Call, Cost, Kernel, Operand, row_major
from netc.ir.dims import Dim, ceil_div, most, product
from netc.ir.gemm_plan import PANEL
from netc.ir.graph import Builder
from netc.ir.ops.matmul import MatMul
from netc.ir.plan import Affine, BufferArg
from netc.ir.types import DType, TensorType

_FLOAT = 4  # bytes
_TOGETHER = 8  # panels that are packed at a time
_ROW = _FLOAT * PANEL  # bytes of a panel for one place of the depth


@dataclass(frozen=True)
class _Matrices:
    """An operand over the batch of the result, then rows and columns as they are multiplied."""

    source: Operand
    access: Access
    shape: tuple[Dim, ...]

    @property
    def varies(self) -> int:
        """The first axes of the batch, behind which one matrix serves all the rest of it."""
        still = [d == 1 or s == 0 for d, s in zip(self.shape[:-2], self.strides, strict=False)]
        return max((i + 1 for i, alike in enumerate(still) if not alike), default=0)

    @property
    def strides(self) -> tuple[Dim, ...]:
        """Elements from one to the next, by axis."""
        return self.access.strides

    def apart(self, first: int, stop: int) -> Dim | None:
        """Elements from each of what these axes count to the next; None where it varies."""
        step: Dim | None = None
        run: Dim = 0
        axes = slice(first, stop)
        for size, stride in zip(self.shape[axes][::-1], self.strides[axes][::-1], strict=True):
            if size == 1:
                continue
            if step is None:
                step = run = stride
            elif stride != run:
                return None
            run = run * size
        return 0 if step is None else step

    def evenly(self, varies: int) -> tuple[Dim, Dim] | None:
        """Elements from group to group, and from row to row of all that one y serves."""
        group, row = self.apart(0, varies), self.apart(varies, len(self.shape) - 1)
        return None if group is None or row is None else (group, row)


@rule(MatMul)
def lower_matmul(ctx: Lowering, k: Kernel) -> tuple[Call, ...]:
    """Copies where there must be, then the matrix kernel."""
    assert k.anchor is not None
    op, batch = k.anchor.op, k.anchor.types[0].shape[:-2]
    assert isinstance(op, MatMul)
    x, y = k.anchor_operands()
    first = _matrices(ctx, x, batch, op.transpose_x)
    second = _matrices(ctx, y, batch, op.transpose_y)
    varies, depth, columns = second.varies, *second.shape[-2:]
    groups, rows = batch[:varies], product(first.shape[varies:-1])
    if (call := _thin(ctx, first, second, k.outs[0])) is not None:
        return with_tail(ctx, k, call)
    pairs = are_pairs(ctx, k.node, depth)
    packed, calls, size = _panels(ctx, second, groups, pairs)
    if (first.strides[-1] != 1 and depth != 1) or first.evenly(varies) is None:
        first, copy = _copied(ctx, first, size)
        size = size + _FLOAT * product(first.shape)
        calls.append(copy)
    if pairs:
        first, call, more = _rounded(ctx, first, varies, size)
        size = size + more
        calls.append(call)
        depth = ceil_div(depth, BLOCK) * BLOCK  # zeros behind, on both sides
    even, size = first.evenly(varies), most(1, size)
    assert even is not None
    matrix = Matrix(
        source=first.source,
        shift=0,
        images=rows,
        together=pixels_together(rows, ()),
        outputs=(),
        in_steps=(),
        in_image=even[1],
        in_group=even[0],
        taps=_taps(depth),
        n8=depth // BLOCK,
        n1=depth - depth // BLOCK * BLOCK,
        groups=product(groups),
        channels=columns,
        weights=packed,
        apart=rows * columns,
    )
    moved = sum((o.item * o.type.count for o in (*k.ins, *k.outs)), start=size)
    return with_scratch(k, calls, [matrix_call(ctx, k, matrix)], size, moved)


def _thin(ctx: Lowering, x: _Matrices, y: _Matrices, out: Operand) -> Call | None:
    """The product where it has few rows for each y or, turned round, few columns."""
    varies, depth, columns = y.varies, *y.shape[-2:]
    row = x.apart(varies, len(x.shape) - 1)
    if row is None:
        return None
    groups, rows = x.shape[:varies], product(x.shape[varies:-1])
    x_access = replace(x.access, strides=(*x.strides[:varies], row, x.strides[-1]))
    y_access = replace(y.access, strides=(*y.strides[:varies], *y.strides[-2:]))
    made = Access(out.pointer(), DType.F32, row_major((*groups, rows, columns)))
    call = few_rows(ctx, x_access, y_access, made, (*groups, rows, columns), depth)
    if call is None:
        left, right, result = (swapped(a) for a in (y_access, x_access, made))
        call = few_rows(ctx, left, right, result, (*groups, columns, rows), depth)
    return call


def _matrices(ctx: Lowering, o: Operand, batch: tuple[Dim, ...], turned: bool) -> _Matrices:
    shape = (*batch, *o.type.shape[-2:])
    access = plain_access(ctx, o, shape)
    if not turned:
        return _Matrices(o, access, shape)
    return _Matrices(o, swapped(access), (*batch, shape[-1], shape[-2]))


def _taps(depth: Dim) -> tuple[Affine, ...]:
    """Where the elements of a row lie: by eight, and those left."""
    whole = depth // BLOCK * BLOCK
    return Affine((depth // BLOCK,), (BLOCK,)), Affine((depth - whole,), (1,), whole)


def _copied(ctx: Lowering, m: _Matrices, at: Dim) -> tuple[_Matrices, Call]:
    """The matrices one behind the other, from a byte of the scratch memory on."""
    type = TensorType(DType.F32, m.shape)
    made = Operand(type, SCRATCH, at, row_major(m.shape))
    formula = Formula([Builder().input("x", type)])
    access = Access(made.pointer(), DType.F32, made.strides)
    call = map_accesses(ctx, formula, [m.access, access], 1, m.shape)
    cost = Cost("copy", 0, 2 * _FLOAT * product(m.shape))
    return _Matrices(made, access, m.shape), replace(call, cost=cost)


def _rounded(ctx: Lowering, m: _Matrices, varies: int, at: Dim) -> tuple[_Matrices, Call, Dim]:
    """The matrices in bfloat16, from a byte of the scratch memory on; how many bytes.

    What serves the whole batch is rounded once where it still lies evenly apart.
    """
    for once in (True, False):
        own = tuple(
            1 if once and step == 0 else d for d, step in zip(m.shape, m.strides, strict=True)
        )
        made = rounded_rows(ctx, TensorType(DType.F32, own), m.access, at)
        steps = made.operand.strides
        steps = tuple(0 if d == 1 else s for d, s in zip(own, steps, strict=True))
        access = Access(made.operand.pointer(), DType.F32, steps)
        found = _Matrices(made.operand, access, m.shape)
        if found.evenly(varies) is not None:
            (call,) = made.calls
            return found, call, made.size
    raise AssertionError("rows without gaps lie evenly apart")


# ---- y into panels ----------------------------------------------------------------------------


def _panels(
    ctx: Lowering, y: _Matrices, batch: Sequence[Dim], pairs: bool
) -> tuple[BufferArg, list[Call], Dim]:
    """Where the panels will be, the calls that make them, and the bytes of scratch they need."""
    depth, columns = y.shape[-2:]
    count = product(batch) * ceil_div(columns, PANEL)
    floats = BufferArg(SCRATCH, 0)  # whole vectors are read of it, so it is aligned
    size = _ROW * count * depth
    calls = [_packed(ctx, y, batch, floats)]
    if not pairs:
        return floats, calls, size
    made = BufferArg(SCRATCH, size)
    calls.append(paired_panels(ctx, floats, count, depth, made))
    return made, calls, size + _ROW // 2 * count * (ceil_div(depth, BLOCK) * BLOCK)


def _packed(ctx: Lowering, y: _Matrices, batch: Sequence[Dim], target: BufferArg) -> Call:
    """[batch…, panel, depth, 16], zeros behind the last column."""
    depth, columns = y.shape[-2:]
    args = Args()
    outer = y.strides[: len(batch)]
    args.access(replace(y.access, strides=(*outer, *y.strides[-2:])))
    args.add(target)
    for d in (*batch, ceil_div(columns, PANEL), depth, columns):
        args.size(d)
    turned = y.strides[-1] != 1 and columns != 1
    key = ("matmul", "panels", len(batch), turned)
    symbol = ctx.code(key, lambda f: _emit_panels(f, len(batch), turned))
    size = product(batch) * depth * (columns + ceil_div(columns, PANEL) * PANEL)
    return Call(symbol, tuple(args.items), cost=Cost("pack", 0, _FLOAT * size))


def _emit_panels(f: Function, axes: int, turned: bool) -> None:
    """A unit is some panels of one matrix: rows are read by more than sixteen columns at a time."""
    source, target = f.slot(f.args[0], 0, "ptr"), f.slot(f.args[0], axes + 4, "ptr")
    *outer, down, across = (f.slot(f.args[0], 1 + i) for i in range(axes + 2))
    *batch, panels, depth, columns = (f.slot(f.args[0], axes + 5 + i) for i in range(axes + 3))
    with units(f, [*batch, rounded_up(f, panels, _TOGETHER)]) as indices:
        first = f.mul(indices[-1], _TOGETHER)
        there, number = f.gep(source, f.mul(first, f.mul(across, PANEL))), f.const(0)
        for index, size, step in zip(indices[:-1], batch, outer, strict=True):
            there = f.gep(there, f.mul(index, step))
            number = f.add(f.mul(number, size), index)
        number = f.add(f.mul(number, panels), first)
        here = f.gep(target, f.mul(number, depth), _ROW)
        strip = _Strip(f, there, here, depth, down, across)
        left = f.smin(f.sub(columns, f.mul(first, PANEL)), _TOGETHER * PANEL)
        whole, rest = f.sdiv(left, PANEL), f.srem(left, PANEL)
        if turned:
            with f.loop(0, whole) as turn:
                strip.panel(turn.index).turned()
        else:
            strip.rows(whole)
        with f.if_(f.icmp("ne", rest, 0)):
            last = strip.panel(whole)
            if turned:
                last.rest_turned(rest)
            else:
                last.rest_of_rows(rest)
    f.ret()


@dataclass(frozen=True)
class _Strip:
    """Columns over the depth, and the panels they go to."""

    f: Function
    source: Val
    target: Val
    depth: Val
    down: Val  # bytes from one place of the depth to the next
    across: Val  # bytes from column to column

    def panel(self, index: Val) -> _Strip:
        """One panel of it."""
        f = self.f
        source = f.gep(self.source, f.mul(f.mul(index, self.across), PANEL))
        return replace(self, source=source, target=self._home(index, f.const(0)))

    def _home(self, panel: Val, place: Val) -> Val:
        f = self.f
        return f.gep(self.target, f.add(f.mul(panel, self.depth), place), _ROW)

    def rows(self, whole: Val) -> None:
        """Panels whose columns lie side by side."""
        f, lanes = self.f, self.f.target.lanes
        with f.loop(0, self.depth) as turn:
            there = f.gep(self.source, f.mul(turn.index, self.down))
            with f.loop(0, whole) as panel:
                here = self._home(panel.index, turn.index)
                for at in range(0, PANEL, lanes):
                    value = f.load(vec(lanes), f.gep(f.gep(there, panel.index, _ROW), _FLOAT * at))
                    f.store(value, f.gep(here, _FLOAT * at))

    def rest_of_rows(self, left: Val) -> None:
        """The last columns, side by side, and zeros."""
        f, lanes = self.f, self.f.target.lanes
        with f.loop(0, self.depth) as turn:
            there = f.gep(self.source, f.mul(turn.index, self.down))
            here = f.gep(self.target, turn.index, _ROW)
            for at in range(0, PANEL, lanes):
                mask = f.lane_mask(f.sub(left, at), lanes)
                value = f.masked_load(f.gep(there, _FLOAT * at), mask, vec(lanes))
                f.store(value, f.gep(here, _FLOAT * at))

    def turned(self) -> None:
        """A panel whose columns are contiguous: by tiles that are turned in registers."""
        f, count = self.f, min(BLOCK, self.f.target.lanes)
        whole = f.and_(self.depth, -count)
        with f.loop(0, whole, count) as turn:
            there = f.gep(self.source, turn.index, _FLOAT)
            here = f.gep(self.target, turn.index, _ROW)
            for half in range(0, PANEL, BLOCK):
                columns = (f.mul(self.across, half + n) for n in range(BLOCK))
                tile = [f.load(vec(count), f.gep(there, column)) for column in columns]
                size = _FLOAT * count
                for n, value in enumerate(to_channels(f, tile)):
                    row, part = divmod(n, BLOCK // count)
                    f.store(value, f.gep(here, _ROW * row + _FLOAT * half + size * part))
        with f.loop(whole, self.depth) as turn, f.loop(0, PANEL) as column:
            self._single(turn.index, column.index)

    def rest_turned(self, left: Val) -> None:
        """The last columns, and zeros."""
        f, lanes = self.f, self.f.target.lanes
        with f.loop(0, self.depth) as turn:
            here = f.gep(self.target, turn.index, _ROW)
            for at in range(0, PANEL, lanes):
                f.store(f.f32(0.0, lanes), f.gep(here, _FLOAT * at))
        with f.loop(0, left) as column, f.loop(0, self.depth) as turn:
            self._single(turn.index, column.index)

    def _single(self, row: Val, column: Val) -> None:
        f = self.f
        there = f.gep(self.source, f.mul(column, self.across))
        here = f.gep(f.gep(self.target, row, _ROW), column, _FLOAT)
        f.store(f.load("float", f.gep(there, row, _FLOAT)), here)
