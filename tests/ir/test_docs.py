"""The documentation says what the classes say."""

from __future__ import annotations

from pathlib import Path

from netc.ir.docs import render
from netc.ir.op import REGISTRY

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_ops_page_is_up_to_date() -> None:
    written = (DOCS / "OPS.md").read_text("utf-8")
    assert written == render(), "run: python -m netc.ir.docs > docs/OPS.md"


def test_every_op_is_on_it() -> None:
    text = render()
    for name, op in REGISTRY.items():
        assert f"### `{name}(" in text
        assert (op.__doc__ or "").strip(), name
        assert not (op.__doc__ or "").startswith(f"{op.__name__}("), name
