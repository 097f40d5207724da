"""Every byte of the container is checked, and every malformed container is refused cleanly."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from netc.errors import ArtifactError
from netc.runtime import digest
from netc.runtime.container import (
    MAGIC,
    NO_TAG,
    Container,
    Payload,
    canonical,
    parse_canonical,
    seal,
    unseal,
)

CAPS = {"ir": 1000, "plan": 1000, "weights": 1 << 48}
META = {"netc": "1", "abi": 1}


def small() -> bytes:
    payloads = [
        Payload("ir", [b"graph"]),
        Payload("plan", [b"{", b"}"]),
        Payload("weights", [bytes(range(70))], align=64),
    ]
    return b"".join(seal(payloads, META, lambda signed: b"\7" * 32))


def opened(data: bytes) -> Container:
    return unseal(memoryview(data), CAPS)


def test_round_trip() -> None:
    file = opened(small())
    assert file.meta == META
    assert {name: bytes(file.view(name)) for name in file.sections} == {
        "ir": b"graph",
        "plan": b"{}",
        "weights": bytes(range(70)),
    }
    assert file.sections["weights"].offset % 64 == 0
    assert file.tag == b"\7" * 32
    assert small() == small()


def test_an_absent_section() -> None:
    with pytest.raises(ArtifactError, match="no section"):
        opened(small()).view("code")


def test_every_truncation() -> None:
    data = small()
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            opened(data[:length])


def test_every_bit_flip() -> None:
    data = bytearray(small())
    for i in range(len(data)):
        for bit in range(8):
            data[i] ^= 1 << bit
            with pytest.raises(ArtifactError, match=r"offset \d+|format|not a model\.bin"):
                opened(bytes(data))
            data[i] ^= 1 << bit
    opened(bytes(data))


def test_a_damaged_section_is_named() -> None:
    data = bytearray(small())
    at = data.index(bytes(range(70)))
    data[at + 3] ^= 1
    with pytest.raises(ArtifactError, match=rf"weights at offset {at}: its digest does not match"):
        opened(bytes(data))


# ------------------------------------------- crafted files, each with digests that are right


def resealed(
    header: bytes, body: bytes, version: int = 1, zero: int = 0, gap: bytes = b""
) -> bytes:
    """A file with this header and body and a right digest at its end."""
    signed = struct.pack("<8sIIQ", MAGIC, version, zero, len(header)) + header
    gap = gap or bytes(-len(signed) % 64)
    return signed + gap + body + NO_TAG + digest.plain(signed + NO_TAG)


def entry(name: str, offset: object, length: object, align: object = 1, **more: object) -> Any:
    size = length if isinstance(length, int) and 0 <= length < 1000 else 0
    sha256 = digest.tree([b"x" * size]).hex()
    return {
        "name": name,
        "offset": offset,
        "length": length,
        "align": align,
        "sha256": sha256,
    } | more


def listing(*entries: object, meta: object = META, body: int = 20, **more: object) -> bytes:
    return resealed(canonical({"meta": meta, "sections": list(entries), **more}), b"x" * body)


GOOD = (entry("ir", 0, 10), entry("plan", 10, 10))


def text(header: str, body: bytes = b"") -> bytes:
    return resealed(header.encode("utf-8", "surrogatepass"), body)


def spelled(old: str, new: str) -> bytes:
    """The good listing with part of its text spelled another way."""
    header = canonical({"meta": META, "sections": list(GOOD)}).decode()
    assert old in header
    return text(header.replace(old, new, 1), b"x" * 20)


def without(name: str) -> Any:
    return {k: v for k, v in GOOD[0].items() if k != name}


CRAFTED: dict[str, Callable[[], bytes]] = {
    "overlap": lambda: listing(entry("ir", 0, 12), entry("plan", 10, 10)),
    "the same place twice": lambda: listing(entry("ir", 0, 20), entry("plan", 0, 20)),
    "gap": lambda: listing(entry("ir", 0, 9), entry("plan", 10, 10)),
    "gap at the start": lambda: listing(entry("ir", 1, 9), entry("plan", 10, 10)),
    "gap at the end": lambda: listing(entry("ir", 0, 10), entry("plan", 10, 9)),
    "wrong order": lambda: listing(entry("plan", 10, 10), entry("ir", 0, 10)),
    "name twice": lambda: listing(entry("ir", 0, 10), entry("ir", 10, 10)),
    "empty section reused": lambda: listing(entry("ir", 0, 0), entry("ir", 0, 20)),
    "unknown name": lambda: listing(entry("evil", 0, 20)),
    "name with an escape": lambda: listing(entry("\x1b[31mir", 0, 20)),
    "name that is not text": lambda: listing(entry(7, 0, 20)),  # type: ignore[arg-type]
    "name with nul": lambda: listing(entry("ir\0", 0, 20)),
    "offset 2^63": lambda: listing(entry("ir", 1 << 63, 20)),
    "offset 2^64": lambda: listing(entry("ir", 1 << 64, 20)),
    "offset -1": lambda: listing(entry("ir", -1, 21)),
    "offset wraps": lambda: listing(entry("ir", (1 << 63) - 10, 30)),
    "length 2^63": lambda: listing(entry("weights", 0, 1 << 63)),
    "length 2^47": lambda: listing(entry("weights", 0, 1 << 47)),
    "length past the end": lambda: listing(entry("weights", 0, 21)),
    "length into the trailer": lambda: listing(entry("weights", 0, 84)),
    "length -1": lambda: listing(entry("ir", 0, -1)),
    "length over its cap": lambda: listing(entry("ir", 0, 1001), body=1001),
    "offset a float": lambda: listing(entry("ir", 0.0, 20)),
    "length a float": lambda: listing(entry("ir", 0, 20.0)),
    "offset true": lambda: listing(entry("ir", False, 20)),
    "length text": lambda: listing(entry("ir", 0, "20")),
    "offset null": lambda: listing(entry("ir", None, 20)),
    "offset a list": lambda: listing(entry("ir", [0], 20)),
    "align 0": lambda: listing(entry("ir", 0, 20, 0)),
    "align 3": lambda: listing(entry("ir", 0, 20, 3)),
    "align -64": lambda: listing(entry("ir", 0, 20, -64)),
    "align 2^62": lambda: listing(entry("ir", 0, 20, 1 << 62)),
    "misaligned": lambda: listing(entry("ir", 0, 10), entry("plan", 10, 10, 64)),
    "padding not zero": lambda: listing(entry("ir", 0, 10), entry("plan", 64, 10, 64), body=74),
    "digest of other bytes": lambda: listing(entry("ir", 0, 20, sha256="0" * 64)),
    "digest in capitals": lambda: listing(entry("ir", 0, 20, sha256="A" * 64)),
    "digest short": lambda: listing(entry("ir", 0, 20, sha256="00")),
    "digest with a line end": lambda: listing(entry("ir", 0, 20, sha256="0" * 64 + "\n")),
    "digest null": lambda: listing(entry("ir", 0, 20, sha256=None)),
    "entry with more": lambda: listing(entry("ir", 0, 20, trust=True)),
    "entry without offset": lambda: listing(without("offset"), GOOD[1]),
    "entry without digest": lambda: listing(without("sha256"), GOOD[1]),
    "entry a list": lambda: listing(["ir", 0, 20]),
    "entry null": lambda: listing(None),
    "sections a mapping": lambda: resealed(canonical({"meta": {}, "sections": {}}), b""),
    "sections null": lambda: resealed(canonical({"meta": {}, "sections": None}), b""),
    "meta a list": lambda: listing(*GOOD, meta=[]),
    "no meta": lambda: resealed(canonical({"sections": list(GOOD)}), b"x" * 20),
    "no sections": lambda: resealed(canonical({"meta": META}), b""),
    "more in the header": lambda: listing(*GOOD, verify=False),
    "header a list": lambda: text("[]"),
    "header a number": lambda: text("1"),
    "header empty": lambda: text(""),
    "header not JSON": lambda: text("{"),
    "header two values": lambda: text("{}{}"),
    "header not UTF-8": lambda: resealed(b'{"meta":{},"sections":["\xff"]}', b""),
    "header with a lone surrogate": lambda: text('{"meta":{"a":"\\ud800"},"sections":[]}'),
    "header deep": lambda: text("[" * 100_000 + "]" * 100_000),
    "header deep in meta": lambda: text('{"meta":' + '{"a":' * 50_000 + "1" + "}" * 50_001),
    "key twice": lambda: spelled('"align":1,', '"align":1,"align":1,'),
    "key twice, last wins": lambda: spelled('"meta":', '"meta":{"abi":2},"meta":'),
    "keys in another order": lambda: spelled('"align":1,"length":10', '"length":10,"align":1'),
    "spaces": lambda: spelled(",", ", "),
    "line end after the header": lambda: spelled("]}", "]}\n"),
    "number spelled 10.0": lambda: spelled("10", "10.0"),
    "number spelled 1e1": lambda: spelled("10", "1e1"),
    "number spelled -0": lambda: spelled('"offset":0', '"offset":-0'),
    "number of 10^5 digits": lambda: spelled("10", "1" * 100_000),
    "NaN": lambda: spelled("10", "NaN"),
    "Infinity": lambda: spelled("10", "Infinity"),
    "an escape where none is due": lambda: spelled('"ir"', '"\\u0069r"'),
    "a mark before the header": lambda: text("\ufeff{}"),
    "trailing byte": lambda: listing(*GOOD, body=21),
    "body missing": lambda: listing(*GOOD, body=0),
    "10^6 empty sections": lambda: listing(*[{}] * 300_000),
    "65 empty sections": lambda: listing(*[entry("ir", 0, 0)] * 65, body=0),
    "format 2": lambda: resealed(canonical({"meta": META, "sections": []}), b"", version=2),
    "format 0": lambda: resealed(canonical({"meta": META, "sections": []}), b"", version=0),
    "format 2^32-1": lambda: resealed(canonical({}), b"", version=(1 << 32) - 1),
    "reserved not zero": lambda: resealed(canonical({"meta": {}, "sections": []}), b"", zero=1),
    "gap after the header not zero": lambda: resealed(
        canonical({"meta": {}, "sections": []}), b"", gap=b"\1" * 11
    ),
    "header length 0": lambda: struct.pack("<8sIIQ", MAGIC, 1, 0, 0) + bytes(64),
    "header length past the end": lambda: struct.pack("<8sIIQ", MAGIC, 1, 0, 65) + bytes(128),
    "header length 2^64-1": lambda: struct.pack("<8sIIQ", MAGIC, 1, 0, (1 << 64) - 1) + bytes(128),
    "header over the cap": lambda: text(json.dumps("x" * (1 << 20))),
    "another magic": lambda: b"\x89PNG\r\n\x1a\n" + bytes(200),
    "text": lambda: b"net lenet { }",
    "a hundred megabytes of nothing": lambda: bytes(100 << 20),
    "magic alone": lambda: MAGIC,
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("make", CRAFTED.values(), ids=CRAFTED.keys())
def test_crafted(make: Callable[[], bytes]) -> None:
    data = make()
    start = time.perf_counter()
    with pytest.raises(ArtifactError):
        opened(data)
    assert time.perf_counter() - start < 1


def test_the_crafted_corpus_is_not_refused_for_another_reason() -> None:
    assert len(CRAFTED) >= 60
    assert set(opened(listing(*GOOD)).sections) == {"ir", "plan"}
    assert not opened(listing(body=0)).sections


def test_canonical_json() -> None:
    value = {"b": [1, 2.5, "ü", None, True], "a": {}}
    assert canonical(value) == '{"a":{},"b":[1,2.5,"ü",null,true]}'.encode()
    assert parse_canonical(canonical(value), "it") == value


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (9 << 20) + 5])
def test_the_tree_digest_does_not_depend_on_pieces_or_threads(size: int) -> None:
    data = bytes(i * 7 & 255 for i in range(251)) * (size // 251 + 1)
    whole = memoryview(data)[:size]
    cut = [whole[: size // 3], whole[size // 3 : size // 2], b"", whole[size // 2 :]]
    assert digest.tree([whole], threads=1) == digest.tree(cut, threads=2)
    leaves = [digest.plain(whole[i : i + (1 << 20)]) for i in range(0, size, 1 << 20)]
    assert digest.tree([whole]) == digest.plain(b"".join(leaves))
