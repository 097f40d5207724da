"""Scalars of protobuf text format: numbers, enumerators, truth values, escaped strings."""

from __future__ import annotations

import math
import re
from typing import Any

from netc.frontend.caffe.schema import Field

_INT_LIMIT = 1 << 63
_INFINITE = (2 - 2**-24) * 2.0**127  # the least number that rounds to a float of ∞
_ZERO = 2.0**-150  # the largest that rounds to one of 0
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|[xX]([0-9A-Fa-f]{1,2})|(.))", re.DOTALL)
_LETTERS = dict(zip(b"abfnrtv\\'\"?", b"\a\b\f\n\r\t\v\\'\"?", strict=True))
_TRUTH = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_SPECIAL = {"inf": float("inf"), "infinity": float("inf"), "nan": float("nan")}


class BadValue(ValueError):
    """A scalar that its field does not take."""


def read_number(text: str, field: Field) -> Any:
    """A number for a field of any numeric kind; an enumerator or truth value by number."""
    kind = field.kind
    if kind == "float":
        return _within_float(_real(text))
    if kind == "double":
        return _real(text)
    if kind == "any":
        return text
    if kind == "string" or kind == "bytes" or kind == "message":
        raise BadValue
    value = _whole(text)
    if kind == "bool":
        if value not in (0, 1):
            raise BadValue
        return value == 1
    if field.values is not None:
        return enumerator(value, field)
    if not (0 if kind == "uint" else -_INT_LIMIT) <= value < _INT_LIMIT:
        raise BadValue
    return value


def enumerator(value: int, field: Field) -> str:
    """The name of an enumeration's value."""
    for name, number in (field.values or {}).items():
        if number == value:
            return name
    if field.keeps_unknown:
        return str(value)
    raise BadValue


def read_name(text: str, field: Field) -> Any:
    """A bare word: an enumerator, true or false, inf or nan."""
    if field.values is not None:
        if text in field.values or field.keeps_unknown:
            return text
    elif field.kind == "bool" and text in _TRUTH:
        return _TRUTH[text]
    elif field.kind in ("float", "double") and text.lower() in _SPECIAL:
        return _SPECIAL[text.lower()]
    elif field.kind == "any":
        return text
    raise BadValue


def _whole(text: str) -> int:
    sign, digits = (-1, text[1:].strip()) if text[0] == "-" else (1, text)
    if len(digits) > 24:
        raise BadValue
    try:
        if digits[0] == "0" and len(digits) > 1:
            return sign * int(digits, 16 if digits[1] in "xX" else 8)
        return sign * int(digits)
    except ValueError:
        raise BadValue from None


def _real(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    sign, digits = (-1, text[1:].strip()) if text[0] == "-" else (1, text)
    if digits[:2] in ("0x", "0X"):
        return float(_whole(text))
    return sign * float(digits.rstrip("fF"))


def _within_float(value: float) -> float:
    """What is beyond the range of a float becomes ∞ or 0, as in protobuf; digits are kept."""
    if abs(value) >= _INFINITE:
        return math.copysign(math.inf, value)
    return math.copysign(0.0, value) if abs(value) <= _ZERO else value


def unescape(text: str) -> bytes:
    """The bytes of a quoted string, without its quotes."""
    raw = text.encode("utf-8", "surrogatepass")
    return _ESCAPE.sub(_escaped, raw) if b"\\" in raw else raw


def _escaped(found: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = found.groups()
    if octal:
        return bytes([int(octal, 8) & 255])
    if hexadecimal:
        return bytes([int(hexadecimal, 16)])
    code = letter[0]
    return bytes([_LETTERS.get(code, code)])
