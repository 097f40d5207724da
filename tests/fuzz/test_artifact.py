"""Damaged and crafted `model.bin` files: always a clean error, never a crash, never a silent
difference, never a surprising system call."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.handmade import feed, make_artifact, make_plan, reference

from netc.codegen.cpu.target import native
from netc.errors import NetcError
from netc.runtime.artifact import open_artifact, read_artifact
from netc.runtime.container import Payload, canonical, seal
from netc.runtime.keys import key_path, make_key, tag_of
from netc.runtime.session import load, save_artifact

LEVEL = native().name
PLAN, CODE = f"plan.{LEVEL}", f"code.{LEVEL}"


@pytest.fixture(scope="module")
def small() -> bytes:
    """A whole file, signed."""
    return b"".join(make_artifact(labels=("a", "b")).pieces(make_key()))


# ------------------------------------------------------------------------ A1, A2: damage


def test_every_truncation(small: bytes) -> None:
    assert len(small) <= 64 << 10
    whole = memoryview(small)
    for length in range(len(small)):
        with pytest.raises(NetcError):
            read_artifact(whole[:length], "it")


def test_every_bit_flip(small: bytes) -> None:
    data = bytearray(small)
    survived = []
    for i in range(len(data)):
        for bit in range(8):
            data[i] ^= 1 << bit
            try:
                read_artifact(data, "it")
                survived.append((i, bit))
            except NetcError:
                pass
            data[i] ^= 1 << bit
    assert not survived
    read_artifact(data, "it")


def test_bytes_too_many(small: bytes) -> None:
    for more in (b"\0", b"x", bytes(64), small):
        with pytest.raises(NetcError):
            read_artifact(small + more, "it")


def test_damage_through_load(small: bytes, tmp_path: Path) -> None:
    """The same through the file and every option: no option lowers the checks."""
    rng = random.Random(1)
    path = tmp_path / "m"
    for _ in range(300):
        data = bytearray(small)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        for options in ({}, {"trust": True}, {"recompile": lambda file: make_artifact()}):
            with pytest.raises(NetcError):
                load(path, 1, **options)  # type: ignore[arg-type]


def test_blocks_of_damage(small: bytes) -> None:
    """Zeroed, swapped and repeated blocks, as disks and copies make them."""
    rng = random.Random(2)
    for _ in range(2000):
        data = bytearray(small)
        size = rng.choice((1, 4, 64, 512, 4096))
        a, b = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
        kind = rng.randrange(3)
        if kind == 0:
            data[a : a + size] = bytes(size)
        elif kind == 1:
            data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
        else:
            data[a:a] = data[b : b + size]
        if data == small:
            continue
        with pytest.raises(NetcError):
            read_artifact(data, "it")


# --------------------------------------- A3: crafted, with right digests and the user's own tag


def forged(
    change: Callable[[dict[str, bytes], dict[str, Any]], None], signed: bool = True
) -> bytes:
    """The good file with some sections or the header's meta changed, sealed again."""
    file = read_artifact(b"".join(make_artifact(labels=("a",)).pieces()), "it")
    sections = {name: bytes(file.container.view(name)) for name in file.container.sections}
    meta = json.loads(json.dumps(file.container.meta))
    change(sections, meta)
    payloads = [
        Payload(name, [data], 64 if name == "weights" or name.startswith("code.") else 1)
        for name, data in sections.items()
    ]
    key = make_key()
    return b"".join(seal(payloads, meta, (lambda s: tag_of(key, s)) if signed else None))


def section(name: str, data: bytes) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda sections, meta: sections.update({name: data})


def missing(name: str) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    def change(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        del sections[name]

    return change


def meta(**values: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda sections, header: header.update(values)


def level(**values: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    return lambda sections, header: header["levels"][LEVEL].update(values)


def in_plan(edit: Callable[[Any], None]) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """`edit` gets {"plan": [sizes, [inputs, outputs, …]], "symbols": …}."""

    def change(sections: dict[str, bytes], header: dict[str, Any]) -> None:
        value = json.loads(sections[PLAN])
        edit(value)
        sections[PLAN] = canonical(value)

    return change


def put(value: Any, *path: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """The plan with `value` at this place."""

    def edit(whole: Any) -> None:
        at = whole["plan"][1]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return in_plan(edit)


def size(value: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """The plan with this among its sizes, as the size of buffer 2."""

    def edit(whole: Any) -> None:
        sizes, body = whole["plan"]
        body[BUFFERS][2][1] = str(len(sizes))
        sizes.append(value)

    return in_plan(edit)


def nested(depth: int) -> Any:
    """A size of min(min(…))."""
    value: Any = [[1, "N"]]
    for _ in range(depth):
        value = [[1, ["min", value, [[2, "N"]]]]]
    return value


DEEP = b"[" * 50_000 + b"]" * 50_000
INPUTS, OUTPUTS, BUFFERS, STEPS, CONDITIONS = range(5)
CRAFTED: dict[str, Callable[[dict[str, bytes], dict[str, Any]], None]] = {
    "no ir": missing("ir"),
    "no weights": missing("weights"),
    "no labels": missing("labels"),
    "no plan": missing(PLAN),
    "no code": missing(CODE),
    "no params": missing("params"),
    "code of a level the header lacks": section("code.aarch64x"[:12], b"x")
    if not LEVEL.startswith("aarch64")
    else missing("ir"),
    "header without levels": lambda s, m: m.pop("levels"),
    "header with more": meta(trust=True),
    "levels a list": meta(levels=[]),
    "levels empty, sections there": meta(levels={}),
    "level unknown": meta(levels={"x86-64-v9": {"abi": 1, "features": [], "tuning": ""}}),
    "level null": meta(levels={LEVEL: None}),
    "compiler a number": meta(compiler=1),
    "features text": level(features="avx2"),
    "features numbers": level(features=[1, 2]),
    "features many": level(features=["x"] * 1000),
    "features nested": level(features=[["avx2"]]),
    "abi text": level(abi="1"),
    "abi true": level(abi=True),
    "abi huge": level(abi=1 << 70),
    "tuning null": level(tuning=None),
    "level with more": level(verify=False),
    "plan not JSON": section(PLAN, b"plan"),
    "plan empty": section(PLAN, b""),
    "plan deep": section(PLAN, DEEP),
    "plan a list": section(PLAN, b"[]"),
    "plan not canonical": lambda s, m: s.update({PLAN: s[PLAN] + b"\n"}),
    "plan with a key twice": lambda s, m: s.update({PLAN: b'{"plan":1,' + s[PLAN][1:]}),
    "plan without symbols": in_plan(lambda v: v.pop("symbols")),
    "plan with more": in_plan(lambda v: v.update(trust=True)),
    "symbols a list": in_plan(lambda v: v.update(symbols=[])),
    "symbols gone": in_plan(lambda v: v.update(symbols={})),
    "symbol beyond the code": in_plan(lambda v: v["symbols"].update(netc_run=1 << 30)),
    "symbol before the code": in_plan(lambda v: v["symbols"].update(netc_run=-1)),
    "symbol 2^64": in_plan(lambda v: v["symbols"].update(netc_run=1 << 64)),
    "symbol a float": in_plan(lambda v: v["symbols"].update(netc_run=0.5)),
    "symbol true": in_plan(lambda v: v["symbols"].update(netc_run=True)),
    "plan of null": in_plan(lambda v: v.update(plan=None)),
    "plan too short": in_plan(lambda v: v["plan"].pop()),
    "plan too long": in_plan(lambda v: v["plan"].append([])),
    "inputs null": put(None, INPUTS),
    "inputs none": put([], INPUTS),
    "input twice": put([["data", "f32[N,24]", 0, None]] * 2, INPUTS),
    "input of another element type": put("f64", INPUTS, 0, 1, 0),
    "input of no type": put("", INPUTS, 0, 1),
    "input of rank 33": put([1] * 33, INPUTS, 0, 1, 1),
    "dims of 2^31": put([1 << 31], INPUTS, 0, 1, 1),
    "dims of -1": put([-1], INPUTS, 0, 1, 1),
    "layout unknown": put("nhwc", INPUTS, 0, 1, 2),
    "sizes null": in_plan(lambda v: v["plan"].__setitem__(0, None)),
    "sizes gone": in_plan(lambda v: v["plan"].__setitem__(0, [])),
    "size that divides by zero": size([[1, ["floordiv", [[1, "N"]], 0]]]),
    "size that divides by a name": size([[1, ["floordiv", 1, [[1, "Q"]]]]]),
    "size that calls": size([[1, ["__import__", 1, 1]]]),
    "size of a name that is code": size([[1, "N if 1 else 2"]]),
    "size of a long name": size([[1, "N" * 10_000]]),
    "size of a power": size([[1, *["N"] * 3000]]),
    "size of a bare name": size("N"),
    "size of an empty term": size([[]]),
    "size of a factor that is a number": size([[1, 2]]),
    "size nested": size(nested(200)),
    "size of min of two": size([[1, ["min", 1]]]),
    "place of no size": put("99", BUFFERS, 2, 1),
    "place of many digits": put("9" * 5000, BUFFERS, 2, 1),
    "place in other digits": put("\u0663", BUFFERS, 2, 1),
    "input's buffer 99": put(99, INPUTS, 0, 2),
    "input's buffer -1": put(-1, INPUTS, 0, 2),
    "input's buffer text": put("0", INPUTS, 0, 2),
    "input's name a number": put(7, INPUTS, 0, 0),
    "outputs none": put([], OUTPUTS),
    "output is an input": put(0, OUTPUTS, 0, 2),
    "count of no buffer": put(99, OUTPUTS, 0, 3),
    "count in an input": put(0, OUTPUTS, 0, 3),
    "buffers none": put([], BUFFERS),
    "space unknown": put("gpu", BUFFERS, 0, 0),
    "space null": put(None, BUFFERS, 0, 0),
    "size negative": put(-8, BUFFERS, 2, 1),
    "size 2^62": put(1 << 62, BUFFERS, 2, 1),
    "size of 2^64 + 4": size([[1 << 62, "N"], [1 << 62, "N"], [4]]),
    "size of an unknown symbol": size([[4, "Q"]]),
    "size a float": put(4.0, BUFFERS, 2, 1),
    "size null": put(None, BUFFERS, 2, 1),
    "lives backwards": put(0, BUFFERS, 3, 3),
    "lives before the start": put(-1, BUFFERS, 2, 2),
    "lives beyond the end": put(1 << 40, BUFFERS, 2, 3),
    "steps null": put(None, STEPS),
    "step null": put(None, STEPS, 0),
    "step of an unknown kernel": put("system", STEPS, 0, 0),
    "step of no kernel": put("", STEPS, 0, 0),
    "kernel a number": put(4198400, STEPS, 0, 0),
    "argument unknown": put(["PointerArg", 4096], STEPS, 0, 1, 0),
    "argument empty": put([], STEPS, 0, 1, 0),
    "argument a number": put(4096, STEPS, 0, 1, 0),
    "argument of a list": put([["BufferArg"], 0, 0], STEPS, 0, 1, 0),
    "argument too long": put(["BufferArg", 0, 0, 0], STEPS, 0, 1, 0),
    "argument's buffer 99": put(["BufferArg", 99, 0], STEPS, 0, 1, 0),
    "argument's buffer -1": put(["BufferArg", -1, 0], STEPS, 0, 1, 0),
    "weights beyond the end": put(["WeightArg", 1 << 30], STEPS, 0, 1, 2),
    "weights before the start": put(["WeightArg", -64], STEPS, 0, 1, 2),
    "number of 2^64": put(["IntArg", 1 << 64], STEPS, 0, 1, 3),
    "number beyond 64 bits at run time": lambda s, m: (
        size([[1 << 62, "N"]])(s, m),
        put(["IntArg", "1"], STEPS, 0, 1, 3)(s, m),
    ),
    "code that is not there": put(["CodeArg", "execve"], STEPS, 0, 1, 3),
    "table of a negative size": put(["TableArg", [[[-5], [1], 0]]], STEPS, 1, 1, 3),
    "table of 2^50": put(["TableArg", [[[1 << 50], [1], 0]]], STEPS, 1, 1, 3),
    "table of 2^62": put(["TableArg", [[[1 << 31, 1 << 31], [1, 1], 0]]], STEPS, 1, 1, 3),
    "table beyond 32 bits": put(["TableArg", [[["0", 24], [1 << 40, 1], 0]]], STEPS, 1, 1, 3),
    "table of unequal ranks": put(["TableArg", [[["0", 24], [1], 0]]], STEPS, 1, 1, 3),
    "table of rank 100": put(["TableArg", [[[1] * 100, [1] * 100, 0]]], STEPS, 1, 1, 3),
    "conditions null": put(None, CONDITIONS),
    "condition never met": put([[1, 1 << 40, "why"]], CONDITIONS),
    "condition of an unknown symbol": put([["99", 1, "why"]], CONDITIONS),
    "code empty": section(CODE, b""),
    "labels of numbers": section("labels", b"[1]"),
    "labels a mapping": section("labels", b"{}"),
}


def use(path: Path) -> None:
    exe = load(path, 1)
    assert isinstance(exe.labels, tuple)
    exe(feed(2))


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(forged(CRAFTED[name]))
    start = time.perf_counter()
    with pytest.raises(NetcError):
        use(tmp_path / "m")
    assert time.perf_counter() - start < 1


def test_the_crafted_files_are_right_but_for_one_thing(tmp_path: Path) -> None:
    assert len(CRAFTED) >= 60
    (tmp_path / "m").write_bytes(forged(lambda sections, meta: None))
    x = feed(2)
    np.testing.assert_array_equal(load(tmp_path / "m", 1)(x)["out"], reference(**x))


def test_random_edits_of_the_plan(tmp_path: Path) -> None:
    """Any value of the signed plan's form replaced by another kind of value: no crash on load."""
    rng = random.Random(3)
    odd = [None, -1, 1 << 63, 1 << 64, 0.5, "", "N", "Q", [], {}, True, ["BufferArg"], [[]]]

    def edit(whole: Any) -> None:
        at: Any = whole["plan"]
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = rng.choice(keys)
            if not isinstance(at[key], list | dict) or not at[key] or rng.random() < 0.2:
                at[key] = rng.choice(odd)
                return
            at = at[key]

    for _ in range(300):
        try:
            load_bytes(forged(in_plan(edit)), tmp_path)
        except NetcError:
            continue


def load_bytes(data: bytes, folder: Path) -> None:
    (folder / "m").write_bytes(data)
    load(folder / "m", 1)


# ------------------------------------------------------- A7: what loading does to the system

WATCHED = """
import sys
from pathlib import Path
from netc.errors import NetcError
from netc.runtime.session import load

bad = ("pickle.find_class", "marshal.loads", "exec", "compile", "import", "subprocess.Popen",
       "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind",
       "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir", "os.chmod", "shutil.rmtree")
seen, watching = [], False

def hook(event, args):
    if watching and event in bad and (event, args) != ("ctypes.dlopen", (None,)):
        seen.append((event, str(args)[:200]))
    if watching and event == "open" and not str(args[0]).startswith((sys.argv[1], sys.argv[2])):
        seen.append((event, args[0]))

sys.addaudithook(hook)
files = sorted(Path(sys.argv[1]).iterdir())
load(files.pop(0), 1)  # what Python imports on first use is imported now
watching, refused = True, 0
for path in files:
    try:
        load(path, 1)
    except NetcError:
        refused += 1
watching = False
assert not seen, seen[:5]
print(refused)
"""


def test_loading_hostile_files_does_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "000").write_bytes(forged(lambda sections, meta: None))
    for i, change in enumerate(CRAFTED.values(), start=1):
        (folder / f"{i:03}").write_bytes(forged(change, signed=i % 3 > 0))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(folder), str(key_path())],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > len(CRAFTED) // 2


def test_crafted_files_take_little_memory(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in CRAFTED:
        try:
            load_bytes(forged(CRAFTED[name]), tmp_path)
        except NetcError:
            continue
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 512 << 10, "KiB above the base"


def test_a_good_file_still_opens(tmp_path: Path) -> None:
    save_artifact(make_artifact(make_plan()), tmp_path / "m")
    assert open_artifact(tmp_path / "m").compiler == "test"


# ------------------------------------------------------------------- a real file, MTCNN's O-Net


@pytest.fixture(scope="module")
def real(shared: Path) -> bytes:
    import netc

    folder = shared / "models" / "mtcnn"
    made = netc.compile(netc.from_caffe(folder / "det3.prototxt", folder / "det3.caffemodel"))
    return b"".join(made.model.pieces(make_key()))


def flipped(data: bytearray, count: int, seed: int) -> list[int]:
    """The bits, of so many random ones, whose flip goes unnoticed."""
    rng = random.Random(seed)
    survived = []
    for _ in range(count):
        bit = rng.randrange(len(data) * 8)
        data[bit >> 3] ^= 1 << (bit & 7)
        try:
            read_artifact(data, "it")
            survived.append(bit)
        except NetcError:
            pass
        data[bit >> 3] ^= 1 << (bit & 7)
    return survived


def test_five_thousand_flips_of_a_real_file(real: bytes) -> None:
    data = bytearray(real)
    assert len(data) > 1 << 20
    assert not flipped(data, 5000, seed=4)
    read_artifact(data, "it")


@pytest.mark.long
def test_a_hundred_thousand_flips_of_a_real_file(real: bytes) -> None:
    assert not flipped(bytearray(real), 100_000, seed=5)


def test_two_thousand_truncations_of_a_real_file(real: bytes) -> None:
    whole, rng = memoryview(real), random.Random(6)
    for _ in range(2000):
        with pytest.raises(NetcError):
            read_artifact(whole[: rng.randrange(len(real))], "it")
