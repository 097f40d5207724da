"""What a GPU kernel rule gets and gives, and the table of rules.

A rule lowers one kernel to launches. It writes the kernel's text once; equal texts are one kernel:

    @rule(MaxPool)
    def max_pool(ctx: Lowering, k: Kernel) -> Launch:
        src = Source()
        …
        return ctx.launch(src, (extent,), variants)

Sizes that are known are spelled in the text where that makes the code better; matrix kernels take
them as parameters, so that layers of different sizes share their code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from netc.codegen.operand import Call, Kernel
from netc.codegen.precision import Precision
from netc.codegen.triton.source import Source
from netc.codegen.weight_store import WeightStore
from netc.errors import UnsupportedError, clean
from netc.ir.dims import Dim
from netc.ir.gpu_code import MOST_ELEMENTS, KernelText, Variant
from netc.ir.graph import Node, Value
from netc.ir.op import Array, Op
from netc.ir.plan import IntArg, WeightArg

Launch: TypeAlias = Call  # what a call is on a GPU
Rule: TypeAlias = Callable[["Lowering", Kernel], "Launch | Sequence[Launch]"]
RULES: dict[type[Op], Rule] = {}


def rule(*ops: type[Op]) -> Callable[[Rule], Rule]:
    """Register the kernel rule of an op."""

    def register(made: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, made))
        return made

    return register


def check_reach(node: Node, what: str, count: Dim) -> None:
    """Refuse what has more elements than an index of 32 bits reaches, where that is known."""
    if isinstance(count, int) and count > MOST_ELEMENTS:
        message = f"%{clean(node.name)}: {what} has {count:,} elements"
        many = f"{message}; a GPU kernel reaches {MOST_ELEMENTS:,}"
        raise UnsupportedError(many, node.loc, help="put its node on a CPU")


@dataclass
class Lowering:
    """The kernels and the weights in the making."""

    store: WeightStore
    precision: Precision = Precision.HIGH
    by_node: Mapping[str, Precision] = field(default_factory=dict)
    batches: tuple[int, ...] = (1, 16, 128)  # what an unknown batch counts as when tiles are ranked
    usual: Mapping[str, int] = field(default_factory=dict)  # what other unknown sizes count as
    exact: frozenset[Value] = frozenset()  # that keep all digits in any precision
    by_rows: frozenset[Value] = frozenset()  # that lie row-major
    kernels: dict[str, KernelText] = field(default_factory=dict)
    _symbols: dict[tuple[str, tuple[str, ...], tuple[int, ...]], str] = field(default_factory=dict)

    def precision_of(self, node: Node) -> Precision:
        """How exactly a node of a net is computed."""
        return self.by_node.get(node.name, self.precision)

    def launch(
        self,
        src: Source,
        extents: Sequence[Dim],
        variants: Sequence[Variant],
        scratch: Dim = 0,
    ) -> Launch:
        """The launch of a kernel whose text is done; equal texts share their variants."""
        made = src.kernel(len(extents), variants)
        key = made.text, made.params, made.aligned
        symbol = self._symbols.setdefault(key, f"g{len(self._symbols)}")
        known = self.kernels.get(symbol)
        if known is not None:
            both = tuple(dict.fromkeys((*known.variants, *made.variants)))
            made = KernelText(made.text, made.params, made.aligned, made.extents, both)
        self.kernels[symbol] = made
        args = (*(IntArg(e) for e in extents), *src.args)
        return Call(symbol, args, scratch=scratch)

    def weight(self, array: Array) -> WeightArg:
        """The address of an array in the weights section; equal arrays are stored once."""
        return self.store.add(array)

    def zeros(self, size: int) -> WeightArg:
        """The address of bytes that are zero before and after the kernel."""
        return self.store.zeros(size)
