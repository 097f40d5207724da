"""What a run may be given: every array checked against its port, converted only without loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from netc.errors import GraphError, InputError, ResourceError, clean
from netc.ir.dims import Dim, Expr, evaluate, symbols
from netc.ir.plan import Plan, Port
from netc.ir.solve import line_of, solved
from netc.ir.types import DType, TensorType
from netc.runtime.limits import DEFAULT
from netc.runtime.memory import require_memory

Array: TypeAlias = npt.NDArray[Any]

_LARGE = 64 << 20  # bytes of a copy that is worth a look at the memory there is


@dataclass(frozen=True)
class TensorSpec:
    """Element type and shape of an input or output; a size known only at run time is its name."""

    dtype: DType
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def spec_of(type: TensorType) -> TensorSpec:
    """A port's type as users see it."""
    return TensorSpec(type.dtype, tuple(d if isinstance(d, int) else str(d) for d in type.shape))


@dataclass(frozen=True)
class Intake:
    """A port, and what every call asks of it."""

    port: Port
    name: str
    dtype: np.dtype[Any]
    buffer: int


def intakes(ports: Sequence[Port]) -> tuple[Intake, ...]:
    """The ports, made ready for calls."""
    return tuple(Intake(p, p.name, p.type.dtype.numpy, p.buffer) for p in ports)


def collect(wanted: Sequence[Intake], feed: Any, named: Mapping[str, Any]) -> list[Array]:
    """One array per port, in their order. Raises InputError for wrong names and arrays."""
    given = named if feed is None else _merged(wanted, feed, named)
    try:
        values = [given[intake.name] for intake in wanted]
    except KeyError:
        values = []
    if len(values) != len(given) or len(values) != len(wanted):
        raise _misnamed(wanted, given)
    return [accept(intake, value) for intake, value in zip(wanted, values, strict=True)]


def _merged(wanted: Sequence[Intake], feed: Any, named: Mapping[str, Any]) -> Mapping[str, Any]:
    """The inputs given as a mapping and as keywords, together."""
    if isinstance(feed, Mapping):
        twice = sorted(set(map(str, feed)) & set(named))
        if twice:
            raise InputError(f"input {clean(twice[0])} is given twice")
        return {**feed, **named}
    if len(wanted) == 1 and not named:
        raise InputError(f"inputs go by name: call it with {clean(wanted[0].name)}=…")
    raise InputError("inputs go by name: give a mapping or keywords")


def _misnamed(wanted: Sequence[Intake], given: Mapping[str, Any]) -> InputError:
    """What is wrong with the names, and which ones there are."""
    names = [intake.name for intake in wanted]
    takes = ", ".join(f"{clean(i.name)}: {i.port.type}" for i in wanted) or "none"
    extra = [name for name in given if name not in names]
    if extra:
        return InputError(f"no input is called {clean(extra[0])!r}", help=f"inputs are {takes}")
    missing = ", ".join(clean(name) for name in names if name not in given)
    return InputError(f"no value for {missing}", help=f"inputs are {takes}")


def accept(intake: Intake, value: Any) -> Array:
    """A value as an array of the port's element type, contiguous, in this machine's byte order.

    The array given is used as it is where it fits. It is never written to.
    """
    wanted, port = intake.dtype, intake.port
    array = value if type(value) is np.ndarray else _array_of(port, value, wanted)
    flags = array.flags
    if array.dtype is wanted and flags.c_contiguous and flags.aligned:
        return array
    _check_rank_and_size(port, array)
    if not (array.dtype.kind in "biuf" and np.can_cast(array.dtype, wanted, "safe")):
        raise _unfit(port, array, f"convert it with x.astype({wanted.name!r})")
    return _copied(port, array, wanted)


def _copied(port: Port, array: Array, wanted: np.dtype[Any]) -> Array:
    """The array in the form kernels read, counted before it is made."""
    size = array.size * wanted.itemsize
    if size > _LARGE:
        require_memory(size, lambda: [(f"a copy of {clean(port.name)}", size)], DEFAULT)
    try:
        return np.require(array, wanted, ("C", "ALIGNED"))
    except MemoryError as error:
        raise ResourceError(f"no memory for a copy of input {clean(port.name)}") from error


def _array_of(port: Port, value: Any, wanted: np.dtype[Any]) -> Array:
    """Anything that is not plainly an array, as one."""
    name = f"input {clean(port.name)}: expected {port.type}"
    if value is None or isinstance(value, str | bytes | Mapping | set | frozenset):
        raise InputError(f"{name}, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"{name}, got a masked array", help="fill it first: x.filled(0)")
    try:
        if hasattr(value, "__dlpack__") and not isinstance(value, np.ndarray | np.generic):
            if _is_negated(value):
                what = f"a {type(value).__name__} with the negative bit set"
                raise InputError(f"{name}, got {what}", help="x.resolve_neg() writes it out")
            return np.from_dlpack(value)
        array = np.asarray(value)
        plain = isinstance(value, list | tuple | int | float) and array.dtype.kind in "biuf"
        if plain and (wanted.kind == "f" or array.dtype.kind in "biu"):
            with np.errstate(over="raise"):
                return np.asarray(value, wanted)  # raises where a number does not fit
    except (MemoryError, InputError):
        raise
    except FloatingPointError as error:
        raise InputError(f"{name}, got a number beyond {port.type.dtype}") from error
    except Exception as error:  # a foreign object's own methods raise anything
        raise InputError(f"{name}, got {type(value).__name__}: {clean(error)}") from error
    return array


def _is_negated(value: Any) -> bool:
    """Whether a tensor of PyTorch stands for -x of its memory, of which DLPack says nothing."""
    is_neg = getattr(value, "is_neg", None)
    return callable(is_neg) and bool(is_neg())


def _check_rank_and_size(port: Port, array: Array) -> None:
    """Refuse before a conversion takes memory for an array that cannot fit."""
    fits = len(array.shape) == port.type.rank and all(
        not isinstance(want, int) or want == got
        for want, got in zip(port.type.shape, array.shape, strict=True)
    )
    if not fits:
        raise _unfit(port, array, _shape_help(port, array))


def _shape_help(port: Port, array: Array) -> str:
    if array.ndim + 1 == port.type.rank:
        return "one axis is missing; x[None] adds a batch axis in front"
    return ""


def _unfit(port: Port, array: Array, help: str) -> InputError:
    got = f"{array.dtype} of shape {array.shape}"
    return InputError(f"input {clean(port.name)}: expected {port.type}, got {got}", help=help)


def match_sizes(plan: Plan, arrays: Sequence[Array]) -> dict[str, int]:
    """What every symbol stands for, given the inputs' shapes. Raises InputError."""
    for port, array in zip(plan.inputs, arrays, strict=True):
        _check_rank_and_size(port, array)
    shapes = [array.shape for array in arrays]
    known = {s: int(n) for s, n in solved([p.type for p in plan.inputs], shapes).items()}
    for port, array in zip(plan.inputs, arrays, strict=True):
        for want, got in zip(port.type.shape, array.shape, strict=True):
            if isinstance(want, Expr):
                line = line_of(want)
                if line and line.symbol not in known:
                    raise _unfit(port, array, f"{want} is never {got}")
                if value_of(want, known) != got:
                    told = _said(plan, shapes, known, sorted(symbols(want)))
                    raise _unfit(port, array, f"{want} is not {got}: {told}")
    for condition in plan.conditions:
        value = value_of(condition.size, known)
        if value < condition.minimum:
            raise InputError(
                f"{condition.why}: {condition.size} is {value}, at least {condition.minimum} fits"
            )
    return known


def _said(
    plan: Plan, shapes: Sequence[Sequence[int]], known: Mapping[str, int], names: Sequence[str]
) -> str:
    """What symbols are, and by which inputs."""
    by: dict[str, str] = {}
    for port, shape in zip(plan.inputs, shapes, strict=True):
        for name in solved([port.type], [shape]):
            by.setdefault(name, clean(port.name))
    return ", ".join(f"{name} is {known[name]} by {by[name]}" for name in names)


def value_of(size: Dim, known: Mapping[str, int]) -> int:
    """The number a size stands for. Raises GraphError where no input gives one of its symbols."""
    if isinstance(size, int):
        return size
    try:
        return evaluate(size, known)
    except KeyError as error:
        raise GraphError(f"no input says what {clean(error.args[0])} in {size} is") from None
