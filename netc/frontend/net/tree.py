"""From grammar rules to the tree: one method per rule of `grammar.lark`.

lark calls these methods bottom-up while it parses, so nothing recurses along the text. A mistake
that the grammar lets through is noted, with its place, and parsing goes on.
"""

from __future__ import annotations

import inspect
import math
import re
from itertools import dropwhile, pairwise
from typing import Any, TypeAlias, cast

from lark import Token

from netc.errors import Diagnostic, GraphError, Source, Span, clean
from netc.frontend.net import ast
from netc.ir.device import Device
from netc.ir.scalar import COMPARE
from netc.ir.shards import BY, By, Way

_LEVELS = tuple(map(frozenset, (("or",), ("and",), COMPARE, "+-", ("*", "/", "//", "%"))))
_NOT = 2  # the level before which `not` joins
_JOINTS = frozenset(("BINARY", "MINUS", "AND", "OR"))
_ESCAPE = re.compile(r"\\(u\{[0-9a-fA-F]{1,6}\}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "`": "`"}
_MAX_INT = 2**63 - 1
_MAX_DIGITS = len(str(_MAX_INT))
_MAX_INDEXES = 8  # a[0][1]… in a row

_AFTER_DEVICES = "after the devices fits `by input`, `micro_batches=4` or `{`"

Children: TypeAlias = list[Any]


class Tree:
    """Makes the nodes of one text; `begin` starts the next text."""

    def __init__(self) -> None:
        self.source = Source("", "")
        self.found: list[Diagnostic] = []

    def begin(self, source: Source) -> None:
        """Read another text from here on."""
        self.source, self.found = source, []

    def span(self, token: Token) -> Span:
        """Where a token is."""
        return Span(self.source.name, token.line or 0, token.column or 0, self.source)

    def wrong(self, message: str, span: Span, help: str = "") -> None:
        """Note a mistake."""
        self.found.append(Diagnostic(message, span, help))

    def start(self, c: Children) -> ast.File:
        """A whole file."""
        doc = self._doc(c.pop(0)) if c and isinstance(c[0], Token) else ""
        return ast.File(tuple(c), doc)

    def import_(self, c: Children) -> ast.Import:
        """`import "blocks.net"`."""
        return ast.Import(self._unescape(c[1], c[1][1:-1]), span=self.span(c[1]))

    def let(self, c: Children) -> ast.Let:
        """`let k = 3`."""
        name, value = c
        return ast.Let(name.id, value, span=name.span)

    def op(self, c: Children) -> ast.OpDef:
        """`op swish(x) = …`."""
        _, name, params, body = c
        return ast.OpDef(name.id, params or (), body, span=name.span)

    def block(self, c: Children) -> ast.Block:
        """`block fire(x) { … }`."""
        _, name, params, (doc, body) = c
        return ast.Block(name.id, params or (), body, doc, span=name.span)

    def net(self, c: Children) -> ast.Net:
        """`net lenet(…) -> prob { … }`."""
        _, name, ports, _, outputs, (doc, body) = c
        return ast.Net(name.id, ports or (), outputs, body, doc, span=name.span)

    def params(self, c: Children) -> tuple[ast.Parameter, ...]:
        """The parameters of a block or op."""
        for before, p in pairwise(c):
            if before.default is not None and p.default is None:
                message = f"`{clean(p.name)}` has no default but follows one that has"
                self.wrong(message, p.span, "put the parameters with defaults last")
                break
        return tuple(self._distinct(c, "parameter"))

    def param(self, c: Children) -> ast.Parameter:
        """`beta=1.0`."""
        name, default = c
        return ast.Parameter(name.id, default, span=name.span)

    def ports(self, c: Children) -> tuple[ast.Port, ...]:
        """The inputs of a net."""
        return tuple(self._distinct(c, "input"))

    def port(self, c: Children) -> ast.Port:
        """`data: f32[N, 3]`."""
        name, type_ = c
        return ast.Port(name.id, type_, span=name.span)

    def names(self, c: Children) -> tuple[ast.Name, ...]:
        """`a, b`."""
        return tuple(c)

    def doc_body(self, c: Children) -> tuple[str, tuple[ast.Statement, ...]]:
        """The description and the statements between braces."""
        doc, *statements = c
        return (self._doc(doc) if doc is not None else ""), tuple(statements)

    def body(self, c: Children) -> tuple[ast.Statement, ...]:
        """The statements between braces."""
        return tuple(c)

    def bind(self, c: Children) -> ast.Bind:
        """`a, b = …`."""
        targets, value = c
        return ast.Bind(targets, value, span=targets[0].span)

    def if_(self, c: Children) -> ast.If:
        """`if a { … } else if b { … } else { … }`."""
        branches = [b for b in c if isinstance(b, ast.Branch)]
        return ast.If(tuple(branches), c[-1] or (), span=branches[0].span)

    def branch(self, c: Children) -> ast.Branch:
        """`if a { … }`."""
        word, condition, body = c
        return ast.Branch(condition, body, span=self.span(word))

    def repeat(self, c: Children) -> ast.Repeat:
        """`repeat 3 as i { … }`."""
        word, count, index, body = c
        return ast.Repeat(count, index.id if index else "", body, span=self.span(word))

    def on(self, c: Children) -> ast.On:
        """`on cuda:1 { … }`."""
        word, device, body = c
        return ast.On(device, body, span=self.span(word))

    def sharded(self, c: Children) -> ast.Sharded:
        """`split channels over cpu:0, cpu:1 by input { … }`."""
        word, *devices, said, body = c
        way = cast(Way, word.split()[0])
        by, count = "output", None
        match said:
            case ("by", str(by), Token() as at):
                if way != "split" or by not in BY:
                    help = f"channels are split by {' or '.join(BY)}"
                    self.wrong(f"no {way} by `{clean(by)}`", self.span(at), help)
            case ("micro_batches", count, Token() as at):
                if way != "pipeline":
                    help = "such as `pipeline over cpu:0, cpu:1 micro_batches=4`"
                    self.wrong("micro-batches are of a pipeline", self.span(at), help)
        span = self.span(word)
        return ast.Sharded(way, tuple(devices), body, cast(By, by), count, span=span)

    def by(self, c: Children) -> tuple[str, str, Token]:
        """`by input`."""
        word, way = c
        if word != "by":
            self.wrong(f"unexpected `{clean(word)}`", self.span(word), _AFTER_DEVICES)
        return "by", str(way), way

    def micro(self, c: Children) -> tuple[str, ast.Expr, Token]:
        """`micro_batches=4`."""
        word, count = c
        if word != "micro_batches":
            self.wrong(f"unexpected `{clean(word)}`", self.span(word), _AFTER_DEVICES)
        return "micro_batches", count, word

    def return_(self, c: Children) -> ast.Return:
        """`return a, b`."""
        word, *values = c
        return ast.Return(tuple(values), span=self.span(word))

    def expr(self, c: Children) -> ast.Expr:
        """Operands and operators, flat: joined here by precedence."""
        if len(c) == 1:
            return _as_expr(c[0])
        for t in c:
            if t == "//" and begins_line(t, self.source):
                self.wrong("unexpected `//`", self.span(t), "a comment begins with `#`")
        segments, joints = _split(c, frozenset(("|>",)))
        first = self._placed(segments[0])
        if not joints:
            return first
        stages = [self._stage(s, j) for s, j in zip(segments[1:], joints, strict=True)]
        return ast.Pipe(first, tuple(s for s in stages if s), span=first.span)

    def operand(self, c: Children) -> ast.Expr:
        """`-x[0]`."""
        minuses = [t for t in c if isinstance(t, Token)]
        base, *indexes = c[len(minuses) :]
        if len(indexes) > _MAX_INDEXES:
            self.wrong(f"more than {_MAX_INDEXES} indexes in a row", indexes[0].span)
        for i in indexes[:_MAX_INDEXES]:
            base = ast.Index(base, i.items, span=base.span)
        if len(minuses) % 2 == 0:
            return _as_expr(base)
        span = self.span(minuses[0])
        if isinstance(base, ast.Number):
            return ast.Number(-base.value, span=span)
        return ast.Negate(base, span=span)

    def index(self, c: Children) -> ast.Items:
        """`[N, 3]` after a value."""
        return ast.Items(tuple(c[1:]), span=self.span(c[0]))

    def number(self, c: Children) -> ast.Number:
        """A literal."""
        (token,) = c
        span = self.span(token)
        whole = token.isdigit()
        if whole and len(token) <= _MAX_DIGITS and int(token) <= _MAX_INT:
            return ast.Number(int(token), span=span)
        value = 0.0 if whole else float(token)
        if whole or math.isinf(value):
            self.wrong(f"the number {clean(token)} is too large", span)
        return ast.Number(value, span=span)

    def text(self, c: Children) -> ast.Text:
        """`"…"`."""
        (token,) = c
        return ast.Text(self._unescape(token, token[1:-1]), span=self.span(token))

    def group(self, c: Children) -> ast.Expr:
        """`(x)` or a list."""
        paren, *items = c
        if len(items) == 1:
            return _as_expr(items[0])
        if items and isinstance(items[-1], Token):
            items.pop()
        return ast.Items(tuple(items), span=self.span(paren))

    def list(self, c: Children) -> ast.Items:
        """`[1, 2]`."""
        return ast.Items(tuple(c[1:]), span=self.span(c[0]))

    def call(self, c: Children) -> ast.Call:
        """`conv(x, 64, pad=1)`."""
        word, *given = c
        keywords = [k for k in given if isinstance(k, ast.Keyword)]
        args = [a for a in given if not isinstance(a, ast.Keyword)]
        first = next((i for i, k in enumerate(given) if isinstance(k, ast.Keyword)), len(args))
        if first < len(args):
            late = next(a for a in given[first:] if not isinstance(a, ast.Keyword))
            self.wrong(
                "a value without a name follows one with a name",
                late.span,
                f"put it before `{clean(given[first].name)}=`, or name it",
            )
        keywords = self._distinct(keywords, "argument")
        return ast.Call(word.id, tuple(args), tuple(keywords), span=word.span)

    def keyword(self, c: Children) -> ast.Keyword:
        """`pad=1`."""
        name, value = c
        return ast.Keyword(name.id, value, span=name.span)

    def name(self, c: Children) -> ast.Name:
        """A plain name or one in backquotes."""
        (token,) = c
        if not token.startswith("`"):
            return ast.Name(str(token), span=self.span(token))
        text = self._unescape(token, token[1:-1])
        if not text:
            self.wrong("a name is empty", self.span(token))
        return ast.Name(text, span=self.span(token))

    def device(self, c: Children) -> str:
        """`cuda:1`."""
        (token,) = c
        try:
            return str(Device.parse(str(token)))
        except GraphError as e:
            product = "" if ":" in token else "; matmul(x, y) multiplies tensors"
            help = f"{e.diagnostics[0].help}{product}"
            self.wrong(e.diagnostics[0].message, self.span(token), help)
            return "cpu:0"

    def _distinct(self, named: Children, what: str) -> Children:
        seen: dict[str, Any] = {}
        for n in named:
            if n.name in seen:
                self.wrong(f"the {what} `{clean(n.name)}` is given twice", n.span)
            seen.setdefault(n.name, n)
        return [*seen.values()]

    def _placed(self, parts: Children) -> ast.Expr:
        parts, device, at = self._device(parts)
        value = self._join(parts, 0)
        return ast.Placed(value, device, span=at) if at else value

    def _stage(self, parts: Children, joint: Token) -> ast.Stage | None:
        parts, device, _ = self._device(parts)
        call = parts[0]
        if isinstance(call, ast.Name):
            call = ast.Call(call.id, (), (), span=call.span)
        if len(parts) == 1 and isinstance(call, ast.Call):
            return ast.Stage(call, device)
        signs = [p for p in parts if isinstance(p, Token)]
        span = self.span(signs[0]) if signs else call.span
        help = "`|>` joins last: write `(x |> relu) + y`" if len(parts) > 1 else ""
        self.wrong("after `|>` comes an op or a block", span, help or "such as `x |> relu`")
        return None

    def _device(self, parts: Children) -> tuple[Children, str, Span | None]:
        """The parts before `@`, the device after it, and where the `@` is."""
        at = next((i for i, p in enumerate(parts) if isinstance(p, Token) and p.type == "AT"), None)
        if at is None:
            return parts, "", None
        if at != len(parts) - 2:
            help = "put the part that runs there in brackets: `(x @ cuda:0) + y`"
            self.wrong("a device ends an expression", self.span(parts[at]), help)
        return parts[:at], parts[at + 1], self.span(parts[at])

    def _join(self, parts: Children, level: int) -> ast.Expr:
        if len(parts) == 1:
            return _as_expr(parts[0])
        if _is_not(parts[0]) and level >= _NOT:
            return self._not(parts, level)
        groups, operators = _split(parts, _LEVELS[level])
        operands = tuple(self._join(g, level + 1) for g in groups)
        if not operators:
            return operands[0]
        if level == _NOT and len(operators) > 1:
            self.wrong("two comparisons in a row", self.span(operators[1]), "use brackets")
        return ast.Chain(tuple(map(str, operators)), operands, span=self.span(operators[0]))

    def _not(self, parts: Children, level: int) -> ast.Expr:
        first, *rest = parts
        if level > _NOT:
            help = "`not` joins after comparisons: `not a == b`, `a == (not b)`"
            self.wrong("`not` stands within what joins first", self.span(first), help)
        elif _is_not(rest[0]):
            self.wrong("two `not` in a row", self.span(rest[0]), "use brackets")
        rest = list(dropwhile(_is_not, rest))
        return ast.Not(self._join(rest, level), span=self.span(first))

    def _doc(self, token: Token) -> str:
        return self._unescape(token, inspect.cleandoc(token[3:-3]))

    def _unescape(self, token: Token, text: str) -> str:
        if "\\" not in text:
            return text

        def one(m: re.Match[str]) -> str:
            code = int(m[1][2:-1], 16) if len(m[1]) > 1 else -1
            if 0 <= code <= 0x10FFFF and not 0xD800 <= code < 0xE000:
                return chr(code)
            if m[1] in _ESCAPES:
                return _ESCAPES[m[1]]
            help = r"the escapes are \n \t \r \\ \" \` and \u{1F600}"
            self.wrong(f"`{clean(m[0])}` is no escape", self.span(token), help)
            return ""

        return _ESCAPE.sub(one, text)


def begins_line(token: Token, source: Source) -> bool:
    """Nothing but blanks stands before the token on its line."""
    start = token.start_pos or 0
    return not source.text[source.text.rfind("\n", 0, start) + 1 : start].strip()


def _as_expr(x: Any) -> ast.Expr:
    expr: ast.Expr = x
    return expr


def _is_not(part: Any) -> bool:
    return isinstance(part, Token) and part.type == "NOT"


def _split(parts: Children, operators: frozenset[str]) -> tuple[list[Children], list[Token]]:
    """The runs of parts between the given operators, and those operators."""
    groups: list[Children] = [[]]
    joints: list[Token] = []
    for p in parts:
        if isinstance(p, Token) and p.type in _JOINTS and p in operators:
            joints.append(p)
            groups.append([])
        else:
            groups[-1].append(p)
    return groups, joints
