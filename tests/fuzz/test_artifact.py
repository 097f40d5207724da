"""Damaged and crafted `model.bin` files: always a clean error, never a crash, never a silent
difference, never a surprising system call."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.handmade import feed, make_artifact, make_plan, reference

from netc.errors import NetcError
from netc.runtime.artifact import open_artifact, read_artifact
from netc.runtime.keys import key_path, make_key
from netc.runtime.session import load, save_artifact

from .crafted import CRAFTED, forged, in_plan, setup


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

    def edit_with_setup(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        setup("weights", "outputs", 0, 0)(sections, meta)
        in_plan(edit)(sections, meta)

    for i in range(400):
        try:
            load_bytes(forged(edit_with_setup if i % 2 else in_plan(edit)), tmp_path)
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
known = (*sys.argv[1:3], "/proc/", "/sys/fs/cgroup/")  # how much memory there is

def hook(event, args):
    if watching and event in bad and (event, args) != ("ctypes.dlopen", (None,)):
        seen.append((event, str(args)[:200]))
    if watching and event == "open" and not str(args[0]).startswith(known):
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
    (folder / "000").write_bytes(forged(setup("weights", "outputs", 0, 0)))
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
