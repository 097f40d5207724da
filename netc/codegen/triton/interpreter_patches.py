"""Triton's interpreter, made to compute what a GPU does; for versions 3.6 to 3.9.

Values of bf16 are uint16 bits there, and as released its arithmetic takes them for integers.
Here they are widened to float32, which is exact, and results are rounded to nearest even. Loop
bounds known at run time work with NumPy 2.4 too, and patching the language, which takes longer
than a small kernel, is done once and not at every call.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from types import FunctionType
from typing import Any, TypeAlias

import numpy as np

Bits: TypeAlias = Any  # an array

_SIGNIFICAND = 16  # bits of a float32 that a bf16 has not
_QUIET = 0x40  # the bit of a bf16 that makes a NaN a quiet one


def widened(bits: Bits) -> Bits:
    """bf16 as float32, exactly."""
    return (np.asarray(bits).astype(np.uint32) << _SIGNIFICAND).view(np.float32)


def narrowed(values: Bits) -> Bits:
    """float32 as bf16, to nearest even; NaN stays NaN."""
    values = np.ascontiguousarray(values, np.float32)
    bits = values.view(np.uint32)
    odd = (bits >> _SIGNIFICAND) & 1
    rounded = ((bits.astype(np.uint64) + 0x7FFF + odd) >> _SIGNIFICAND).astype(np.uint16)
    quiet = ((bits >> _SIGNIFICAND) | _QUIET).astype(np.uint16)
    return np.where(np.isnan(values), quiet, rounded)


def patch(interpreter: Any, language: Any) -> None:
    """Make the interpreter right, for good."""
    builder, bf16, f32 = interpreter.InterpreterBuilder, language.bfloat16, language.float32
    handle = interpreter.TensorHandle
    options = interpreter.interpreter_builder.options
    interpreter.interpreter_builder.options = replace(options, sanitize_overflow=False)

    def floats(x: Any) -> Any:
        return handle(widened(x.data), f32) if x.dtype.scalar == bf16 else x

    def rounded(x: Any) -> Any:
        return handle(narrowed(x.data), bf16)

    def through_floats(original: Callable[..., Any], operands: int) -> Callable[..., Any]:
        """The operation on float32 where an operand is bf16; truth values are not rounded."""

        def operate(self: Any, *args: Any) -> Any:
            given, rest = args[:operands], args[operands:]
            if all(x.dtype.scalar != bf16 for x in given):
                return original(self, *args)
            made = original(self, *map(floats, given), *rest)
            return handle(made.data, bf16) if made.data.dtype == np.bool_ else rounded(made)

        return operate

    cast, dot, select = builder.cast_impl, builder.create_dot, builder.create_select

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == bf16:
            return source if target.scalar == bf16 else cast(self, floats(source), target)
        if target.scalar != bf16:
            return cast(self, source, target)
        return rounded(cast(self, source, f32) if source.dtype.scalar != f32 else source)

    between = builder.create_fp_to_fp

    def fp_to_fp(self: Any, source: Any, target: Any, rounding: Any) -> Any:
        if bf16 in (source.dtype.scalar, target.scalar):
            return cast_impl(self, source, target)
        return between(self, source, target, rounding)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if d.dtype.scalar == f32 and a.dtype.is_floating() and a.dtype.primitive_bitwidth == 16:
            a, b = (handle(x.data.astype(np.float32), f32) for x in map(floats, (a, b)))
        return dot(self, a, b, d, *rest)

    def get_bf16(self: Any, value: float) -> Any:
        return handle(narrowed(np.array([value], np.float32)), bf16)

    for name, operands in (("binary_op", 2), ("ternary_op", 3), ("unary_op", 1)):
        setattr(builder, name, through_floats(getattr(builder, name), operands))
    for name, operands in (("create_fabs", 1), ("create_rsqrt", 1), ("create_fma", 3)):
        setattr(builder, name, through_floats(getattr(builder, name), operands))
    builder.create_select = lambda self, where, a, b: _selected(select, handle, self, where, a, b)
    builder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)
    builder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    builder.cast_impl, builder.create_fp_to_fp = cast_impl, fp_to_fp
    builder.create_dot, builder.get_bf16 = create_dot, get_bf16
    _patch_language(interpreter, language)


def _selected(
    select: Callable[..., Any], handle: Any, self: Any, where: Any, a: Any, b: Any
) -> Any:
    """A choice copies bits, whatever they mean."""
    return handle(np.where(where.data, a.data, b.data), b.dtype.scalar)


def _patch_language(interpreter: Any, language: Any) -> None:
    """What every call of a kernel does and undoes, once and for all."""
    names = {"tl": language, "core": language.core}  # by what kernels and the library say
    interpreter._patch_lang(FunctionType(_nothing.__code__, names))
    interpreter._patch_lang = lambda _: _Nothing()
    number = operator.methodcaller("item")
    language.tensor.__index__ = lambda self: int(number(self.handle.data))
    language.tensor.__int__ = language.tensor.__index__


def _nothing() -> None:
    """Whose names are patched."""


class _Nothing:
    """The scope of no patches."""

    def restore(self) -> None:
        """Nothing to undo."""
