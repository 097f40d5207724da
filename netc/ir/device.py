"""Where a node runs: `cpu:0`, `cuda:1`, `cuda:0@node1`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from netc.errors import NOWHERE, GraphError, Span, UsageError, clean

KINDS = ("cpu", "cuda", "sim")
_FORM = re.compile(r"([a-z]+)(?::(\d{1,4}))?(?:@([A-Za-z0-9][A-Za-z0-9._-]{0,252}))?")


@dataclass(frozen=True, order=True)
class Device:
    """One logical device of a kind, on this host or a named one."""

    kind: str
    index: int = 0
    host: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" + (f"@{self.host}" if self.host else "")

    @staticmethod
    def parse(text: str, span: Span = NOWHERE) -> Device:
        """The device a text such as `cuda:1` or `cpu` names. Raises GraphError."""
        m = _FORM.fullmatch(text) if isinstance(text, str) else None
        if m is None or m[1] not in KINDS:
            fits = "a device is cpu, cpu:1, cuda:0, sim:3 or cuda:0@host"
            raise GraphError(f"no device {clean(text)!r}", span, fits)
        return Device(m[1], int(m[2] or 0), m[3] or "")

    @staticmethod
    def named(text: str) -> Device:
        """The device that an option or an argument names. Raises UsageError."""
        try:
            return Device.parse(text.strip())
        except GraphError as error:
            (wrong,) = error.diagnostics
            raise UsageError(wrong.message, help=wrong.help) from None
