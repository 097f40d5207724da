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
    """`edit` gets {"plan": {…}, "symbols": {…}}."""

    def change(sections: dict[str, bytes], header: dict[str, Any]) -> None:
        value = json.loads(sections[PLAN])
        edit(value)
        sections[PLAN] = canonical(value)

    return change


def put(value: Any, *path: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """The plan with `value` at this place."""

    def edit(whole: Any) -> None:
        at = whole["plan"]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return in_plan(edit)


def size(value: Any, *users: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """The plan with this among its sizes, as the size of buffer 2 or where `users` says."""

    def edit(whole: Any) -> None:
        at = whole["plan"]
        place = len(at["sizes"])
        at["sizes"].append(value)
        path = users or ("buffers", 2, 1)
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = place

    return in_plan(edit)


def table(value: Any) -> Callable[[dict[str, bytes], dict[str, Any]], None]:
    """The plan with these numbers as the dims, strides and base of its one table."""

    def edit(whole: Any) -> None:
        sizes = whole["plan"]["sizes"]

        def place(number: Any) -> int:
            sizes.append(number)
            return len(sizes) - 1

        dims, strides, base = value
        part = [list(map(place, dims)), list(map(place, strides)), place(base)]
        whole["plan"]["tables"] = [[part]]

    return in_plan(edit)


def nested(depth: int) -> Any:
    """A size of min(min(…))."""
    value: Any = [[1, "N"]]
    for _ in range(depth):
        value = [[1, ["min", value, [[2, "N"]]]]]
    return value


DEEP = b"[" * 50_000 + b"]" * 50_000
KERNELS, COUNTS, FLOPS, BYTES, BARRIERS, NAMES, OPS, DEVICES, READS, WRITES = range(10)
STEPS, MANY = "steps", [1] * 100
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
    "plan of a list": in_plan(lambda v: v.update(plan=list(v["plan"].values()))),
    "plan without steps": in_plan(lambda v: v["plan"].pop("steps")),
    "plan with a column more": put([], "more"),
    "inputs null": put(None, "inputs"),
    "inputs none": put([], "inputs"),
    "input of too few parts": put(["data"], "inputs", 0),
    "input of another element type": put("f64", "inputs", 0, 1),
    "input of no type": put(None, "inputs", 0, 1),
    "input of a list as type": put(["f32"], "inputs", 0, 1),
    "input of rank 33": put([0] * 33, "inputs", 0, 3),
    "layout unknown": put("nhwc", "inputs", 0, 2),
    "dims of 2^31": size(1 << 31, "inputs", 0, 3, 1),
    "dims of -1": size(-1, "inputs", 0, 3, 1),
    "dims of no size": put([99999], "inputs", 0, 3),
    "dims of a name": put(["N"], "inputs", 0, 3),
    "input's buffer 99": put(99, "inputs", 0, 4),
    "input's buffer -1": put(-1, "inputs", 0, 4),
    "input's buffer text": put("0", "inputs", 0, 4),
    "input's name a number": put(7, "inputs", 0, 0),
    "outputs none": put([], "outputs"),
    "output is an input": put(0, "outputs", 0, 4),
    "count of no buffer": put(99, "outputs", 0, 5),
    "count in an input": put(0, "outputs", 0, 5),
    "sizes null": put(None, "sizes"),
    "sizes gone": put([], "sizes"),
    "size a float": size(4.0),
    "size null": size(None),
    "size true": size(True),
    "size 2^64": size(1 << 64),
    "size negative": size(-8),
    "size 2^62": size(1 << 62),
    "size of 2^64 + 4": size([[1 << 62, "N"], [1 << 62, "N"], [4]]),
    "size of an unknown symbol": size([[4, "Q"]]),
    "size that divides by zero": size([[1, ["floordiv", [[1, "N"]], 0]]]),
    "size that divides by a name": size([[1, ["floordiv", 1, [[1, "Q"]]]]]),
    "size that calls": size([[1, ["__import__", 1, 1]]]),
    "size of a name that is code": size([[1, "N if 1 else 2"]]),
    "size of a long name": size([[1, "N" * 10_000]]),
    "size of a power": size([[1, *["N"] * 3000]]),
    "size of many terms": size([[1, "N"]] * 10_000),
    "size of a bare name": size("N"),
    "size of an empty term": size([[]]),
    "size of a factor that is a number": size([[1, 2]]),
    "size nested": size(nested(200)),
    "size of min of two": size([[1, ["min", 1]]]),
    "size of a power of a sum": size([[1, *[["min", [[1, "N"], [7]], [[3, "N"]]]] * 30]]),
    "place of a size as text": put("0", "buffers", 2, 1),
    "buffers none": put([], "buffers"),
    "buffers null": put(None, "buffers"),
    "space unknown": put("gpu", "buffers", 0, 0),
    "space null": put(None, "buffers", 0, 0),
    "lives backwards": put(0, "buffers", 3, 3),
    "lives before the start": put(-1, "buffers", 2, 2),
    "lives beyond the end": put(1 << 40, "buffers", 2, 3),
    "steps null": put(None, STEPS),
    "steps of too few columns": put([], STEPS),
    "kernels null": put(None, STEPS, KERNELS),
    "kernel of no symbol": put(99, STEPS, KERNELS, 0),
    "kernel -1": put(-1, STEPS, KERNELS, 0),
    "kernel an address": put(4198400, STEPS, KERNELS, 0),
    "kernel a float": put(0.0, STEPS, KERNELS, 0),
    "more kernels than steps": put([0] * 100, STEPS, KERNELS),
    "counts too many": put(MANY, STEPS, COUNTS),
    "counts too large": put(99, STEPS, COUNTS, 0),
    "counts negative": put(-1, STEPS, COUNTS, 0),
    "counts that do not add up": put(0, STEPS, COUNTS, 0),
    "barrier of 2": put(2, STEPS, BARRIERS, 0),
    "flops of no size": put(99999, STEPS, FLOPS, 0),
    "names of numbers": put(5, STEPS, NAMES, 0),
    "names too few": put([], STEPS, NAMES),
    "reads of no buffer": put([99], STEPS, READS, 0),
    "writes of no list": put(0, STEPS, WRITES, 0),
    "symbols null": put(None, "symbols"),
    "symbol of the system": put("execve", "symbols", 0),
    "symbol a number": put(0, "symbols", 0),
    "bases null": put(None, "bases"),
    "base beyond the end": put(999, "bases", 0),
    "base -1": put(-1, "bases", 0),
    "base text": put("1", "bases", 0),
    "base true": put(True, "bases", 0),
    "bases too few": put([1], "bases"),
    "offsets too few": put([1], "offsets"),
    "offset of no size": put(99999, "offsets", 0),
    "weights beyond the end": size(1 << 30, "offsets", 2),
    "weights before the start": size(-64, "offsets", 2),
    "weights at a place that varies": size([[4, "N"]], "offsets", 2),
    "number beyond 64 bits at run time": size([[1 << 62, "N"], [1 << 62, "N"]], "offsets", 3),
    "tables null": put(None, "tables"),
    "table of no size": put([[[[99999], [0], 0]]], "tables"),
    "table of a negative size": table([[-5], [1], 0]),
    "table of 2^50": table([[1 << 50], [1], 0]),
    "table of 2^62": table([[1 << 31, 1 << 31], [1, 1], 0]),
    "table beyond 32 bits": table([[2, 24], [1 << 40, 1], 0]),
    "table of unequal ranks": table([[2, 24], [1], 0]),
    "table of rank 100": table([[1] * 100, [1] * 100, 0]),
    "conditions null": put(None, "conditions"),
    "condition never met": put([[0, 1 << 40, "why"]], "conditions"),
    "condition of no size": put([[99999, 1, "why"]], "conditions"),
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
