"""Writes docs/OPS.md from the op classes: `python -m netc.ir.docs > docs/OPS.md`."""

from __future__ import annotations

import inspect
import sys
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, cast

from netc.ir import ops
from netc.ir.attributes import declared, readable
from netc.ir.op import REGISTRY, Op
from netc.ir.scalar import Elementwise

INTRO = """# Ops

Written from the op classes by `python -m netc.ir.docs > docs/OPS.md`; a test compares.

Element-wise ops broadcast as NumPy does, shapes aligned at the end: a parameter per channel of
[n, c, h, w] has shape [c, 1, 1]. Axes may be negative. Spatial attributes are tuples with one
number per spatial axis; () is the default on every axis. Tensors are f32 unless said otherwise.

NaN propagates through every op, ReLU, max-pool and clip included (Caffe's max-pool drops it);
infinities are kept, and −∞ is a legal maximum. Comparisons with NaN are false. The sign of zero is
not specified. Denormal numbers are kept. An index or a label out of range never reads outside.
"""


def render() -> str:
    """The text of docs/OPS.md."""
    out = [INTRO]
    for family in ops.__all__:
        module = getattr(ops, family)
        about = (inspect.getdoc(module) or "").splitlines()[0]
        out.append(f"## {about.split(':')[0].rstrip('.')}\n")
        out += [_entry(op) for op in REGISTRY.values() if op.__module__ == module.__name__]
    return "\n".join(out)


def _entry(op: type[Op]) -> str:
    words = [f"### `{op.name}({', '.join(operands(op))})`\n", f"{inspect.getdoc(op)}\n"]
    hints = declared(op)
    rows = [
        f"| `{f.name}` | {_words(hints[f.name])} | {_default(f.default)} |"
        for f in fields(cast(Any, op))
    ]
    if rows:
        words += ["| attribute | type | default |", "|---|---|---|", *rows, ""]
    if op.blocked is not None and not issubclass(op, Elementwise):
        which = "any input" if -1 in op.blocked else f"input {', '.join(map(str, op.blocked))}"
        words.append(f"Channel-blocked (C8): {which}.\n")
    return "\n".join(words)


def operands(op: type[Op]) -> list[str]:
    """The names of an op's operands, as its formula or its shape rule has them."""
    rule = cast(Any, op).scalar if issubclass(op, Elementwise) else op.infer
    names = []
    for p in list(inspect.signature(rule).parameters.values())[1:]:
        many = "[bias]" if p.name == "bias" else f"{p.name.rstrip('s')}…"
        names.append(many if p.kind is p.VAR_POSITIONAL else p.name)
    return names


def _words(hint: Any) -> str:
    text = readable(hint).replace("tuple[", "").replace(", ...]", "s").replace("|", "or")
    return text.replace("NoneType", "None")


def _default(value: Any) -> str:
    if value is MISSING:
        return "needed"
    return f"`{value.value if isinstance(value, Enum) else value!r}`"


if __name__ == "__main__":
    sys.stdout.write(render())
