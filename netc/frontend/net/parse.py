"""Text to tree: caps on size, nesting and tokens, then LALR, then every mistake found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, cast

from lark import Lark, Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from netc.errors import Diagnostic, ParseError, Source, clean
from netc.frontend.net import ast
from netc.frontend.net.mistakes import at, bad_character, diagnose
from netc.frontend.net.tree import Tree

MAX_BYTES = 4 << 20
MAX_DEPTH = 200  # brackets within brackets
MAX_TOKENS = 250_000  # about two seconds of parsing
MAX_REPORTED = 20  # mistakes in one text

_ITEMS = ("net", "block", "op", "import")
_QUOTES = ('"', '"""', "`")
_CLOSES = {")": "(", "]": "[", "}": "{"}
_SCAN = re.compile(
    r'#[^\n]*|"""(?:\\.|[^\\])*?"""|"""|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\\n])*`|\'[^\'\n]*\''
    r"|(?P<bracket>[()\[\]{}])|^(?P<item>" + "|".join(_ITEMS) + r")\b|[\w.]+|[^\w\s]",
    re.DOTALL | re.MULTILINE,
)


def parse(source: Source) -> ast.File:
    """The tree of a `.net` text. Raises a ParseError that lists every mistake found."""
    if source.text.startswith("\ufeff"):  # a byte-order mark, as some editors write it
        source = Source(source.name, source.text[1:])
    check_size(source)
    _check_brackets(source)
    return _grammar().parse(source)


def check_size(source: Source) -> None:
    """Refuse what is too large or cannot be written as UTF-8."""
    try:
        size = len(source.text.encode())
    except UnicodeEncodeError as e:
        raise ParseError(f"{clean(source.name)} is not UTF-8: {e.reason}") from None
    if size > MAX_BYTES:
        raise ParseError(f"{clean(source.name)} has {size} bytes; at most {MAX_BYTES} are read")


class _Grammar:
    """The parser, built once. It parses one text at a time: its tree builder holds the source."""

    def __init__(self) -> None:
        text = Path(__file__).with_name("grammar.lark").read_text("utf-8")
        self.tree = Tree()
        self.lark = Lark(text, parser="lalr", lexer="basic", transformer=self.tree)
        self.lock = Lock()

    def parse(self, source: Source) -> ast.File:
        with self.lock:
            self.tree.begin(source)
            errors: list[Diagnostic] = []
            file = self._run(source, errors)
            errors = sorted(errors + self.tree.found, key=lambda d: (d.span.line, d.span.column))
        if errors or file is None:
            raise ParseError(errors[:MAX_REPORTED])
        return file

    def _run(self, source: Source, errors: list[Diagnostic]) -> ast.File | None:
        def on_error(e: UnexpectedInput) -> bool:
            errors.append(diagnose(e, source))
            at_end = isinstance(e, UnexpectedToken) and e.token.type == "$END"
            return len(errors) < MAX_REPORTED and not at_end and _recover(e)

        try:
            return cast(ast.File, self.lark.parse(source.text, on_error=on_error))
        except UnexpectedInput:
            return None


@cache
def _grammar() -> _Grammar:
    return _Grammar()


def _check_brackets(source: Source) -> None:
    """Brackets match and nest at most MAX_DEPTH deep; the text is not too long."""
    stack: list[re.Match[str]] = []
    quote: re.Match[str] | None = None  # the first that is not closed
    for count, m in enumerate(_SCAN.finditer(source.text)):
        if count > MAX_TOKENS:
            raise ParseError(f"more than {MAX_TOKENS} words and signs", at(source, m.start()))
        if m["item"] and stack:
            break
        if m[0] in _QUOTES:
            quote = quote or m
        if not (bracket := m["bracket"]):
            continue
        if bracket in "([{":
            stack.append(m)
            if len(stack) > MAX_DEPTH:
                message = f"brackets are nested more than {MAX_DEPTH} deep"
                raise ParseError(message, at(source, m.start()))
        elif not stack:
            raise _unbalanced(source, quote, m, f"`{bracket}` closes nothing")
        elif (opened := stack.pop())[0] != _CLOSES[bracket]:
            line = at(source, opened.start()).line
            message = f"`{bracket}` does not close the `{opened[0]}` of line {line}"
            raise _unbalanced(source, quote, m, message)
    if stack:
        raise _unbalanced(source, quote, stack[-1], f"`{stack[-1][0]}` is not closed")


def _unbalanced(
    source: Source, quote: re.Match[str] | None, bracket: re.Match[str], message: str
) -> ParseError:
    """What is wrong with a bracket, or with the quote that made it one."""
    if quote is None:
        return ParseError(message, at(source, bracket.start()))
    start = quote.start()
    return ParseError(bad_character(source.text[start : start + 3], at(source, start)))


def _recover(e: UnexpectedInput) -> bool:
    """Drop the statement that went wrong and go on with the next one, if there is one."""
    parser = e.interactive_parser
    state, lexer = parser.parser_state, parser.lexer_thread
    depth = 0
    while not _begins_statement(state.parse_conf.parse_table.states[state.position]):
        state.state_stack.pop()
        depth += _opens(state.value_stack.pop())
    skipped = [e.token] if isinstance(e, UnexpectedToken) else []
    for token, first_on_line in _tokens(lexer, skipped, state):
        depth += _opens(token)
        begins = first_on_line and depth <= (token.type in _OPENING)
        closes_body = token.type == "RBRACE" and depth < 0
        if not (closes_body if token.type in _CLOSING else begins):
            continue
        try:
            parser.feed_token(token)
        except UnexpectedToken:
            continue
        return True
    return False


_OPENING = ("LPAR", "LSQB", "LBRACE")
_CLOSING = ("RPAR", "RSQB", "RBRACE")


def _opens(token: Any) -> int:
    """How many brackets a token opens: 1, 0 or −1."""
    kind = token.type if isinstance(token, Token) else ""
    return (kind in _OPENING) - (kind in _CLOSING)


def _begins_statement(actions: dict[str, tuple[Any, Any]]) -> bool:
    action = actions.get("LET")
    return action is not None and str(action[0]) == "Shift"


def _tokens(lexer: Any, first: list[Token], state: Any) -> Iterator[tuple[Token, bool]]:
    """The rest of the tokens, each with whether it is the first on its line."""
    line = first[-1].line if first else lexer.state.line_ctr.line
    yield from ((t, False) for t in first)
    while True:
        try:
            for token in lexer.lex(state):
                yield token, token.line > line
                line = token.line
            return
        except UnexpectedCharacters:
            counter = lexer.state.line_ctr
            counter.feed(lexer.state.text.text[counter.char_pos])
