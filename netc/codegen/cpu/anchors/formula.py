"""Bodies of kernels as vector code: formulas read into LLVM, and the tail after an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from netc.codegen.cpu import mathlib
from netc.codegen.cpu.emit import Function, Val, const_int, vec
from netc.codegen.operand import Kernel, Operand
from netc.errors import UnsupportedError
from netc.ir.graph import Node, Value
from netc.ir.ops.elementwise import Cast
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise, S
from netc.ir.types import DType

POINTWISE = Elementwise | Cast | ToBlocked | ToPlain  # what a formula may consist of
ELEMENTS = {DType.F32: "float", DType.U8: "i8", DType.I32: "i32", DType.I64: "i64"}

_ARITHMETIC = {"+": "fadd", "-": "fsub", "*": "fmul", "/": "fdiv"}
_COMPARE = {"<": "olt", "<=": "ole", ">": "ogt", ">=": "oge", "==": "oeq", "!=": "une"}


class LlvmScalars:
    """Reads a formula as instructions over vectors of `lanes` float32."""

    def __init__(self, f: Function, lanes: int) -> None:
        self.f, self.lanes = f, lanes
        self._numbers: dict[str, float] = {}  # constants by their spelling

    def const(self, c: float) -> Val:
        """The literal in every lane."""
        made = self.f.f32(c, self.lanes)
        self._numbers[made.name] = c
        return made

    def unary(self, fn: str, a: Val) -> Val:
        """One of scalar.UNARY."""
        if fn == "neg":
            return self.f.fneg(a)
        if fn in ("abs", "sqrt", "floor"):
            return self.f.intrinsic(f"llvm.{'fabs' if fn == 'abs' else fn}", a)
        made: Val = getattr(mathlib, fn)(self.f, a)
        return made

    def binary(self, fn: str, a: Val, b: Val) -> Val:
        """One of scalar.BINARY; a literal operand makes max and min one instruction."""
        if fn in _ARITHMETIC:
            return self.f.value(a.type, f"{_ARITHMETIC[fn]} {a}, {b.name}")
        if fn == "pow":
            return mathlib.power(self.f, a, b, self._numbers.get(b.name))
        if a.name in self._numbers:
            a, b = b, a
        if b.name in self._numbers:
            held = mathlib.at_least if fn == "max" else mathlib.at_most
            return held(self.f, a, b)
        return (mathlib.maximum if fn == "max" else mathlib.minimum)(self.f, a, b)

    def compare(self, fn: str, a: Val, b: Val) -> Val:
        """One of scalar.COMPARE: a vector of i1."""
        return self.f.fcmp(_COMPARE[fn], a, b)

    def select(self, mask: Val, a: Val, b: Val) -> Val:
        """Lane by lane."""
        return self.f.select(mask, a, b)


class Formula:
    """The element-wise nodes between some values of a body and others, ready to be emitted.

    `leaves` are the values the code is given; `key` says all that the code depends on.
    """

    def __init__(self, results: Sequence[Value], given: Sequence[Value] = ()) -> None:
        self.results = tuple(results)
        self.nodes: list[Node] = []
        leaves: dict[Value, None] = dict.fromkeys(given)
        done = {v.node for v in given}
        stack = [(v, False) for v in reversed(self.results)]
        while stack:
            v, ready = stack.pop()
            if v.node in done or v in leaves:
                continue
            if isinstance(v.op, Input | Param):
                leaves[v] = None
            elif not isinstance(v.op, POINTWISE | Const):
                raise UnsupportedError(f"{v.op.name} is not element-wise", v.node.loc)
            elif ready:
                done.add(v.node)
                self.nodes.append(v.node)
            else:
                stack += [(v, True), *((x, False) for x in reversed(v.node.inputs))]
        self.leaves = tuple(leaves)

    @cached_property
    def key(self) -> str:
        """The structure without names and sizes: what the emitted code depends on."""
        numbers: dict[Value, int] = {v: i for i, v in enumerate(self.leaves)}
        parts = [",".join(str(v.type.dtype) for v in self.leaves)]
        for node in self.nodes:
            numbers[node.out] = len(numbers)
            op = f"const {node.op.value!r}" if isinstance(node.op, Const) else repr(node.op)
            parts.append(f"{op}:{node.out.type.dtype}({[numbers[v] for v in node.inputs]})")
        return ";".join([*parts, str([numbers[v] for v in self.results])])

    @cached_property
    def cost(self) -> int:
        """Floating-point operations per element, to choose how far loops are unrolled."""
        from netc.ir.scalar import Count

        count = Count()
        for node in self.nodes:
            if isinstance(node.op, Elementwise):
                node.op.scalar(*(S(count, None) for _ in node.inputs))
        return count.total

    def apply(self, f: Function, lanes: int, values: Sequence[Val]) -> list[Val]:
        """The results, given one vector of `lanes` elements for each leaf."""
        known = dict(zip(self.leaves, values, strict=True))
        b = LlvmScalars(f, lanes)
        for node in self.nodes:
            known[node.out] = _emit_node(f, b, node, [known[v] for v in node.inputs])
        return [known[v] for v in self.results]


def _emit_node(f: Function, b: LlvmScalars, node: Node, xs: list[Val]) -> Val:
    out = node.out.type.dtype
    if isinstance(node.op, Const):
        value = node.op.value
        return b.const(value) if out is DType.F32 else const_int(int(value), _type(out, b.lanes))
    if isinstance(node.op, ToBlocked | ToPlain):
        return xs[0]
    if isinstance(node.op, Cast):
        return convert(f, xs[0], node.inputs[0].type.dtype, out)
    assert isinstance(node.op, Elementwise)
    if out is not DType.F32:
        raise UnsupportedError(f"{node.op.name} of {out} has no kernel", node.loc)
    made: Val = node.op.scalar(*(S(b, x) for x in xs)).h
    return made


def _type(dtype: DType, lanes: int) -> str:
    return vec(lanes, ELEMENTS[dtype])


_LIMITS = {DType.U8: (0, 255), DType.I32: (-(1 << 31), (1 << 31) - 1)}


def convert(f: Function, x: Val, source: DType, to: DType) -> Val:
    """Another element type: floats are cut toward zero, what is out of range is held, NaN is 0."""
    type = _type(to, x.lanes)
    if source is to:
        return x
    if to is DType.F32:
        return f.cast("uitofp" if source is DType.U8 else "sitofp", x, type)
    if source is DType.F32:
        kind = "llvm.fptoui.sat" if to is DType.U8 else "llvm.fptosi.sat"
        names = [_type(d, x.lanes).replace("float", "f32") for d in (to, source)]
        suffix = ".".join(n.replace("<", "v").replace(" x ", "").replace(">", "") for n in names)
        full = f.module.declare(f"{kind}.{suffix}", type, [x.type])
        return f.value(type, f"call {type} @{full}({x})")
    if source.size < to.size:
        return f.cast("zext" if source is DType.U8 else "sext", x, type)
    low, high = (const_int(limit, x.type) for limit in _LIMITS[to])
    held = f.select(f.icmp("slt", x, low), low, x)
    return f.cast("trunc", f.select(f.icmp("sgt", held, high), high, held), type)


class Tail:
    """The element-wise nodes that follow a kernel's anchor.

    `operands` are what they read besides the anchor's result, in the order `apply` wants them;
    `key` names the code they make.
    """

    def __init__(self, k: Kernel) -> None:
        assert k.anchor is not None
        outs = tuple(k.body.outputs.values())
        self.formula = Formula(outs, k.results)
        self.count = len(k.results)
        found = [k.operand(v) for v in self.formula.leaves[self.count :]]
        self.operands: tuple[Operand, ...] = tuple(o for o in found if o is not None)
        self.key = self.formula.key

    @property
    def plain(self) -> bool:
        """Whether the kernel's outputs are the anchor's results themselves."""
        return not self.formula.nodes and self.formula.results == self.formula.leaves

    def apply(
        self, f: Function, lanes: int, acc: Val | Sequence[Val], loads: Sequence[Val]
    ) -> list[Val]:
        """One vector per output of the body, from the anchor's result and the operands."""
        results = [acc] if isinstance(acc, Val) else list(acc)
        return self.formula.apply(f, lanes, [*results, *loads])
