"""Files with GPU kernels that are damaged or crafted: a clean error each, and no other harm."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runtime.gpu_handmade import add_artifact, add_reference, mixed_artifact, mixed_reference
from runtime.handmade import feed
from runtime.test_gpu_json import WRONG, full

from netc.errors import NetcError
from netc.runtime.artifact import Artifact, read_artifact
from netc.runtime.container import Payload, canonical, seal
from netc.runtime.keys import make_key, tag_of
from netc.runtime.session import load

Change = Callable[[dict[str, bytes], dict[str, Any]], object]


def forged(change: Change, artifact: Artifact | None = None) -> bytes:
    """The good file with a change, sealed and signed again."""
    artifact = artifact or add_artifact(gpu=full(), labels=("a",))
    file = read_artifact(b"".join(artifact.pieces()), "it")
    sections = {name: bytes(file.container.view(name)) for name in file.container.sections}
    meta = json.loads(json.dumps(file.container.meta))
    change(sections, meta)
    wide = ("weights", "code.", "gpu.")
    payloads = [
        Payload(name, [data], 64 if name.startswith(wide) else 1) for name, data in sections.items()
    ]
    key = make_key()
    return b"".join(seal(payloads, meta, lambda signed: tag_of(key, signed)))


def use(made: bytes, folder: Path, **given: np.ndarray) -> np.ndarray:
    (folder / "m").write_bytes(made)
    return load(folder / "m", 1, gpu="interpret")(given or feed(2))["out"]


def test_a_bit_flip_in_every_byte() -> None:
    """Every bit is tried on a file without GPU code, whose container is the same."""
    data = bytearray(b"".join(add_artifact(gpu=full()).pieces(make_key())))
    survived = []
    for i in range(len(data)):
        data[i] ^= 1 << i % 8
        try:
            read_artifact(data, "it")
            survived.append(i)
        except NetcError:
            pass
        data[i] ^= 1 << i % 8
    assert not survived


def section(name: str, data: bytes) -> Change:
    return lambda sections, meta: sections.update({name: data})


def without(name: str) -> Change:
    def change(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        del sections[name]

    return change


def put_in(values: list[Any], place: int, value: Any) -> None:
    values[place] = value


def in_plan(edit: Callable[[Any], object]) -> Change:
    """`edit` gets the plan of the level that needs no processor."""

    def change(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        name = next(name for name in sections if name.startswith("plan."))
        whole = json.loads(sections[name])
        edit(whole["plan"])
        sections[name] = canonical(whole)

    return change


def put(value: Any, *path: Any) -> Change:
    def edit(plan: Any) -> None:
        at = plan
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return in_plan(edit)


def size(value: Any, *path: Any) -> Change:
    """The plan with this size at a place."""

    def edit(plan: Any) -> None:
        plan["sizes"].append(value)
        at = plan
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = len(plan["sizes"]) - 1

    return in_plan(edit)


def level(**values: Any) -> Change:
    return lambda sections, meta: meta["levels"]["cuda"].update(values)


COUNTS, DEVICES = 1, 7  # columns of the steps
CRAFTED: dict[str, Change] = {
    "no kernels": without("gpu"),
    "no kernels and no code": lambda s, m: [s.pop(n) for n in ("gpu", "gpu.ptx", "gpu.sm_90")],
    "no ptx": without("gpu.ptx"),
    "no cubins": without("gpu.sm_90"),
    "code of no architecture": section("gpu.sm_80", b"x"),
    "kernels not JSON": section("gpu", b"{"),
    "kernels a list": section("gpu", b"[]"),
    "kernels deep": section("gpu", b"[" * 50_000 + b"]" * 50_000),
    "kernels not canonical": lambda s, m: s.update(gpu=s["gpu"] + b" "),
    "kernels with a key twice": lambda s, m: s.update(gpu=b'{"compiler":"",' + s["gpu"][1:]),
    "no plan": without("plan.cuda"),
    "no code": without("code.cuda"),
    "features of a level for any processor": level(features=["avx1024"]),
    "another ABI": level(abi=99),
    "kernel that is not there": put("g9", "symbols", 0),
    "kernel of the host": put("affine", "symbols", 0),
    "copy in place of a kernel": put("memcpy", "symbols", 0),
    "device of no kind": put("gpu:0", "steps", DEVICES, 0),
    "device elsewhere": put("cuda:0@there", "steps", DEVICES, 0),
    "device of no buffers": put("cuda:1", "steps", DEVICES, 0),
    "device of the host": put("cpu:0", "steps", DEVICES, 0),
    "a number too few": in_plan(
        lambda p: (put_in(p["steps"][COUNTS], 0, 4), p["bases"].pop(0), p["offsets"].pop(0))
    ),
    "a number for a pointer": put(0, "bases", 1),
    "a pointer for a number": put(2, "bases", 4),
    "a pointer for an extent": put(2, "bases", 0),
    "a table": in_plan(lambda p: (p["tables"].append([]), put_in(p["bases"], 1, 6))),
    "weights beyond the end": size(1 << 30, "offsets", 8),
    "weights before the start": size(-16, "offsets", 8),
    "an extent below zero": size(-1, "offsets", 0),
    "a number of 2^40": size(1 << 40, "offsets", 4),
    "a pointer that is not aligned": size(4, "offsets", 2),
    "a pointer far away": size(1 << 50, "offsets", 2),
    "a buffer of 2^46": size(1 << 46, "buffers", 2, 1),
    "a buffer of -1": size(-1, "buffers", 2, 1),
    "a buffer smaller than its input": size(64, "buffers", 0, 1),
    "a buffer larger than its output": size(4096, "buffers", 3, 1),
    "a buffer of no device": put(["", 0], "queues", 2, 2),
    "a buffer of another device": put(["cuda:1", 0], "queues", 2, 2),
    "a buffer of the host": put(["cpu:0", 0], "queues", 2, 2),
    "lives backwards": put(-1, "buffers", 2, 2),
    "inputs none": put([], "inputs"),
    "outputs none": put([], "outputs"),
    "count of an input": put(0, "outputs", 0, 5),
    "waits for itself": put([0], "queues", 1, 0),
}
CRAFTED |= {
    f"gpu: {name}": lambda s, m, edit=edit: s.update(gpu=edited(s["gpu"], edit))
    for name, edit in WRONG.items()
}


def edited(data: bytes, edit: Callable[[Any], object]) -> bytes:
    value = json.loads(data)
    edit(value)
    return canonical(value)


@pytest.mark.parametrize("name", CRAFTED)
def test_crafted(name: str, tmp_path: Path) -> None:
    data = forged(CRAFTED[name])
    start = time.perf_counter()
    with pytest.raises(NetcError):
        use(data, tmp_path)
    assert time.perf_counter() - start < 2


MIXED: dict[str, Change] = {
    "a copy of too many bytes": size([[4096, 0]], "offsets", 6),
    "a copy of -1 bytes": size(-1, "offsets", 6),
    "a copy from before the start": size(-64, "offsets", 5),
    "a copy within the host": put("cpu:0", "steps", DEVICES, 1),
    "a copy of no pointers": put(0, "bases", 4),
    "a host step that is not there": put("nothing", "symbols", 0),
}


@pytest.mark.parametrize("name", MIXED)
def test_crafted_copies(name: str, tmp_path: Path) -> None:
    data = forged(MIXED[name], mixed_artifact())
    with pytest.raises(NetcError):
        use(data, tmp_path, data=feed(2)["data"])


def test_they_are_right_but_for_one_thing(tmp_path: Path) -> None:
    x = feed(2)
    np.testing.assert_array_equal(use(forged(lambda s, m: None), tmp_path), add_reference(**x))
    out = use(forged(lambda s, m: None, mixed_artifact()), tmp_path, data=x["data"])
    np.testing.assert_array_equal(out, mixed_reference(x["data"]))


@pytest.mark.parametrize("what", ["gpu", "plan.cuda"])
def test_random_edits(what: str, tmp_path: Path) -> None:
    """Any value replaced by another kind of value: no crash when it is loaded and bound."""
    rng = random.Random(3)
    odd = [None, -1, 1 << 63, 1 << 64, 0.5, "", "N", "Q", [], {}, True, ["g0"], [[]], 3]
    good = forged(lambda s, m: None)

    def edit(whole: Any) -> None:
        at: Any = whole
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            key = rng.choice(keys)
            if not isinstance(at[key], list | dict) or not at[key] or rng.random() < 0.2:
                at[key] = rng.choice(odd)
                return
            at = at[key]

    def change(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        sections[what] = edited(sections[what], edit)

    for _ in range(250):
        data = forged(change)
        if data == good:
            continue
        (tmp_path / "m").write_bytes(data)
        try:
            exe = load(tmp_path / "m", 1, gpu="interpret")
            exe._on_gpu().bound(exe.accepted(feed(2), {}))  # type: ignore[attr-defined]
        except NetcError:
            continue
