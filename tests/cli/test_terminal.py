"""What a terminal shows: tables in its width, remarks beside a spinner."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from rich.console import Console

from netc.cli import app, show
from netc.errors import Diagnostic
from netc.frontend.net.fill import tell

COLUMNS = ("value", "type", "|A-B|", "of |B|", "A's error", "B's error", "")
ROW = ("fire2/expand1x1/relu", "f32[N,128,55,55]", "1.1e-07", "2.2e-07", "3.3e-08", "nan", "grows")


@pytest.mark.parametrize("width", [100, 80, 65, 40])
def test_numbers_stay_whole_where_names_are_shortened(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        show, "console", lambda: Console(file=sys.stdout, soft_wrap=True, width=width)
    )
    show.table(COLUMNS, [ROW, (*ROW[:6], "")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "e-" in line]
    assert len(lines) == 2
    assert all({"1.1e-07", "2.2e-07", "3.3e-08", "nan"} <= set(line) for line in lines)
    assert (ROW[0] in lines[0]) == (width == 100)
    assert lines[0][0].startswith("fire") == (width > 40)


class Terminal(io.StringIO):
    """Standard error as a person has it."""

    def isatty(self) -> bool:
        """So it says."""
        return True


def test_a_remark_stands_on_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    app._show_log()
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with show.progress("reading") as step:
        step("still reading")
        logging.getLogger("netc").warning("odd")
        tell(Diagnostic("oddest", severity="warning"), None)
        app._show_warning("odder")
    shown = terminal.getvalue()
    for remark in ("odd\n", "warning: oddest\n", "warning: odder\n"):
        before, found, _ = shown.partition(remark)
        assert found
        assert before.endswith(("\x1b[?25l", "\x1b[2K"))  # nothing yet, or an empty line
