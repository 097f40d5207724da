"""A user's op, `op swish(x, beta=1.0) = x * sigmoid(beta * x)`, as a formula of the IR.

The body is read over scalars that are texts: tensors are x0, x1, …, numbers are put in, and ops
that it calls (the user's and the built-in element-wise ones) are put in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from netc.errors import NOWHERE, Diagnostic, GraphError, Span, clean
from netc.frontend.net import arithmetic, ast
from netc.frontend.net.scope import BUILT_IN, bind
from netc.frontend.net.truth import LOGIC, compared
from netc.frontend.net.words import coerce, near
from netc.ir.formula import ATOM, FUNCTIONS, LEVEL, parse, show
from netc.ir.op import REGISTRY
from netc.ir.scalar import COMPARE, Elementwise, S

MAX_LENGTH = 4000  # of a formula's text
_MAX_DEPTH = 150  # of brackets, through all ops that call each other


@dataclass(frozen=True)
class Text:
    """A part of a formula, and how closely its last operator binds."""

    text: str
    level: int = ATOM

    def __post_init__(self) -> None:
        if len(self.text) > MAX_LENGTH:
            raise GraphError(f"the formula is longer than {MAX_LENGTH} characters")

    def __str__(self) -> str:
        return self.text

    def within(self, level: int) -> str:
        """In brackets where what is around it binds closer."""
        return f"({self})" if self.level < level else self.text


class Texts:
    """Reads a formula as text (see `netc.ir.scalar.Scalars`)."""

    def const(self, c: float) -> Text:
        """The shortest text that reads back as the same number."""
        return Text(f"({c!r})" if c < 0 else repr(c))

    def unary(self, fn: str, a: Text) -> Text:
        """-a, or fn(a)."""
        return Text(f"-{a.within(ATOM)}", LEVEL[fn]) if fn == "neg" else Text(f"{fn}({a})")

    def binary(self, fn: str, a: Text, b: Text) -> Text:
        """An operator, which joins from the left, or a function."""
        if fn.isalpha():
            return Text(f"{fn}({a}, {b})")
        level = LEVEL[fn]
        return Text(f"{a.within(level)} {fn} {b.within(level + 1)}", level)

    def compare(self, fn: str, a: Text, b: Text) -> Text:
        """A comparison: only `select` takes it."""
        return Text(f"{a} {fn} {b}")

    def select(self, mask: Text, a: Text, b: Text) -> Text:
        """select(mask, a, b)."""
        return Text(f"select({mask}, {a}, {b})")


class Mask(S):
    """A comparison of scalars."""


class Formula:
    """Reads the body of one use of a user's op; each expression in it is a `step`."""

    def __init__(
        self,
        ops: Mapping[str, ast.OpDef],
        constants: Mapping[str, Any],
        step: Callable[[Span], None],
    ) -> None:
        self.ops, self.constants, self.texts = ops, constants, Texts()
        self.step = step
        self.open: list[str] = []
        self.depth = 0

    def body(self, op: ast.OpDef, given: Mapping[str, Any]) -> str:
        """The text of `op` over x0, x1, …; `given` holds a number or the text of each parameter."""
        lifted = {k: S(self.texts, Text(v)) if isinstance(v, str) else v for k, v in given.items()}
        out = self._inline(op, lifted, op.span)
        if isinstance(out, Mask | bool):
            raise GraphError(f"`{clean(op.name)}` gives a comparison", op.span, "use `select`")
        text = out.h if isinstance(out, S) else self.texts.const(float(out))
        return show(parse(str(text)))

    def bound(
        self, op: ast.OpDef, args: Sequence[Any], keywords: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments by parameter name; a default may use the parameters before it."""

        def default(p: ast.Parameter, before: Mapping[str, Any]) -> Any:
            assert p.default is not None
            return self._read(p.default, before)

        return bind(f"op `{clean(op.name)}`", op.params, args, keywords, default)

    def _inline(self, op: ast.OpDef, names: Mapping[str, Any], span: Span) -> Any:
        if op.name in self.open:
            raise GraphError(f"op `{clean(op.name)}` calls itself", span)
        self.open.append(op.name)
        out = self._read(op.body, names)
        self.open.pop()
        return out

    def _read(self, e: ast.Expr, names: Mapping[str, Any]) -> Any:
        self.step(e.span)
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise GraphError("the formula is nested too deeply", e.span)
        out = self._located(e, names)
        self.depth -= 1
        return out

    def _located(self, e: ast.Expr, names: Mapping[str, Any]) -> Any:
        try:
            return self._dispatch(e, names)
        except GraphError as error:
            d = error.diagnostics[0]
            if d.span != NOWHERE:
                raise
            raise GraphError(Diagnostic(d.message, e.span, d.help)) from None

    def _dispatch(self, e: ast.Expr, names: Mapping[str, Any]) -> Any:
        match e:
            case ast.Number(value):
                return value
            case ast.Name(id):
                return self._name(id, names)
            case ast.Negate(operand):
                x = self._read(operand, names)
                return -x
            case ast.Not():
                raise _no_logic("not")
            case ast.Chain((word, *_)) if word in LOGIC:
                raise _no_logic(word)
            case ast.Chain(operators, operands):
                out = self._read(operands[0], names)
                for sign, operand in zip(operators, operands[1:], strict=True):
                    out = self._join(sign, out, self._read(operand, names))
                return out
            case ast.Pipe(first, stages):
                out = self._read(first, names)
                for stage in stages:
                    out = self._call(stage.call, (out,), names)
                return out
            case ast.Call():
                return self._call(e, (), names)
        raise GraphError("a formula holds numbers, its parameters, `+ - * /` and functions")

    def _name(self, name: str, names: Mapping[str, Any]) -> Any:
        found = names.get(name, self.constants.get(name, BUILT_IN.get(name)))
        if isinstance(found, S) or arithmetic.is_number(found):
            return found
        if found is not None:
            raise GraphError(f"`{clean(name)}` is not a number")
        known = [*names, *self.constants]
        raise GraphError(f"nothing is named `{clean(name)}` here", help=near(name, known))

    def _join(self, sign: str, a: Any, b: Any) -> Any:
        if isinstance(a, Mask) or isinstance(b, Mask):
            raise GraphError("a comparison belongs into `select(condition, x, y)`")
        if not isinstance(a, S) and not isinstance(b, S):
            join = compared if sign in COMPARE else arithmetic.constants
            return join(sign, a, b)
        if sign in ("//", "%"):
            raise GraphError(f"`{sign}` is for sizes", help="`floor(x / y)`")
        left, right = self._scalar(a), self._scalar(b)
        if sign in ("+", "-", "*", "/"):
            return left.bin(sign, right)
        return Mask(self.texts, left.cmp(sign, right).h)

    def _scalar(self, x: Any) -> S:
        if isinstance(x, Mask):
            raise GraphError("a comparison belongs into `select(condition, x, y)`")
        if isinstance(x, bool):
            raise GraphError("a formula holds numbers, not true or false")
        return x if isinstance(x, S) else S(self.texts, self.texts.const(float(x)))

    def _call(self, e: ast.Call, first: tuple[Any, ...], names: Mapping[str, Any]) -> Any:
        args = [*first]
        for a in e.args:
            args.append(self._read(a, names))
        keywords = {}
        for k in e.keywords:
            keywords[k.name] = self._read(k.value, names)
        if e.word in self.ops:
            op = self.ops[e.word]
            return self._inline(op, self.bound(op, args, keywords), e.span)
        if e.word == "select" and not keywords:
            return self._select(args)
        cls = REGISTRY.get(e.word)
        if e.word in FUNCTIONS and not keywords and len(args) == FUNCTIONS[e.word][0]:
            return self._named(e.word, args)
        if cls is not None and issubclass(cls, Elementwise):
            return self._builtin(cls, args, keywords)
        if e.word in FUNCTIONS:
            wanted = FUNCTIONS[e.word][0]
            raise GraphError(f"`{e.word}` takes {wanted} value{'s' * (wanted > 1)} in a formula")
        known = [*self.ops, *FUNCTIONS]
        help = near(e.word, known) or "there are " + ", ".join(sorted(known))
        raise GraphError(f"a formula has no function `{clean(e.word)}`", e.span, help)

    def _select(self, args: list[Any]) -> Any:
        if len(args) != 3 or not isinstance(args[0], Mask | bool):
            raise GraphError("`select` takes a comparison and two values")
        mask, a, b = args[0], self._scalar(args[1]), self._scalar(args[2])
        if isinstance(mask, bool):  # a comparison of numbers
            return args[1] if mask else args[2]
        return S(self.texts, self.texts.select(mask.h, a.h, b.h))

    def _named(self, word: str, args: list[Any]) -> Any:
        if not any(isinstance(a, S) for a in args) and word in arithmetic.FUNCTIONS:
            return arithmetic.function(word, tuple(args))
        texts = [self._scalar(a).h for a in args]
        binary = len(texts) == 2
        text = self.texts.binary(word, *texts) if binary else self.texts.unary(word, texts[0])
        return S(self.texts, text)

    def _builtin(self, cls: type[Elementwise], args: list[Any], keywords: dict[str, Any]) -> Any:
        """Another element-wise op: its own formula, in place."""
        import inspect

        arity = len(inspect.signature(cls.scalar).parameters) - 1
        hints = get_type_hints(cls)
        slots = [f.name for f in fields(cls)]
        given = dict(zip(slots, args[arity:], strict=False)) | keywords
        if len(args) < arity or len(args) > arity + len(slots) or not given.keys() <= set(slots):
            takes = ", ".join([*(["x"] * arity), *slots])
            raise GraphError(f"`{cls.name}` takes ({takes}) in a formula")
        attributes: dict[str, Any] = {}
        for name, value in given.items():
            if isinstance(value, S):
                raise GraphError(f"`{name}` of `{cls.name}` takes a number")
            attributes[name] = coerce(value, hints[name], 1)
        return cls(**attributes).scalar(*(self._scalar(a) for a in args[:arity]))


_WITHOUT = {
    "and": "`select(a, select(b, x, y), y)`",
    "or": "`select(a, x, select(b, x, y))`",
    "not": "`select(a, y, x)`",
}


def _no_logic(word: str) -> GraphError:
    return GraphError(f"a formula has no `{word}`", help=f"{_WITHOUT[word]} does without")
