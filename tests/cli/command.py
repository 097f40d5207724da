"""The command line, called in this process."""

from __future__ import annotations

from click.testing import CliRunner

from netc.cli import app


def run(*words: object) -> str:
    """Exit code, what was printed, and the exception if one came out."""
    result = CliRunner().invoke(app.main, [str(w) for w in words])
    return f"{result.exit_code}\n{result.output}\n{result.exception or ''}"


def quiet(*_: object) -> None:
    """Nothing is said of weights that are not given."""
