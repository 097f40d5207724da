"""Messages between hosts: what is sent is what comes, and what is no message is an error."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.errors import Diagnostic, InputError, NetcError, ResourceError
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.runtime import remote
from netc.runtime.limits import DEFAULT, Limits
from netc.runtime.remote import Host
from netc.runtime.remote_worker import serve
from netc.runtime.wire import MAGIC, Channel, Lost, error_from_json, error_to_json

from .nets import BRANCHES, on_devices
from .workers import in_threads

TYPES = [np.float32, np.uint8, np.int32, np.int64]
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a connection."""
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def channel(end: socket.socket, limits: Limits = DEFAULT) -> Channel:
    return Channel(end.fileno(), end.fileno(), limits)


ARRAYS = st.tuples(st.sampled_from(TYPES), st.lists(st.integers(0, 40), max_size=3))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(ARRAYS, max_size=6), max_size=5))
def test_what_is_sent_comes(messages: list[list[tuple[type, list[int]]]]) -> None:
    ours, theirs = socket.socketpair()
    sent = [
        [np.random.default_rng(0).integers(0, 99, shape).astype(kind) for kind, shape in message]
        for message in messages
    ]

    def say() -> None:
        with ours:
            for number, arrays in enumerate(sent):
                channel(ours).send({"number": number}, arrays)

    speaker = threading.Thread(target=say)
    speaker.start()
    hearing = channel(theirs)
    for number, arrays in enumerate(sent):
        message = hearing.receive()
        assert message is not None
        head, got = message
        assert head == {"number": number}
        assert all(
            a.dtype == b.dtype and a.shape == b.shape for a, b in zip(got, arrays, strict=True)
        )
        assert all(np.array_equal(a, b) for a, b in zip(got, arrays, strict=True))
    assert hearing.receive() is None
    speaker.join()
    theirs.close()


def test_large_arrays_that_are_not_contiguous(pair: tuple[socket.socket, socket.socket]) -> None:
    array = np.arange(1 << 22, dtype=np.float32).reshape(1 << 11, 1 << 11).T
    speaker = threading.Thread(target=channel(pair[0]).send, args=({}, [array, array[::2, ::3]]))
    speaker.start()
    message = channel(pair[1]).receive()
    speaker.join()
    assert message is not None
    assert np.array_equal(message[1][0], array)
    assert np.array_equal(message[1][1], array[::2, ::3])


def framed(head: object) -> bytes:
    text = json.dumps(head).encode() if not isinstance(head, bytes) else head
    return struct.pack("<8sI", MAGIC, len(text)) + text


@pytest.mark.parametrize(
    "said",
    [
        b"Welcome to Ubuntu 24.04",
        MAGIC,
        struct.pack("<8sI", MAGIC, 1 << 30),
        framed(b"{")[:-1],
        framed(b"\xff\xfe"),
        framed(b"[1]"),
        framed({}),
        framed({"arrays": 3}),
        framed({"arrays": [["f32"]]}),
        framed({"arrays": [["f64", [1]]]}),
        framed({"arrays": [["f32", [-1]]]}),
        framed({"arrays": [["f32", [1.5]]]}),
        framed({"arrays": [["f32", [True]]]}),
        framed({"arrays": [["f32", [1 << 40, 1 << 40]]]}),
        framed({"arrays": [[["f32"], [1]]]}),
        framed({"arrays": [["f32", [4]]]}) + b"123",
        framed({"arrays": [["u8", [0]]] * 5000}),
        framed({"arrays": [["u8", [1] * 70]]}),
        framed({"arrays": [["f32", [1 << 45, 1 << 45, 1 << 45, 0]]]}),
        framed(b'{"arrays":' + b"[" * 100_000),
    ],
)
def test_what_is_no_message(pair: tuple[socket.socket, socket.socket], said: bytes) -> None:
    pair[0].sendall(said)
    pair[0].shutdown(socket.SHUT_WR)
    with pytest.raises(Lost):
        channel(pair[1]).receive()


def test_a_value_that_there_is_no_memory_for(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].sendall(framed({"arrays": [["f32", [1 << 38]]]}))
    with pytest.raises(ResourceError, match="a value from another host"):
        channel(pair[1]).receive()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(said: bytes, behind_magic: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(MAGIC + said if behind_magic else said)
        ours.shutdown(socket.SHUT_WR)
        with suppress(NetcError):
            channel(theirs).receive()


@pytest.mark.parametrize(
    "value",
    [None, {}, {"kind": "x"}, {"kind": "GraphError", "said": []}, {"kind": "clean", "said": [[1]]}],
)
def test_an_error_that_does_not_read(value: object) -> None:
    assert "does not read" in str(error_from_json(value, "on a"))


def test_what_is_too_much_for_a_message(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ResourceError, match="5000 values are too many"):
        channel(pair[0]).send({}, [np.zeros(1, np.uint8)] * 5000)
    with pytest.raises(ResourceError, match="too many"):
        channel(pair[0]).send({"names": "x" * (1 << 20)})


def test_an_error_is_printable() -> None:
    made = error_from_json(
        {"kind": "GraphError", "said": [["a\x1b[31m" + "b" * 500, "c\n"]]}, "on a"
    )
    assert "\x1b" not in str(made)
    assert "b" * 500 in str(made)


def test_errors_keep_their_kind() -> None:
    error = InputError("too large", help="a smaller one")
    again = error_from_json(json.loads(json.dumps(error_to_json(error))), "on a")
    assert type(again) is InputError
    assert str(again) == "error: on a: too large\n  help: a smaller one"
    both = InputError([*error.diagnostics, Diagnostic("odd")])
    again = error_from_json(json.loads(json.dumps(error_to_json(both))), "on a")
    assert [(d.message, d.help) for d in again.diagnostics] == [
        ("on a: too large", "a smaller one"), ("on a: odd", ""),
    ]  # fmt: skip
    for foreign in ("os", "annotations", "Source", "clean", "field"):
        made = error_from_json({"kind": foreign, "said": [["x", ""]]}, "on a")
        assert type(made) is ResourceError
    assert "out of memory" in str(error_from_json(error_to_json(MemoryError()), "on a"))
    assert "netc failed: KeyError" in str(error_from_json(error_to_json(KeyError(1)), "on a"))


def test_a_worker_answers_nonsense_with_errors(pair: tuple[socket.socket, socket.socket]) -> None:
    def load(*args: object) -> netc.Executable:
        raise AssertionError

    worker = threading.Thread(target=serve, args=(channel(pair[1]), load, load))
    worker.start()
    asking = channel(pair[0])
    hello = asking.receive()
    assert hello is not None
    assert hello[0]["protocol"] == 1
    run = {"do": "run", "part": 0, "fresh": True, "new": [], "reads": [], "sizes": None}
    nonsense: list[dict[str, object]] = [
        {},
        {"do": "eval"},
        {"do": "load", "part": "x", "trusted": True},
        {"do": "load", "part": 0, "trusted": True},
        {"do": "run"},
        {**run, "gives": [], "send": [], "drop": [], "poisoned": False},
        {**run, "reads": [7]},
    ]
    for head in nonsense:
        asking.send(head)
        answer = asking.receive()
        assert answer is not None
        assert "error" in answer[0], head
    pair[0].shutdown(socket.SHUT_WR)
    worker.join(10)
    assert not worker.is_alive()


def two_hosts() -> Graph:
    return on_devices(
        netc.parse(BRANCHES), lambda _, n: Device("cpu", 0, "a" if n.name == "y" else "")
    )


@pytest.mark.parametrize(
    ("spoilt", "error"),
    [
        (lambda y: y.astype(np.int64), InputError),
        (lambda y: y[:, :1], InputError),
        (lambda y: y[:1], NetcError),
    ],
)
def test_what_a_worker_gives_is_checked(
    spoilt: Callable[[Any], Any], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that is mistaken, or worse, is an error here and no memory is read beyond its end."""
    real = Channel.send

    def send(self: Channel, head: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
        if "seconds" in head:
            arrays = [spoilt(a) for a in arrays]
        real(self, head, arrays)

    x = np.ones((2, 3, 20, 20), np.float32)
    exe = netc.compile(two_hosts(), optimize=False, hosts={"a": "-"})
    with in_threads():
        want = exe(data=x)["out"]
        monkeypatch.setattr(Channel, "send", send)
        with pytest.raises(error):
            exe(data=x)
        monkeypatch.setattr(Channel, "send", real)
        assert np.array_equal(exe(data=x)["out"], want)


def test_a_host_that_stops_amid_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither side waits for ever: not to read the rest, nor to send more than the other reads."""
    monkeypatch.setattr(remote, "_ENDING", 0.1)
    monkeypatch.setattr(remote, "_GREETING", 1.0)
    half = framed({"netc": "x", "protocol": 1, "arrays": [["f32", [9]]]}) + b"half"
    (tmp_path / "half").write_bytes(half)
    host = Host("a", ["sh", "-c", f"cat {tmp_path}/half; sleep 60"], Limits(wait=1))
    with pytest.raises(ResourceError, match="it ended amid a message: it is silent"):
        host.greet()
    host.close()
    deaf = Host("b", ["sleep", "60"], Limits(wait=1))
    with pytest.raises(ResourceError, match="host b is lost: it takes nothing: it is silent"):
        ask_much(deaf)
    deaf.close()


@pytest.mark.parametrize("spoil", [{"id": 7}, {"id": None}, {"id": "1"}])
def test_an_answer_to_something_else(
    spoil: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that comes late, or twice, is not taken for another."""
    real = Channel.send

    def send(self: Channel, head: dict[str, Any], arrays: Sequence[Any] = ()) -> None:
        real(self, {**head, **spoil} if "seconds" in head else head, arrays)

    x = np.ones((2, 3, 20, 20), np.float32)
    exe = netc.compile(two_hosts(), optimize=False, hosts={"a": "-"})
    with in_threads():
        want = exe(data=x)["out"]
        with monkeypatch.context() as patch:
            patch.setattr(Channel, "send", send)
            with pytest.raises(ResourceError, match="it answered what it was not asked"):
                exe(data=x)
        assert np.array_equal(exe(data=x)["out"], want)


def ask_much(host: Host) -> None:
    """More than is on its way at once."""
    for _ in range(64):
        host.ask(0, {"do": "x"}, [np.zeros(1 << 15, np.float32)])
