"""SHA-256 over large sections, on two processors at once.

A section's digest is the SHA-256 of the SHA-256s of its mebibytes, so parts can be checked in
parallel; a section of one mebibyte or less has the same form.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence

from netc.runtime.atomic import Buffer

CHUNK = 1 << 20  # bytes under one leaf of the tree
_WORTH_A_THREAD = 4  # chunks


def plain(data: Buffer) -> bytes:
    """The ordinary SHA-256 of `data`."""
    return hashlib.sha256(data).digest()


def tree(pieces: Sequence[Buffer], threads: int = 2) -> bytes:
    """The tree digest of the concatenation of `pieces`."""
    chunks = _chunks(pieces)
    leaves = [b""] * len(chunks)
    queue = iter(range(len(chunks)))

    def work() -> None:
        for i in queue:  # one `next` is one bytecode: threads never get the same chunk
            leaves[i] = _leaf(chunks[i])

    helper = None
    if threads > 1 and len(chunks) >= _WORTH_A_THREAD:
        helper = _started(work)
    work()
    if helper is not None:
        helper.join()
    return plain(b"".join(leaves))


def _started(work: Callable[[], None]) -> threading.Thread | None:
    """A thread at this work, or None where the system gives none."""
    thread = threading.Thread(target=work, name="netc-digest", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


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
