"""Every module of the package can be the first one that is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "netc"
SCRIPT = """
import importlib, os, sys
import click, lark, llvmlite.binding, numpy
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
        except BaseException as error:
            print(name, error, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_no_module_needs_another_to_be_imported_before() -> None:
    paths = [p.relative_to(PACKAGE.parent).with_suffix("") for p in PACKAGE.rglob("*.py")]
    names = [".".join(p.parts).removesuffix(".__init__") for p in sorted(paths)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout == ""
