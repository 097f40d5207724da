"""Parse, print, parse: the tree of a printed tree is the tree."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings

from netc.errors import Source
from netc.frontend.net import ast
from netc.frontend.net.parse import parse
from netc.frontend.net.show import show
from tests.frontend.net.trees import files

# Said by hypothesis of large trees, which are what we want.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def check(file: ast.File) -> None:
    text = show(file)
    again = parse(Source("generated.net", text))
    assert again == file, text
    assert show(again) == text


@given(files)
@settings(max_examples=int(os.environ.get("NETC_EXAMPLES", "200")), deadline=None)
def test_round_trip(file: ast.File) -> None:
    check(file)


@pytest.mark.long
@given(files)
@settings(max_examples=10_000, deadline=None)
def test_round_trip_long(file: ast.File) -> None:
    check(file)
