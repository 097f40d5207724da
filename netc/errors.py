"""Sources, spans, and the tree of errors a user can cause.

Every mistake a user can make ends in a `NetcError`. Where the mistake is in a text, the error
is a list of diagnostics, each with its place, and prints as

    file:line:column: error: what is wrong
      the source line
      ^
      help: what would fit
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_SHOWN = 200  # characters of a name or a source line that an error repeats


def clean(text: object) -> str:
    """A name as an error may show it: printable, on one line, short.

    Control characters, terminal escapes and bidirectional marks are escaped.
    """
    out = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text)[:_SHOWN])
    return out + "…" if len(str(text)) > _SHOWN else out


@dataclass(frozen=True, eq=False)
class Source:
    """A text and the name a user knows it by."""

    name: str
    text: str = field(repr=False)

    def line(self, number: int) -> str:
        """Line `number` (from 1), or an empty string where there is none."""
        lines = self.text.split("\n") if number >= 1 else []
        return lines[number - 1].rstrip("\r") if number <= len(lines) else ""


@dataclass(frozen=True)
class Span:
    """A place in a source; line and column count from 1, line 0 means "no particular place"."""

    file: str = ""
    line: int = 0
    column: int = 0
    source: Source | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        name = clean(self.file) or "<unknown>"
        return f"{name}:{self.line}:{self.column}" if self.line else name


NOWHERE = Span()


@dataclass(frozen=True)
class Diagnostic:
    """One thing wrong, where it is, and what would fit. Without a severity none is said."""

    message: str
    span: Span = NOWHERE
    help: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        where = f"{self.span}: " if self.span != NOWHERE else ""
        severity = f"{self.severity}: " if self.severity else ""
        out = [f"{where}{severity}{self.message}"]
        line = self.span.source.line(self.span.line) if self.span.source else ""
        if line.strip():
            start = max(0, self.span.column - 1 - _SHOWN // 2)
            shown = clean(line[start : start + _SHOWN].replace("\t", " "))
            out += [f"  {shown}", "  " + " " * (self.span.column - 1 - start) + "^"]
        if self.help:
            out.append(f"  help: {self.help}")
        return "\n".join(out)


class NetcError(Exception):
    """Any error a user can cause. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(
        self,
        message: str | Diagnostic | Sequence[Diagnostic],
        span: Span = NOWHERE,
        help: str = "",
    ) -> None:
        if isinstance(message, str):
            message = Diagnostic(message, span, help)
        self.diagnostics: tuple[Diagnostic, ...] = (
            (message,) if isinstance(message, Diagnostic) else tuple(message)
        )
        super().__init__("\n".join(map(str, self.diagnostics)))

    @property
    def span(self) -> Span:
        """Where the first diagnostic is."""
        return self.diagnostics[0].span


class UsageError(NetcError):
    """A command or a call that asks for something that does not exist."""

    exit_code = 2


class ParseError(NetcError):
    """A text that is not in its language: `.net`, IR text or prototxt."""

    exit_code = 3


class GraphError(NetcError, ValueError):
    """A net whose shapes, types, names or attributes do not fit together."""

    exit_code = 4


class UnsupportedError(NetcError):
    """A net that is right but asks for what netc does not do."""

    exit_code = 5


class WeightsError(NetcError):
    """A weights file that is damaged or does not fit the net."""

    exit_code = 6


class InputError(NetcError, ValueError, TypeError):
    """An array given to a run that does not fit the net's input."""

    exit_code = 7


class ArtifactError(NetcError):
    """A `model.bin` that is damaged, forged, foreign or of another version."""

    exit_code = 8


class UnsupportedCPU(ArtifactError):
    """A `model.bin` whose code this processor cannot run."""


class ResourceError(NetcError, MemoryError):
    """More memory, time or nesting than the limits allow."""

    exit_code = 9


class VerifyError(NetcError):
    """A graph or plan that breaks an invariant: a bug in netc, not in the net."""

    exit_code = 70
