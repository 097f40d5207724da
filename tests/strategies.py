"""Random graphs for property tests, what to feed them, and when results agree.

`graphs()` grows a graph node by node from a pool of values. Each node is evaluated while it is
added, and left out when it is illegal, too large, not finite, or badly scaled; so what comes out
is a net whose numbers mean something. Every op of the registry takes part by its own samples.

Ops that jump (argmax, floor, …) read only exact values: inputs, parameters, and copies of those.
A rounding difference before a jump would be a difference of meaning, which no bound can judge.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from netc.errors import GraphError
from netc.ir.attributes import bound
from netc.ir.graph import Builder, Graph, Value
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Array, Case, Op, as_tuple
from netc.ir.ops.convolution import Conv, ConvTranspose, Fc
from netc.ir.types import DType, TensorType, f32, u8

SIZES = {"N": 2, "H": 13, "W": 11}  # of the symbols, unless a feed says otherwise
MAX_COUNT = 30_000  # elements of one value
MAX_SCALE = 1e3  # of any value

JUMPS = {
    "accuracy", "accuracy_per_class", "argmax", "cast", "compact", "equal", "floor", "gather",
    "greater", "less", "max_pool_index", "non_max_suppression", "pick", "ps_roi_pool", "roi_pool",
    "stochastic_pool", "threshold", "unpool", "where",
}  # fmt: skip
COPIES = {
    "abs", "concat", "crop", "flatten", "max_pool", "maximum", "minimum", "pad", "reduce_max",
    "relu", "reshape", "resize_nearest", "slice", "tile", "transpose", "global_max_pool",
}  # fmt: skip
OTHER_STAGES = {"copy", "input", "param", "const", "fused", "to_blocked", "to_plain"}


def draw_array(type: TensorType, domain: str, rng: np.random.Generator, sizes: Any = ()) -> Array:
    """An array of a type from one of the domains of `Case.draw`; floats are float32."""
    shape = type.sizes(dict(sizes))
    match domain.split(":"):
        case ["normal"]:
            out = rng.normal(size=shape)
        case ["positive"]:
            out = rng.uniform(0.5, 2.0, shape)
        case ["unit"]:
            out = rng.random(shape)
        case ["distinct"]:
            out = (rng.permutation(math.prod(shape)).reshape(shape) - math.prod(shape) / 2) / 8
        case ["index", below]:
            out = rng.integers(0, int(below), shape)
        case ["boxes"]:
            out = clustered(shape, rng)
        case ["region", images, size]:
            out = regions(shape, int(images), int(size), rng)
        case _:
            raise ValueError(domain)
    if type.dtype is DType.U8 and domain == "normal":
        out = rng.integers(0, 256, shape)
    return np.asarray(out, type.dtype.numpy)


def clustered(shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Boxes x0, y0, x1, y1 around a few places: many overlap by much, and many not at all."""
    places = max(1, shape[-2] // 12)
    centre = 8 * rng.integers(0, places, (*shape[:-1], 1)) + rng.random((*shape[:-1], 2))
    half = rng.uniform(2, 4, (*shape[:-1], 2))
    return np.concatenate([centre - half, centre + half], -1).astype(np.float32)


def regions(shape: tuple[int, ...], images: int, size: int, rng: np.random.Generator) -> Array:
    """Rows (image, x0, y0, x1, y1): the last image is not there, corners may lie outside."""
    out = rng.uniform(-0.2 * size, 1.2 * size, shape)
    near, far = out[..., 1:3], out[..., 3:]
    far[:] = np.where(rng.random(far.shape) < 0.8, np.maximum(near, far), far)
    out[..., 0] = np.arange(len(out)) % (images + 1)
    return out


def domain_of(sample: Case, i: int) -> str:
    """How input i of a sample is drawn."""
    return sample.draw[i] if i < len(sample.draw) else "normal"


def legal_samples(op: type[Op]) -> list[Case]:
    """The samples that are not there to fail."""
    return [s for s in op.samples if not s.error]


class Growth:
    """A graph that grows; `arrays` holds each value in float64 for one feed."""

    def __init__(self, pick: Callable[[int], int], seed: int) -> None:
        self.pick, self.rng = pick, np.random.default_rng(seed)
        self.b = Builder()
        self.pool: list[Value] = []
        self.arrays: dict[Value, Array] = {}
        self.exact: set[Value] = set()
        self.params: dict[tuple[tuple[int, ...], str, float], list[Value]] = {}

    def one_of(self, *options: Any) -> Any:
        return options[self.pick(len(options))]

    def input(self, type: TensorType) -> None:
        v = self.b.input(f"in{len(self.b.inputs)}", type)
        self.arrays[v] = draw_array(type, "normal", self.rng, SIZES).astype(np.float64)
        self.exact.add(v)
        self.pool.append(v if type.dtype is DType.F32 else self.scaled(v))

    def scaled(self, image: Value) -> Value:
        """(image − 128) / 64 as floats, as preprocessing does."""
        x = self.b.cast(image, to=DType.F32)
        y = self.b.affine(x, scale=1 / 64, shift=-2.0)
        self.arrays[x] = self.arrays[image]
        self.arrays[y] = self.arrays[x] / 64 - 2.0
        return y

    def param(self, shape: tuple[int, ...], domain: str = "normal", scale: float = 1.0) -> Value:
        """A parameter; now and then one that is there already, as nets share them."""
        known = self.params.setdefault((shape, domain, scale), [])
        if known and self.pick(4) == 3:
            return known[self.pick(len(known))]
        value = draw_array(f32[shape], domain, self.rng)
        if domain in ("normal", "positive"):
            value = (value * np.float32(scale)).astype(np.float32)
        v = self.b.param(f"p{len(self.b.names)}", f32[shape], value=value)
        self.arrays[v] = value.astype(np.float64)
        self.exact.add(v)
        known.append(v)
        return v

    def const(self, type: TensorType, value: float) -> Value:
        """A number spread over a shape, which may have symbols."""
        v = self.b.const(type=type, value=value)
        self.arrays[v] = np.full(type.sizes(SIZES), np.float64(np.float32(value)))
        self.exact.add(v)
        return v

    def add(self, op_name: str, *xs: Value, **attributes: Any) -> Value | None:
        """The first result of a new node, unless the node is illegal or its numbers are bad."""
        if op_name in JUMPS and not self.exact.issuperset(xs):
            return None
        try:
            node = self.b(REGISTRY[op_name](**attributes), *xs)
            if any(not 0 < math.prod(t.sizes(SIZES)) <= MAX_COUNT for t in node.types):
                return None
            outs = as_tuple(bound(node.op, SIZES).reference(*(self.arrays[x] for x in xs)))
        except GraphError:
            return None
        for v, out in zip(node.results, outs, strict=True):
            if not np.isfinite(out).all() or np.abs(out).max() > MAX_SCALE:
                return None
            self.arrays[v] = np.asarray(out, np.float64)
            smooth = op_name == "relu" and attributes.get("slope", 0.0)
            if op_name in COPIES | JUMPS and not smooth and self.exact.issuperset(xs):
                self.exact.add(v)
        floats = [v for v in node.results if v.type.dtype is DType.F32]
        self.pool += floats
        return floats[0] if floats else None

    def some(self, rank: int | None = None) -> Value | None:
        """A value of the pool, the newest as likely as all others together."""
        fit = [v for v in self.pool if rank is None or v.type.rank == rank]
        if not fit:
            return None
        return fit[-1] if self.pick(2) else fit[self.pick(len(fit))]


def _conv(g: Growth) -> Value | None:
    x = g.some(4)
    if x is None or not isinstance(c := x.type.shape[1], int):
        return None
    groups = g.one_of(1, 1, 1, c, *(d for d in (2, 3, 5) if c % d == 0))
    out = groups * g.one_of(1, 2) if groups > 1 else g.one_of(1, 3, 5, 7, 8, 16, 17)
    k = (g.one_of(1, 1, 2, 3, 3, 5), g.one_of(1, 3, 3, 4))
    k = (k[0], k[0]) if g.pick(4) else k
    spread = 1 / math.sqrt(max(1, c // groups) * k[0] * k[1])
    xs = [x, g.param((out, c // groups, *k), scale=spread)]
    if g.pick(3):
        xs.append(g.param((out,)))
    return g.add(
        "conv", *xs, groups=groups, stride=g.one_of((), (1, 1), (2, 2), (2, 1)),
        pad=g.one_of((), (1, 1), (k[0] // 2, k[1] // 2), (0, 2), (3, 3)),
        dilation=g.one_of((), (), (2, 2), (1, 2)),
    )  # fmt: skip


def _conv_transpose(g: Growth) -> Value | None:
    x = g.some(4)
    if x is None or not isinstance(c := x.type.shape[1], int):
        return None
    groups = g.one_of(1, 1, c, 2 if c % 2 == 0 else 1)
    k = (g.one_of(1, 2, 3, 4, 5), g.one_of(2, 3, 4))
    out = g.one_of(1, 8) if groups > 1 else g.one_of(1, 3, 5, 8, 17)
    xs = [x, g.param((c, out, *k), scale=1 / math.sqrt(c * k[0]))]
    if g.pick(3) == 0:
        xs.append(g.param((out * groups,)))
    return g.add(
        "conv_transpose", *xs, groups=groups, stride=g.one_of((), (2, 2), (2, 2), (3, 1), (2, 3)),
        pad=g.one_of((), (1, 1), (k[0] // 2, 0)), dilation=g.one_of((), (), (), (1, 2), (2, 3)),
    )  # fmt: skip


def _pool(g: Growth) -> Value | None:
    x = g.some(4)
    if x is None:
        return None
    kernel = g.one_of((2, 2), (3, 3), (3, 2), (1, 1), (5, 5))
    name = g.one_of("max_pool", "avg_pool")
    return g.add(
        name, x, kernel=kernel, stride=g.one_of((), (2, 2), (2, 1), (3, 3)),
        pad=g.one_of((), (1, 1), (0, 1)), ceil=g.one_of(True, False),
    )  # fmt: skip


def _unary(g: Growth) -> Value | None:
    x = g.some()
    if x is None:
        return None
    name, attributes = g.one_of(
        ("relu", {}), ("relu", {}), ("relu", {"slope": 0.1}), ("sigmoid", {}), ("tanh", {}),
        ("elu", {}), ("clip", {}), ("abs", {}), ("swish", {}), ("softplus", {}),
        ("affine", {"scale": -0.5, "shift": 0.25}), ("pow", {"exponent": 2.0}), ("exp", {}),
        ("formula", {"body": "x0 * sigmoid(1.5 * x0)"}), ("global_avg_pool", {}),
        ("global_max_pool", {}), ("lrn", {"size": 3}), ("lrn", {"size": 5, "alpha": 0.1}),
        ("resize_nearest", {}), ("resize_bilinear", {"scale": (2, 2), "align_corners": False}),
    )  # fmt: skip
    return g.add(name, x, **attributes)


def _binary(g: Growth) -> Value | None:
    """Two values of one shape (residual), a value with itself, or with a small parameter."""
    x = g.some()
    if x is None:
        return None
    name = g.one_of("add", "add", "mul", "sub", "maximum", "minimum")
    alike = [v for v in g.pool if v.type == x.type]
    rank, shape = x.type.rank, x.type.shape
    if g.pick(2) or rank < 2 or not isinstance(shape[1], int):
        return g.add(name, x, alike[g.pick(len(alike))])
    small = g.one_of(
        (shape[1], *(1,) * (rank - 2)), (), (1,) * rank, (1, shape[1], *(1,) * (rank - 2))
    )
    if g.pick(8) == 7:
        return g.add(name, x, g.const(g.one_of(f32[small], x.type), 0.3))
    if g.pick(4) == 0:
        return g.add("prelu", x, g.param(small))
    if g.pick(4) == 0:
        return g.add("sub", g.param(small), x)
    return g.add(name, x, g.param(small))


def _residual(g: Growth) -> Value | None:
    """A value joined with a convolution of itself, which what follows reads."""
    x = g.some(4)
    if x is None or not isinstance(c := x.type.shape[1], int):
        return None
    k, groups = g.one_of(1, 1, 3), g.one_of(1, 1, c)
    weights = g.param((c, c // groups, k, k), scale=1 / math.sqrt(max(1, c // groups) * k * k))
    y = g.add("conv", x, weights, groups=groups, pad=(k // 2, k // 2))
    y = y and g.add(g.one_of("relu", "sigmoid", "abs"), y) if g.pick(2) else y
    y = y and g.add(g.one_of("add", "mul", "maximum"), *((x, y) if g.pick(2) else (y, x)))
    if y is None or g.pick(2):
        return y
    return g.add("max_pool", y, kernel=(2, 2), stride=(2, 2))


def _norm(g: Growth) -> Value | None:
    """BatchNorm, Scale and ReLU as Caffe nets chain them."""
    x = g.some(4)
    if x is None or not isinstance(c := x.type.shape[1], int):
        return None
    y = g.add("batch_norm", x, g.param((c, 1, 1)), g.param((c, 1, 1), "positive"))
    y = y and g.add("mul", y, g.param((c, 1, 1), "positive"))
    y = y and g.add("add", y, g.param((c, 1, 1)))
    return y and g.add("relu", y)


def _concat(g: Growth) -> Value | None:
    x = g.some()
    if x is None or x.type.rank < 2:
        return None
    axis = g.one_of(1, 1, x.type.rank - 1)
    rest = [v for v in g.pool if v.type.rank == x.type.rank and _alike(v, x, axis)]
    xs = [x, *(rest[g.pick(len(rest))] for _ in range(g.pick(3)))]
    return g.add("concat", *(reversed(xs) if g.pick(2) else xs), axis=axis)


def _alike(v: Value, x: Value, axis: int) -> bool:
    sizes = zip(v.type.shape, x.type.shape, strict=True)
    return all(i == axis or d == e for i, (d, e) in enumerate(sizes))


def _slice(g: Growth) -> Value | None:
    x = g.some()
    if x is None or x.type.rank < 2:
        return None
    axis = g.one_of(1, 1, x.type.rank - 1)
    if not isinstance(n := x.type.shape[axis], int) or not n:
        return None
    start = g.pick(n)
    first = g.add("slice", x, axis=axis, start=start, stop=start + 1 + g.pick(n - start))
    return first if g.pick(2) else g.add("slice", x, axis=axis, stop=max(1, start))


def _shape(g: Growth) -> Value | None:
    x = g.some()
    if x is None:
        return None
    rank, axis = x.type.rank, 1
    name, attributes = g.one_of(
        ("flatten", {}), ("reshape", {"shape": (0, -1)}), ("reshape", {"shape": (0, 1, -1)}),
        ("transpose", {"perm": (0, *range(rank - 1, 0, -1))}), ("tile", {"axis": axis, "times": 2}),
        ("pad", {"after": (0,) * (rank - 1) + (1,), "before": (0,) * max(1, rank)}),
        ("reduce_mean", {"axes": (rank - 1,), "keep": True}), ("reduce_sum", {"axes": (rank - 1,)}),
        ("reduce_max", {"axes": (1,), "keep": True}), ("softmax", {}), ("log_softmax", {}),
    )  # fmt: skip
    if rank < 2:
        return None
    return g.add(name, x, **attributes)


def _fc(g: Growth) -> Value | None:
    x = g.some()
    if x is None or x.type.rank < 2:
        return None
    inner = x.type.with_shape(x.type.shape[1:]).count
    if not isinstance(inner, int) or not 0 < inner <= 4000:
        return None
    out = g.one_of(1, 3, 10, 17)
    xs = [x, g.param((out, inner), scale=1 / math.sqrt(inner))]
    y = g.add("fc", *xs, *([g.param((out,))] if g.pick(2) else []))
    return y and (g.add("softmax", y) if g.pick(2) else y)


def _sample(g: Growth) -> Value | None:
    """Any op of the registry by one of its samples, fed from the pool where that is legal."""
    names = sorted(set(REGISTRY) - OTHER_STAGES)
    op = REGISTRY[names[g.pick(len(names))]]
    samples = [s for s in legal_samples(op) if all(t.dtype is DType.F32 for t in s.inputs)]
    if not samples:
        return None
    sample = samples[g.pick(len(samples))]
    x = g.some(sample.inputs[0].rank)
    xs = [g.param(_ints(t), domain_of(sample, i)) for i, t in enumerate(sample.inputs)]
    if x is not None and domain_of(sample, 0) == "normal":
        y = g.add(op.name, x, *xs[1:], **sample.attributes)
        if y is not None:
            return y
    return g.add(op.name, *xs, **sample.attributes)


def _ints(t: TensorType) -> tuple[int, ...]:
    return t.sizes({})


MOVES: tuple[Callable[[Growth], Value | None], ...] = (
    _unary, _conv, _conv, _pool, _binary, _binary, _norm, _residual, _concat, _slice, _shape, _fc,
    _conv_transpose, _sample, _sample, _sample,
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 10, symbolic: bool = True) -> Graph:
    """A well-typed graph of one or two feature maps and up to about `max_nodes` moves."""

    def pick(count: int) -> int:
        # A wide range: hypothesis prefers the ends of a narrow one, and would draw few ops.
        return draw(st.integers(0, 2**20)) % count if count > 1 else 0

    g = Growth(pick, draw(st.integers(0, 2**16)))
    n = g.one_of("N", 1, 2) if symbolic else g.one_of(1, 2)
    for _ in range(1 + (pick(3) == 2)):
        c = g.one_of(1, 3, 5, 7, 8, 16, 17)
        spatial = ("H", "W") if symbolic and pick(8) == 7 else g.one_of((8, 8), (9, 7), (13, 11))
        g.input((u8 if pick(10) == 9 else f32)[n, c, *spatial])
    for _ in range(1 + pick(max_nodes)):
        any(MOVES[pick(len(MOVES))](g) for _ in range(3))  # until one is legal
    made = [v for v in g.pool if v.node not in g.b.inputs] or g.pool
    used = {x for v in made for x in v.node.inputs}
    leaves = [v for v in made if v not in used][-4:] or made[-1:]
    chosen = [*leaves, *(made[pick(len(made))] for _ in range(pick(3)))]
    read = {v for y in chosen for v in _ancestors(y)}
    if not any(n.out in read for n in g.b.inputs):  # all constant; something must be fed
        chosen += [g.pool[0], g.add("abs", g.pool[0]) or g.pool[0]]
        read |= _ancestors(g.pool[0])
    graph = g.b.graph("drawn", {v.name: v for v in chosen})
    return replace(graph, inputs=tuple(i for i in graph.inputs if i.out in read or i.out in chosen))


def _ancestors(v: Value) -> set[Value]:
    found, stack = {v}, [v]
    while stack:
        for x in stack.pop().node.inputs:
            if x not in found:
                found.add(x)
                stack.append(x)
    return found


def feeds(graph: Graph, seed: int = 0, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """An array for every input; symbols are SIZES unless given, others 3."""
    known = {s: SIZES.get(s, 3) for n in graph.inputs for s in n.types[0].symbols} | dict(
        sizes or {}
    )
    rng = np.random.default_rng(seed)
    return {n.name: draw_array(n.types[0], "normal", rng, known) for n in graph.inputs}


@dataclass(frozen=True)
class Wanted:
    """A reference result in float64 and how far from it a result may be."""

    exact: Array
    bound: float


def wanted(graph: Graph, feed: Mapping[str, Array]) -> dict[str, Wanted]:
    """What a run of `graph` must give.

    A result may differ by max(1e-5, 4 · spread) · scale; the scale is the largest |y| of the
    result, but at least a hundredth of the largest value in the graph, since a difference of
    equals leaves rounding. The spread is that of two engines against float64: the float32
    reference, and one whose every sum of products is off by 2⁻²⁴ · Σ|a||b|, an eighth of what
    such a sum is allowed.
    """
    exact = interpret(graph, feed)
    rough = interpret(graph, feed, np.float32)
    inside = replace(graph, outputs={v.name: v for n in graph.nodes for v in n.results})
    values = interpret(inside, feed)
    largest = max(map(_scale, values.values()), default=0.0)
    noisy = _disturbed(graph, feed, values)
    out = {}
    for name, y in exact.items():
        scale = max(_scale(y), 0.01 * largest)
        with np.errstate(invalid="ignore"):  # ∞ − ∞, of windows over nothing: NaN has no scale
            spread = max(_scale(other[name].astype(np.float64) - y) for other in (rough, noisy))
        out[name] = Wanted(y, max(1e-5 * scale, 4 * spread))
    return out


def _disturbed(
    graph: Graph, feed: Mapping[str, Array], values: Mapping[str, Array]
) -> dict[str, Array]:
    """The results when every sum of products is off by 2⁻²⁴ · Σ|a||b|, of either sign."""
    b, rng = Builder({n.name for n in graph.nodes}), np.random.default_rng(0)
    new: dict[Value, Value] = {}
    noise: dict[str, Array] = {}
    for node in graph.nodes:
        copy = replace(node, inputs=tuple(new[v] for v in node.inputs))
        new.update(zip(node.results, (node if not node.inputs else copy).results, strict=True))
        if isinstance(node.op, Conv | ConvTranspose | Fc):
            sums = node.op.reference(*(np.abs(values[x.name]) for x in node.inputs))
            off = b.input("noise", node.types[0])
            noise[off.name] = 2.0**-24 * sums * rng.choice([-1.0, 1.0], sums.shape)
            new[node.out] = b.add(copy.out, off)
    outputs = {name: new[v] for name, v in graph.outputs.items()}
    other = replace(graph, inputs=(*graph.inputs, *b.inputs), outputs=outputs)
    return interpret(other, {**feed, **noise})


def _scale(y: Array) -> float:
    y = np.asarray(y, np.float64)
    return float(np.abs(y[np.isfinite(y)]).max(initial=0.0))


def agree(got: Mapping[str, Any], want: Mapping[str, Wanted], graph: Graph) -> str:
    """Why results differ from what is wanted, or an empty string."""
    if set(got) != set(want):
        return f"outputs {sorted(got)} instead of {sorted(want)}"
    for name, w in want.items():
        y = np.asarray(got[name], np.float64)
        if y.shape != w.exact.shape:
            return f"{name} has shape {y.shape} instead of {w.exact.shape}"
        finite = np.isfinite(w.exact)
        if not np.array_equal(y[~finite], w.exact[~finite], equal_nan=True):
            return f"{name}: NaN or infinity where none is wanted, or none where one is"
        if not np.isfinite(y[finite]).all():
            return f"{name} is not finite where {graph.name} is"
        error = _scale(y[finite] - w.exact[finite])
        if error > w.bound:
            return f"{name} is off by {error:.3g}; {w.bound:.3g} is allowed"
    return ""


__all__ = ["SIZES", "Wanted", "agree", "draw_array", "feeds", "graphs", "legal_samples", "wanted"]
