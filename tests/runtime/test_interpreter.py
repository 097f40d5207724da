"""The driver without a GPU: kernels in a subprocess, which may raise, hang, die or be forked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netc.errors import NetcError, ResourceError, UsageError
from netc.ir.gpu_code import KernelText, Variant
from netc.runtime.driver import GpuOptions, Launch
from netc.runtime.interpreter import PROCESS, InterpreterDriver
from netc.runtime.memory import address
from netc.runtime.session import executable, save_artifact

from .gpu_handmade import ADD, ADD_TEXT, HEAD, PRODUCT, add_artifact, add_reference, bare
from .handmade import feed
from .test_alone import ROOT

OPTIONS = GpuOptions(gpu="interpret")
ONE = (Variant((1 << 30,)),)


def kernel(body: str, *params: str, names: str = "c, a, b") -> KernelText:
    """A kernel of one program."""
    return KernelText(f"{HEAD}def kernel({names}):\n    {body}\n", params, (), 1, ONE)


def interpret(text: KernelText, *given: np.ndarray | int, extents: tuple[int, ...] = (1,)) -> None:
    """One launch on arrays, which it may change, and numbers."""
    driver = InterpreterDriver(bare(g0=text), OPTIONS)
    queue = driver.queue(0, "compute")
    args, blocks = [], []
    for value in given:
        if isinstance(value, int):
            args.append(value)
            continue
        block = driver.allocate(0, value.nbytes, "it")
        queue.copy(block.address, address(value), value.nbytes)
        blocks.append((block, value))
        args.append(block.address)
    spans = tuple((block.address, block.address + value.nbytes) for block, value in blocks)
    launch = Launch("g0", extents, tuple(args), writes=spans, label="it")
    queue.prepare([launch], []).start()
    for block, value in blocks:
        queue.copy(address(value), block.address, value.nbytes)
    driver.close()


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 to the nearest bf16, as bits; ties to even."""
    exact = values.astype(np.float64)
    up = (values.view(np.uint32) >> 16).astype(np.uint16)
    both = np.stack([up, up + 1])
    apart = np.abs(wide(both).astype(np.float64) - exact)
    first = (apart[0] < apart[1]) | ((apart[0] == apart[1]) & (up & 1 == 0))
    return np.where(first, both[0], both[1])


def wide(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# ------------------------------------------------------------------------- what kernels compute


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_product_with_bounds_known_at_run_time(kind: str) -> None:
    a, b, c = numbers(40, 50), numbers(50, 30, seed=1), np.zeros((40, 30), np.float32)
    x, y = (bf16(a), bf16(b)) if kind == "bf16" else (a, b)
    variant = Variant((32, 32), (("P", 32), ("Q", 32), ("R", 16)))
    params = ("*fp32", f"*{kind}", f"*{kind}", "i32", "i32", "i32")
    text = KernelText(PRODUCT.replace('"ieee"', '"tf32"'), params, (), 2, (variant,))
    interpret(text, c, x, y, 40, 30, 50, extents=(40, 30))
    wanted = wide(x) @ wide(y) if kind == "bf16" else a @ b
    np.testing.assert_allclose(c, wanted, rtol=0, atol=2e-5)


def test_bf16_is_rounded_to_nearest_even() -> None:
    ties = np.array([1.00390625, 1.01171875, -1.00390625, 3.3e38, 1e-40, 0, 1], np.float32)
    a = np.concatenate([numbers(1000), ties])
    c = np.zeros(1007, np.uint16)
    body = "i = tl.arange(0, 1024); tl.store(c + i, tl.load(a + i, i < 1007), i < 1007)"
    interpret(kernel(body, "*bf16", "*fp32", names="c, a"), c, a)
    np.testing.assert_array_equal(c, bf16(a))
    special = np.array([np.inf, -np.inf, np.nan], np.float32)
    interpret(kernel(body.replace("1007", "3"), "*bf16", "*fp32", names="c, a"), c, special)
    np.testing.assert_array_equal(wide(c[:3]), special)


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("x + y", lambda x, y: x + y),
        ("x * y", lambda x, y: x * y),
        ("-x", lambda x, y: -x),
        ("tl.maximum(x, y)", np.maximum),
        ("tl.where(x > y, x, y)", np.maximum),
        ("tl.exp(x.to(tl.float32))", lambda x, y: np.exp(x)),
        ("tl.abs(x)", lambda x, y: np.abs(x)),
        ("x + 0.5", lambda x, y: x + np.float32(0.5)),
        ("x.to(tl.float16)", lambda x, y: x.astype(np.float16).astype(np.float32)),
        ("(x * 8).to(tl.int32)", lambda x, y: wide(bf16(x * 8)).astype(np.int32)),
    ],
)
def test_bf16_arithmetic(expression: str, wanted: object) -> None:
    x, y = bf16(numbers(64)), bf16(numbers(64, seed=1))
    c = np.zeros(64, np.uint16)
    body = (
        "i = tl.arange(0, 64); x = tl.load(a + i); y = tl.load(b + i); "
        f"tl.store(c + i, ({expression}).to(tl.bfloat16))"
    )
    interpret(kernel(body, "*bf16", "*bf16", "*bf16"), c, x, y)
    exact = wanted(wide(x), wide(y)).astype(np.float32)  # type: ignore[operator]
    np.testing.assert_array_equal(c, bf16(exact))


def test_whole_numbers_bytes_and_halves() -> None:
    a, b, c = np.arange(64, dtype=np.uint8), numbers(64).astype(np.float16), np.zeros(64, np.int64)
    body = (
        "i = tl.arange(0, 64); x = tl.load(a + i).to(tl.int64); y = tl.load(b + i); "
        "tl.store(c + i, tl.where(y > 0, x * n, -x))"
    )
    text = kernel(body, "*i64", "*u8", "*fp16", "i64", names="c, a, b, n")
    interpret(text, c, a, b, 1 << 40)
    np.testing.assert_array_equal(c, np.where(b > 0, a.astype(np.int64) << 40, -a.astype(np.int64)))


def test_reductions_and_helpers() -> None:
    text = f"""
import triton
import triton.language as tl

@triton.jit
def half(x):
    return x * 0.5

@triton.jit
def kernel(c, a, n):
    i = tl.arange(0, 64)
    x = half(tl.load(a + i, mask=i < n, other=float("-inf")))
    tl.store(c, tl.max(x, axis=0))
    tl.store(c + 1, tl.sum(tl.where(i < n, x, 0.0), axis=0))
{ADD[:0]}"""
    a, c = numbers(50), np.zeros(2, np.float32)
    interpret(KernelText(text, ("*fp32", "*fp32", "i32"), (), 1, ONE), c, a, 50)
    np.testing.assert_allclose(c, [a.max() / 2, a.sum() / 2], rtol=1e-5)


def test_counters_and_several_programs() -> None:
    """The last of the programs to arrive adds up, and sets the counter back."""
    body = """p = tl.program_id(0)
    tl.store(a + p, p + 1.0)
    if tl.atomic_add(b, 1) == 3:
        tl.store(c, tl.sum(tl.load(a + tl.arange(0, 4)), axis=0))
        tl.store(b, 0)"""
    text = replace(kernel(body, "*fp32", "*fp32", "*i32"), variants=(Variant((1,), repeat=4),))
    c, a, b = np.zeros(1, np.float32), np.zeros(4, np.float32), np.zeros(1, np.int32)
    for _ in range(2):
        interpret(text, c, a, b)
        assert (c[0], b[0]) == (10, 0)
        a[:] = 0


# ------------------------------------------------------------------------------- what goes wrong


def bad(body: str, **more: object) -> None:
    """Run a kernel on nothing much."""
    interpret(kernel(body, "*fp32", names="c"), np.zeros(4, np.float32))


def check_recovery() -> None:
    x = feed(3)
    exe = executable(add_artifact(), 1, gpu="interpret")
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("c + + +", r"it \(g0\): SyntaxError"),
        ("tl.store(c, nothing)", r"it \(g0\): NameError: .*nothing"),
        ("tl.static_assert(False, 'why')", r"it \(g0\): AssertionError: why"),
        ("tl.no_such_word(c)", r"it \(g0\): AttributeError"),
    ],
)
def test_a_kernel_that_raises(body: str, says: str) -> None:
    with pytest.raises(NetcError, match=says):
        bad(body)
    check_recovery()


def test_constants_that_do_not_fit() -> None:
    variants = (Variant((256,), (("OTHER", 256),)),)
    exe = executable(
        add_artifact(gpu=bare(g0=replace(ADD_TEXT, variants=variants))), 1, gpu=OPTIONS
    )
    with pytest.raises(NetcError, match=r"first \(g0\): ValueError: constants"):
        exe(feed(1))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("tl.store(c + (1 << 40), 1.0)", "writes 1 of 1"),
        ("tl.store(c + tl.arange(0, 8), 1.0)", "writes 4 of 8"),
        ("tl.store(c - 1, 1.0)", "writes 1 of 1"),
        ("tl.store(c, tl.sum(tl.load(c + tl.arange(0, 8)), axis=0))", "reads 4 of 8"),
        ("tl.store(c, tl.load(c + 1023).to(tl.float32))", "reads 1 of 1"),
        ("tl.atomic_add(c + 4, 1.0)", "writes 1 of 1"),
    ],
)
def test_an_access_beyond_the_buffers(body: str, says: str) -> None:
    with pytest.raises(NetcError, match=rf"it \(g0\): IndexError: it {says} elements beyond its"):
        bad(body)
    check_recovery()


def test_what_is_masked_is_not_touched() -> None:
    at, mask = "c + tl.arange(0, 8)", "mask=tl.arange(0, 8) < 4"
    c = np.arange(4, dtype=np.float32)
    interpret(kernel(f"tl.store({at}, tl.load({at}, {mask}) + 1, {mask})", "*fp32", names="c"), c)
    np.testing.assert_array_equal(c, [1, 2, 3, 4])


def test_only_what_a_launch_writes_may_be_written() -> None:
    """Its other buffers, and the weights but for its counters, are there to be read."""
    text = kernel("tl.store(a, tl.load(b))", "*fp32", "*fp32", "*fp32")
    driver = InterpreterDriver(bare(g0=text), OPTIONS)
    c, a, b = (driver.allocate(0, 4, "it").address for _ in range(3))
    for reads, writes, alone in (
        ((c, a), (), ()),
        ((c,), (), ()),
        ((c,), (a,), ()),
        ((), (), (a,)),
    ):
        spans = [tuple((at, at + 4) for at in of) for of in (reads, writes)]
        launch = Launch("g0", (1,), (c, a, b), *spans, alone=alone, label="it")
        replay = driver.queue(0, "compute").prepare([launch], [])
        if writes or alone:
            replay.start()
            continue
        with pytest.raises(NetcError, match="it writes 1 of 1 elements"):
            replay.start()
    driver.close()


def test_a_death_amid_a_run() -> None:
    text = kernel("tl.store(c, 1.0)", "*fp32", names="c")
    ends = replace(text, text=f"import os\nos.kill(os.getpid(), 11)\n{text.text}")
    with pytest.raises(NetcError, match=r"died of SIGSEGV, when it ran it \(g0\)"):
        interpret(ends, np.zeros(4, np.float32))
    check_recovery()


def test_a_run_that_takes_too_long() -> None:
    text = kernel("for i in range(0, 1 << 30):\n        tl.store(c, 1.0 * i)", "*fp32", names="c")
    driver = InterpreterDriver(bare(g0=text), GpuOptions(gpu="interpret", timeout=1.0))
    block = driver.allocate(0, 4, "it")
    at = block.address
    launch = Launch("g0", (1,), (at,), writes=((at, at + 4),), label="it")
    replay = driver.queue(0, "compute").prepare([launch], [])
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"took more than 1 s, when it ran it \(g0\)"):
        replay.start()
    assert time.monotonic() - start < 5
    check_recovery()


def test_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    PROCESS.close()
    monkeypatch.setattr("netc.runtime.interpreter._MAIN", "raise SystemExit(3)")
    with pytest.raises(NetcError, match=r"(?s)ended with status 3.*pip install"):
        check_recovery()
    monkeypatch.undo()
    check_recovery()


class Stop(Exception):
    """As a handler of signals may raise."""


@contextmanager
def interrupted(seconds: float) -> Iterator[None]:
    def handler(number: int, frame: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_ends_the_run() -> None:
    with pytest.raises(Stop), interrupted(0.5):
        bad("for i in range(0, 1 << 30):\n        tl.store(c, 1.0 * i)")
    check_recovery()


def test_a_fork_is_refused_and_the_child_may_load_again() -> None:
    exe = executable(add_artifact(), 1, gpu="interpret")
    exe(feed(1))
    pid = os.fork()
    if not pid:
        status = 1
        try:
            try:
                exe(feed(1))
            except UsageError:
                check_recovery()
                PROCESS.close()
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    exe(feed(1))


ORPHAN = """
import os, signal, sys
sys.path.insert(0, "tests")
from runtime.gpu_handmade import add_artifact
from runtime.handmade import feed
from netc.runtime.interpreter import PROCESS
from netc.runtime.session import executable
executable(add_artifact(), 1, gpu="interpret")(feed(1))
print(PROCESS._subprocess._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_it_ends_with_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    pid = int(done.stdout)
    end = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{pid}").exists()


ALONE = """
import sys
BLOCKED = ("triton", "torch", "llvmlite", "netc.codegen", "netc.passes", "netc.frontend", "cuda")

class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BLOCKED):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np
from netc.runtime.session import load
x = dict(np.load(sys.argv[2]))
wanted = x.pop("wanted")
exe = load(sys.argv[1], 1, gpu="interpret")
assert np.array_equal(exe(x)["out"], wanted)
assert not [m for m in sys.modules if m.partition(".")[0] in ("triton", "torch", "cuda")]
"""


def test_the_main_process_needs_no_triton(tmp_path: Path) -> None:
    save_artifact(add_artifact(), tmp_path / "m")
    x = feed(3)
    np.savez(tmp_path / "x.npz", wanted=add_reference(**x), **x)
    command = [sys.executable, "-c", ALONE, str(tmp_path / "m"), str(tmp_path / "x.npz")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, cwd=tmp_path)
