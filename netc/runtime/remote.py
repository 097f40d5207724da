"""Other hosts: how each is reached, and the worker there.

A host's command starts `netc worker` on it and joins that to its own standard input and output,
as `ssh node1 netc worker` does. So who may compute there, and how it is kept secret on the way,
is for ssh to say, or for whatever the command is.
"""

from __future__ import annotations

import errno
import logging
import os
import queue
import select
import shlex
import socket
import struct
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from netc.errors import NetcError, ResourceError, UsageError, clean
from netc.runtime.limits import Limits
from netc.runtime.ports import Array
from netc.runtime.wire import PROTOCOL, Channel, Gone, Lost, error_from_json

ENVIRONMENT = "NETC_HOSTS"
_GREETING = 60.0  # seconds a worker may take to start
_ENDING = 2.0  # seconds it may take to end
_BUFFER = 4 << 20  # bytes on their way
_SMALL = 1 << 18  # bytes that are sent at once
_LAST_WORDS = 3  # lines that an error repeats


def commands_of(given: Mapping[str, str | Sequence[str]] | None) -> dict[str, tuple[str, ...]]:
    """Host -> the command that starts its worker: those given, and those of NETC_HOSTS.

    There they stand in lines, or with `;` between them: `node1=ssh node1 netc worker`.
    """
    found: dict[str, tuple[str, ...]] = {}
    for line in os.environ.get(ENVIRONMENT, "").replace(";", "\n").splitlines():
        said = host_and_command(line)
        if said is not None:
            found[said[0]] = command_of(*said)
        elif line.strip():
            what = f"{ENVIRONMENT}: {clean(line.strip())!r} names no command"
            raise UsageError(what, help=example())
    if given is not None and not isinstance(given, Mapping):
        raise UsageError("hosts go by name: give a mapping", help=example())
    return found | {name: command_of(name, said) for name, said in (given or {}).items()}


def example(host: str = "node1") -> str:
    """How a host's command may be said."""
    how = f"{host}='ssh {host} netc worker'"
    return f"--host {clean(how)}, or hosts= in Python, or {ENVIRONMENT}"


def host_and_command(text: str) -> tuple[str, str] | None:
    """What `node1=ssh node1 netc worker` names, if both."""
    name, _, command = (word.strip() for word in text.partition("="))
    return (name, command) if name and command else None


def command_of(host: str, said: str | Sequence[str]) -> tuple[str, ...]:
    """A host's command as words; no shell reads it."""
    try:
        words = tuple(shlex.split(said) if isinstance(said, str) else said)
    except (ValueError, TypeError) as error:
        raise UsageError(f"the command of host {clean(host)} does not read: {error}") from None
    if not words or not all(isinstance(w, str) and w and "\0" not in w for w in words):
        raise UsageError(f"host {clean(host)} has no command", help=example(host))
    return words


class Audible(Protocol):
    """What has a file descriptor to wait for."""

    def fileno(self) -> int:
        """Its number."""


T = TypeVar("T", bound=Audible)


class Host:
    """The worker of a host, and what it has been asked and has not answered. To be closed.

    It answers in order. Small messages are sent at once; a thread sends what takes its time.
    """

    def __init__(self, name: str, command: Sequence[str], limits: Limits) -> None:
        self.name = name
        self.asked: deque[tuple[int, Any]] = deque()  # numbers, and what the answers are for
        self.has_parts = False
        self._count = 0
        self._failed: NetcError | None = None  # in the thread that sends
        self.is_lost = self._is_there = False
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._outbox: queue.SimpleQueue[tuple[dict[str, Any], Sequence[Array]] | None]
        self._outbox = queue.SimpleQueue()
        self._unsent = 0
        self._lock = threading.Lock()
        self._wait = limits.wait
        self._socket, self._process = _started(name, command)
        _be_patient(self._socket, self._wait)
        self._channel = Channel(self._socket.fileno(), self._socket.fileno(), limits)
        self._threads = [
            threading.Thread(target=work, name=f"netc-{name}", daemon=True)
            for work in (self._overhear, self._send)
        ]
        for thread in self._threads:
            thread.start()

    def fileno(self) -> int:
        """What can be waited for until there is something to hear."""
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """Whether some of the next answer is here already."""
        return self._channel.has_more

    @property
    def is_idle(self) -> bool:
        """Whether it can be asked: it is there, has its parts, and owes no answer."""
        return self.has_parts and not self.asked and not self.is_lost

    def greet(self) -> None:
        """Wait until the worker is there. Raises ResourceError where it does not come."""
        _be_patient(self._socket, _GREETING)
        if not heard_of([self], _GREETING):
            why = f"host {clean(self.name)}: no worker answers in {_GREETING:g} s"
            help = "see what its command does; it must not ask for a password"
            raise ResourceError(why, help=help)
        hello, _ = self._heard()
        self._is_there = True
        _be_patient(self._socket, self._wait)
        if hello.get("protocol") != PROTOCOL:
            why = f"host {clean(self.name)} has netc {clean(hello.get('netc'))}, which is another"
            raise ResourceError(why, help="install the same netc on both")

    def ask(self, what: Any, head: dict[str, Any], arrays: Sequence[Array] = ()) -> None:
        """Send a message; `what` is what its answer will be for. Raises ResourceError."""
        self._count += 1
        self.asked.append((self._count, what))
        head = {**head, "id": self._count}
        with self._lock:
            at_once = self._unsent == 0 and sum(a.nbytes for a in arrays) <= _SMALL
            self._unsent += not at_once
        if not at_once:
            self._outbox.put((head, arrays))
            return
        try:
            self._channel.send(head, arrays)
        except Lost as error:
            raise self._lost(error) from None

    def hear(self) -> tuple[Any, dict[str, Any], list[Array]]:
        """The next answer, and what it is for. Raises what the worker did, or ResourceError."""
        head, arrays = self._heard()
        error = head.get("error")
        made = None if error is None else error_from_json(error, f"on {clean(self.name)}")
        number, what = self.asked[0] if self.asked else (None, None)
        if number is None or head.get("id") != number:
            raise self._lost(made or Lost("it answered what it was not asked"))
        self.asked.popleft()
        if made is not None:
            raise made
        return what, head, arrays

    def close(self) -> None:
        """End the worker. What it has not answered it never will."""
        self.hang_up()
        try:
            self._process.wait(0 if self.asked or self.is_lost else _ENDING)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for thread in self._threads:
            thread.join(_ENDING)
        self._socket.close()

    def hang_up(self) -> None:
        """Say no more to it, which ends it sooner or later; takes no time."""
        self._outbox.put(None)
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Let go of it without a word: it is another process's."""
        self._socket.close()

    def _heard(self) -> tuple[dict[str, Any], list[Array]]:
        """The next message. Raises ResourceError where there is none any more."""
        try:
            message = self._channel.receive()
        except NetcError as error:
            raise self._lost(error) from None
        if message is None:
            raise self._lost(Gone("it ended"))
        return message

    def _lost(self, why: NetcError) -> NetcError:
        """Why it will not answer any more, as a person reads it."""
        self.is_lost = True
        why = self._failed or why
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_ENDING if isinstance(why, Gone) else 0)
            why = Lost(f"its command ended with status {code}") if code else why
        if self._process.poll() is not None:
            self._threads[0].join(_ENDING)  # the last words
        said = "; ".join(self._last_words)
        message = f"host {clean(self.name)} is lost: {why.diagnostics[0].message}"
        return ResourceError(message, help=f"its command said: {said}" if said else "")

    def _send(self) -> None:
        """The thread that sends what is large, and what is behind it."""
        while (message := self._outbox.get()) is not None:
            try:
                self._channel.send(*message)
            except NetcError as error:
                self._failed = None if isinstance(error, Gone) else error
                with suppress(OSError):  # so that the one who waits hears of it
                    self._socket.shutdown(socket.SHUT_RDWR)
            del message  # its arrays are not needed while the next is waited for
            with self._lock:
                self._unsent -= 1

    def _overhear(self) -> None:
        """The thread that reads what the command says to people, and the worker behind it."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            said = clean(line.decode(errors="replace").strip())
            if said:
                self._last_words.append(said)
                level = logging.INFO if self._is_there else logging.DEBUG
                logging.getLogger("netc").log(level, "%s: %s", self.name, said)


def heard_of(those: Sequence[T], seconds: float) -> list[T]:
    """Those that have something to say, as soon as there is one; none after so many seconds."""
    poll = select.poll()
    by_number = {each.fileno(): each for each in those}
    for number in by_number:
        poll.register(number, select.POLLIN)
    return [by_number[number] for number, _ in poll.poll(seconds * 1000)]


def _be_patient(end: socket.socket, seconds: float) -> None:
    """How long either side may be silent amid a message."""
    patience = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        end.setsockopt(socket.SOL_SOCKET, option, patience)


def _started(name: str, command: Sequence[str]) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """The command, and what it hears and says.

    It is in a session of its own: an interrupt of this process is not for it.
    """
    ours: socket.socket | None = None
    try:
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            return ours, _process(command, theirs)
    except (OSError, ValueError) as error:
        if ours is not None:
            ours.close()
        why = error.strerror if isinstance(error, OSError) else str(error)
        what = f"host {clean(name)}: cannot start {clean(command[0])}: {why}"
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise ResourceError(what) from None
        raise UsageError(what, help=example(name)) from None


def _process(command: Sequence[str], theirs: socket.socket) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        list(command),
        stdin=theirs.fileno(),
        stdout=theirs.fileno(),
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
