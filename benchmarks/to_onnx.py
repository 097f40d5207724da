"""Our graphs as ONNX models, for the engines netc is compared with.

Only what the benchmark nets need; anything else raises `NotImplementedError`, so that no engine
is ever timed on another net than ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from netc.ir.graph import Graph, Node, Value
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise, S

OPSET = 17
Rule = Callable[["_Writer", Node], None]
_RULES: dict[str, Rule] = {}


def to_onnx(graph: Graph, weights: Mapping[str, NDArray[Any]], sizes: Mapping[str, int]) -> bytes:
    """The serialized model, every symbol of the graph bound by `sizes`."""
    out = _Writer(graph, dict(sizes))
    for node in graph.nodes:
        if isinstance(node.op, Param):
            out.constant(out.names[node.out], weights[node.name])
        elif isinstance(node.op, Const):
            shape = node.types[0].sizes(out.sizes)
            out.constant(out.names[node.out], np.full(shape, node.op.value, np.float32))
        elif not isinstance(node.op, Input):
            _rule(node)(out, node)
    model = helper.make_model(
        helper.make_graph(
            out.nodes,
            "net",
            [out.info(n.name, n.out) for n in graph.inputs],
            [out.info(name, v) for name, v in graph.outputs.items()],
            out.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _rule(node: Node) -> Rule:
    if node.op.name not in _RULES:
        raise NotImplementedError(f"no ONNX spelling for {node.op.name} (%{node.name})")
    return _RULES[node.op.name]


class _Writer:
    """Names, nodes and initializers of the model under construction."""

    def __init__(self, graph: Graph, sizes: dict[str, int]) -> None:
        self.sizes = sizes
        self.names: dict[Value, str] = {}
        for i, value in enumerate(v for n in graph.nodes for v in n.results):
            self.names[value] = f"v{i}"
        for node in graph.inputs:
            self.names[node.out] = node.name
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        for name, value in graph.outputs.items():
            self.nodes_last(name, value)

    def nodes_last(self, name: str, value: Value) -> None:
        """Give an output its name."""
        if self.names[value] in (n for n in self.names.values() if not n.startswith("v")):
            raise NotImplementedError(f"output {name} is an input or another output")
        self.names[value] = name

    def constant(self, name: str, array: NDArray[Any]) -> str:
        """An initializer."""
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def fresh(self) -> str:
        """A name for a value that our graph does not have."""
        return f"t{len(self.nodes)}_{len(self.initializers)}"

    def add(self, op: str, inputs: list[str], node: Node | None = None, **attributes: Any) -> str:
        """One ONNX node, giving `node`'s value or a new one."""
        out = self.names[node.out] if node else self.fresh()
        self.nodes.append(helper.make_node(op, inputs, [out], **attributes))
        return out

    def inputs(self, node: Node) -> list[str]:
        """The names of a node's operands."""
        return [self.names[v] for v in node.inputs]

    def shape(self, value: Value) -> list[int]:
        """The shape with its symbols bound."""
        return list(value.type.sizes(self.sizes))

    def info(self, name: str, value: Value) -> Any:
        """A typed input or output."""
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, self.shape(value))


def _writes(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


@_writes("conv", "conv_transpose")
def _conv(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    kernel = out.shape(node.inputs[1])[2:]
    stride, pad, dilation = op.window(len(kernel))
    more = {"strides": stride, "pads": (*pad, *pad), "dilations": dilation, "group": op.groups}
    name = "Conv" if op.name == "conv" else "ConvTranspose"
    out.add(name, out.inputs(node), node, kernel_shape=kernel, **more)


@_writes("fc")
def _fc(out: _Writer, node: Node) -> None:
    (x, w, *bias), axis = out.inputs(node), cast(Any, node.op).axis
    if axis == 1:
        out.add("Gemm", [out.add("Flatten", [x], axis=1), w, *bias], node, transB=1)
        return
    if axis not in (-1, node.inputs[0].type.rank - 1):
        raise NotImplementedError("fc over another axis than the second or the last")
    factors = [x, out.add("Transpose", [w], perm=(1, 0))]
    if bias:
        out.add("Add", [out.add("MatMul", factors), *bias], node)
    else:
        out.add("MatMul", factors, node)


@_writes("matmul")
def _matmul(out: _Writer, node: Node) -> None:
    op, factors = cast(Any, node.op), out.inputs(node)
    for i, turned in enumerate((op.transpose_x, op.transpose_y)):
        if turned:
            rank = node.inputs[i].type.rank
            perm = (*range(rank - 2), rank - 1, rank - 2)
            factors[i] = out.add("Transpose", [factors[i]], perm=perm)
    out.add("MatMul", factors, node)


@_writes("max_pool", "avg_pool")
def _pool(out: _Writer, node: Node) -> None:
    """ONNX floors; the padding at the end that makes its size Caffe's is stated."""
    op = cast(Any, node.op)
    kernel, stride, pad = op.window()
    sizes = zip(out.shape(node.inputs[0])[2:], out.shape(node.out)[2:], strict=True)
    windows = zip(sizes, kernel, stride, pad, strict=True)
    ends = [max(0, (o - 1) * s + k - i - p) for (i, o), k, s, p in windows]
    average = op.name == "avg_pool"
    if average and any(e > p for e, p in zip(ends, pad, strict=True)):
        raise NotImplementedError("an average over a window that is cut off")
    more = {"count_include_pad": 1} if average else {}
    shape = {"kernel_shape": kernel, "strides": stride, "pads": (*pad, *ends)}
    out.add("AveragePool" if average else "MaxPool", out.inputs(node), node, **shape, **more)


@_writes("lrn")
def _lrn(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    about = {"size": op.size, "alpha": op.alpha, "beta": op.beta, "bias": op.k}
    out.add("LRN", out.inputs(node), node, **about)


@_writes("relu")
def _relu(out: _Writer, node: Node) -> None:
    slope = cast(Any, node.op).slope
    if slope:
        out.add("LeakyRelu", out.inputs(node), node, alpha=slope)
    else:
        out.add("Relu", out.inputs(node), node)


@_writes("batch_norm")
def _batch_norm(out: _Writer, node: Node) -> None:
    channels = out.shape(node.inputs[0])[1]
    x, mean, variance = out.inputs(node)
    one = out.constant(out.fresh() + "s", np.ones(channels, np.float32))
    zero = out.constant(out.fresh() + "b", np.zeros(channels, np.float32))
    shape = out.constant(out.fresh() + "n", np.array([channels], np.int64))
    flat = [out.add("Reshape", [name, shape]) for name in (mean, variance)]
    eps = cast(Any, node.op).eps
    out.add("BatchNormalization", [x, one, zero, *flat], node, epsilon=eps)


@_writes("affine")
def _affine(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    scale = out.constant(out.fresh() + "s", np.float32(op.scale))
    shift = out.constant(out.fresh() + "b", np.float32(op.shift))
    out.add("Add", [out.add("Mul", [*out.inputs(node), scale]), shift], node)


@_writes("clip")
def _clip(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    low = out.constant(out.fresh() + "l", np.float32(op.low))
    high = out.constant(out.fresh() + "h", np.float32(op.high))
    out.add("Clip", [*out.inputs(node), low, high], node)


@_writes("reduce_mean")
def _reduce_mean(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    axes = op.over(node.inputs[0].type.rank)
    out.add("ReduceMean", out.inputs(node), node, axes=axes, keepdims=int(op.keep))


@_writes("transpose")
def _transpose(out: _Writer, node: Node) -> None:
    out.add("Transpose", out.inputs(node), node, perm=node.op.order(node.inputs[0].type.rank))


@_writes("slice")
def _slice(out: _Writer, node: Node) -> None:
    op = cast(Any, node.op)
    ends = (op.start, op.start + out.shape(node.out)[op.axis], op.axis)
    limits = [out.constant(out.fresh() + "i", np.array([n], np.int64)) for n in ends]
    out.add("Slice", [*out.inputs(node), *limits], node)


@_writes("pad")
def _pad(out: _Writer, node: Node) -> None:
    op, none = cast(Any, node.op), (0,) * node.inputs[0].type.rank
    sides = np.array([*(op.before or none), *(op.after or none)], np.int64)
    value = out.constant(out.fresh() + "v", np.float32(op.value))
    ends = out.constant(out.fresh() + "n", sides)
    out.add("Pad", [*out.inputs(node), ends, value], node, mode=op.mode)


@_writes("formula", "gelu", "sqrt")
def _formula(out: _Writer, node: Node) -> None:
    """An element-wise op by its own formula."""
    op, scalars = cast(Elementwise, node.op), _Scalars(out)
    out.add("Identity", [op.scalar(*(S(scalars, x) for x in out.inputs(node))).h], node)


_FUNCTIONS = {
    "neg": "Neg",
    "exp": "Exp",
    "sqrt": "Sqrt",
    "erf": "Erf",
    "sin": "Sin",
    "cos": "Cos",
}


class _Scalars:
    """Formulas read as ONNX nodes; handles are names."""

    def __init__(self, out: _Writer) -> None:
        self.out = out

    def const(self, c: float) -> str:
        """A number."""
        return self.out.constant(self.out.fresh() + "c", np.float32(c))

    def unary(self, fn: str, a: str) -> str:
        """One of scalar.UNARY that ONNX has."""
        return self.out.add(_FUNCTIONS[fn], [a])

    def binary(self, fn: str, a: str, b: str) -> str:
        """One of the arithmetic of scalar.BINARY."""
        return self.out.add({"+": "Add", "-": "Sub", "*": "Mul", "/": "Div"}[fn], [a, b])


@_writes("concat")
def _concat(out: _Writer, node: Node) -> None:
    out.add("Concat", out.inputs(node), node, axis=cast(Any, node.op).axis)


@_writes("softmax")
def _softmax(out: _Writer, node: Node) -> None:
    out.add("Softmax", out.inputs(node), node, axis=cast(Any, node.op).axis)


@_writes("reshape", "flatten")
def _reshape(out: _Writer, node: Node) -> None:
    shape = out.constant(out.fresh() + "n", np.array(out.shape(node.out), np.int64))
    out.add("Reshape", [*out.inputs(node), shape], node)


def _plain(onnx_name: str) -> Rule:
    def rule(out: _Writer, node: Node) -> None:
        out.add(onnx_name, out.inputs(node), node)

    return rule


for _ours, _theirs in {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "sin": "Sin",
    "cos": "Cos",
    "global_avg_pool": "GlobalAveragePool",
    "global_max_pool": "GlobalMaxPool",
}.items():
    _RULES[_ours] = _plain(_theirs)
