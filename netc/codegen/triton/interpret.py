"""A process that runs Triton kernels in Triton's interpreter, on memory it shares.

It is started by `netc.runtime.interpreter` with a socket as its only argument and reads lines of
JSON there, a descriptor beside each `map`:

    {"do": "map", "block": 3, "size": 4096}      {"do": "unmap", "block": 3}
    {"do": "kernel", "kernel": "ab…", "text": "import triton…", "params": ["*fp32", "i32"]}
    {"do": "run", "launches": [[kernel, programs, {"BLOCK": 64}, [[block, offset], 7, …],
                                [[block, offset, size], …], [[block, offset, size], …]], …]}

The last two of a launch are what it may read, and what it may read and write.

Only `run` is answered: {"begin": i} before each launch, then {"done": [seconds, …]} or
{"error": why}. It ends when the socket does or its parent.
"""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from netc.codegen.triton.interpreter_bounds import Bounds
from netc.codegen.triton.interpreter_patches import patch
from netc.codegen.triton.scratch import scratch
from netc.ir.gpu_code import ENTRY

_WATCH = 0.5  # seconds between two looks at the parent
_PIECE = 1 << 16  # bytes read at once
_ELEMENTS = {
    "fp64": "float64",
    "fp32": "float32",
    "fp16": "float16",
    "bf16": "bfloat16",
    "i64": "int64",
    "i32": "int32",
    "i16": "int16",
    "i8": "int8",
    "u8": "uint8",
    "i1": "int1",
}


def main(descriptor: int, parent: int) -> None:
    """Serve the parent until it goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the parent that is interrupted
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    os.environ["TRITON_INTERPRET"] = "1"
    sys.dont_write_bytecode = True
    with socket.socket(fileno=descriptor) as channel:
        server = _Server(channel)
        for message, opened in _messages(channel):
            server.take(message, opened)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH)
    os._exit(1)


def _messages(channel: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """The messages, and the descriptors that no message has taken yet."""
    held, opened = b"", list[int]()
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _PIECE, 8)
        if not data:
            return
        opened += fds
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            yield json.loads(line), opened


class _Server:
    """The blocks and kernels it was told of."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.blocks: dict[int, tuple[mmap.mmap, int]] = {}  # and where they begin
        self.texts: dict[str, tuple[str, list[str]]] = {}
        self.kernels: dict[str, Kernel] = {}
        self.bounds = Bounds()

    def take(self, message: Mapping[str, Any], opened: list[int]) -> None:
        """Do what a message says."""
        match message["do"]:
            case "map":
                fd = opened.pop(0)
                whole = mmap.mmap(fd, message["size"])
                os.close(fd)
                start = np.frombuffer(whole, np.uint8).__array_interface__["data"][0]
                self.blocks[message["block"]] = whole, int(start)
            case "unmap":
                del self.blocks[message["block"]]  # closed with the last view of it
            case "kernel":
                self.texts[message["kernel"]] = message["text"], message["params"]
            case "run":
                self.run(message["launches"])

    def run(self, launches: Sequence[Any]) -> None:
        """Launches, one after the other."""
        seconds = []
        try:
            for i, (key, programs, constants, args, reads, writes) in enumerate(launches):
                self.say({"begin": i})
                start = time.perf_counter()
                places = [a if isinstance(a, int) else self.blocks[a[0]][1] + a[1] for a in args]
                self.bounds.allow(*([self.span(*place) for place in of] for of in (reads, writes)))
                self.kernel(key).run(programs, constants, places)
                seconds.append(time.perf_counter() - start)
        except Exception as error:
            self.say({"error": describe(error)})
        else:
            self.say({"done": seconds})

    def span(self, block: int, offset: int, size: int) -> tuple[int, int]:
        """The addresses of some bytes of a block."""
        start = self.blocks[block][1] + offset
        return start, start + size

    def say(self, answer: Mapping[str, Any]) -> None:
        """Write one line."""
        self.channel.sendall(json.dumps(answer).encode() + b"\n")

    def kernel(self, key: str) -> Kernel:
        """A kernel, read from its text when it is first run."""
        if key not in self.kernels:
            self.kernels[key] = Kernel(*self.texts[key], self.bounds)
        return self.kernels[key]


def describe(error: BaseException) -> str:
    """What went wrong, with the cause that the interpreter wraps."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = f"{type(error).__name__}: {error}"
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return text if at is None else f"{text} (line {at.tb_lineno})"


class Kernel:
    """A kernel's text as a Python function on the interpreter's tensors."""

    _patched = False

    def __init__(self, text: str, params: Sequence[str], bounds: Bounds) -> None:
        function = _function(text)
        self._interpreter = import_module("triton.runtime.interpreter")
        self._language = import_module("triton.language")
        if not Kernel._patched:
            np.seterr(all="ignore")
            patch(self._interpreter, self._language)
            bounds.patch(self._interpreter.InterpreterBuilder)
            Kernel._patched = True
        self._run = function.rewrite()
        self._names = list(function.arg_names)
        self._params = list(params)

    def run(self, programs: int, constants: Mapping[str, int], args: Sequence[int]) -> None:
        """All programs of one launch, in their order."""
        names = self._names[: len(self._params)]
        if set(self._names[len(names) :]) != set(constants):
            raise ValueError(f"constants {sorted(constants)} for {self._names[len(names) :]}")
        given = zip(names, self._params, args, strict=True)
        values = {name: self._tensor(kind, value) for name, kind, value in given}
        builder = self._interpreter.interpreter_builder
        builder.set_grid_dim(programs, 1, 1)
        for i in range(programs):
            builder.set_grid_idx(i, 0, 0)
            self._run(**values, **constants)

    def _tensor(self, kind: str, value: int) -> Any:
        """A parameter as the interpreter has it."""
        tl, handle = self._language, self._interpreter.TensorHandle
        if kind.startswith("*"):
            pointer = tl.pointer_type(getattr(tl, _ELEMENTS[kind[1:]]))
            return tl.tensor(handle(np.array([value], np.uint64), pointer), pointer)
        type_ = getattr(tl, _ELEMENTS[kind])
        return tl.tensor(handle(np.array([value], type_.name), type_), type_)


def _function(text: str) -> Any:
    """The interpreted function `kernel` of a text; the file it comes from is gone again."""
    with scratch("netc-interpret-") as folder:
        path = folder / "kernels.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"netc_kernels_{os.urandom(8).hex()}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where the source of a function is looked for
        spec.loader.exec_module(module)
        for value in list(vars(module).values()):
            if hasattr(value, "rewrite"):
                value.rewrite()
    return getattr(module, ENTRY)
