"""Nets on several hosts give what one host gives, and end in an error where a host does not."""

from __future__ import annotations

import errno
import gc
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import netc
from netc.errors import InputError, ResourceError, UsageError
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.interpret import initial_weights
from netc.runtime import remote
from netc.runtime.remote import commands_of
from netc.runtime.remote_run import HostsExecutable
from netc.runtime.trace import timed, trace_json
from tests.strategies import feeds, graphs

from .nets import BRANCHES, on_devices
from .test_hosts_cut import dealt
from .workers import PROCESS, in_threads

X = np.random.default_rng(0).normal(size=(4, 3, 20, 20)).astype(np.float32)
REAL = {"a": PROCESS, "b": PROCESS}
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ENDS_APART, STAGES = {"x": "cpu:0@a", "y": "cpu:0"}, {"x": "cpu:0@a", "y": "cpu:0@b"}
pytestmark = pytest.mark.filterwarnings("ignore")


def spread(run: int = 2, hosts: str = " ab") -> Graph:
    """The branches, nodes dealt out to hosts, some in a row to each."""
    names = [h.strip() for h in hosts]
    return on_devices(
        netc.parse(BRANCHES), lambda i, _: Device("cpu", 0, names[i // run % len(names)])
    )


def expected(x: np.ndarray = X) -> np.ndarray:
    """What one device gives."""
    return netc.compile(netc.parse(BRANCHES), optimize=False, threads=1)(data=x)["out"]


@pytest.fixture(scope="module")
def exe() -> netc.Executable:
    """On this host and two others, which are processes."""
    return netc.compile(spread(), optimize=False, threads=1, hosts=REAL)


def test_other_processes(exe: netc.Executable) -> None:
    assert exe.devices == ("cpu:0", "cpu:0@a", "cpu:0@b")
    exe.poison()
    for size in (4, 1, 3, 4):
        assert np.array_equal(exe(data=X[:size])["out"], expected(X[:size]))


@pytest.mark.parametrize("dealt_to", ["ab", "a", " a"])
@pytest.mark.parametrize("run", [1, 3])
def test_dealt_out(dealt_to: str, run: int) -> None:
    with in_threads():
        exe = netc.compile(spread(run, dealt_to), optimize=False, hosts={h: "-" for h in "ab"
                           if h in dealt_to})  # fmt: skip
        assert np.array_equal(exe(data=X)["out"], expected())


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 1 << 30))
def test_random_graphs_on_random_hosts(g: Graph, seed: int) -> None:
    check_random(g, seed)


@pytest.mark.long
@settings(max_examples=2000, deadline=None)
@given(graphs(), st.integers(0, 1 << 30))
def test_many_random_graphs(g: Graph, seed: int) -> None:
    check_random(g, seed)


def check_random(g: Graph, seed: int) -> None:
    g = replace(g, weights=initial_weights(g))
    feed = feeds(g, 0)
    one = netc.compile(on_devices(g, lambda *_: None), optimize=False, threads=1)(feed)
    with in_threads():
        made = netc.compile(dealt(g, seed), optimize=False, threads=1)
        if isinstance(made, HostsExecutable):
            made._commands = {"a": ("-",), "b": ("-",)}
        for _ in range(2):
            got = made(feed)
            for name, array in one.items():
                assert np.array_equal(got[name], array, equal_nan=True), name


@pytest.mark.parametrize("batch", ["N", 8])
@pytest.mark.parametrize(
    "said",
    [
        {"replicate": ["cpu:0@a", "cpu:0@b"]},
        {"replicate": ["cpu:0", "cpu:1@a", "cpu:0@b"]},
        {"pipeline": ["cpu:0@a", "cpu:0"], "micro_batches": 4, "place": ENDS_APART},
        {"pipeline": ["cpu:0@a", "cpu:0@b"], "micro_batches": 2, "place": STAGES},
        {"split": {"conv": ["cpu:0@a", "cpu:0@b"], "fc": ["cpu:0", "cpu:0@b"]}},
    ],
)
def test_shardings_over_hosts(said: dict[str, Any], batch: int | str) -> None:
    if batch == 8 and len(said.get("replicate", ())) == 3:
        pytest.skip("eight are no three equal shares")
    net = netc.parse(BRANCHES.replace("[N,", f"[{batch},"))
    sizes = (8,) if batch == 8 else (8, 5, 1)
    with in_threads():
        exe = netc.compile(net, optimize=False, **said, hosts=_commands(said))
        for size in sizes:
            x = np.random.default_rng(size).normal(size=(size, 3, 20, 20)).astype(np.float32)
            assert np.array_equal(exe(data=x)["out"], expected(x))


def _commands(said: object) -> dict[str, str]:
    return {h: "-" for h in "ab" if f"@{h}" in str(said)}


def test_strategies_over_hosts() -> None:
    with in_threads():
        for strategy in ("greedy", "stages", "min_cut"):
            devices = ["cpu:0", "cpu:0@a"]
            exe = netc.compile(netc.parse(BRANCHES), devices=devices, strategy=strategy)
            if "cpu:0@a" in exe.devices:
                assert isinstance(exe, HostsExecutable)
                exe._commands = {"a": ("-",)}
            assert np.allclose(exe(data=X)["out"], expected(), rtol=1e-4, atol=1e-6)


def test_gpus_of_other_hosts() -> None:
    """A part with a GPU there and processors here; kernels run in the interpreter."""
    pytest.importorskip("triton")
    net = """
    net g(data: f32[N, 4, 6, 6]) -> out {
      x = data |> conv(8, 3, pad=1) |> relu @ cuda:0@a
      out = x |> global_avg_pool |> flatten |> fc(3)
    }"""
    x = np.random.default_rng(0).integers(-3, 4, (2, 4, 6, 6)).astype(np.float32)
    with in_threads():
        exe = netc.compile(netc.parse(net), hosts={"a": "-"}, gpu="interpret", cache=False)
        got = exe(data=x)["out"]
    want = netc.interpret(netc.parse(net), {"data": x})["out"]
    assert np.allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_saved_net(tmp_path: Path, exe: netc.Executable) -> None:
    path = tmp_path / "m.bin"
    exe.save(path)
    for trust in (None, False):
        with in_threads():
            again = netc.load(path, hosts={"a": "-", "b": "-"}, trust=trust)
            assert again.plan == exe.plan
            assert np.array_equal(again(data=X)["out"], expected())
            again.save(tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == path.read_bytes()


def test_steps_of_a_run(exe: netc.Executable) -> None:
    out, steps = timed(exe, exe.accepted({"data": X}, {}))
    assert np.array_equal(out["out"], expected())
    assert {s.device for s in steps} == set(exe.devices)
    assert all(s.seconds > 0 for s in steps)
    names = [e["args"]["name"] for e in json.loads(trace_json([steps]))["traceEvents"][1:4]]
    assert names == ["cpu:0 compute", "cpu:0@a compute", "cpu:0@b compute"]


def test_threads_call_in_turns(exe: netc.Executable) -> None:
    wrong = []

    def work() -> None:
        for _ in range(5):
            if not np.array_equal(exe(data=X)["out"], want):
                wrong.append(1)

    want = expected()
    callers = [threading.Thread(target=work) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_hosts_are_left_when_the_net_is_forgotten() -> None:
    exe = netc.compile(spread(), optimize=False, hosts=REAL)
    exe.start()
    assert isinstance(exe, HostsExecutable)
    processes = [host._process for host in exe._hosts.values()]
    assert len(processes) == 2
    assert all(p.poll() is None for p in processes)
    del exe
    gc.collect()
    assert [p.wait(10) for p in processes] == [0, 0]


# ---- what goes wrong -----------------------------------------------------------------------------


def test_a_host_that_nobody_says_how_to_reach(tmp_path: Path, exe: netc.Executable) -> None:
    exe.save(tmp_path / "m.bin")
    with pytest.raises(UsageError, match="how to reach host a") as caught:
        netc.load(tmp_path / "m.bin")
    assert "--host a='ssh a netc worker'" in str(caught.value)
    with pytest.raises(UsageError, match="how to reach host a"):
        netc.load(tmp_path / "m.bin", hosts={"c": "true"})
    netc.compile(netc.parse(BRANCHES)).save(tmp_path / "one.bin")
    with pytest.raises(UsageError, match="is on this one alone"):
        netc.load(tmp_path / "one.bin", hosts={"a": "true"})


@pytest.mark.parametrize(
    ("command", "error", "said"),
    [
        (["/no/such/program"], UsageError, "cannot start /no/such/program: No such file"),
        (["true"], ResourceError, "host a is lost: it ended"),
        (["sh", "-c", "echo no route >&2; exit 3"], ResourceError, "ended with status 3"),
        (["echo", "welcome to this machine"], ResourceError, "it said 'welcome to t"),
        ([sys.executable, "-c", "print('x' * 9999)"], ResourceError, "no netc worker says"),
    ],
)
def test_a_command_that_is_no_worker(command: list[str], error: type[Exception], said: str) -> None:
    exe = netc.compile(spread(), optimize=False, hosts={"a": command, "b": PROCESS})
    with pytest.raises(error, match=said):
        exe(data=X)


def test_what_a_command_says_is_told() -> None:
    command = ["sh", "-c", "echo no route to a >&2; exit 3"]
    exe = netc.compile(spread(), optimize=False, hosts={"a": command, "b": PROCESS})
    with pytest.raises(ResourceError) as caught:
        exe(data=X)
    assert "its command said: no route to a" in str(caught.value)


def test_a_worker_that_never_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_GREETING", 0.2)
    exe = netc.compile(spread(), optimize=False, hosts={"a": ["sleep", "30"], "b": PROCESS})
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"no worker answers in 0\.2 s"):
        exe(data=X)
    assert time.monotonic() - start < 10


def test_a_worker_that_dies_is_started_again() -> None:
    exe = netc.compile(spread(), optimize=False, threads=1, hosts=REAL)
    assert np.array_equal(exe(data=X)["out"], expected())
    assert isinstance(exe, HostsExecutable)
    exe._hosts["b"]._process.kill()
    with pytest.raises(ResourceError, match=r"host b is lost: its command ended with status -9"):
        exe(data=X)
    assert np.array_equal(exe(data=X)["out"], expected())


def test_a_worker_that_hangs() -> None:
    exe = netc.compile(spread(), optimize=False, threads=1, hosts=REAL)
    exe.start()
    assert isinstance(exe, HostsExecutable)
    exe._limits = replace(exe._limits, wait=0.5)
    os.kill(exe._hosts["b"]._process.pid, signal.SIGSTOP)
    with pytest.raises(ResourceError, match=r"no host has answered for 0\.5 s"):
        exe(data=X)
    exe._limits = replace(exe._limits, wait=60)
    assert np.array_equal(exe(data=X)["out"], expected())


def test_inputs_are_refused_before_any_host_is_asked(exe: netc.Executable) -> None:
    with pytest.raises(InputError, match="expected f32"):
        exe(data=X[:, :2])
    assert np.array_equal(exe(data=X)["out"], expected())


def test_an_error_there_is_an_error_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise ResourceError("no room for it", help="buy more")

    exe = netc.compile(spread(), optimize=False, hosts={"a": "-", "b": "-"})
    with in_threads() as patch:
        patch.setattr(netc.api, "load_part", refuse)
        with pytest.raises(ResourceError, match="on a: no room for it") as caught:
            exe(data=X)
    assert "help: buy more" in str(caught.value)
    with in_threads():
        assert np.array_equal(exe(data=X)["out"], expected())


def test_a_forked_child_is_told(exe: netc.Executable) -> None:
    exe.start()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            exe(data=X)
        except UsageError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        assert b"forked after the net was loaded" in stream.read()
    assert np.array_equal(exe(data=X)["out"], expected())


def test_an_interrupt_ends_the_run(tmp_path: Path) -> None:
    """Ctrl-C while another host computes; its worker is not interrupted, and is left."""
    exe = netc.compile(spread(), optimize=False, hosts=REAL)
    exe.start()
    assert isinstance(exe, HostsExecutable)
    process = exe._hosts["b"]._process
    os.kill(process.pid, signal.SIGSTOP)
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        exe(data=X)
    assert time.monotonic() - start < 10
    assert np.array_equal(exe(data=X)["out"], expected())


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NETC_HOSTS", "a=ssh a netc worker; b = x 'y z'\nc=w")
    assert commands_of({"c": ["v", "u"]}) == {
        "a": ("ssh", "a", "netc", "worker"),
        "b": ("x", "y z"),
        "c": ("v", "u"),
    }
    for wrong in ("", [], "'", 3, ["x", 3], "a\0b"):
        with pytest.raises(UsageError):
            commands_of({"a": wrong})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match="hosts go by name"):
        commands_of("a=b")  # type: ignore[arg-type]
    monkeypatch.setenv("NETC_HOSTS", "nothing")
    with pytest.raises(UsageError, match="NETC_HOSTS: 'nothing' names no command"):
        commands_of(None)


def test_answers_of_a_run_that_was_interrupted_are_not_taken(exe: netc.Executable) -> None:
    """As a second Ctrl-C leaves it, which comes while workers are being ended."""
    assert np.array_equal(exe(data=X)["out"], expected())
    assert isinstance(exe, HostsExecutable)
    exe._hosts["a"].ask(3, {"do": "nothing"})
    exe._hosts["b"].has_parts = False
    before = dict(exe._hosts)
    assert np.array_equal(exe(data=X)["out"], expected())
    assert not set(before.values()) & set(exe._hosts.values())
    assert all(host._process.returncode is not None for host in before.values())


def test_nothing_is_left_open() -> None:
    """Also where the last one to hold a net is the thread of its own part."""
    net = netc.parse("""
    net g(data: f32[N, 4, 6, 6]) -> out {
      x = data |> conv(8, 3, pad=1) |> relu @ cpu:0@a
      y = data |> conv(8, 3, pad=1) |> relu
      out = x + y @ cpu:0
    }""")
    x = np.ones((2, 4, 6, 6), np.float32)
    with in_threads():
        netc.compile(net, hosts={"a": "-"}, threads=1)(data=x)
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(40):
            netc.compile(net, hosts={"a": "-"}, threads=1)(data=x)
            with pytest.raises(UsageError, match="does not read"):
                netc.compile(net, hosts={"a": "'"})
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_no_more_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    made = netc.compile(spread(), optimize=False, hosts=REAL)
    with monkeypatch.context() as patch:
        patch.setattr(socket, "socketpair", refuse)
        with pytest.raises(ResourceError, match="Too many open files"):
            made(data=X)


# ---- the command line ----------------------------------------------------------------------------


def test_the_command_line(tmp_path: Path) -> None:
    model, x, y = (tmp_path / name for name in ("m.bin", "x.npy", "y.npz"))
    np.save(x, np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28)).astype(np.uint8))
    _netc("compile", EXAMPLES / "lenet.net", "--place", "conv2=cpu:0@far", "-o", model)
    far = "far=" + " ".join(PROCESS)
    said = _netc("run", model, "--input", f"data={x}", "--output", y, "--host", far)
    assert "prob" in said
    _netc("compile", EXAMPLES / "lenet.net", "-o", tmp_path / "one.bin")
    want = netc.load(tmp_path / "one.bin")(data=np.load(x))["prob"]
    assert np.allclose(np.load(y)["prob"], want, rtol=1e-4, atol=1e-6)
    told = _netc("time", model, "--seconds", "0.1", "--host", far)
    assert "hosts: median" in told
    assert "conv2" in _netc("inspect", model)
    assert "same, byte for byte" in _netc("verify", model)
    missing = subprocess.run(
        [sys.executable, "-m", "netc", "run", model, "--input", f"data={x}"],
        capture_output=True,
        text=True,
    )
    assert missing.returncode == 2
    assert "how to reach host far" in missing.stderr
    assert "Traceback" not in missing.stderr


def _netc(*words: object) -> str:
    command = [sys.executable, "-m", "netc", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("words", ["far", "=x", "far=", "far= "])
def test_a_host_option_that_is_none(words: str, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"")
    command = [sys.executable, "-m", "netc", "run", str(tmp_path / "m.bin"), "--host", words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is no NAME=COMMAND" in done.stderr


def test_a_worker_is_not_for_a_terminal() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(PROCESS, stdin=theirs, capture_output=True, text=True, timeout=60)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "a worker is started by netc on another host" in done.stderr


def test_a_measured_run_is_of_this_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "netc", "explain", str(EXAMPLES / "lenet.net"), "--measure"]
    done = subprocess.run(
        [*command, "--place", "conv2=cpu:0@far"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--measure runs on this host" in done.stderr
