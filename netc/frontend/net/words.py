"""Words: what the language and the Python API call, with one table and one way of binding.

Every op of the registry is a word; its keywords are the op's fields. `layers.py` adds the words
that own parameters. A word's arguments are bound here: tensors first, then attributes in order,
then keywords; each mistake says what the word takes.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Any, cast, get_args, get_origin, get_type_hints

from netc.errors import GraphError, clean
from netc.frontend.net.constants import ARRAYS
from netc.frontend.net.maker import Site, real
from netc.ir.dims import Expr
from netc.ir.graph import Value
from netc.ir.op import REGISTRY, Op
from netc.ir.ops.sources import Initializer
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, TensorType

SPATIAL = frozenset(("kernel", "stride", "pad", "dilation", "offset", "size", "scale"))
_HIDDEN = frozenset(("copy", "input", "param", "fused", "formula", "to_blocked", "to_plain"))
_REQUIRED: Any = inspect.Parameter.empty
_EVERYWHERE = {"stride": 1, "pad": 0, "dilation": 1}  # what () stands for


class ArgumentError(GraphError):
    """A call that does not fit its word. `argument` is the position or keyword at fault."""

    def __init__(self, message: str, help: str = "", argument: int | str | None = None) -> None:
        super().__init__(message, help=help)
        self.argument = argument


@dataclass(frozen=True)
class Slot:
    """One argument that is not a positional tensor."""

    name: str
    hint: Any
    default: Any = _REQUIRED

    @property
    def is_tensor(self) -> bool:
        """Whether it takes a tensor, as `w=` of conv."""
        return self.hint is Value or Value in get_args(self.hint)

    @property
    def shown(self) -> Any:
        """The default as people read it: 1, not (), for a stride."""
        return _EVERYWHERE.get(self.name, ()) if self.default == () else self.default

    def __str__(self) -> str:
        if self.default is _REQUIRED or self.default is None:
            return self.name
        return f"{self.name}={show(self.shown)}"


@dataclass(frozen=True)
class Word:
    """Something to call: how many tensors it takes, its slots, and what it makes."""

    name: str
    tensors: tuple[str, ...]
    variadic: bool
    slots: tuple[Slot, ...]
    make: Callable[..., Any]
    doc: str
    owns: bool = False  # parameters of its own
    mixes: bool = False  # numbers may stand for tensors

    @property
    def signature(self) -> inspect.Signature:
        """How Python calls it, beside `name` and `params`."""
        one = inspect.Parameter.POSITIONAL_OR_KEYWORD
        found = [inspect.Parameter(t, one) for t in self.tensors]
        if self.variadic:
            found.append(inspect.Parameter("xs", inspect.Parameter.VAR_POSITIONAL))
        kind = inspect.Parameter.KEYWORD_ONLY if self.variadic else one
        found += [inspect.Parameter(s.name, kind, default=s.shown) for s in self.slots]
        return inspect.Signature(found)

    def __str__(self) -> str:
        rest = ("…",) if self.variadic else ()
        return f"{self.name}({', '.join([*self.tensors, *rest, *map(str, self.slots)])})"


def show(value: Any) -> str:
    """A value as the language writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "none"
        case str():
            return f'"{clean(value)}"'
        case Value():
            return f"a tensor {value.type}"
        case Initializer():
            names = [s.name for s in INITIALIZERS[value.kind].slots]
            args = [show(getattr(value, _FIELDS.get(n, n))) for n in names]
            return f"{value.kind}({', '.join(args)})"
        case tuple():
            inner = ", ".join(map(show, value[:8])) + (", …" if len(value) > 8 else "")
            return f"({inner}{',' * (len(value) == 1)})"
    return clean(value)


@cache
def words() -> Mapping[str, Word]:
    """Every word by name: the ops of the registry, then those that own parameters."""
    import netc.ir.ops  # noqa: F401 — registers the ops
    from netc.frontend.net.layers import LAYERS

    table = {name: _of_op(cls) for name, cls in REGISTRY.items() if name not in _HIDDEN}
    table |= {f.__name__.rstrip("_"): _of_layer(f) for f in LAYERS}
    return table


def _of_op(cls: type[Op]) -> Word:
    rule = cls.scalar if issubclass(cls, Elementwise) else cls.infer
    params = [p for p in inspect.signature(rule).parameters.values() if p.name != "self"]
    tensors = tuple(p.name for p in params if p.kind is p.POSITIONAL_OR_KEYWORD)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in params)
    hints = get_type_hints(cls)
    slots = tuple(
        Slot(f.name, hints[f.name], _REQUIRED if f.default is MISSING else f.default)
        for f in fields(cast(Any, cls))
    )

    def make(site: Site, *xs: Value, **attributes: Any) -> Any:
        return site.node(cls(**attributes), *xs)

    doc = inspect.cleandoc(cls.__doc__ or "")
    return Word(cls.name, tensors, variadic, slots, make, doc, mixes=issubclass(cls, Elementwise))


def _of_layer(make: Callable[..., Any]) -> Word:
    hints = get_type_hints(make)
    tensors, slots = [], []
    for p in list(inspect.signature(make).parameters.values())[1:]:
        if hints[p.name] is Value and p.default is p.empty:
            tensors.append(p.name)
        else:
            slots.append(
                Slot(p.name, hints[p.name], _REQUIRED if p.default is p.empty else p.default)
            )
    owns = any(s.is_tensor or s.name == "init" for s in slots)
    name, doc = make.__name__.rstrip("_"), inspect.cleandoc(make.__doc__ or "")
    return Word(name, tuple(tensors), False, tuple(slots), make, doc, owns)


# What other frameworks call an op, and how it is written here.
ELSEWHERE = {
    "adaptive_avg_pool": "global_avg_pool",
    "bmm": "matmul",
    "cat": "concat",
    "chunk": "split",
    "dense": "fc",
    "einsum": "matmul",
    "embedding": "embed",
    "groupnorm": "group_norm",
    "gt": "greater",
    "hard_tanh": "clip(low=-1, high=1)",
    "hardsigmoid": "hard_sigmoid",
    "hardswish": "hard_swish",
    "instancenorm": "instance_norm",
    "interpolate": "resize_bilinear",
    "layernorm": "layer_norm",
    "leaky_relu": "relu(slope=0.01)",
    "linear": "fc",
    "log1p": "log(x + 1)",
    "lt": "less",
    "mean": "reduce_mean",
    "narrow": "slice",
    "permute": "transpose",
    "reflection_pad": 'pad(mode="reflect")',
    "relu6": "clip(low=0, high=6)",
    "replication_pad": 'pad(mode="edge")',
    "rmsnorm": "rms_norm",
    "rsqrt": "pow(exponent=-0.5)",
    "scaled_dot_product_attention": "attention",
    "silu": "swish",
    "square": "pow(exponent=2)",
    "squeeze": "reshape",
    "sum": "reduce_sum",
    "tan": "sin(x) / cos(x)",
    "topk": "argmax(top_k=)",
    "unsqueeze": "reshape",
    "upsample": "resize_nearest",
    "view": "reshape",
}


def near(name: str, known: Sequence[str]) -> str:
    """`did you mean …?`, or nothing."""
    found = difflib.get_close_matches(name, known, 3, 0.6)
    return f"did you mean {' or '.join(f'`{clean(f)}`' for f in found)}?" if found else ""


def call(word: Word, site: Site, args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
    """Bind the arguments and make the nodes. Raises ArgumentError where they do not fit."""
    xs, attributes = _bind(word, site, args, keywords)
    return word.make(site, *xs, **attributes)


def _bind(
    word: Word, site: Site, args: Sequence[Any], keywords: Mapping[str, Any]
) -> tuple[list[Value], dict[str, Any]]:
    wanted = len(word.tensors)
    for i, arg in enumerate(args):
        if isinstance(arg, tuple) and any(isinstance(x, Value) for x in arg):
            message = f"{word.name} takes tensors one by one, not in a list"
            raise ArgumentError(message, f"{word}", i)
    count = 0
    while count < len(args) and _stands_for_tensor(word, args[count], count):
        count += 1
    _check_next_tensor(word, args, count, keywords)
    xs = site.operands(args[:count])
    given: dict[str, tuple[Any, int | str]] = {}
    tensor_slots = [s.name for s in word.slots if s.is_tensor]
    if not word.variadic and count > wanted:
        extra = dict(zip(tensor_slots, range(wanted, count), strict=False))
        if len(extra) < count - wanted:
            raise ArgumentError(f"{word.name} takes {_count(word)}, not {count}", f"{word}", wanted)
        given |= {name: (args[i], i) for name, i in extra.items()}
        xs = xs[:wanted]
    attributes = [s.name for s in word.slots if not s.is_tensor]
    for i, name in zip(range(count, len(args)), attributes, strict=False):
        given[name] = (args[i], i)
    if len(args) - count > len(attributes):
        at = count + len(attributes)
        raise ArgumentError(f"{word.name} takes no more arguments", f"{word}", at)
    xs = _named_tensors(word, xs, keywords, given)
    if len(xs) < wanted:
        raise ArgumentError(f"{word.name} takes {_count(word)}, not {len(xs)}", f"{word}")
    return xs, _coerced(word, xs, given)


def _check_next_tensor(
    word: Word, args: Sequence[Any], count: int, keywords: Mapping[str, Any]
) -> None:
    """Refuse what stands where the next tensor would, behind the first `count` or in their place.

    A number there may be an attribute, the tensor having been forgotten.
    """
    missing = [t for t in word.tensors[count:] if t not in keywords]
    if word.variadic or not missing or count == len(args):
        return
    arg = args[count]
    if isinstance(arg, tuple) or not word.slots or (word.mixes and count == 0):
        message = f"`{missing[0]}` of {word.name} takes a tensor, not {show(arg)}"
        raise ArgumentError(message, ARRAYS if isinstance(arg, tuple) else f"{word}", count)


def _stands_for_tensor(word: Word, arg: Any, position: int) -> bool:
    if isinstance(arg, Value):
        return True
    mixed = word.mixes and 0 < position < len(word.tensors)
    return mixed and isinstance(arg, int | float | tuple) and not isinstance(arg, bool)


def _count(word: Word) -> str:
    n = len(word.tensors)
    return f"{n} tensor" + "s" * (n != 1) + " or more" * word.variadic


def _named_tensors(
    word: Word,
    xs: list[Value],
    keywords: Mapping[str, Any],
    given: dict[str, tuple[Any, int | str]],
) -> list[Value]:
    """The tensors with those given by name; other keywords go to `given`."""
    names = [s.name for s in word.slots]
    found = dict(zip(word.tensors, xs, strict=False)) if not word.variadic else {}
    for name, value in keywords.items():
        if name in word.tensors and not word.variadic:
            if name in found:
                raise ArgumentError(f"`{name}` of {word.name} is given twice", f"{word}", name)
            if not isinstance(value, Value):
                message = f"`{name}` of {word.name} takes a tensor, not {show(value)}"
                help = ARRAYS if isinstance(value, tuple) else f"{word}"
                raise ArgumentError(message, help, name)
            found[name] = value
        elif name not in names:
            help = near(name, [*names, *word.tensors]) or f"{word}"
            raise ArgumentError(f"{word.name} has no argument `{clean(name)}`", help, name)
        elif name in given:
            raise ArgumentError(f"`{name}` of {word.name} is given twice", f"{word}", name)
        else:
            given[name] = (value, name)
    if word.variadic:
        return xs
    return [found[t] for t in word.tensors if t in found]


def _coerced(
    word: Word, xs: Sequence[Value], given: Mapping[str, tuple[Any, int | str]]
) -> dict[str, Any]:
    axes = max(0, xs[0].type.rank - 2) if xs else 0
    out: dict[str, Any] = {}
    for slot in word.slots:
        if slot.name in given:
            value, at = given[slot.name]
            try:
                out[slot.name] = coerce(value, slot.hint, axes if slot.name in SPATIAL else 1)
            except _MisfitError as e:
                message = f"`{slot.name}` of {word.name} takes {e}, not {show(value)}"
                raise ArgumentError(message, e.help, at) from None
        elif slot.default is _REQUIRED:
            raise ArgumentError(f"`{slot.name}` of {word.name} is not given", f"{word}")
        else:
            out[slot.name] = slot.default
    return out


def initializer(kind: str, args: Sequence[Any], keywords: Mapping[str, Any]) -> Initializer:
    """`gaussian(0, 0.01)`: an initializer with its own arguments."""
    word = INITIALIZERS[kind]
    given: dict[str, tuple[Any, int | str]] = {}
    for i, (slot, value) in enumerate(zip(word.slots, args, strict=False)):
        given[slot.name] = (value, i)
    if len(args) > len(word.slots):
        raise ArgumentError(f"{kind} takes no more arguments", f"{word}", len(word.slots))
    _named_tensors(word, [], keywords, given)
    found = _coerced(word, (), given)
    if found.get("fan", "fan_in") not in _FANS:
        raise ArgumentError(f"`fan` of {kind} is one of {', '.join(_FANS)}", f"{word}", "fan")
    fields_ = {_FIELDS.get(name, name): value for name, value in found.items()}
    return Initializer(kind, **fields_)


_FANS = ("fan_in", "fan_out", "average")
_FIELDS = {"value": "a", "low": "a", "high": "b", "mean": "a", "std": "b"}
_FAN = Slot("fan", str, "fan_in")
_N = 'n is what "fan_in", "fan_out" or "average" counts'
_DRAWN: Mapping[str, tuple[str, tuple[Slot, ...]]] = {
    "constant": ("One number everywhere.", (Slot("value", float, 0.0),)),
    "uniform": (
        "Drawn evenly from `low` to `high`.",
        (Slot("low", float, 0.0), Slot("high", float, 1.0)),
    ),
    "gaussian": (
        "Drawn with this mean and deviation; of each output's inputs `sparse` are kept, -1: all.",
        (Slot("mean", float, 0.0), Slot("std", float, 1.0), Slot("sparse", int, -1)),
    ),
    "positive_unitball": ("Drawn from 0 to 1; those of each output add up to 1.", ()),
    "xavier": (f"Drawn evenly from -√(3/n) to √(3/n); {_N}.", (_FAN,)),
    "msra": (f"Drawn with mean 0 and deviation √(2/n); {_N}.", (_FAN,)),
    "bilinear": ("The kernel with which conv_transpose enlarges an image.", ()),
}
INITIALIZERS: Mapping[str, Word] = {
    kind: Word(kind, (), False, slots, Initializer, doc) for kind, (doc, slots) in _DRAWN.items()
}


class _MisfitError(Exception):
    """What an attribute takes, said to a user."""

    def __init__(self, takes: str, help: str = "") -> None:
        super().__init__(takes)
        self.help = help


def coerce(value: Any, hint: Any, axes: int) -> Any:
    """`value` as an attribute of type `hint`; one number for a tuple stands for `axes` of them."""
    options = [h for h in get_args(hint) if h is not type(None)]
    if get_origin(hint) is not tuple and options:
        return _one_of(value, hint, options, axes)
    if get_origin(hint) is tuple:
        items = value if isinstance(value, tuple) else (value,) * axes
        kind = options[0]
        try:
            return tuple(coerce(v, kind, 1) for v in items)
        except _MisfitError as e:
            raise _MisfitError(f"{e} or several as `(1, 2)`", e.help) from None
    return _scalar(value, hint)


def _one_of(value: Any, hint: Any, options: Sequence[Any], axes: int) -> Any:
    """A member of a union."""
    if value is None and type(None) in get_args(hint):
        return None
    misfits = []
    for option in options:
        try:
            return coerce(value, option, axes)
        except _MisfitError as e:
            misfits.append(e)
    raise _MisfitError(" or ".join(dict.fromkeys(map(str, misfits))), misfits[0].help)


def _scalar(value: Any, hint: Any) -> Any:
    is_bool = isinstance(value, bool)
    if hint is bool and not is_bool:
        raise _MisfitError("true or false")
    if hint is int and (is_bool or not isinstance(value, int)):
        broken = isinstance(value, float) and math.isfinite(value) and not value.is_integer()
        help = "`//` divides sizes" if broken else ""
        takes = "a number known when compiling" if isinstance(value, Expr) else "an int"
        raise _MisfitError(takes, help)
    if hint is float:
        if is_bool or not isinstance(value, int | float):
            raise _MisfitError("a number")
        return real(value)
    if hint is DType and isinstance(value, str) and value in {d.value for d in DType}:
        return DType(value)
    for kind, takes in _TAKES.items():
        if hint is kind and not isinstance(value, kind):
            raise _MisfitError(takes, ARRAYS if kind is Value and isinstance(value, tuple) else "")
    if hint is Expr and not isinstance(value, Expr):
        raise _MisfitError("a size")
    return value


_TAKES: dict[type[Any], str] = {
    str: "a text",
    DType: "an element type such as f32",
    TensorType: "a type such as f32[1, 3]",
    Initializer: "an initializer such as `gaussian(0, 0.01)`",
    Value: "a tensor",
}
