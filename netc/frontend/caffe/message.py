"""A protobuf message as read: typed access to fields, and where each one stood."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

from netc.errors import Diagnostic, Source, Span
from netc.frontend.caffe.schema import MessageType, message_type

Entry = tuple[Any, int]  # a value, and the offset in the text of the field that gave it


@dataclass(eq=False)
class Document:
    """The file a message came from. A binary file has a name and no text."""

    name: str
    text: str = ""
    warnings: list[Diagnostic] = field(default_factory=list)

    @cached_property
    def source(self) -> Source:
        """The text, for errors that show a line of it."""
        return Source(self.name, self.text)

    @cached_property
    def _starts(self) -> list[int]:
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def span(self, at: int) -> Span:
        """Line and column of offset `at`; no particular place when it is negative."""
        if at < 0 or not self.text:
            return Span(self.name)
        line = bisect_right(self._starts, at)
        return Span(self.name, line, at - self._starts[line - 1] + 1, self.source)


class Message:
    """Fields by name, each a list of (value, place). `type` is None for an unknown message."""

    __slots__ = ("at", "document", "fields", "type")

    def __init__(self, type: MessageType | None, document: Document, at: int = -1) -> None:
        self.type, self.document, self.at = type, document, at
        self.fields: dict[str, list[Entry]] = {}

    def __repr__(self) -> str:
        return f"Message({self.type.name if self.type else '?'}, {', '.join(self.fields)})"

    def __contains__(self, name: str) -> bool:
        return name in self.fields

    def get(self, name: str) -> Any:
        """The field's value, or its default."""
        entries = self.fields.get(name)
        if entries:
            return entries[-1][0]
        return self.type.fields[name].default if self.type else None

    def all(self, name: str) -> list[Any]:
        """Every value of a repeated field."""
        return [value for value, _ in self.fields.get(name, ())]

    def whole(self, name: str) -> int:
        """A whole number."""
        return cast(int, self.get(name))

    def real(self, name: str) -> float:
        """A number."""
        return float(self.get(name))

    def flag(self, name: str) -> bool:
        """A truth value."""
        return bool(self.get(name))

    def text(self, name: str) -> str:
        """A string, or an enumerator's name."""
        return cast(str, self.get(name))

    def sub(self, name: str) -> Message:
        """The message in field `name`, or an empty one whose fields have their defaults."""
        found = self.get(name)
        if isinstance(found, Message):
            return found
        assert self.type, "only a known message has sub-messages"
        return Message(message_type(self.type.fields[name].message), self.document, self.at)

    def messages(self, name: str) -> list[Message]:
        """Every message of a repeated field."""
        return self.all(name)

    def entries(self) -> Iterator[tuple[str, Any, int]]:
        """(name, value, place) of every field."""
        for name, found in self.fields.items():
            for value, at in found:
                yield name, value, at

    def add(self, name: str, value: Any, at: int = -1) -> None:
        """Append a value to field `name`."""
        self.fields.setdefault(name, []).append((value, at))

    def put(self, name: str, value: Any, at: int = -1) -> None:
        """Make `value` the only value of field `name`."""
        self.fields[name] = [(value, at)]

    def copy(self) -> Message:
        """The same fields in a new message; sub-messages are shared."""
        other = Message(self.type, self.document, self.at)
        other.fields = {name: list(found) for name, found in self.fields.items()}
        return other

    def span(self, name: str | None = None, index: int = 0) -> Span:
        """Where the message stands, or its field `name`."""
        found = self.fields.get(name) if name else None
        if found and found[min(index, len(found) - 1)][1] >= 0:
            return self.document.span(found[min(index, len(found) - 1)][1])
        return self.document.span(self.at)
