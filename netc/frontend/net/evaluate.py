"""Expressions: to constants, sizes, types, and tensors made on the way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from netc.errors import NOWHERE, Diagnostic, GraphError, ResourceError, Span, clean
from netc.frontend.net import arithmetic, ast
from netc.frontend.net.formula import Formula
from netc.frontend.net.maker import Maker
from netc.frontend.net.scope import Broken, Library, Scope, SilentError, filled
from netc.frontend.net.truth import LOGIC, compared, truth
from netc.frontend.net.words import (
    ELSEWHERE,
    ArgumentError,
    call,
    initializer,
    near,
    show,
    words,
)
from netc.ir.device import Device
from netc.ir.dims import Expr
from netc.ir.graph import MAX_NODES, Value
from netc.ir.ops.formula import Formula as FormulaOp
from netc.ir.ops.sources import KINDS
from netc.ir.scalar import COMPARE
from netc.ir.types import DType, TensorType

MAX_STEPS = 1_000_000  # expressions evaluated for one net
MAX_DEPTH = 200  # expressions within expressions, through all blocks that call each other


class Expressions(ABC):
    """Evaluates expressions; `Elaborator` adds the statements."""

    def __init__(self, library: Library, phase: str) -> None:
        self.library = library
        self.maker = Maker(phase)
        self.globals = Scope()
        self.steps = self.depth = 0

    @abstractmethod
    def block(
        self,
        block: ast.Block,
        args: Sequence[Any],
        keywords: Mapping[str, Any],
        at: Span,
        hint: str,
    ) -> Any:
        """What a block returns."""

    def eval(self, e: ast.Expr, scope: Scope, hint: str = "") -> Any:
        """The value of an expression; the node it ends with is named `hint`, if it is a node."""
        self.step(e.span)
        self.depth += 1
        try:
            with located(e.span):
                return self._dispatch(e, scope, hint)
        finally:
            self.depth -= 1

    def step(self, span: Span) -> None:
        """Count the work done."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise ResourceError(f"the net takes more than {MAX_STEPS} steps to write out", span)
        if len(self.maker.b.names) >= MAX_NODES:
            raise ResourceError(f"the net has more than {MAX_NODES} nodes", span)
        if self.depth > MAX_DEPTH:
            raise ResourceError(f"expressions are nested more than {MAX_DEPTH} deep", span)

    def _dispatch(self, e: ast.Expr, scope: Scope, hint: str) -> Any:
        match e:
            case ast.Name(id):
                return self._name(id, scope)
            case ast.Number(value):
                return value
            case ast.Call():
                return self._call(e, (), scope, hint)
            case ast.Pipe():
                return self._pipe(e, scope, hint)
            case ast.Chain():
                return self._chain(e, scope, hint)
            case ast.Text():
                return filled(e, scope)
            case ast.Items(items):
                return self._items(items, scope)
            case ast.Index():
                return self._index(e, scope)
            case ast.Negate(operand):
                return self._negate(e, self.eval(operand, scope), hint)
            case ast.Not(operand):
                return not self.truth("not", operand, scope)
            case ast.Placed(value, device):
                return self._placed(value, device, scope, hint)

    def _name(self, name: str, scope: Scope) -> Any:
        found = scope.find(name, self)
        if isinstance(found, Broken):
            raise SilentError
        if found is not self:
            return found
        if name in KINDS:
            return initializer(name, (), {})
        path = self.maker.path(name)
        for full in (path, name):  # a parameter of a word: `conv1.w`
            if full in self.maker.params:
                return self.maker.params[full]
        help = scope.missed(name) or near(name, [*scope.names(), *KINDS, *self.maker.params])
        if not help and name in words():
            help = f"`{clean(name)}` is an op: it is called as `{clean(name)}(…)`"
        raise GraphError(f"nothing is named `{clean(name)}` here", help=help)

    def _items(self, items: Sequence[ast.Expr], scope: Scope) -> tuple[Any, ...]:
        out = []
        for item in items:
            value = self.eval(item, scope)
            if isinstance(value, tuple) and any(isinstance(v, Value) for v in value):
                raise GraphError("several tensors within a list", item.span)
            out.append(value)
        return tuple(out)

    def _index(self, e: ast.Index, scope: Scope) -> Any:
        base = self.eval(e.base, scope)
        items = self._items(e.items, scope)
        if isinstance(base, DType):
            return self.type(base, items)
        if not isinstance(base, tuple):
            raise GraphError(f"{show(base)} has no `[…]`")
        if len(items) != 1 or not isinstance(items[0], int):
            raise GraphError("an index is one int")
        if not -len(base) <= items[0] < len(base):
            raise GraphError(f"index {items[0]} is outside a list of {len(base)}")
        return base[items[0]]

    def type(self, dtype: DType, items: Sequence[Any]) -> TensorType:
        """`f32[N, 3]`."""
        for d in items:
            if isinstance(d, bool) or not isinstance(d, int | Expr):
                raise GraphError(f"a size is an int or a symbol, not {show(d)}")
        return dtype[tuple(items)]

    def _negate(self, e: ast.Negate, x: Any, hint: str) -> Any:
        if isinstance(x, Value):
            with self.maker.b.at(e.span):
                return arithmetic.negated(self.maker.site(self.maker.free(hint or "affine")), x)
        return -x if isinstance(x, float) else arithmetic.constants("-", 0, x)

    def _placed(self, e: ast.Expr, device: str, scope: Scope, hint: str) -> Any:
        """The node the expression ends with runs on the device; its arguments do not."""
        if isinstance(e, ast.Call):
            return self._call(e, (), scope, hint, Device.parse(device))
        if isinstance(e, ast.Chain | ast.Negate):
            with self.maker.on(Device.parse(device)):
                return self.eval(e, scope, hint)
        raise GraphError("a device is given to an op or a block, not to a name")

    def _pipe(self, e: ast.Pipe, scope: Scope, hint: str) -> Any:
        value = self.eval(e.first, scope)
        for i, stage in enumerate(e.stages):
            self.step(stage.call.span)
            first = value if isinstance(value, tuple) else (value,)
            device = Device.parse(stage.device) if stage.device else None
            last = i == len(e.stages) - 1
            with located(stage.call.span):
                value = self._call(stage.call, first, scope, hint if last else "", device)
        return value

    def truth(self, word: str, e: ast.Expr, scope: Scope) -> bool:
        """The truth value that `word` takes."""
        with located(e.span):
            return truth(word, self.eval(e, scope))

    def _logic(self, e: ast.Chain, scope: Scope) -> bool:
        """`a and b`, `a or b`: nothing is evaluated behind what decides."""
        word = e.operators[0]
        decides = word == "or"
        for operand in e.operands:
            if self.truth(word, operand, scope) is decides:
                return decides
        return not decides

    def _chain(self, e: ast.Chain, scope: Scope, hint: str) -> Any:
        if e.operators[0] in LOGIC:
            return self._logic(e, scope)
        out = self.eval(e.operands[0], scope)
        last = len(e.operators) - 1
        for i, (sign, operand) in enumerate(zip(e.operators, e.operands[1:], strict=True)):
            x = self.eval(operand, scope)
            self.step(e.span)
            if sign in COMPARE:
                out = compared(sign, out, x)
                continue
            if not isinstance(out, Value) and not isinstance(x, Value):
                out = arithmetic.constants(sign, out, x)
                continue
            name = (hint if i == last else "") or arithmetic.node_word(sign, out, x)
            with self.maker.b.at(e.span):
                out = arithmetic.tensors(self.maker.site(self.maker.free(name)), sign, out, x)
        return out

    def _call(
        self,
        e: ast.Call,
        first: tuple[Any, ...],
        scope: Scope,
        hint: str,
        device: Device | None = None,
    ) -> Any:
        args = [*first]
        for a in e.args:
            args.append(self.eval(a, scope))
        keywords: dict[str, Any] = {}
        for k in e.keywords:
            keywords[k.name] = self._keyword(k, scope)
        try:
            with self.maker.b.at(e.span):
                if device is None:
                    return self._apply(e, args, keywords, hint)
                with self.maker.on(device):
                    return self._apply(e, args, keywords, hint)
        except ArgumentError as error:
            raise self._at_argument(error, e, len(first)) from None

    def _keyword(self, k: ast.Keyword, scope: Scope) -> Any:
        """`params=conv1` names a layer, whatever number or text the name may stand for."""
        if k.name == "params" and isinstance(k.value, ast.Name):
            bound = scope.find(k.value.id, self)
            if bound is None:
                return None
            return bound.node.name if isinstance(bound, Value) else k.value.id
        return self.eval(k.value, scope)

    def _at_argument(self, error: ArgumentError, e: ast.Call, piped: int) -> GraphError:
        d = error.diagnostics[0]
        span = d.span if d.span != NOWHERE else e.span
        match error.argument:
            case int(i) if 0 <= i - piped < len(e.args):
                span = e.args[i - piped].span
            case str(name):
                span = next((k.span for k in e.keywords if k.name == name), span)
        return GraphError(Diagnostic(d.message, span, d.help))

    def _apply(self, e: ast.Call, args: list[Any], keywords: dict[str, Any], hint: str) -> Any:
        if e.word in self.library.ops:
            return self._user_op(self.library.ops[e.word], args, keywords, hint)
        if e.word in self.library.blocks:
            return self.block(self.library.blocks[e.word], args, keywords, e.span, hint)
        if e.word in KINDS:
            return initializer(e.word, args, keywords)
        if e.word in ("channels", "size"):
            return _size(e.word, args, keywords)
        tensor = any(isinstance(a, Value) for a in args)
        if e.word in arithmetic.FUNCTIONS and not tensor and not keywords:
            return arithmetic.function(e.word, tuple(args))
        name = {"max": "maximum", "min": "minimum"}.get(e.word, e.word)
        word = words().get(name)
        if word is None:
            known = [*self.library.ops, *self.library.blocks, *words(), *KINDS]
            here = ELSEWHERE.get(e.word)
            help = f"here it is `{here}`" if here else near(name, known)
            raise GraphError(f"there is no op or block `{clean(e.word)}`", help=help)
        explicit, owner = keywords.pop("name", None), keywords.pop("params", None)
        if owner is not None and not word.owns:
            raise ArgumentError(f"{word.name} has no parameters to share", f"{word}", "params")
        path = self._path(explicit, hint or word.name)
        made = call(word, self.maker.site(path, self._owner(owner)), args, keywords)
        return made[0] if isinstance(made, tuple) and len(made) == 1 else made

    def _owner(self, given: Any) -> str:
        """The layer that `params=` names, by its full name or within the scope."""
        owner = argument_text(given, "params")
        if owner is None:
            return ""
        layers = {name.rpartition(".")[0] for name in self.maker.params}
        for full in (self.maker.path(owner), owner):
            if full in layers:
                return full
        message = f"no layer `{clean(owner)}` has parameters to share"
        raise ArgumentError(message, near(owner, [*layers]), "params")

    def _path(self, explicit: Any, otherwise: str) -> str:
        """The full name of a node: what the user says, or a free name."""
        given = argument_text(explicit, "name")
        if given is None:
            return self.maker.free(otherwise)
        if not given and not self.maker.scope:
            raise ArgumentError("a name is empty outside blocks", argument="name")
        return self.maker.explicit(given)

    def _user_op(
        self, op: ast.OpDef, args: list[Any], keywords: dict[str, Any], hint: str
    ) -> Value:
        explicit = None
        if not any(p.name == "name" for p in op.params):
            explicit = keywords.pop("name", None)
        reader = Formula(self.library.ops, self.globals.own, self.step)
        given = reader.bound(op, args, keywords)
        xs: list[Value] = []
        texts: dict[str, Any] = {}
        for name, x in given.items():
            if isinstance(x, Value):
                texts[name] = f"x{len(xs)}"
                xs.append(x)
            elif arithmetic.is_number(x):
                texts[name] = x
            else:
                message = f"`{clean(name)}` of op `{clean(op.name)}` takes a tensor or a number"
                raise ArgumentError(f"{message}, not {show(x)}", argument=name)
        if not xs:
            raise ArgumentError(f"op `{clean(op.name)}` needs a tensor")
        site = self.maker.site(self._path(explicit, hint or op.name))
        made: Value = site.node(FormulaOp(body=reader.body(op, texts)), *xs)
        return made


def argument_text(value: Any, argument: str) -> str | None:
    """A text that an argument common to all words takes, or None."""
    if value is not None and not isinstance(value, str):
        raise ArgumentError(f"`{argument}` takes a text, not {show(value)}", argument=argument)
    return value


def _size(word: str, args: list[Any], keywords: dict[str, Any]) -> Any:
    """`channels(x)`, `size(x, axis)`: a size as a constant."""
    wanted = 1 if word == "channels" else 2
    if keywords or len(args) != wanted or not isinstance(args[0], Value):
        takes = "`channels(x)`" if word == "channels" else "`size(x, axis)`"
        raise ArgumentError(f"write {takes}")
    shape = args[0].type.shape
    axis = 1 if word == "channels" else args[1]
    if isinstance(axis, bool) or not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
        raise ArgumentError(f"{show(args[0])} has no axis {show(axis)}", argument=1)
    return shape[axis]


@contextmanager
def located(span: Span) -> Iterator[None]:
    """An error without a place gets this one."""
    try:
        yield
    except GraphError as e:
        if e.span != NOWHERE:
            raise
        d = e.diagnostics[0]
        raise GraphError(Diagnostic(d.message, span, d.help)) from None
