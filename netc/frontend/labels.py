"""Names of classes, kept in the model so that `netc run` prints them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from netc.errors import UsageError, clean
from netc.frontend.files import decoded, display, mapped

MAX_LABELS = 1_000_000
_WORDNET = re.compile(r"n\d{8} (?=\S)")


def read_labels(source: str | os.PathLike[str] | Iterable[str] | None) -> tuple[str, ...]:
    """The lines of a file, or the names given; none for None.

    A leading WordNet id (`n01440764`) is left out.
    """
    if isinstance(source, str | os.PathLike):
        name = display(source)
        names = decoded(mapped(source, UsageError), name, UsageError).rstrip().splitlines()
    elif isinstance(source, Iterable | None):
        names = [str(label) for label in source or ()]
    else:
        raise UsageError(f"labels are names or their file, not {clean(repr(source))}")
    if len(names) > MAX_LABELS:
        raise UsageError(f"{len(names):,} labels; at most {MAX_LABELS:,} are kept")
    return tuple(clean(_WORDNET.sub("", name.strip())) for name in names)
