"""Passes by name with their options, as `opt -p` takes them: `cse,fuse{max_inputs=8}`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

from netc.errors import UsageError, clean
from netc.passes.base import Pass

_PASS = re.compile(r"\s*([A-Za-z_][\w-]*)\s*(?:\{([^{}]*)\})?\s*(?:,|$)")
_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def passes_named(text: str, known: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes a text names, in its order."""
    by_name = {p.name: p for p in known}
    chosen, at = [], 0
    while at < len(text):
        m = _PASS.match(text, at)
        if m is None or m.end() == at:
            help = "write names with options in braces: cse,fuse{max_inputs=8}"
            raise UsageError(f"cannot read passes at {clean(text[at:])!r}", help=help)
        name = m[1].replace("-", "_")
        if name not in by_name:
            raise UsageError(f"no pass {clean(name)!r}", help=f"there are {', '.join(by_name)}")
        chosen.append(_with_options(by_name[name], m[2] or ""))
        at = m.end()
    return tuple(chosen)


def _with_options(which: Pass, text: str) -> Pass:
    """A pass with some of its fields changed."""
    about = cast(Any, which)
    options = {f.name: getattr(which, f.name) for f in fields(about)}
    changed: dict[str, Any] = {}
    for word in filter(str.strip, text.split(",")):
        key, _, value = (part.strip() for part in word.partition("="))
        simple = {k: v for k, v in options.items() if isinstance(v, bool | int | float | str)}
        if key not in simple:
            there = ", ".join(simple) or "none"
            raise UsageError(f"{which.name} has no option {clean(key)!r}", help=f"it has {there}")
        if key in changed:
            raise UsageError(f"{which.name}'s {key} is given twice")
        changed[key] = _value(value, simple[key], f"{which.name}'s {key}")
    return cast(Pass, replace(about, **changed)) if changed else which


def _value(text: str, like: object, what: str) -> bool | int | float | str:
    """A text as a value of the same type as the one it replaces."""
    try:
        if isinstance(like, bool):
            return _TRUTH[text.lower()]
        return type(like)(text) if isinstance(like, int | float) else text
    except (KeyError, ValueError):
        raise UsageError(f"{what} is a {type(like).__name__}, not {clean(text)!r}") from None
