"""A reader of protobuf text format, driven by the schema, in time linear in the file.

Every field keeps its place. What protobuf's own reader accepts is accepted: single quotes,
adjacent strings, `field: {`, `<…>`, `[a, b]`, `;` and `,` between fields, comments, `1.`, `1f`,
enumerators as numbers. A byte order mark and CR LF are no trouble. Unknown fields are kept
and warned about, each name once.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from netc.errors import Diagnostic, ParseError, Span, clean
from netc.frontend.caffe.message import Document, Message
from netc.frontend.caffe.scalars import BadValue, read_name, read_number, unescape
from netc.frontend.caffe.schema import Field, MessageType, message_type

MAX_BYTES = 4 << 20  # bytes; the largest public prototxt is under 1 MiB
MAX_DEPTH = 64  # messages within messages
MAX_FIELDS = 1 << 17  # values of any kind; ResNet-1001 has 40,000

_TOKEN = re.compile(
    r"""(?:[\s\0]|\#[^\n]*)*+(?:
    (?P<name>[A-Za-z_][\w.\-/]*+)
  | (?P<number>-?\s*+(?:
        0[xX][0-9A-Fa-f]++ | (?:\d++\.?\d*+|\.\d++) (?:[eE][+-]?\d++)?+ [fF]?+
    )(?![\w.]))
  | (?P<mark>[][{}<>:;,])
  | (?P<string>"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+')
  | (?P<end>\Z)
  | (?P<minus>-(?=\s*[A-Za-z]))
  | (?P<wrong>[^\s{}<>\[\]:;,]++)
  )""",
    re.VERBOSE,
)
_SOLVER_NET = re.compile(r"\b(?:train_|test_)?net_param\s*:?\s*[{<]")
_SOLVER = re.compile(r"^\s*(base_lr|lr_policy|max_iter|net|train_net|test_net)\s*:", re.MULTILINE)
_LAYER = re.compile(r"^\s*layers?\s*:?\s*[{<]", re.MULTILINE)
_UNSAID = re.compile(r"""\#[^\n]*|"(?:[^"\\\n]|\\.)*+"?|'(?:[^'\\\n]|\\.)*+'?""")
_CLOSER = {"{": "}", "<": ">"}
_UNKNOWN = Field("", None, "any", True, None)


def read_text(text: str, name: str = "<prototxt>") -> Message:
    """The NetParameter in `text`, or the SolverParameter when it is a solver's file."""
    _limit(len(text), name)
    said = _UNSAID.sub("", text) if "net_param" in text else text  # no comments, no strings
    solver = _SOLVER_NET.search(said) or (_SOLVER.search(text) and not _LAYER.search(text))
    return parse_message(text, "SolverParameter" if solver else "NetParameter", name)


def parse_message(text: str, type_name: str, name: str = "<prototxt>") -> Message:
    """The message of type `type_name` written in `text`; warnings are on its document."""
    _limit(len(text), name)
    document = Document(name, text.removeprefix("\ufeff"))
    return _Reader(document).read(message_type(type_name))


def _limit(size: int, name: str) -> None:
    if size > MAX_BYTES:
        raise ParseError(
            f"the file has {size:,} characters; netc reads a prototxt of up to {MAX_BYTES:,}",
            Span(name),
            "weights belong in a .caffemodel, not in the prototxt",
        )


class _Reader:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.tokens = _TOKEN.finditer(document.text)
        self.budget = MAX_FIELDS
        self.unknown: dict[tuple[str, str], list[int]] = {}  # (message, field) -> places
        self.advance()

    def advance(self) -> None:
        found = next(self.tokens)
        self.kind, self.at = found.lastgroup, found.start(found.lastgroup or 0)
        self.text: str = found[found.lastindex or 0]

    def fail(self, message: str, at: int | None = None, help: str = "") -> ParseError:
        place = self.document.span(self.at if at is None else at)
        return ParseError(message, place, help)

    def read(self, type: MessageType) -> Message:
        root = Message(type, self.document, 0)
        self.body(root, "", 1)
        self.document.warnings += [self.warning(*item) for item in self.unknown.items()]
        return root

    def body(self, message: Message, closer: str, depth: int) -> None:
        """Fields up to `closer`, or up to the end of the text."""
        fields = message.fields
        while self.kind == "name":
            name, at = self.text, self.at
            field = self.field_of(message, name)
            self.advance()
            entries = fields.setdefault(name, [])
            self.value(field, name, at, entries, depth)
            if len(entries) > 1 and not field.repeated:
                first = self.document.span(entries[0][1]).line
                raise self.fail(f"{clean(name)} is given twice; first on line {first}", at)
            if self.kind == "mark" and self.text in ";,":
                self.advance()
        if self.kind != ("mark" if closer else "end") or (closer and self.text != closer):
            raise self.misplaced(message, closer)
        if closer:
            self.advance()

    def field_of(self, message: Message, name: str) -> Field:
        if message.type is None:
            return _UNKNOWN
        field = message.type.fields.get(name)
        if field is None:
            self.unknown.setdefault((message.type.name, name), []).append(self.at)
            return _UNKNOWN
        return field

    def value(
        self, field: Field, name: str, at: int, entries: list[tuple[Any, int]], depth: int
    ) -> None:
        """What follows a field's name: `: scalar`, `{ message }`, `: { message }`, `: [list]`."""
        colon = self.kind == "mark" and self.text == ":"
        if colon:
            self.advance()
        if self.kind == "mark" and self.text == "[" and colon:
            self.items(field, name, entries, depth)
        elif self.kind == "mark" and self.text in _CLOSER:
            entries.append((self.message(field, name, at, depth), at))
        elif colon:
            entries.append((self.scalar(field, name), at))
        else:
            what = "{" if field.kind == "message" else ":"
            raise self.fail(f"expected {what} after {clean(name)}, found {self.shown()}")

    def items(self, field: Field, name: str, entries: list[tuple[Any, int]], depth: int) -> None:
        """`[a, b, …]`, of scalars or messages."""
        if not field.repeated:
            raise self.fail(f"{clean(name)} takes one value, not a list")
        self.advance()
        while not (self.kind == "mark" and self.text == "]"):
            at = self.at
            is_message = self.kind == "mark" and self.text in _CLOSER
            value = self.message(field, name, at, depth) if is_message else self.scalar(field, name)
            entries.append((value, at))
            if self.kind == "mark" and self.text == ",":
                self.advance()
            elif not (self.kind == "mark" and self.text == "]"):
                raise self.fail(f"expected , or ] in the list, found {self.shown()}")
        self.advance()

    def message(self, field: Field, name: str, at: int, depth: int) -> Message:
        if field.kind not in ("message", "any"):
            raise self.fail(f"{clean(name)} takes {field.wanted()}, not a message")
        if depth >= MAX_DEPTH:
            raise self.fail(f"messages are nested more than {MAX_DEPTH} deep")
        self.spend()
        inner = Message(message_type(field.message) if field.message else None, self.document, at)
        closer = _CLOSER[self.text]
        self.advance()
        self.body(inner, closer, depth + 1)
        return inner

    def scalar(self, field: Field, name: str) -> Any:
        self.spend()
        kind, text = self.kind, self.text
        try:
            if kind == "number":
                value = read_number(text, field)
            elif kind == "string":
                return self.string(field, name)
            elif kind == "minus":
                self.advance()
                value = -read_name(self.text, field) if self.kind == "name" else None
            elif kind == "name":
                value = read_name(text, field)
            else:
                raise BadValue
        except (BadValue, TypeError):
            raise self.bad_value(field, name) from None
        self.advance()
        return value

    def string(self, field: Field, name: str) -> str | bytes:
        """One string, or several side by side, which are one."""
        if field.kind not in ("string", "bytes", "any"):
            raise self.bad_value(field, name)
        parts = []
        while self.kind == "string":
            parts.append(unescape(self.text[1:-1]))
            self.advance()
        joined = b"".join(parts)
        return joined if field.kind == "bytes" else joined.decode("utf-8", "replace")

    def spend(self) -> None:
        self.budget -= 1
        if self.budget < 0:
            raise self.fail(f"the file has more than {MAX_FIELDS:,} fields")

    def shown(self) -> str:
        return "the end of the file" if self.kind == "end" else clean(self.text)

    def bad_value(self, field: Field, name: str) -> ParseError:
        help = ""
        if self.kind == "wrong" and self.text[0] in "\"'":
            return self.fail("this string does not end on its line")
        if field.kind == "string" and self.kind == "name":
            help = f'quote it: "{clean(self.text)}"'
        elif field.values and self.kind in ("name", "string"):
            help = field.near(self.text.strip("\"'"))
        return self.fail(f"{clean(name)} takes {field.wanted()}, not {self.shown()}", help=help)

    def misplaced(self, message: Message, closer: str) -> ParseError:
        if self.kind == "end":
            opened = message.span().line
            what = f"the file ends inside the message opened on line {opened}"
            return self.fail(what, help=f"add the missing {closer}")
        if self.kind == "mark" and self.text in "}>]":
            return self.fail(f"{self.text} closes nothing that is open here")
        return self.fail(f"expected the name of a field, found {self.shown()}")

    def warning(self, key: tuple[str, str], places: list[int]) -> Diagnostic:
        message, name = key
        times = f" (here and {len(places) - 1} more times)" if len(places) > 1 else ""
        close = get_close_matches(name, message_type(message).fields, 1, 0.75)
        help = f"did you mean {close[0]}?" if close else ""
        text = f"{message} has no field {clean(name)}; ignored{times}"
        return Diagnostic(text, self.document.span(places[0]), help, "warning")
