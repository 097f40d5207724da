"""The text of a kernel in the making: parameters, constants, and lines under a mask.

Names are p0, p1, … for pointers, s0, s1, … for sizes, k0, k1, … for what is computed; nothing of a
net's own names reaches the text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from netc.codegen.operand import Operand
from netc.codegen.triton.mathlib import prelude
from netc.ir.dims import Dim
from netc.ir.gpu_code import ALIGNED, ENTRY, KernelText, Variant
from netc.ir.plan import Arg, BufferArg, IntArg, WeightArg
from netc.ir.types import DType

ELEMENTS = {DType.F32: "fp32", DType.U8: "u8", DType.I32: "i32", DType.I64: "i64"}

_UNALIGNED = ("rows", "size", "reach", "run", "groups")  # roles whose divisors help no one


class Source:
    """One kernel's text, and the arguments of the step that starts it."""

    def __init__(self) -> None:
        self.args: list[Arg] = []
        self.params: list[str] = []
        self.names: list[str] = []
        self.aligned: list[int] = []
        self.constants: list[str] = []
        self._lines: list[str] = []
        self._known: dict[object, str] = {}
        self._count = 0
        self._depth = 1

    # ---- parameters -----------------------------------------------------------------------

    def pointer(self, arg: BufferArg | WeightArg, element: str) -> str:
        """The name of an address; parameters of one place are one parameter."""
        aligned = _multiple(arg.offset)
        return self._param("p", (arg, element), arg, f"*{element}", aligned)

    def size(self, value: Dim, role: str = "") -> str:
        """A number: spelled out where it is known, else a parameter.

        With a `role` it is a parameter of its own, whatever it is: kernels of different sizes then
        have one text. Only 0 and 1 are always spelled out.
        """
        if isinstance(value, int) and (not role or value in (0, 1)):
            return str(value)
        key = value, role
        if role.startswith(_UNALIGNED) or _multiple(value):
            aligned = not role.startswith(_UNALIGNED)
            return self._param("s", key, IntArg(value), "i32", aligned)
        for part in (8, 4, 2):  # said in the text, so that reads can be as wide
            if _multiple(value, part):
                return f"({self._param('s', key, IntArg(value // part), 'i32', False)} * {part})"
        return self._param("s", key, IntArg(value), "i32", False)

    def _param(self, letter: str, key: object, arg: Arg, type: str, aligned: bool) -> str:
        known = (letter, key)
        if known not in self._known:
            if aligned:
                self.aligned.append(len(self.params))
            self.names.append(f"{letter}{len(self.params)}")
            self.params.append(type)
            self.args.append(arg)
            self._known[known] = self.names[-1]
        return self._known[known]

    def operand(self, o: Operand) -> str:
        """The name of an operand's address."""
        pointer = o.pointer()
        assert isinstance(pointer, BufferArg)
        return self.pointer(pointer, o.element if o.is_narrow else ELEMENTS[o.type.dtype])

    def constant(self, name: str) -> str:
        """A constant that variants give values for."""
        if name not in self.constants:
            self.constants.append(name)
        return name

    # ---- lines ----------------------------------------------------------------------------

    def line(self, text: str) -> None:
        """One statement."""
        self._lines.append("    " * self._depth + text)

    def let(self, expression: str) -> str:
        """A name for what an expression gives."""
        if expression.isidentifier() or expression.isdigit():
            return expression
        self._count += 1
        self.line(f"k{self._count} = {expression}")
        return f"k{self._count}"

    def digits(self, index: str, sizes: Iterable[str]) -> list[str]:
        """An index's place along each axis it counts, the last axis first.

        `sizes` are in that order too, but for the first axis, which takes what is left.
        """
        places = []
        for size in sizes:
            places.append(self.let(f"{index} % {size}"))
            index = self.let(f"{index} // {size}")
        return [*places, index]

    def name(self) -> str:
        """An unused name."""
        self._count += 1
        return f"k{self._count}"

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """The lines under `for …:` or `if …:`."""
        self.line(head)
        self._depth += 1
        yield
        self._depth -= 1

    def kernel(self, extents: int, variants: Sequence[Variant]) -> KernelText:
        """The kernel so far."""
        params = [*self.names, *(f"{c}: tl.constexpr" for c in self.constants)]
        body = "\n".join(self._lines)
        text = f"@triton.jit\ndef {ENTRY}({', '.join(params)}):\n{body}\n"
        head = "import triton\nimport triton.language as tl\n\n\n"
        whole = f"{head}{prelude(body)}{text}"
        kinds = tuple(self.params)
        return KernelText(whole, kinds, tuple(self.aligned), extents, tuple(variants))


def _multiple(value: Dim, of: int = ALIGNED) -> bool:
    """Whether a size or an offset is a multiple of a number, whatever its symbols are."""
    if isinstance(value, int):
        return value % of == 0
    return all(factor % of == 0 for _, factor in value.terms)


def number(value: float) -> str:
    """A float32 constant as text."""
    with np.errstate(over="ignore"):  # infinity beyond the largest float32
        value = float(np.float32(value))
    if math.isnan(value):
        return 'float("nan")'
    if math.isinf(value):
        return 'float("inf")' if value > 0 else 'float("-inf")'
    return repr(value)
