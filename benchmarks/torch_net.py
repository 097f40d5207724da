"""A netc graph as a torch module, for the comparison on GPUs and as a float64 reference there.

The graph has netc's own folding of norms and constants behind it, so that torch gets the same
convolutions; layouts and fusion are torch's. An op without a rule raises `NotImplementedError`,
so that torch is never timed on another net than ours.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netc.ir.attributes import bound
from netc.ir.graph import Graph, Node, Value
from netc.ir.interpret import initial_weights
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.ops.windows import axis_of
from netc.ir.scalar import Elementwise, S
from netc.ir.types import DType

Sizes = Mapping[str, int]
Call = Callable[..., Any]
Rule = Callable[[Any, Node, Sizes], Call]
_RULES: dict[str, Rule] = {}
_DTYPES = {DType.U8: torch.uint8, DType.I32: torch.int32, DType.I64: torch.int64}
_FRESH = {"conv", "conv_transpose", "fc", "add", "sub", "mul", "batch_norm", "lrn"}
_WINDOWED = {
    "conv": (F.conv1d, F.conv2d, F.conv3d),
    "conv_transpose": (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    "max_pool": (F.max_pool1d, F.max_pool2d, F.max_pool3d),
    "avg_pool": (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d),
}


def folded(graph: Graph) -> Graph:
    """The graph with every parameter known, norms folded into convolutions, nothing laid out."""
    from dataclasses import replace

    from netc.passes.base import Context, run_passes
    from netc.passes.canonicalize import Canonicalize
    from netc.passes.cse import Cse
    from netc.passes.fold_norms import FoldNorms
    from netc.passes.fold_params import FoldParams
    from netc.passes.simplify import Simplify

    graph = replace(graph, weights=initial_weights(graph))
    passes = (Canonicalize(), Simplify(), Cse(), FoldNorms(), Simplify(), FoldParams())
    return run_passes(graph, passes, Context())


def torch_module(
    graph: Graph, sizes: Sizes, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> nn.Module:
    """The module of a folded graph, its symbols bound: straight code, as one writes by hand.

    It takes a list of the inputs and gives a tuple of the outputs. Weights lie channels last.
    """
    made = torch.fx.symbolic_trace(_Net(graph, sizes, dtype)).to(device, dtype).eval()
    for parameter in made.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return made


class _Net(nn.Module):
    """Calls in order over numbered values."""

    def __init__(self, graph: Graph, sizes: Sizes, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        numbers = {v: i for i, v in enumerate(v for n in graph.nodes for v in n.results)}
        self._uses = graph.uses
        self._steps: list[tuple[Call, list[int], int]] = []
        self._inputs = [numbers[n.out] for n in graph.inputs]
        self._params: dict[int, str] = {}
        self._outputs = [numbers[v] for v in graph.outputs.values()]
        for node in graph.nodes:
            place = numbers[node.results[0]]
            if isinstance(node.op, Param | Const):
                self._keep(place, node, graph, sizes)
            elif not isinstance(node.op, Input):
                self._add(place, node, numbers, sizes)

    def _keep(self, place: int, node: Node, graph: Graph, sizes: Sizes) -> None:
        if isinstance(node.op, Const):
            array = np.full(node.types[0].sizes(sizes), node.op.value, np.float32)
        else:
            array = np.array(graph.weights[node.name])
        name = f"p{len(self._params)}"
        self.register_parameter(name, nn.Parameter(torch.from_numpy(array), requires_grad=False))
        self._params[place] = name

    def _add(self, place: int, node: Node, numbers: Mapping[Value, int], sizes: Sizes) -> None:
        found = _scaled(self, node)
        if found is not None:
            call, inputs = found
            self._steps = [s for s in self._steps if s[2] != numbers[node.inputs[0]]]
        else:
            call, inputs = _rule(node)(self, node, sizes), node.inputs
        if len(node.types) != 1:
            raise NotImplementedError(f"{node.op.name} (%{node.name}) gives several tensors")
        self._steps.append((call, [numbers[v] for v in inputs], place))

    def once(self, value: Value) -> bool:
        """Whether only one node reads a value, and no other shares its memory."""
        return value.op.name in _FRESH and len(self._uses[value]) == 1

    def forward(self, xs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One run."""
        values: dict[int, Any] = {place: xs[i] for i, place in enumerate(self._inputs)}
        values |= {i: getattr(self, name) for i, name in self._params.items()}
        for call, inputs, place in self._steps:
            values[place] = call(*(values[i] for i in inputs))
        return tuple(values[i] for i in self._outputs)


def _rule(node: Node) -> Rule:
    if node.op.name in _RULES:
        return _RULES[node.op.name]
    if isinstance(node.op, Elementwise):
        return _formula
    raise NotImplementedError(f"no torch spelling for {node.op.name} (%{node.name})")


def _writes(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


# ---- element-wise ---------------------------------------------------------------------------


def _scaled(net: _Net, node: Node) -> tuple[Call, Sequence[Value]] | None:
    """add(mul(x, scale), shift) in one kernel, where torch would take two."""
    if node.op.name != "add" or node.inputs[0].op.name != "mul":
        return None
    shift, product = node.inputs[1], node.inputs[0].node
    x, scale = product.inputs
    constant = isinstance(shift.op, Param) and isinstance(scale.op, Param)
    if not constant or not net.once(product.out):
        return None
    return (lambda x, scale, shift: torch.addcmul(shift, x, scale)), (x, scale, shift)


@_writes("relu")
def _relu(net: _Net, node: Node, sizes: Sizes) -> Call:
    slope, inside = cast(Any, node.op).slope, net.once(node.inputs[0])
    if slope:
        return lambda x: F.leaky_relu(x, slope, inplace=inside)
    return lambda x: F.relu(x, inplace=inside)


@_writes("clip")
def _clip(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    return lambda x: torch.clamp(x, op.low, op.high)


@_writes("prelu")
def _prelu(net: _Net, node: Node, sizes: Sizes) -> Call:
    if not isinstance(node.inputs[1].op, Param):
        return _formula(net, node, sizes)
    return lambda x, slope: F.prelu(x, slope.reshape(-1))


@_writes(
    "sigmoid", "tanh", "abs", "exp", "log", "sqrt", "sin", "cos", "floor", "softplus", "elu",
    "gelu",
)  # fmt: skip
def _unary(net: _Net, node: Node, sizes: Sizes) -> Call:
    if node.op.name == "elu":
        alpha = cast(Any, node.op).alpha
        return lambda x: F.elu(x, alpha)
    home = F if node.op.name in ("softplus", "gelu") else torch
    return cast(Call, getattr(home, node.op.name))


@_writes("add", "sub", "mul", "div", "maximum", "minimum")
def _binary(net: _Net, node: Node, sizes: Sizes) -> Call:
    return cast(Call, getattr(torch, node.op.name))


@_writes("hard_sigmoid", "hard_swish", "mish")
def _activation(net: _Net, node: Node, sizes: Sizes) -> Call:
    return cast(Call, getattr(F, node.op.name.replace("_", "")))


@_writes("cast")
def _cast(net: _Net, node: Node, sizes: Sizes) -> Call:
    to, source = cast(Any, node.op).to, node.inputs[0].type.dtype
    if to is DType.F32 and source is DType.F32:
        return lambda x: x
    return lambda x: x.to(_DTYPES.get(to, net.dtype))


def _formula(net: _Net, node: Node, sizes: Sizes) -> Call:
    """Any element-wise op, by its own formula."""
    op, reading = cast(Elementwise, node.op), _Torch()

    def call(*xs: Any) -> Any:
        out = op.scalar(*(S(reading, x) for x in xs)).h
        return torch.full_like(xs[0], out) if isinstance(out, float) else out

    return call


class _Torch:
    """Formulas read with tensors."""

    def const(self, c: float) -> Any:
        """A number stays one."""
        return c

    def unary(self, fn: str, a: Any) -> Any:
        """One of scalar.UNARY."""
        return getattr(torch, fn)(a)

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        """One of scalar.BINARY; torch.maximum takes no numbers, clamp does."""
        if fn in ("max", "min"):
            if isinstance(b, float):
                return torch.clamp(a, min=b) if fn == "max" else torch.clamp(a, max=b)
            return (torch.maximum if fn == "max" else torch.minimum)(a, b)
        arithmetic = {"+": operator.add, "-": operator.sub, "*": operator.mul}
        more = {"/": operator.truediv, "pow": operator.pow}
        return (arithmetic | more)[fn](a, b)

    def compare(self, fn: str, a: Any, b: Any) -> Any:
        """One of scalar.COMPARE."""
        known = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
        if fn in known:
            return known[fn](a, b)
        return torch.eq(a, b) if fn == "==" else torch.ne(a, b)

    def select(self, mask: Any, a: Any, b: Any) -> Any:
        """`a` where the mask holds."""
        return torch.where(mask, a, b)


# ---- windows --------------------------------------------------------------------------------


@_writes("conv", "conv_transpose")
def _conv(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    axes = node.inputs[0].type.rank - 2
    if not axes:
        raise NotImplementedError(f"a convolution without a window (%{node.name})")
    stride, pad, dilation = op.window(axes)
    call = cast(Call, _WINDOWED[op.name][axes - 1])
    more = {"stride": stride, "padding": pad, "dilation": dilation, "groups": op.groups}
    return lambda x, w, *bias: call(x, w, *bias, **more)


@_writes("fc")
def _fc(net: _Net, node: Node, sizes: Sizes) -> Call:
    axis = axis_of(cast(Any, node.op).axis, node.inputs[0].type.rank)
    if axis == node.inputs[0].type.rank - 1:
        return F.linear
    return lambda x, w, *bias: F.linear(torch.flatten(x, axis), w, *bias)


@_writes("matmul")
def _matmul(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    first, second = (
        (lambda v: v.transpose(-1, -2)) if turned else (lambda v: v)
        for turned in (op.transpose_x, op.transpose_y)
    )
    return lambda x, y: torch.matmul(first(x), second(y))


@_writes("max_pool", "avg_pool")
def _pool(net: _Net, node: Node, sizes: Sizes) -> Call:
    """torch's own pooling where its windows are Caffe's; else the padding is spelled out."""
    op = cast(Any, node.op)
    kernel, stride, pad = op.window()
    spatial = node.inputs[0].type.sizes(sizes)[2:]
    out = node.types[0].sizes(sizes)[2:]
    call = cast(Call, _WINDOWED[op.name][len(kernel) - 1])
    window = list(zip(spatial, kernel, stride, pad, strict=True))
    theirs = tuple(_torch_size(*each, op.ceil) for each in window)
    if theirs == out and all(2 * p <= k for k, p in zip(kernel, pad, strict=True)):
        return lambda x: call(x, kernel, stride, pad, ceil_mode=op.ceil)
    ends = [(o - 1) * s + k - i - p for o, (i, k, s, p) in zip(out, window, strict=True)]
    width = [n for p, e in reversed(list(zip(pad, ends, strict=True))) for n in (p, e)]
    if op.name == "max_pool":
        return lambda x: call(F.pad(x, width, value=-np.inf), kernel, stride)
    area = float(np.prod(kernel))
    counts = torch.from_numpy(area / op.divisor(spatial, np.dtype(np.float32)))
    place = f"c{len(list(net.buffers()))}"
    net.register_buffer(place, counts)
    return lambda x: call(F.pad(x, width), kernel, stride) * getattr(net, place)


def _torch_size(size: int, kernel: int, stride: int, pad: int, ceil: bool) -> int:
    """ATen's pooling_output_shape: a last window that starts beyond size + pad is dropped."""
    out = -(-(size + 2 * pad - kernel) // stride) if ceil else (size + 2 * pad - kernel) // stride
    return out if ceil and out * stride >= size + pad else out + 1


@_writes("global_avg_pool", "global_max_pool")
def _global(net: _Net, node: Node, sizes: Sizes) -> Call:
    axes = tuple(range(2, node.inputs[0].type.rank))
    call = torch.mean if node.op.name == "global_avg_pool" else torch.amax
    return lambda x: call(x, axes, keepdim=True)


@_writes("reduce_sum", "reduce_mean", "reduce_max")
def _reduce(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    axes = op.over(node.inputs[0].type.rank)
    if not axes:
        return lambda x: x
    calls: dict[str, Call] = {"reduce_sum": torch.sum, "reduce_mean": torch.mean}
    call = calls.get(op.name, torch.amax)
    return lambda x: call(x, axes, keepdim=op.keep)


@_writes("lrn")
def _lrn(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    return lambda x: F.local_response_norm(x, op.size, op.alpha, op.beta, op.k)


@_writes("softmax", "log_softmax")
def _softmax(net: _Net, node: Node, sizes: Sizes) -> Call:
    axis = cast(Any, node.op).axis
    call = F.softmax if node.op.name == "softmax" else F.log_softmax
    return lambda x: call(x, axis)


# ---- shapes ---------------------------------------------------------------------------------


@_writes("reshape", "flatten")
def _reshape(net: _Net, node: Node, sizes: Sizes) -> Call:
    shape = node.types[0].sizes(sizes)
    return lambda x: x.reshape(shape)


@_writes("transpose")
def _transpose(net: _Net, node: Node, sizes: Sizes) -> Call:
    order = cast(Any, node.op).order(node.inputs[0].type.rank)
    return lambda x: x.permute(order)


@_writes("concat")
def _concat(net: _Net, node: Node, sizes: Sizes) -> Call:
    axis = cast(Any, node.op).axis
    return lambda *xs: torch.cat(xs, axis)


@_writes("slice")
def _slice(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    length = node.types[0].sizes(sizes)[op.axis]
    return lambda x: x.narrow(op.axis, op.start, length)


@_writes("pad")
def _pad(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    none = (0,) * node.inputs[0].type.rank
    pairs = list(zip(op.before or none, op.after or none, strict=True))
    width = [n for pair in reversed(pairs) for n in pair]
    if op.mode == "constant":
        return lambda x: F.pad(x, width, value=op.value)
    if any(n for pair in pairs[:2] for n in pair):
        raise NotImplementedError(f"torch mirrors spatial axes alone (%{node.name})")
    mode = {"edge": "replicate"}.get(op.mode, op.mode)
    return lambda x: F.pad(x, width[: 2 * (len(none) - 2)], mode)


@_writes("crop")
def _crop(net: _Net, node: Node, sizes: Sizes) -> Call:
    starts = cast(Any, node.op).offsets(node.inputs[0].type.rank)
    shape = node.types[0].sizes(sizes)
    at = tuple(slice(o, o + n) for o, n in zip(starts, shape, strict=True))
    return lambda x, like: x[at]


@_writes("tile")
def _tile(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, node.op)
    return lambda x: torch.cat([x] * op.times, op.axis)


@_writes("resize_bilinear", "resize_nearest")
def _resize(net: _Net, node: Node, sizes: Sizes) -> Call:
    op = cast(Any, bound(node.op, sizes))
    size = node.types[0].sizes(sizes)[2:]
    if op.name == "resize_nearest":
        return lambda x: F.interpolate(x, size=size, mode="nearest")
    corners = bool(op.align_corners)
    return lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=corners)


def tensors(
    arrays: Sequence[Any], dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Tensor]:
    """The inputs where they are used; floats in this type, channels last."""
    made = []
    for array in arrays:
        x = torch.from_numpy(np.array(array)).to(device)
        x = x.to(dtype) if x.is_floating_point() else x
        made.append(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)
    return made
