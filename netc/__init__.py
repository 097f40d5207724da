"""netc: compile a network description to fast native code, in one file that runs anywhere.

    exe = netc.compile("model.net")       # or a prototxt, or a graph built in Python
    out = exe(data=x)                     # name -> array
    exe.save("model.bin")
    exe = netc.load("model.bin")          # runs without the compiler

The compile side is imported when it is first used: a process that only runs a saved model needs
NumPy and nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from netc.api import Executable, compile, from_caffe, interpret, load, parse, read
from netc.errors import NetcError
from netc.ir.types import TensorType, f32, i32, i64, u8
from netc.version import __version__

_LAZY = {
    "Graph": "netc.ir.graph",
    "device": "netc.frontend.python",
    "net": "netc.frontend.python",
    "pipeline": "netc.frontend.python",
    "replicate": "netc.frontend.python",
    "split_channels": "netc.frontend.python",
}

__all__ = [
    "Executable",
    "NetcError",
    "TensorType",
    "__version__",
    "compile",
    "f32",
    "from_caffe",
    "i32",
    "i64",
    "interpret",
    "load",
    "parse",
    "read",
    "u8",
]


def __getattr__(name: str) -> Any:
    """What needs the compile side; any name not known here is a word: netc.conv, netc.relu."""
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(import_module(_LAZY.get(name, "netc.frontend.python")), name)


def __dir__() -> list[str]:
    return [*__all__, *_LAZY, *import_module("netc.frontend.python").words()]
