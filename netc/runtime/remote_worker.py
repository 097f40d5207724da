"""The worker of a host: it keeps parts of nets, and runs them when the one who started it asks.

It reads messages from one file descriptor and answers on another, in order, and ends when there
are no more. Whoever can send it messages can have native code run: it is started by a command of
the user's own (ssh, say), and listens to no port. What parts give stays here by number for parts
that read it, until it is dropped.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from netc.errors import InputError, NetcError, UsageError, clean
from netc.runtime.limits import DEFAULT
from netc.runtime.memory import Bytes
from netc.runtime.ports import Array
from netc.runtime.session import Executable
from netc.runtime.wire import PROTOCOL, Channel, error_to_json
from netc.version import __version__

Load: TypeAlias = Callable[[Bytes, bool], Executable]  # a part's file, and whether it is trusted
Probe: TypeAlias = Callable[[Sequence[str]], str]  # devices -> the table of what they can do
Message: TypeAlias = tuple[dict[str, Any], list[Array]]


def serve(channel: Channel, load: Load, probe: Probe) -> None:
    """Greet, then answer everything that is asked, until there is no more."""
    channel.send({"netc": __version__, "protocol": PROTOCOL})
    inbox: queue.SimpleQueue[Message | NetcError | None] = queue.SimpleQueue()

    def listen() -> None:
        """Never wait to read: the other end may send much before it reads an answer."""
        try:
            while (message := channel.receive()) is not None:
                inbox.put(message)
            inbox.put(None)
        except NetcError as error:
            inbox.put(error)

    threading.Thread(target=listen, name="netc-listen", daemon=True).start()
    worker = _Worker(load, probe)
    while (message := inbox.get()) is not None:
        if isinstance(message, NetcError):
            channel.send({"error": error_to_json(message)})
            return
        head, arrays = worker.answer(*message)
        channel.send({**head, "id": message[0].get("id")}, arrays)


class _Worker:
    """What a worker has: parts, and the values of the run in progress."""

    def __init__(self, load: Load, probe: Probe) -> None:
        self._load, self._probe = load, probe
        self._parts: dict[int, Executable] = {}
        self._values: dict[int, Array] = {}

    def answer(self, head: dict[str, Any], arrays: Sequence[Array]) -> Message:
        """What is said to a message: what was asked for, or the error that came of it."""
        try:
            match head:
                case {"do": "load", "part": int(part), "trusted": bool(trusted)}:
                    (data,) = arrays
                    self._parts[part] = self._load(data, trusted)
                    return {"level": self._parts[part].level}, []
                case {"do": "probe", "devices": list(devices)}:
                    return {"machine": self._probe([str(name) for name in devices])}, []
                case {"do": "run"}:
                    return self._run(head, arrays)
            raise UsageError(f"no worker does {clean(repr(head.get('do')))}")
        except Exception as error:  # told to the one who asked; the worker goes on
            return {"error": error_to_json(error)}, []

    def _run(self, head: dict[str, Any], arrays: Sequence[Array]) -> Message:
        """A part on values that are here or come along; those asked for, and how long it took."""
        if head["fresh"]:
            self._values.clear()
        values = self._values
        values.update(zip(head["new"], arrays, strict=True))
        given = [values[number] for number in head["reads"]]
        if head["sizes"] is not None:
            given.append(shape_only(head["sizes"]))
        start = time.perf_counter()
        made = called(self._parts[head["part"]], given, bool(head["poisoned"]))
        seconds = time.perf_counter() - start
        if len(made) != len(head["gives"]):
            raise UsageError(f"a part gives {len(made)} values, not {len(head['gives'])}")
        values.update(zip(head["gives"], made, strict=True))
        sent = [values[number] for number in head["send"]]
        for number in head["drop"]:
            values.pop(number, None)
        return {"seconds": seconds}, sent


def called(part: Executable, arrays: Sequence[Array], poisoned: bool) -> list[Array]:
    """What a part gives. Raises InputError where another host has sent what does not fit it."""
    part.poison(poisoned)
    names = [port.name for port in part.plan.inputs]
    if len(names) != len(arrays):
        raise InputError(f"a part takes {len(names)} values, not {len(arrays)}")
    return list(part(dict(zip(names, arrays, strict=True))).values())


def shape_only(sizes: Sequence[int]) -> Array:
    """The array without elements that tells a part what its symbols are."""
    if not all(0 <= size <= DEFAULT.dim for size in sizes):
        raise InputError(f"a part is told of sizes {list(sizes)}")
    return np.empty((0, *sizes), np.uint8)
