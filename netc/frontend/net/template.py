"""Texts that differ in the middle: `res2a_branch1`, `res3b_branch1` are `res{n}_branch1`."""

from __future__ import annotations

from collections.abc import Sequence


def templates(texts: Sequence[str]) -> tuple[str, list[str], str]:
    """(what all start with, what each has in between, what all end with).

    A number is never cut in two, and neither is an escaped brace.
    """
    before = _trimmed(_common(texts), texts)
    rest = [t[len(before) :] for t in texts]
    turned = [t[::-1] for t in rest]
    after = _trimmed(_common(turned), turned)[::-1]
    return before, [t[: len(t) - len(after)] for t in rest], after


def _common(texts: Sequence[str]) -> str:
    """What all texts start with."""
    low, high = min(texts), max(texts)
    same = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
    return low[: next(same, min(len(low), len(high)))]


def _trimmed(common: str, texts: Sequence[str]) -> str:
    """The common start without a number, or a brace, that goes on behind it."""
    end = len(common)
    for kind in (str.isdigit, "{}".__contains__):
        goes_on = any(len(t) > len(common) and kind(t[len(common)]) for t in texts)
        while goes_on and end and kind(common[end - 1]):
            end -= 1
    return common[:end]
