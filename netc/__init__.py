"""netc: compile a network description to fast native code, in one file that runs anywhere.

    exe = netc.compile("model.net")       # or a prototxt, or a graph built in Python
    out = exe(data=x)                     # name -> array
    exe.save("model.bin")
    exe = netc.load("model.bin")          # runs without the compiler

The compile side is imported when it is first used: a process that only runs a saved model needs
NumPy and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from netc.api import Executable, compile, from_caffe, interpret, load, parse, read
from netc.errors import NetcError
from netc.ir.types import TensorType, f32, i32, i64, u8
from netc.version import __version__

if TYPE_CHECKING:
    from netc.frontend.python import Tensor as Tensor
    from netc.frontend.python import device as device
    from netc.frontend.python import net as net
    from netc.frontend.python import pipeline as pipeline
    from netc.frontend.python import replicate as replicate
    from netc.frontend.python import split_channels as split_channels
    from netc.frontend.python import with_weights as with_weights
    from netc.ir.graph import Graph as Graph

_LAZY = {
    "Graph": "netc.ir.graph",
    "Tensor": "netc.frontend.python",
    "device": "netc.frontend.python",
    "net": "netc.frontend.python",
    "pipeline": "netc.frontend.python",
    "replicate": "netc.frontend.python",
    "split_channels": "netc.frontend.python",
    "with_weights": "netc.frontend.python",
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


def __getattr__(name: str) -> Callable[..., Any]:
    """What needs the compile side; any name not known here is a word: netc.conv, netc.relu."""
    if name.startswith("_"):
        raise AttributeError(name)
    module = import_module(_LAZY.get(name, "netc.frontend.python"))
    found: Callable[..., Any] = getattr(module, name) if name in _LAZY else module.word(name)
    return found


def __dir__() -> list[str]:
    return [*__all__, *_LAZY, *import_module("netc.frontend.python").words()]
