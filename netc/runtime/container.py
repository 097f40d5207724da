"""The container of `model.bin`: named sections, every byte of the file under a check.

    offset   bytes   what
    0        8       magic
    8        4       version of this format, little-endian like all below
    12       4       zero
    16       8       length H of the header
    24       H       header: canonical JSON, {"meta": {…}, "sections": [{name, offset, length, …}]}
    …                the body, at the next multiple of 64, zeros before it: the sections in order,
                     each at the next multiple of its alignment, zeros between; offsets are the
                     body's
    end-64   32      HMAC-SHA256 of all up to the header's end with the writer's key, or zeros
    end-32   32      SHA-256 of all up to the header's end and of the 32 bytes before

The header holds the digest of each section, so the last 64 bytes stand for the whole file.
Canonical means that the text is exactly what `json.dumps` with sorted keys and no spaces gives:
duplicate keys, other spellings of a number and other orders are refused with one comparison.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from netc.errors import ArtifactError, clean
from netc.runtime import digest
from netc.runtime.atomic import Buffer
from netc.runtime.faults import fault
from netc.runtime.limits import DEFAULT, Limits

MAGIC = b"\x93netc\r\n\x1a"
VERSION = 1
TAG_BYTES = 32
NO_TAG = bytes(TAG_BYTES)
BODY_ALIGN = 64
ALIGNMENTS = frozenset({1, 64})
_PREFIX = struct.Struct("<8sIIQ")
_HEX = re.compile("[0-9a-f]{64}")

Json: TypeAlias = dict[str, Any]
Sign: TypeAlias = Callable[[Buffer], bytes]


@dataclass(frozen=True)
class Section:
    """One section's place in the file and the digest of its bytes."""

    name: str
    offset: int
    length: int
    align: int
    sha256: str

    @property
    def end(self) -> int:
        """The offset after the section's last byte."""
        return self.offset + self.length


@dataclass(frozen=True)
class Payload:
    """A section to be written: its bytes, in pieces."""

    name: str
    pieces: Sequence[Buffer]
    align: int = 1


@dataclass(frozen=True, eq=False)
class Container:
    """A checked file: its header, and views of its sections."""

    meta: Json
    sections: Mapping[str, Section]
    signed: memoryview  # the bytes that the tag is made over
    tag: bytes
    data: memoryview

    def view(self, name: str) -> memoryview:
        """The bytes of a section, not copied."""
        section = self.sections.get(name)
        if section is None:
            raise ArtifactError(f"the file has no section {clean(name)}")
        return self.data[section.offset : section.end]


def canonical(value: object) -> bytes:
    """The one JSON spelling of `value` that a file may hold."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def parse_canonical(data: Buffer, what: str) -> Any:
    """Read JSON that must be spelled canonically."""
    try:
        value = json.loads(bytes(data).decode("utf-8"))
        again = canonical(value)
    except (ValueError, RecursionError, MemoryError) as error:
        raise ArtifactError(f"{what} is not readable: {clean(error)}") from None
    if again != data:
        raise ArtifactError(f"{what} is not in canonical form")
    return value


def align_up(offset: int, align: int) -> int:
    """The next multiple of `align` at or after `offset`."""
    return -(-offset // align) * align


def seal(payloads: Sequence[Payload], meta: Json, sign: Sign | None = None) -> list[Buffer]:
    """The pieces of a file with these sections; `sign` authenticates its header."""
    entries, body, at = [], [], 0
    for payload in payloads:
        start = align_up(at, payload.align)
        size = sum(memoryview(piece).nbytes for piece in payload.pieces)
        sha256 = digest.tree(payload.pieces).hex()
        entries.append(vars(Section(payload.name, start, size, payload.align, sha256)))
        body += [bytes(start - at), *payload.pieces]
        at = start + size
    header = canonical({"meta": meta, "sections": entries})
    signed = _PREFIX.pack(MAGIC, VERSION, 0, len(header)) + header
    tag = sign(signed) if sign else NO_TAG
    gap = bytes(align_up(len(signed), BODY_ALIGN) - len(signed))
    return [signed, gap, *body, tag, digest.plain(signed + tag)]


def unseal(data: memoryview, caps: Mapping[str, int], limits: Limits = DEFAULT) -> Container:
    """Check every byte of a file and give its parts.

    `caps` is the closed set of section names, each with the most bytes it may have.
    """
    header_end = _header_end(data, limits)
    signed, tag = data[:header_end], bytes(data[-2 * TAG_BYTES : -TAG_BYTES])
    if digest.plain(bytes(signed) + tag) != data[-TAG_BYTES:]:
        raise _damaged("the header", 0, "its digest does not match")
    header = parse_canonical(data[_PREFIX.size : header_end], "the header")
    if not isinstance(header, dict) or set(header) != {"meta", "sections"}:
        raise _damaged("the header", _PREFIX.size, "it is not {meta, sections}")
    if not isinstance(header["meta"], dict) or not isinstance(header["sections"], list):
        raise _damaged("the header", _PREFIX.size, "its parts have wrong types")
    sections = _sections(header["sections"], caps, limits)
    _check_places(data, header_end, sections)
    body = align_up(header_end, BODY_ALIGN)
    placed = {s.name: replace(s, offset=body + s.offset) for s in sections}
    for section in placed.values():
        _check_digest(data, section)
    return Container(header["meta"], placed, signed, tag, data)


def _damaged(what: str, offset: int, why: str) -> ArtifactError:
    return ArtifactError(
        f"model.bin is damaged: {what} at offset {offset}: {why}",
        help="make the file again, or fetch an undamaged copy",
    )


def _header_end(data: memoryview, limits: Limits) -> int:
    """Check the fixed part and return the offset after the header."""
    size = len(data)
    if size < len(MAGIC) or data[: len(MAGIC)] != MAGIC:
        raise ArtifactError("this is not a model.bin: it does not begin as one")
    if size < _PREFIX.size + 2 * TAG_BYTES:
        raise _damaged("the file", size, "it ends before its header")
    _, version, zero, length = _PREFIX.unpack_from(data)
    if version != VERSION or zero:
        raise ArtifactError(
            f"model.bin has format {version}.{zero}; this netc reads format {VERSION}.0",
            help="compile the net again with this netc",
        )
    if length > limits.header_bytes or _PREFIX.size + length + 2 * TAG_BYTES > size:
        raise _damaged("the header", _PREFIX.size, f"a length of {length} bytes does not fit")
    return _PREFIX.size + int(length)


def _sections(entries: list[Any], caps: Mapping[str, int], limits: Limits) -> list[Section]:
    if len(entries) > limits.sections:
        raise _damaged("the header", _PREFIX.size, f"it lists {len(entries)} sections")
    return [_section(entry, caps) for entry in entries]


def _section(entry: Any, caps: Mapping[str, int]) -> Section:
    """One entry of the section list, its types and ranges checked."""
    names = {field.name for field in fields(Section)}
    if not isinstance(entry, dict) or set(entry) != names:
        raise _damaged("the section list", _PREFIX.size, f"an entry is not {sorted(names)}")
    numbers = (entry["offset"], entry["length"], entry["align"])
    if not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
        raise _damaged("the section list", _PREFIX.size, "a place is not a number in range")
    name, sha256 = entry["name"], entry["sha256"]
    if not isinstance(name, str) or name not in caps:
        raise _damaged("the section list", _PREFIX.size, f"no section is called {clean(name)!r}")
    if entry["align"] not in ALIGNMENTS:
        raise _damaged(name, entry["offset"], f"alignment {entry['align']}")
    if entry["length"] > caps[name]:
        raise _damaged(name, entry["offset"], f"{entry['length']} bytes are over the limit")
    if not isinstance(sha256, str) or not _HEX.fullmatch(sha256):
        raise _damaged(name, entry["offset"], "its digest is not one")
    return Section(**entry)


def _check_places(data: memoryview, header_end: int, sections: Sequence[Section]) -> None:
    """Sections are in order, disjoint, without gaps, and end where the trailer begins."""
    body, names, at = align_up(header_end, BODY_ALIGN), set(), 0
    _check_zero(data, header_end, body)
    for section in sections:
        start = align_up(at, section.align)
        if section.name in names:
            raise _damaged(section.name, body + section.offset, "it is there twice")
        if section.offset != start:
            raise _damaged(section.name, body + section.offset, f"it belongs at {body + start}")
        names.add(section.name)
        if body + section.end > len(data) - 2 * TAG_BYTES:
            raise _damaged(section.name, body + section.offset, "the file ends within it")
        _check_zero(data, body + at, body + start)
        at = section.end
    if body + at != len(data) - 2 * TAG_BYTES:
        raise _damaged("the file", body + at, f"it has {len(data)} bytes, not {body + at + 64}")


def _check_zero(data: memoryview, start: int, end: int) -> None:
    if any(data[start:end]):
        raise _damaged("the space between sections", start, "it is not zero")


def _check_digest(data: memoryview, section: Section) -> None:
    fault("artifact.hash")
    if digest.tree([data[section.offset : section.end]]).hex() != section.sha256:
        raise _damaged(section.name, section.offset, "its digest does not match")
