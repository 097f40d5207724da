"""Nets changed at random: whatever they say, the answer is a graph or a NetcError."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.frontend.caffe import from_caffe
from netc.frontend.caffe.build import KNOWN
from netc.ir.text import parse, show
from netc.ir.verify import verify

TOKEN = re.compile(r'"[^"]*"|[\w.\-]+|[{}:]|\s+')
VALUE = re.compile(r'[\d.\-]+|"[^"]*"|true|false|[A-Z]+')
NUMBERS = "0 -1 1 2 3 7 100000 2147483647 2147483648 99999999999999999999 1e30 1e-300 0.5 -0.0"
WORDS = 'nan inf -inf true false MAX AVE SUM TRAIN "data" "x" "" [1,2,3] []'
VALUES = [*NUMBERS.split(), *WORDS.split()]


def changed(text: str, rng: random.Random) -> str:
    """The text with one to three tokens other than they were."""
    tokens = TOKEN.findall(text)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(tokens))
        values = [i for i, t in enumerate(tokens) if VALUE.fullmatch(t)]
        kinds = [i for i, t in enumerate(tokens) if t.strip('"') in KNOWN]
        match rng.randrange(5):
            case 0 | 1 if values:
                tokens[rng.choice(values)] = rng.choice(VALUES)
            case 2 if kinds:
                tokens[rng.choice(kinds)] = f'"{rng.choice(KNOWN)}"'
            case 3:
                tokens.insert(at, rng.choice(tokens))
            case _:
                del tokens[at]
    return "".join(tokens) + "\n"


def fuzz(shared: Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    paths = sorted((shared / "caffe" / "goldens").glob("*/net.prototxt"))
    texts = [p.read_text() for p in paths]
    for i in range(count):
        text = changed(texts[i % len(texts)], rng)
        with contextlib.suppress(NetcError):
            graph = from_caffe(text, phase=rng.choice(["test", "train"]), warn=lambda d: None)
            verify(graph)
            assert show(parse(show(graph))) == show(graph)


def test_2000_changed_nets(shared: Path) -> None:
    fuzz(shared, 2000, 1)


@pytest.mark.long
def test_200000_changed_nets(shared: Path) -> None:
    fuzz(shared, 200_000, 2)
