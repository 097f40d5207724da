"""What a file's JSON holds, each value checked. Nothing is evaluated, no text compiled."""

from __future__ import annotations

from typing import Any

from netc.errors import ArtifactError, clean


def wrong(value: Any, wanted: str) -> ArtifactError:
    """The error for a part of a file that is something else."""
    return ArtifactError(f"the plan holds {clean(repr(value)[:40])} where {wanted} belongs")


def listed(value: Any, count: int | None = None) -> list[Any]:
    """A list, of this length where one is given."""
    if type(value) is not list or count not in (None, len(value)):
        raise wrong(value, "a list" if count is None else f"a list of {count}")
    return value


def whole(value: Any) -> int:
    """A whole number that fits in 64 bits."""
    if type(value) is not int or not -(1 << 63) <= value < 1 << 63:
        raise wrong(value, "a whole number of 64 bits")
    return value


def below(value: Any, count: int) -> int:
    """A place in a list of this length."""
    if type(value) is not int or not 0 <= value < count:
        raise wrong(value, f"a number below {count}")
    return value


def text(value: Any) -> str:
    """A text."""
    if type(value) is not str:
        raise wrong(value, "a text")
    return value
