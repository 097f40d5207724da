"""SHA-256 over large sections, on two processors at once.

A section's digest is the SHA-256 of the SHA-256s of its mebibytes, so parts can be checked in
parallel; a section of one mebibyte or less has the same form.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from netc.runtime.atomic import Buffer
from netc.spread import spread

CHUNK = 1 << 20  # bytes under one leaf of the tree
_WORTH_A_THREAD = 4  # chunks


def plain(data: Buffer) -> bytes:
    """The ordinary SHA-256 of `data`."""
    return hashlib.sha256(data).digest()


def tree(pieces: Sequence[Buffer], threads: int = 2) -> bytes:
    """The tree digest of the concatenation of `pieces`."""
    chunks = _chunks(pieces)
    leaves = [b""] * len(chunks)

    def leaf(i: int) -> None:
        leaves[i] = _leaf(chunks[i])

    spread(leaf, len(chunks), threads if len(chunks) >= _WORTH_A_THREAD else 1)
    return plain(b"".join(leaves))


def _leaf(parts: Sequence[Buffer]) -> bytes:
    return plain(parts[0]) if len(parts) == 1 else plain(b"".join(parts))


def _chunks(pieces: Sequence[Buffer]) -> list[list[Buffer]]:
    """The concatenation cut into mebibytes, each as the views it is made of."""
    chunks: list[list[Buffer]] = []
    room = 0
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while len(rest):
            if not room:
                chunks.append([])
                room = CHUNK
            chunks[-1].append(rest[:room])
            taken = len(chunks[-1][-1])
            room -= taken
            rest = rest[taken:]
    return chunks
