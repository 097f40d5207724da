"""Runs one kernel on poisoned buffers, for any number of threads, and compares with its meaning.

Every buffer ends at a fence, has a canary before it, and NaN where nothing was put. Threads are
emulated: the kernel is called once for each thread number. Results must be the same bits for any
number.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import netc.codegen.cpu.anchors  # noqa: F401  (registers the rules)
from netc.codegen.cpu.anchors import lower
from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.lowering import Lowering
from netc.codegen.cpu.stored import SHORT
from netc.codegen.cpu.target import LEVELS, runnable
from netc.codegen.operand import BLOCK, SCRATCH, WEIGHTS, Call, Kernel, Operand, row_major
from netc.codegen.precision import Precision
from netc.codegen.rounding import rounded
from netc.ir.dims import Dim, ceil_div, evaluate, product
from netc.ir.graph import Builder, Graph, Node
from netc.ir.interpret import interpret
from netc.ir.op import Case, Op, as_tuple
from netc.ir.ops.convolution import Conv
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan import BufferArg, CodeArg, IntArg, MadeArg, TableArg, WeightArg
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, Layout, TensorType
from netc.runtime.code import load_image
from tests.strategies import regions

LEVELS_HERE = [t.name for t in runnable() if not t.quads]
MARGIN = 256  # bytes of canary
_ENTRY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
ROUND_ABOUT = (Elementwise, Cast, ToBlocked, ToPlain, Input, Param, Const)  # what is no anchor
KERNELS: dict[Any, Any] = {}


@dataclass(frozen=True)
class Where:
    """How an operand lies: its halo, its extra channels (a part of a concat), or a parameter; in
    bfloat16 where it is `short`."""

    halo: tuple[int, int] = (0, 0)
    spread: int = 0
    param: bool = False
    short: bool = False


def placed(type: TensorType, buffer: int, where: Where) -> tuple[Operand, Dim]:
    """An operand in a buffer of its own, and that buffer's bytes."""
    wide = list(type.shape)
    offset: Dim = 0
    if type.layout is Layout.C8:
        n, c, h, w = type.shape
        wide = [n, ceil_div(c, BLOCK) + where.spread, h, w, BLOCK]
        wide[2] = wide[2] + 2 * where.halo[0]
        wide[3] = wide[3] + 2 * where.halo[1]
        strides = row_major(wide)[:4]
        offset = strides[2] * where.halo[0] + strides[3] * where.halo[1]
    else:
        if len(wide) > 1:
            wide[1] = wide[1] + where.spread
        if any(where.halo):
            wide[2:] = [d + 2 * h for d, h in zip(wide[2:], where.halo, strict=True)]
        strides = row_major(wide)
        offset = sum(h * s for h, s in zip(where.halo, strides[2:4], strict=False))
    made = Operand(type, buffer, 0, strides, where.halo, element=SHORT if where.short else "")
    return replace(made, offset=offset * made.item), product(wide) * made.item


class Memory:
    """One buffer: a canary before it, and behind its last byte a page that no one may touch."""

    def __init__(self, size: int, sizes: dict[str, int] | None = None) -> None:
        self.sizes = sizes or {}
        body = -(-(size + MARGIN) // mmap.PAGESIZE) * mmap.PAGESIZE
        self.pages = mmap.mmap(-1, body + mmap.PAGESIZE)
        whole = np.frombuffer(self.pages, np.uint8)
        fence = ctypes.c_void_p(whole.ctypes.data + body)
        assert ctypes.CDLL(None).mprotect(fence, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        self.all = whole[body - size - MARGIN : body]
        self.size = size
        self.poison()

    def poison(self) -> None:
        """NaN everywhere (as float32; 0xFF bytes)."""
        self.all[:] = 0xFF

    @property
    def address(self) -> int:
        """Of the first byte behind the canary."""
        return self.all.ctypes.data + MARGIN

    def view(self, o: Operand) -> np.ndarray:
        """Its elements, or the bits of short ones: (…) or, blocked, (N, blocks, H, W, 8)."""
        inside = self.all[MARGIN:].view(np.uint16 if o.element else o.type.dtype.numpy)
        shape = tuple(evaluate(d, self.sizes) for d in o.sizes)
        strides = [evaluate(s, self.sizes) * o.item for s in o.strides]
        if o.is_c8:
            shape, strides = (*shape, BLOCK), [*strides, o.item]
        first = evaluate(o.offset, self.sizes) // o.item
        return np.lib.stride_tricks.as_strided(inside[first:], shape, strides)

    def canary(self) -> bool:
        """Whether it still stands."""
        return bool((self.all[:MARGIN] == 0xFF).all())


def blocks_of(x: np.ndarray) -> np.ndarray:
    """NCHW as (N, blocks, H, W, 8), zeros beyond C."""
    n, c, h, w = x.shape
    blocks = -(-c // BLOCK)
    out = np.zeros((n, blocks * BLOCK, h, w), x.dtype)
    out[:, :c] = x
    return out.reshape(n, blocks, BLOCK, h, w).transpose(0, 1, 3, 4, 2)


def plain_of(x: np.ndarray, channels: int) -> np.ndarray:
    """The inverse; lanes beyond C must be zero."""
    n, blocks, h, w, _ = x.shape
    whole = x.transpose(0, 1, 4, 2, 3).reshape(n, blocks * BLOCK, h, w)
    assert not whole[:, channels:].any(), "lanes beyond the channels are not zero"
    return whole[:, :channels]


@dataclass
class Compiled:
    """Calls with the code they run."""

    calls: tuple[Call, ...]
    symbols: dict[str, int]
    weights: np.ndarray
    made: Memory
    mapping: Any
    sizes: dict[str, int]
    keep: list[Any] = field(default_factory=list)

    def block(self, call: Call, buffers: Sequence[Memory]) -> np.ndarray:
        """The argument block of a call; its scratch memory is the last of the buffers."""
        return np.array([self._word(a, buffers) for a in call.args] or [0], np.int64)

    def _word(self, arg: Any, buffers: Sequence[Memory]) -> int:
        match arg:
            case BufferArg(buffer, offset):
                buffer = -1 if buffer == SCRATCH else buffer
                return buffers[buffer].address + evaluate(offset, self.sizes)
            case WeightArg(offset):
                return int(self.weights.ctypes.data) + offset
            case MadeArg(offset):
                return self.made.address + offset
            case IntArg(value):
                return evaluate(value, self.sizes)
            case TableArg(parts):
                tables = [_table(p, self.sizes) for p in parts]
                table = np.concatenate([np.empty(0, np.int32), *tables])
                self.keep.append(table)
                return int(table.ctypes.data)
            case CodeArg(symbol):
                return self.mapping.entry(self.symbols[symbol])
        raise AssertionError(arg)

    def run(self, buffers: Sequence[Memory], threads: int) -> None:
        """Every call, on every thread in turn."""
        self.do(self.calls, buffers, threads)

    def do(self, calls: Sequence[Call], buffers: Sequence[Memory], threads: int) -> None:
        """Some calls."""
        kept: Memory | None = None  # what the call before left for this one
        for call in calls:
            scratch = kept or Memory(-(-evaluate(call.scratch, self.sizes) // 64) * 64)  # aligned
            kept = scratch if call.goes_on else None
            block = self.block(call, [*buffers, scratch])
            entry = _ENTRY(self.mapping.entry(self.symbols[call.symbol]))
            for tid in reversed(range(threads)):
                entry(block.ctypes.data, tid, threads)
            assert scratch.canary(), "written before scratch memory"


def _table(part: Any, sizes: dict[str, int]) -> np.ndarray:
    dims = [evaluate(d, sizes) for d in part.dims]
    out = np.full(dims, evaluate(part.base, sizes), np.int64)
    for axis, s in enumerate(part.strides):
        line = np.arange(dims[axis]) * evaluate(s, sizes)
        out += line.reshape([-1 if i == axis else 1 for i in range(len(dims))])
    return out.astype(np.int32).reshape(-1)


def compile_kernel(
    level: str, kernel: Kernel, sizes: dict[str, int], precision: Precision
) -> Compiled:
    """The calls of a kernel on one level."""
    module = Module(LEVELS[level])
    gemm = GemmFamily(module)
    ctx = Lowering(module.target, module, gemm, precision_of=lambda node: precision)
    calls = lower(ctx, kernel)
    text = module.text()
    if text not in KERNELS:
        image = build_image(module)
        KERNELS[text] = (image.symbols, load_image(image.code))
    symbols, mapping = KERNELS[text]
    weights = np.full(ctx.store.size + 128, 0xFF, np.uint8)
    weights = weights[-weights.ctypes.data % 64 :][: ctx.store.size + 64]
    ctx.store.fill(weights[: ctx.store.size])
    made = Memory(-(-ctx.setup.size // 64) * 64)
    done = Compiled(calls, symbols, weights, made, mapping, sizes)
    done.do(ctx.setup.calls, [made], 2)
    assert made.canary()
    return done


class Bench:
    """A kernel of one body with its buffers filled, ready to run on any level."""

    def __init__(
        self,
        body: Graph,
        arrays: Mapping[str, np.ndarray],
        where: Mapping[str, Where],
        sizes: dict[str, int] | None = None,
    ) -> None:
        self.body, self.arrays, self.sizes = body, arrays, sizes or {}
        self.buffers: list[Memory] = []
        ins = []
        for node in body.inputs:
            w = where.get(node.name, Where())
            x = np.asarray(arrays[node.name], node.types[0].dtype.numpy)
            if w.param:
                shape = node.types[0].shape
                ins.append(Operand(node.types[0], WEIGHTS, 0, row_major(shape), array=x))
                continue
            operand, size = placed(node.types[0], len(self.buffers), w)
            memory = Memory(evaluate(size, self.sizes), self.sizes)
            if any(w.halo):
                memory.all[MARGIN:] = 0
            x = rounded(x, SHORT) if w.short else x
            memory.view(operand)[...] = blocks_of(x) if operand.is_c8 else x
            self.buffers.append(memory)
            ins.append(operand)
        self.outs, self.first_out = [], len(self.buffers)
        for name, v in body.outputs.items():
            operand, size = placed(v.type, len(self.buffers), where.get(name, Where()))
            self.buffers.append(Memory(evaluate(size, self.sizes), self.sizes))
            self.outs.append(operand)
        anchors = [n for n in body.nodes if not isinstance(n.op, ROUND_ABOUT)]
        assert len(anchors) <= 1
        loc = next(iter(body.outputs.values())).node
        self.kernel = Kernel(
            loc, body, anchors[0] if anchors else None, tuple(ins), tuple(self.outs)
        )

    def run(
        self,
        level: str,
        threads: Sequence[int] = (1, 2, 3, 4),
        precision: Precision = Precision.HIGH,
    ) -> list[np.ndarray]:
        """The outputs, the same for every number of threads."""
        compiled = compile_kernel(level, self.kernel, self.sizes, precision)
        before = [m.all.copy() for m in self.buffers[: self.first_out]]
        found: list[list[np.ndarray]] = []
        for n in threads:
            for m in self.buffers[self.first_out :]:
                m.poison()
            compiled.run(self.buffers, n)
            found.append([self._read(o) for o in self.outs])
            self._check(before)
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(_bits(a), _bits(b))
        return found[0]

    def _read(self, o: Operand) -> np.ndarray:
        got = self.buffers[o.buffer].view(o)
        if o.is_c8:
            got = plain_of(got, evaluate(o.type.shape[1], self.sizes))
        return of_bits(got) if o.element else np.array(got, order="C")

    def _check(self, before: Sequence[np.ndarray]) -> None:
        for m, old in zip(self.buffers, before, strict=False):
            np.testing.assert_array_equal(m.all, old, "an input was written")
        for o in self.outs:
            memory = self.buffers[o.buffer]
            assert memory.canary(), "written outside a buffer"
            view = memory.view(o)
            kept = view.copy()
            view[...] = np.frombuffer(b"\xff" * 8, kept.dtype)[0]
            assert (memory.all == 0xFF).all(), "written outside an operand"
            view[...] = kept


def of_bits(bits: np.ndarray) -> np.ndarray:
    """The float32 that bits of bfloat16 stand for."""
    return (np.array(bits, np.uint32, order="C") << 16).view(np.float32)


def _bits(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1).view(f"u{x.itemsize}")


def body_of(
    op: Op | Any, types: Sequence[TensorType], tail: Any = None, extra: Sequence[TensorType] = ()
) -> Graph:
    """A body: inputs x0, x1, …; one op; then `tail(builder, result, extra inputs)`."""
    b = Builder()
    xs = [b.input(f"x{i}", t) for i, t in enumerate(types)]
    more = [b.input(f"e{i}", t) for i, t in enumerate(extra)]
    node: Node = b(op, *xs, name="y")
    if tail is None:
        return b.graph("g", {f"out{i}": v for i, v in enumerate(node.results)})
    made = tail(b, node.results[0], *more)
    outs = made if isinstance(made, tuple) else (made,)
    return b.graph("g", {f"out{i}": v for i, v in enumerate(outs)})


def conv(**attributes: object) -> Conv:
    """A convolution in two dimensions, of stride 1 and without padding where nothing is said."""
    ones: dict[str, Any] = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1)}
    return Conv(**(ones | attributes))


def normal(body: Graph, sizes: dict[str, int] | None) -> dict[str, np.ndarray]:
    """Numbers for every input of a body."""
    rng = np.random.default_rng(0)
    shapes = {n.name: n.types[0].sizes(sizes or {}) for n in body.inputs}
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def draw(type: TensorType, kind: str, rng: np.random.Generator) -> np.ndarray:
    """An array of a domain that `netc.ir.op.Case` names."""
    shape = type.sizes({})
    if type.dtype is not DType.F32:
        top = int(kind.split(":")[1]) if kind.startswith("index") else 100
        return rng.integers(0, top, shape).astype(type.dtype.numpy)
    match kind.split(":"):
        case ["positive"]:
            return (rng.random(shape) + 0.1).astype(np.float32)
        case ["unit"]:
            return rng.random(shape).astype(np.float32)
        case ["distinct"]:
            count = int(np.prod(shape))
            return (rng.permutation(count).reshape(shape) * 0.5 - count / 4).astype(np.float32)
        case ["index", k]:
            return rng.integers(0, int(k), shape).astype(np.float32)
        case ["region", images, size]:
            return regions(shape, int(images), int(size), rng).astype(np.float32)
    return rng.normal(size=shape).astype(np.float32)


def odd(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Normal numbers among special ones, each of which there is often."""
    rng = np.random.default_rng(seed)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5, -1.5], np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    return np.where(rng.random(shape) < 0.6, rng.choice(special, shape), x)


def drawn(case: Case, seed: int = 0) -> list[np.ndarray]:
    """Arrays for the inputs of a sample."""
    rng = np.random.default_rng(seed)
    kinds = [*case.draw, *["normal"] * len(case.inputs)]
    return [draw(t, k, rng) for t, k in zip(case.inputs, kinds, strict=False)]


def expected(
    body: Graph, arrays: Mapping[str, np.ndarray], dtype: Any = np.float64
) -> list[np.ndarray]:
    """What the body means."""
    return [np.asarray(a) for a in interpret(body, dict(arrays), dtype).values()]


def close(got: np.ndarray, want: np.ndarray, ulps: float, bound: Any = 0.0) -> None:
    """Within `ulps` of the exact value or within an absolute bound; NaN and ∞ in place."""
    assert got.shape == want.shape, f"{got.shape} for {want.shape}"
    near = want.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(near))
    ok = np.isfinite(near)
    np.testing.assert_array_equal(got[~ok], near[~ok])
    gap = np.abs(got[ok].astype(np.float64) - want[ok])
    room = np.maximum(ulps * np.spacing(np.abs(near[ok])), np.broadcast_to(bound, want.shape)[ok])
    worst = float(np.max(gap / np.maximum(room, 1e-300))) if gap.size else 0.0
    assert worst <= 1.0, f"{worst:.3g} times the tolerance"


def tuple_of(op: Op, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The reference in float64."""
    wide = [a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays]
    return list(as_tuple(op.reference(*wide)))


__all__ = [
    "LEVELS_HERE", "Bench", "Where", "blocks_of", "body_of", "ceil_div", "close", "draw", "drawn",
    "expected", "odd", "plain_of", "tuple_of",
]  # fmt: skip
