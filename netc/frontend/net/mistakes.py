"""What to say of a text that does not parse."""

from __future__ import annotations

from typing import Any

from lark import UnexpectedInput, UnexpectedToken

from netc.errors import Diagnostic, Source, Span, clean
from netc.frontend.net import ast
from netc.frontend.net.tree import begins_line

_STATEMENTS = ("let", "if", "else", "repeat", "as", "on", "return")
KEYWORDS = frozenset(("net", "block", "op", "import", *_STATEMENTS, "and", "or", "not"))
_SHOWN = {
    "ARROW": "`->`",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "BINARY": "an operator",
    "AND": "an operator",
    "OR": "an operator",
    "STRING": 'a text in `"…"`',
    "AT": "`@`",
    "AS": "`as`",
    "$END": "the end",
}
# A group of terminals, what stands for all of them, and the terminal that shows it is meant.
_GROUPS = (
    ("IMPORT", "`net`, `block`, `op`, `let`, `import`", ("NET", "BLOCK", "OP", "LET")),
    ("REPEAT", "a statement", ("NAME", "QUOTED", "LET", "IF", "ON", "SHARDED", "RETURN")),
    ("NUMBER", "a value", ("NAME", "QUOTED", "STRING", "LPAR", "LSQB", "MINUS", "NOT")),
    ("DEVICE", "a device such as `cuda:0`", ("NAME",)),
    ("QUOTED", "a name", ("NAME",)),
)
_SHARDINGS = "such as `replicate over cpu:0, cpu:1 {`, `split channels over …`, `pipeline over …`"
_CHARACTERS = {
    "'": 'texts are written with double quotes: `"…"`',
    ";": "no sign ends a statement",
    "&": "`a and b` joins truth values",
    "|": "`a or b` joins truth values",
    "!": "`not a` is the other truth value",
}


def at(source: Source, offset: int) -> Span:
    """The place of a character."""
    line = source.text.count("\n", 0, offset) + 1
    column = offset - source.text.rfind("\n", 0, offset)
    return Span(source.name, line, column, source)


def diagnose(e: UnexpectedInput, source: Source) -> Diagnostic:
    """What the parser met, and what it would have taken."""
    span = Span(source.name, e.line, e.column, source)
    if not isinstance(e, UnexpectedToken):
        return bad_character(source.text[e.pos_in_stream or 0 :][:3], span)
    if e.token.type == "$END":
        end = at(source, len(source.text.rstrip()))
        return Diagnostic("the text ends too early", end, _expected(e))
    if e.token == "//" and begins_line(e.token, source):
        return Diagnostic("unexpected `//`", span, "a comment begins with `#`")
    if e.token == "over":
        return Diagnostic("unexpected `over`", span, _SHARDINGS)
    if _before(e) == ast.Name("elif"):
        return Diagnostic(f"unexpected `{clean(e.token)}`", span, "`elif` is written `else if`")
    if e.token == "=" and {"BINARY", "LBRACE"} <= _accepted(e):
        return Diagnostic("unexpected `=`", span, "`==` compares")
    if e.token == "else" and "LET" in _accepted(e):
        return Diagnostic("unexpected `else`", span, "it stands behind `if … { … }`")
    if e.token in KEYWORDS and "NAME" in _accepted(e):
        message = f"`{e.token}` is a word of the language, not a name"
        return Diagnostic(message, span, f"in backquotes it is a name: `` `{e.token}` ``")
    return Diagnostic(f"unexpected `{clean(e.token)}`", span, _expected(e))


def bad_character(rest: str, span: Span) -> Diagnostic:
    """What to say of a character that begins nothing; `rest` is it and the two behind it."""
    c = rest[0]
    if rest == '"""':
        return Diagnostic("the text is not closed", span, 'add a closing `"""`')
    if c == '"':
        return Diagnostic("the text is not closed on its line", span, 'add a closing `"`')
    if c == "`":
        return Diagnostic("the name is not closed on its line", span, "add a closing backquote")
    return Diagnostic(f"unexpected character `{clean(c)}`", span, _CHARACTERS.get(c, ""))


def _before(e: UnexpectedToken) -> Any:
    """What stands in front of the token that is wrong."""
    parser: Any = e.interactive_parser
    stack = parser.parser_state.value_stack
    return stack[-1] if stack else None


def _accepted(e: UnexpectedToken) -> set[str]:
    parser: Any = e.interactive_parser
    return set(parser.accepts())


def _expected(e: UnexpectedToken) -> str:
    accepted = _accepted(e)
    shown = []
    for mark, says, others in _GROUPS:
        if mark in accepted:
            accepted -= {mark, *others}
            shown.append(says)
    accepted -= {"DOC", "MINUS"}
    shown += [_SHOWN.get(t, f"`{t.lower()}`") for t in [*_SHOWN, *accepted] if t in accepted]
    shown = list(dict.fromkeys(shown))
    listed = ", ".join(shown[:-1])
    return f"expected {listed} or {shown[-1]}" if listed else f"expected {shown[0]}"
