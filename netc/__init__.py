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

from netc.errors import NetcError
from netc.version import __version__

_FROM = {
    "netc.api": ("read", "parse", "from_caffe", "compile", "load", "interpret", "Executable"),
    "netc.frontend.python": ("net", "device"),
    "netc.ir.types": ("f32", "u8", "i32", "i64", "TensorType"),
    "netc.ir.graph": ("Graph",),
    "netc.errors": ("NetcError",),
}
_HOME = {name: module for module, names in _FROM.items() for name in names}

__all__ = ["NetcError", "__version__", *sorted(set(_HOME) - {"NetcError"})]


def __getattr__(name: str) -> Any:
    """Public names from where they live; any other name is an op's word: netc.conv, netc.relu."""
    if name.startswith("_"):
        raise AttributeError(name)
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    return getattr(import_module("netc.frontend.python"), name)


def __dir__() -> list[str]:
    return [*__all__, *import_module("netc.frontend.python").words()]
