"""What a kernel rule gets and gives: operands in memory, the code it emits once, its step.

A rule lowers one kernel (an anchor with its epilogue, or an element-wise chain) to one step:

    @rule(MaxPool)
    def max_pool(ctx: Lowering, k: Kernel) -> Call:
        symbol = ctx.code(("max_pool", …what the code depends on…), lambda f: emit(f, …))
        return Call(symbol, (k.ins[0].pointer(), k.outs[0].pointer(), IntArg(…), …))

The key names everything the emitted code depends on; kernels with equal keys share one function.
Shapes, strides and tables are arguments, never part of the key, so one image serves every size.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from netc.codegen.cpu.emit import KERNEL_PARAMS, Function, Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.target import Target
from netc.codegen.operand import Call, Cost, Kernel, Operand, Packing
from netc.codegen.precision import Precision
from netc.codegen.weight_store import WeightStore
from netc.ir.dims import Dim
from netc.ir.graph import Node
from netc.ir.op import Array, Op
from netc.ir.plan import (
    ALIGN,
    Arg,
    Buffer,
    BufferArg,
    MadeArg,
    Plan,
    Port,
    Space,
    Step,
    WeightArg,
)
from netc.ir.types import DType, TensorType

Emit: TypeAlias = Callable[[Function], None]
Exactness: TypeAlias = Callable[[Node], Precision]  # how a kernel is to be computed
Rule: TypeAlias = Callable[["Lowering", Kernel], "Call | tuple[Call, ...]"]
RULES: dict[type[Op], Rule] = {}
READS_SHORT: set[type[Op]] = set()  # whose kernels read what is stored as bfloat16


def rule(*ops: type[Op], short: bool = False) -> Callable[[Rule], Rule]:
    """Register the kernel rule of an op; with `short` it also reads what is stored as bfloat16."""

    def register(made: Rule) -> Rule:
        for op in ops:
            RULES[op] = made
        READS_SHORT.update(ops if short else ())
        return made

    return register


@dataclass
class Setup:
    """The weights to be made when a net is loaded, and the calls that make them."""

    calls: list[Call] = field(default_factory=list)
    size: int = 0  # bytes
    _made: dict[Hashable, MadeArg] = field(default_factory=dict)

    def make(self, key: Hashable, size: int, call: Callable[[BufferArg], Call]) -> MadeArg:
        """The address of `size` bytes that a call makes from weights, once for each key.

        `call` gets the address to write them at.
        """
        if key not in self._made:
            self._made[key] = MadeArg(self.size)
            self.calls.append(call(BufferArg(0, self.size)))
            self.size += -(-size // ALIGN) * ALIGN
        return self._made[key]

    def plan(self) -> Plan | None:
        """All calls, which do not depend on each other, as a plan; None where there are none."""
        if not self.calls:
            return None
        costs = [call.cost or Cost("weights") for call in self.calls]
        steps = [
            Step(call.symbol, call.args, "weights", c.op, (), (0,), c.flops, c.bytes, barrier=False)
            for call, c in zip(self.calls, costs, strict=True)
        ]
        buffer = Buffer(Space.OUTPUT, self.size, 0, len(steps) - 1)
        port = Port("weights", TensorType(DType.F32, (self.size // DType.F32.size,)), 0)
        return Plan((), (port,), (buffer,), (*steps[:-1], replace(steps[-1], barrier=True)))


@dataclass
class Lowering:
    """The image and the weights in the making."""

    target: Target
    module: Module
    gemm: GemmFamily
    store: WeightStore = field(default_factory=WeightStore)
    precision_of: Exactness = lambda node: Precision.HIGH
    setup: Setup = field(default_factory=Setup)
    usual: Mapping[str, int] = field(default_factory=dict)  # what sizes known at run time may be
    _codes: dict[Hashable, str] = field(default_factory=dict)

    def is_exact(self, node: Node) -> bool:
        """Whether a kernel may not be less exact to be faster."""
        return self.precision_of(node) is Precision.EXACT

    def is_low(self, node: Node) -> bool:
        """Whether a kernel multiplies bfloat16: where it may, and this level can."""
        return self.target.pairs and self.precision_of(node) in (Precision.LOW, Precision.INT8)

    def is_int8(self, node: Node) -> bool:
        """Whether a kernel multiplies bytes, in the same way."""
        return self.target.quads and self.precision_of(node) is Precision.INT8

    def code(self, key: Hashable, emit: Emit, params: tuple[str, ...] = KERNEL_PARAMS) -> str:
        """The symbol of the function `emit` writes; written once per key."""
        if key not in self._codes:
            f = self.module.function(f"k{len(self.module.functions)}", params)
            self._codes[key] = f.name
            emit(f)
        return self._codes[key]

    def shared(self, key: Hashable, make: Callable[[], Function]) -> str:
        """The symbol of the function `make` gives; made once per key."""
        if key not in self._codes:
            self._codes[key] = make().name
        return self._codes[key]

    def weight(self, array: Array) -> WeightArg:
        """The address of a packed array in the weights section; equal arrays are stored once."""
        return self.store.add(array)

    def address(self, o: Operand, extra: Dim = 0) -> Arg:
        """The address of element (0, 0, …), `extra` bytes on; parameters lie among the weights."""
        if o.array is None:
            return o.pointer(extra)
        assert isinstance(extra, int), "the sizes of a parameter are known"
        stored = self.weight(np.asarray(o.array, o.type.dtype.numpy))
        return WeightArg(stored.offset + extra)

    def packed(self, param: Operand, packing: Packing) -> WeightArg:
        """The address of a parameter packed in a way that `packing.unpack` can undo."""
        assert param.array is not None, "weights are parameters"
        return self.store.packed(param.array, packing)
