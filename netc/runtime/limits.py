"""Every cap of the run side, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a `model.bin` or a run may ask for before it is refused.

    A caller who needs more passes limits of their own; nothing in a file can raise them.
    """

    header_bytes: int = 1 << 20
    plan_bytes: int = 64 << 20
    text_bytes: int = 256 << 20  # IR text, source locations
    meta_bytes: int = 16 << 20  # labels, preprocessing
    code_bytes: int = 256 << 20
    file_bytes: int = 1 << 44
    sections: int = 320
    features: int = 256  # processor features one code image may list
    dim: int = 2**31 - 1
    rank: int = 8
    tensor_bytes: int = 1 << 48
    memory: int | None = None  # bytes one bound executable may take; None: a share of what is free
    memory_share: float = 0.8
    bindings: int = 8  # shapes kept prepared at once
    threads: int = 256
    wait: float = 600.0  # seconds one device may wait for another


DEFAULT = Limits()
