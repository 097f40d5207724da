"""The same graphs built from Python: `@netc.net`, `netc.conv(x, 20, kernel=5)`, `netc.device`.

A function decorated with `net` is run once, with a `Tensor` for each parameter whose annotation is
a type; the words it calls are those of the language, with the same arguments and defaults.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ContextDecorator, contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, TypeAlias, cast, get_origin

from netc.errors import GraphError, Span, UsageError, WeightsError, clean
from netc.frontend import arrays
from netc.frontend.callers import at_caller, at_line, caller, definition
from netc.frontend.net import arithmetic
from netc.frontend.net.fill import Source as Weights
from netc.frontend.net.fill import filled
from netc.frontend.net.maker import Maker
from netc.frontend.net.words import INITIALIZERS, Word, call, initializer, near
from netc.frontend.net.words import words as _table
from netc.ir.device import Device
from netc.ir.dims import Expr
from netc.ir.graph import Graph, Value
from netc.ir.shards import Shard, Way, contradiction, within
from netc.ir.types import MAX_RANK, TensorType

__all__ = [
    "Tensor",
    "device",
    "net",
    "pipeline",
    "replicate",
    "split_channels",
    "with_weights",
    "word",
    "words",
]

Devices: TypeAlias = str | Sequence[str]

_MAKER: ContextVar[Maker | None] = ContextVar("netc.maker", default=None)
Where: TypeAlias = tuple[Device | None, tuple[Shard, ...]]
_AROUND: ContextVar[tuple[Where, ...]] = ContextVar("netc.around", default=((None, ()),))
_RENAMED = {"max": "maximum", "min": "minimum"}


class Tensor:
    """A value of the net being built; `+ - * /` make nodes."""

    __slots__ = ("maker", "value")
    __hash__ = object.__hash__  # by identity, though `==` is refused

    def __init__(self, value: Value, maker: Maker) -> None:
        self.value, self.maker = value, maker

    @property
    def type(self) -> TensorType:
        """Element type and shape."""
        return self.value.type

    @property
    def shape(self) -> tuple[int | Expr, ...]:
        """The shape; a size known only at run time is a symbol."""
        return self.value.type.shape

    @property
    def name(self) -> str:
        """The name of the node that gives it."""
        return self.value.name

    def __repr__(self) -> str:
        return f"<Tensor {clean(self.name)}: {self.type}>"

    def __add__(self, other: Any) -> Tensor:
        return _join("+", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return _join("+", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return _join("-", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return _join("-", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return _join("*", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return _join("*", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return _join("/", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return _join("/", other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return cast(Tensor, _apply("matmul", (self, other), {}, None, None))

    def __rmatmul__(self, other: Any) -> Tensor:
        return cast(Tensor, _apply("matmul", (other, self), {}, None, None))

    def __neg__(self) -> Tensor:
        return _join("*", self, -1.0)

    def __pos__(self) -> Tensor:
        return self

    def __format__(self, how: str) -> str:
        if how:
            help = "such as {x}, {x.type} or {x.name}"
            raise UsageError(f"a tensor has no {{x:{clean(how)}}}", caller(), help)
        return str(self)

    def __array_ufunc__(self, ufunc: Any, method: str, *given: Any, **more: Any) -> Tensor:
        """`array * tensor`, which numpy asks for as `np.multiply(array, tensor)`."""
        name = ufunc.__name__
        if name == "matmul" and method == "__call__" and not more:
            return cast(Tensor, _apply(name, given, {}, None, None))
        if name in _UFUNCS and method == "__call__" and not more:
            return _join(_UFUNCS[name], *given)
        fits = method == "__call__" and name in words()
        help = f"such as netc.{name}({', '.join('xy'[: ufunc.nin])})" if fits else ""
        raise UsageError(f"a tensor has no np.{clean(name)}", caller(), help)


def _refusing(sign: str, call: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise UsageError(f"a tensor has no {sign}", caller(), f"such as {call}")

    return refuse


_UFUNCS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/"}
_NO_SIGNS = {
    "x == y": ("netc.equal(x, y)", "eq"),
    "x != y": ("1 - netc.equal(x, y)", "ne"),
    "x ** y": ("netc.pow(x, 2)", "pow", "rpow"),
    "x // y or x % y": (
        "netc.floor(x / 2)",
        *("floordiv", "rfloordiv", "mod", "rmod", "divmod", "rdivmod"),
    ),
    "x & y, x | y or x ^ y": (
        "netc.mul(x, y) or netc.maximum(x, y), where both are 0 or 1",
        *("and", "rand", "or", "ror", "xor", "rxor"),
    ),
    "x << y or x >> y": ("x * 2 or x / 2", "lshift", "rlshift", "rshift", "rrshift"),
    "~x": ("1 - x, where x is 0 or 1", "invert"),
    "x > y": ("netc.greater(x, y), or netc.less(x, y)", "gt", "lt", "ge", "le"),
    "x[…]": ("netc.slice(x, axis=1, start=0, stop=1), or netc.split(x, 2)", "getitem", "iter"),
    "x[…] = y": ("netc.concat(x, y, axis=1)", "setitem", "delitem"),
    "len(x)": ("x.shape[0]", "len"),
    "value while the net is being built": (
        "x.shape[1], which may have one",
        *("bool", "float", "int", "complex", "index", "array"),
    ),
    "y in x": ("netc.equal(x, y)", "contains"),
    "x(…)": ("netc.relu(x)", "call"),
    "round(x)": ("netc.floor(x + 0.5)", "round"),
    "math.floor(x), ceil(x) or trunc(x)": (
        "netc.floor(x), or -netc.floor(-x)",
        *("floor", "ceil", "trunc"),
    ),
    "abs(x)": ("netc.abs(x)", "abs"),
}
for _sign, (_call, *_methods) in _NO_SIGNS.items():
    for _method in _methods:
        setattr(Tensor, f"__{_method}__", _refusing(_sign, _call))


def net(function: Callable[..., Any]) -> Graph:
    """The graph that a function describes: `def lenet(data: netc.f32["N", 1, 28, 28]): …`.

    It returns a tensor, a tuple of tensors, or a dict from output names to tensors. Parameters
    that are no tensors keep their defaults.
    """
    if not (callable(function) and hasattr(inspect.unwrap(function), "__code__")):
        what = getattr(function, "__name__", f"a {type(function).__name__}")
        raise UsageError(f"{clean(what)} is no function that describes a net")
    if inspect.iscoroutinefunction(function):
        help = "a net is described by an ordinary `def`"
        message = f"`{clean(function.__name__)}` is `async`"
        raise UsageError(message, definition(function), help)
    maker = Maker()
    token = _MAKER.set(maker)
    try:
        given = function(**dict(_inputs(function, maker)))
    except GraphError as e:
        raise at_line(e, function) from None
    finally:
        _MAKER.reset(token)
    return maker.b.graph(function.__name__, _outputs(given, function, maker))


def _inputs(function: Callable[..., Any], maker: Maker) -> Iterator[tuple[str, Tensor]]:
    hints = _annotations(function)
    for p in inspect.signature(function).parameters.values():
        type_ = _type(hints.get(p.name))
        if p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD):
            message = (
                f"`{clean(str(p))}` of `{clean(function.__name__)}` has no name to be given by"
            )
            raise UsageError(message, definition(function), "an input is an ordinary parameter")
        if isinstance(type_, TensorType):
            with maker.b.at(definition(function)):
                yield p.name, Tensor(maker.b.input(p.name, type_), maker)
        elif p.default is p.empty:
            quoted = " without quotes" if isinstance(type_, str) else ""
            help = f'such as `{p.name}: netc.f32["N", 3, 224, 224]`{quoted}'
            message = f"input `{clean(p.name)}` of `{clean(function.__name__)}` has no type"
            raise UsageError(message, definition(function), help)


def _type(hint: Any) -> Any:
    """The type that an annotation says, `Annotated[netc.Tensor, netc.f32["N", 3]]` as well."""
    said = hint.__metadata__ if get_origin(hint) is Annotated else ()
    return next((t for t in said if isinstance(t, TensorType)), hint)


def _annotations(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations, evaluated where the module postpones them."""
    try:
        return inspect.get_annotations(function, eval_str=True)
    except Exception as e:
        message = f"the annotations of `{clean(function.__name__)}` do not evaluate: {clean(e)}"
        raise UsageError(message, definition(function)) from None


def _outputs(given: Any, function: Callable[..., Any], maker: Maker) -> dict[str, Value]:
    several = given if isinstance(given, tuple | list) else (given,)
    if several and all(isinstance(t, Tensor) for t in several):
        given = {t.name: t for t in several}
    if wrong := _no_outputs(given):
        help = 'return a tensor, several, or `{"prob": x}`'
        raise UsageError(f"`{clean(function.__name__)}` {wrong}", definition(function), help)
    place = definition(function)
    return {name: _own(t, maker, place).value for name, t in given.items()}


def _no_outputs(given: Any) -> str:
    """Why what a function returns is no dict from names to tensors; nothing where it is one."""
    kind = clean(type(given).__name__)
    if isinstance(given, Mapping | tuple | list) and not given:
        return f"returns an empty {kind}"
    if not isinstance(given, Mapping):
        return f"returns {kind}"
    for name, t in given.items():
        if not _is_name(name):
            return f"returns {kind} with {clean(repr(name))} for a name"
        if not isinstance(t, Tensor):
            return f"returns {kind} with {clean(type(t).__name__)} as {clean(repr(name))}"
    return ""


def _is_name(name: Any) -> bool:
    """Whether it is a text, not empty, that a file can hold: one without half characters."""
    return isinstance(name, str) and 0 < len(name) == len(name.encode(errors="ignore").decode())


def device(name: str) -> AbstractContextManager[None]:
    """Nodes made within run on this device: `with netc.device("cuda:1"):`."""
    return _Within(device=Device.parse(name, caller()))


def replicate(devices: Devices) -> AbstractContextManager[None]:
    """What is made within runs on each device, for its share of the batch."""
    return _shared("replicate", devices)


def split_channels(devices: Devices, by: str = "output") -> AbstractContextManager[None]:
    """Convolutions and inner products made within share their channels: by "output" or "input"."""
    return _shared("split", devices, by=by)


def pipeline(devices: Devices, micro_batches: int | None = None) -> AbstractContextManager[None]:
    """What is made within runs in stages, one a device; micro-batches follow one another."""
    return _shared("pipeline", devices, micro_batches=micro_batches)


def _shared(way: str, devices: Devices, **more: Any) -> AbstractContextManager[None]:
    at = caller()
    names = devices.split(",") if isinstance(devices, str) else devices
    try:
        named = tuple(Device.parse(name.strip()) for name in names)
        shard = Shard(cast(Way, way), named, **more)
    except GraphError as e:
        raise at_caller(e) from None
    except (TypeError, AttributeError):
        help = 'such as `["cpu:0", "cpu:1"]`'
        raise UsageError(f"{way} is over devices by their names", at, help) from None
    return _Within(shard=shard)


class _Within(ContextDecorator, AbstractContextManager[None]):
    """What is made within is there, or shared so, beside what is said around; entered at will."""

    def __init__(self, device: Device | None = None, shard: Shard | None = None) -> None:
        self._device, self._shard = device, shard
        self._where()  # a contradiction is told where it is written

    def __enter__(self) -> None:
        _AROUND.set((*_AROUND.get(), self._where()))

    def __exit__(self, *_: object) -> None:
        _AROUND.set(_AROUND.get()[:-1])

    def _where(self) -> Where:
        device, shards = _AROUND.get()[-1]
        device = self._device or device
        try:
            shards = shards if self._shard is None else within(shards, self._shard)
        except GraphError as e:
            raise at_caller(e) from None
        if why := contradiction(shards, device):
            help = "take the placement away, or the sharding"
            raise GraphError(f"what is here is placed on {device}, but {why}", caller(), help)
        return device, shards


def with_weights(graph: Graph, weights: Weights, strict: bool = False) -> Graph:
    """The graph with arrays by parameter name, from a file or a mapping.

    What does not match is told to the log, or is an error under `strict`. Numbers are read when
    the net is compiled, interpreted or written, not here: until then the arrays must not change,
    and the file must be neither changed nor cut.
    """
    return filled(graph, weights, strict)


def words() -> list[str]:
    """The names of everything that can be called: ops, layers, initializers."""
    return sorted([*_table(), *INITIALIZERS, *_RENAMED])


def word(name: str) -> Callable[..., Any]:
    """`conv`, `relu`, `gaussian`, …: a word of the language as a function."""
    if name in INITIALIZERS:
        return _as_function(name, INITIALIZERS[name], _initializer(name))
    word = _table().get(_RENAMED.get(name, name))
    if word is None:
        raise AttributeError(f"netc has no {clean(name)!r}. {near(name, words())}".strip())

    def apply(*args: Any, name: str | None = None, params: Any = None, **keywords: Any) -> Any:
        for what, given in (("name", name), ("params", params)):
            if not (_is_name(given) or isinstance(given, Tensor | None)):
                raise UsageError(f"`{what}` takes a text, not {clean(repr(given))}", caller())
        return _apply(word.name, args, keywords, name, params)

    return _as_function(name, word, apply)


def _as_function(name: str, word: Word, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the word's name, arguments and description, for `help` and editors."""
    found, only = word.signature, inspect.Parameter.KEYWORD_ONLY
    if name not in INITIALIZERS:
        more = ("name", "params") if word.owns else ("name",)
        named = (inspect.Parameter(n, only, default=None) for n in more)
        found = found.replace(parameters=[*found.parameters.values(), *named])
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"{word}\n\n{word.doc}"
    function.__signature__ = found  # type: ignore[attr-defined]
    return function


def _initializer(kind: str) -> Callable[..., Any]:
    def make(*args: Any, **keywords: Any) -> Any:
        try:
            return initializer(kind, args, keywords)
        except GraphError as e:
            raise at_caller(e) from None

    return make


def _maker() -> Maker:
    maker = _MAKER.get()
    if maker is None:
        help = "put the calls into a function decorated with `@netc.net`"
        raise UsageError("no net is being built here", caller(), help)
    return maker


@contextmanager
def _placed(maker: Maker) -> Iterator[None]:
    device, shards = _AROUND.get()[-1]
    with maker.b.on(device), maker.b.sharded(shards):
        yield


def _apply(
    word: str, args: tuple[Any, ...], keywords: dict[str, Any], name: str | None, params: Any
) -> Any:
    maker, at = _maker(), caller()
    found = _table()[word]
    plain = {k: _plain(v, maker) for k, v in keywords.items()}
    try:
        if params is not None and not found.owns:
            raise GraphError(f"{word} has no parameters to share")
        path = maker.free(word) if name is None else maker.explicit(name)
        owner = _own(params, maker, at).name if isinstance(params, Tensor) else params or ""
        with maker.b.at(at), _placed(maker):
            site = maker.site(path, owner)
            given = arrays.placed(found, site, [_plain(a, maker) for a in args], plain)
            out = call(found, site, *given)
    except GraphError as e:
        raise at_caller(e) from None
    made = tuple(Tensor(v, maker) for v in (out if isinstance(out, tuple) else (out,)))
    return made if isinstance(out, tuple) else made[0]


def _join(sign: str, a: Any, b: Any) -> Tensor:
    maker, at = _maker(), caller()
    a, b = _plain(a, maker), _plain(b, maker)
    try:
        with maker.b.at(at), _placed(maker):
            site = maker.site(maker.free(arithmetic.node_word(sign, a, b)))
            a, b = arrays.joined(site, a), arrays.joined(site, b)
            return Tensor(arithmetic.tensors(site, sign, a, b), maker)
    except GraphError as e:
        raise at_caller(e) from None


def _plain(x: Any, maker: Maker, depth: int = 0) -> Any:
    """What the words take: values, tuples, and Python's own numbers."""
    match x:
        case Tensor():
            return _own(x, maker, caller()).value
        case tuple() | list() if depth > MAX_RANK:
            raise UsageError(f"lists are nested more than {MAX_RANK} deep", caller())
        case tuple() | list():
            return tuple(arrays.nested(_plain(item, maker, depth + 1)) for item in x)
        case bool() | int() | float() | str() | None:
            return x
    try:
        return arrays.plain(x)
    except WeightsError as e:
        raise at_caller(e) from None


def _own(x: Tensor, maker: Maker, place: Span) -> Tensor:
    """The tensor, which must be of the net being built."""
    if x.maker is not maker:
        raise UsageError(f"the tensor {clean(x.name)} belongs to another net", place)
    return x
