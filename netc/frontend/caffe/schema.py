"""The messages of Caffe's files: each field's name, binary number, kind and default.

`NOTATION` holds one line of text per message: fields separated by `;`, each
`name number kind = default`. A field without a number is read in text only (forks gave such
fields conflicting numbers). Kinds are `int uint float double bool string bytes`, the name of a
message, an enumeration `<A B=5>` (`<A B>?` when unknown names are kept as they are), and `any`,
which accepts every scalar and is ignored. A trailing `*` marks a repeated field.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache

from netc.frontend.caffe.schema_layers import LAYERS
from netc.frontend.caffe.schema_net import NET

NOTATION: Mapping[str, str] = {**NET, **LAYERS}
SCALARS = frozenset({"int", "uint", "float", "double", "bool", "string", "bytes", "any"})

_WANTED = {
    "int": "a whole number",
    "uint": "a whole number from 0",
    "float": "a number",
    "double": "a number",
    "bool": "true or false",
    "string": "a quoted string",
    "bytes": "a quoted string",
    "message": "a message in { }",
    "any": "a value",
}
_FIELD = re.compile(
    r"(?P<name>\w+)\s*(?P<number>\d+)?\s+(?P<kind><[^>]*>\??|\w+)(?P<many>\*)?(?:\s*=\s*(?P<d>.*))?"
)


@dataclass(frozen=True)
class Field:
    """One field of a message. `kind` is a scalar's name, "enum", or "message"."""

    name: str
    number: int | None
    kind: str
    repeated: bool
    default: object
    values: Mapping[str, int] | None = None  # of an enumeration
    is_open: bool = False  # unknown enumerators are kept
    message: str = ""  # the type's name, of a message
    of_layer: bool = False  # unknown enumerators are kept, for the layer to refuse

    @property
    def keeps_unknown(self) -> bool:
        """Whether a name that is no enumerator is kept as it is."""
        return self.is_open or self.of_layer

    def wanted(self) -> str:
        """What the field takes, in words."""
        if self.values is not None:
            *most, last = self.values
            return f"{', '.join(most)} or {last}" if most else last
        return _WANTED[self.kind]

    def near(self, name: str) -> str:
        """Help for a name that is no enumerator."""
        close = get_close_matches(name.upper(), self.values or (), 1)
        return f"did you mean {close[0]}?" if close else ""


@dataclass(frozen=True, eq=False)
class MessageType:
    """A message: its fields by name and by binary number."""

    name: str
    fields: Mapping[str, Field]
    numbers: Mapping[int, Field]

    def __repr__(self) -> str:
        return f"MessageType({self.name})"


@cache
def message_type(name: str) -> MessageType:
    """The type called `name`, a key of `NOTATION`."""
    fields = [_field(text, name in LAYERS) for text in NOTATION[name].split(";") if text.strip()]
    return MessageType(
        name,
        {f.name: f for f in fields},
        {f.number: f for f in fields if f.number is not None},
    )


def _field(text: str, of_layer: bool) -> Field:
    found = _FIELD.fullmatch(text.strip())
    assert found, f"not a field: {text!r}"
    number = int(found["number"]) if found["number"] else None
    kind, values, message = found["kind"], None, ""
    if kind.startswith("<"):
        values, kind = _enumeration(kind), "enum"
    elif kind not in SCALARS:
        kind, message = "message", kind
    default = _default(kind, found["d"], values)
    is_open = found["kind"].endswith("?")
    many = bool(found["many"])
    return Field(found["name"], number, kind, many, default, values, is_open, message, of_layer)


def _enumeration(text: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for name in text.rstrip("?")[1:-1].split():
        name, _, number = name.partition("=")
        values[name] = int(number) if number else len(values)
    return values


_ZERO: Mapping[str, object] = {
    "int": 0,
    "uint": 0,
    "float": 0.0,
    "double": 0.0,
    "bool": False,
    "string": "",
    "bytes": b"",
    "any": None,
    "message": None,
}


def _default(kind: str, text: str | None, values: Mapping[str, int] | None) -> object:
    """Protobuf's default: what is written, or zero, or an enumeration's first name."""
    if values is not None:
        return text if text else next(iter(values))
    if text is None:
        return _ZERO[kind]
    if kind == "bool":
        return text == "true"
    if kind == "string":
        return text.strip('"')
    return int(text) if kind in ("int", "uint") else float(text)
