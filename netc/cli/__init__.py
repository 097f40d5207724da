"""The command line. `main` is a click group, for the console and for `main([...])` in code."""

from netc.cli.app import main

__all__ = ["main"]
