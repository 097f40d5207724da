"""GPU kernels in a file: an exact round trip, and every wrong part refused."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import ArtifactError
from netc.ir.gpu_code import Code, GpuImage, GpuKernel, Variant
from netc.runtime.artifact import open_artifact, read_artifact
from netc.runtime.container import canonical
from netc.runtime.gpu_json import image_from_json, image_to_json
from netc.runtime.session import load, save_artifact

from .gpu_handmade import ADD_TEXT, PRODUCT_TEXT, add_artifact, add_reference, bare
from .handmade import feed, make_artifact

PTX = b".version 8.0\n.target sm_80\n.visible .entry kernel(\n"


def cubin(arch: int, entry: str = "kernel") -> bytes:
    """The least that is a cubin: a symbol for a function with its code's section."""
    names = b"\0.text." + entry.encode() + b"\0.symtab\0.strtab\0"
    own = len(b"\0.text.")
    symbol = struct.pack("<IBBHQQ", own, 2, 0, 1, 0, 0)
    rows = [(0, 0, 0, 0, 0), (1, 1, 0, 0, 0)]
    text_at, symbol_at = 64, 64 + len(names)
    rows.append((own + len(entry) + 1, 2, symbol_at, len(symbol), 3))
    rows.append((own + len(entry) + 9, 3, text_at, len(names), 0))
    table = b"".join(
        struct.pack("<IIQQQQIIQQ", name, kind, 0, 0, at, size, link, 0, 1, 0)
        for name, kind, at, size, link in rows
    )
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01\x33\x07", 2, 190, 128, 0, 0,
                       symbol_at + len(symbol), arch << 16 | 5 << 8 | arch, 64, 0, 0, 64, 4,
                       3)  # fmt: skip
    return head + names + symbol + table


def full() -> GpuImage:
    """Two kernels; one has code for two architectures, its second variant for one."""
    binary = cubin(90)
    sections = {"sm_90": binary + bytes(8) + binary, "ptx": PTX}
    ninety = [Code(at, len(binary), "kernel", 4, 49152, 32, 8) for at in (0, len(binary) + 8)]
    codes = ({"sm_90": ninety[0], "ptx": Code(0, len(PTX), "kernel", 4, 0)}, {"sm_90": ninety[1]})
    kernels = {"g0": GpuKernel(ADD_TEXT, codes), "g1": GpuKernel(PRODUCT_TEXT, ({}, {}))}
    return GpuImage(kernels, sections, "triton 3.6.0")


def again(image: GpuImage) -> GpuImage:
    return image_from_json(json.loads(canonical(image_to_json(image))), image.sections)


def test_round_trip() -> None:
    limited = replace(
        ADD_TEXT, variants=(Variant((1,), (("B", -3),), 2, 8, 1, 77), *ADD_TEXT.variants)
    )
    for image in (full(), bare(g0=ADD_TEXT), bare(), bare(k=limited)):
        assert again(image) == image


def test_saved_and_loaded(tmp_path: Path) -> None:
    save_artifact(add_artifact(gpu=full()), tmp_path / "m")
    file = open_artifact(tmp_path / "m")
    assert file.gpu == full()
    assert file.gpu is file.gpu
    assert file.artifact().gpu == full()
    names = {name for name in file.container.sections if "gpu" in name or "cuda" in name}
    assert names == {"gpu", "gpu.ptx", "gpu.sm_90", "plan.cuda", "code.cuda"}
    exe = load(tmp_path / "m", 1, gpu="interpret")
    exe.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "m").read_bytes()
    x = feed(2)
    np.testing.assert_array_equal(exe(x)["out"], add_reference(**x))


def test_a_file_without_gpus_has_no_such_sections() -> None:
    file = read_artifact(b"".join(make_artifact().pieces()), "it")
    assert file.gpu is None
    assert not [name for name in file.container.sections if "gpu" in name]


def test_what_could_not_be_read_again_is_not_written() -> None:
    kernel = full().kernels["g0"]
    wrong = replace(kernel, codes=({"sm_90": replace(kernel.codes[0]["sm_90"], size=7)}, {}))
    with pytest.raises(ArtifactError, match="not a whole cubin"):
        add_artifact(gpu=replace(full(), kernels={"g0": wrong})).pieces()


Edit = Callable[[dict[str, Any]], object]


def at(*path: Any, value: Any) -> Edit:
    """The JSON with a value at a place of kernel g0."""

    def edit(whole: dict[str, Any]) -> None:
        here: Any = whole["kernels"]["g0"]
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value

    return edit


def code(place: int, value: Any) -> Edit:
    return at("codes", 0, "sm_90", place, value=value)


def variant(place: int, value: Any) -> Edit:
    return at("variants", 0, place, value=value)


SIZE = len(cubin(90))
WRONG: dict[str, Edit] = {
    "nothing": lambda v: v.clear(),
    "no kernels": lambda v: v.pop("kernels"),
    "more": lambda v: v.update(more=1),
    "kernels a list": lambda v: v.update(kernels=[]),
    "no kernel uses the code": lambda v: v.update(kernels={}),
    "compiler a number": lambda v: v.update(compiler=3),
    "a name that is code": lambda v: v["kernels"].update({"a b": v["kernels"]["g0"]}),
    "a name of nothing": lambda v: v["kernels"].update({"": v["kernels"]["g0"]}),
    "kernel null": lambda v: v["kernels"].update(g0=None),
    "kernel with more": at("more", value=1),
    "text a number": at("text", value=1),
    "text long": at("text", value="#" * (1 << 20) + "#"),
    "params null": at("params", value=None),
    "params many": at("params", value=["i32"] * 300),
    "a param of no type": at("params", 0, value="*fp8"),
    "a param that is a float": at("params", 0, value="fp32"),
    "a param of a number": at("params", 0, value=32),
    "aligned beyond": at("aligned", value=[4]),
    "aligned negative": at("aligned", value=[-1]),
    "aligned true": at("aligned", value=[True]),
    "extents negative": at("extents", value=-1),
    "extents many": at("extents", value=99),
    "extents other than the tiles": at("extents", value=2),
    "no variants": lambda v: v["kernels"]["g0"].update(variants=[], codes=[]),
    "variants many": lambda v: v["kernels"]["g0"].update(
        variants=v["kernels"]["g0"]["variants"] * 200, codes=v["kernels"]["g0"]["codes"] * 200
    ),
    "variants without codes": at("codes", value=[{}]),
    "variant short": at("variants", 0, value=[[1], []]),
    "tile 0": variant(0, [0]),
    "tile huge": variant(0, [1 << 31]),
    "tile a float": variant(0, [1.0]),
    "tiles too many": variant(0, [1, 1]),
    "constant without value": variant(1, [["B"]]),
    "constant of no name": variant(1, [["1", 1]]),
    "constant of a text": variant(1, [["B", "1"]]),
    "constant of 2^64": variant(1, [["B", 1 << 64]]),
    "repeat 0": variant(2, 0),
    "repeat huge": variant(2, 1 << 30),
    "variant of 3 warps": variant(3, 3),
    "variant of 32 warps": variant(3, 32),
    "stages 0": variant(4, 0),
    "limit negative": variant(5, -1),
    "codes null": at("codes", value=None),
    "code of an architecture the file lacks": at(
        "codes", 1, value={"sm_80": [0, 1, "k", 4, 0, 0, 0]}
    ),
    "code of no architecture": at("codes", 1, value={"sm_91": [0, 1, "k", 4, 0, 0, 0]}),
    "code short": at("codes", 0, "sm_90", value=[0, SIZE]),
    "offset negative": code(0, -1),
    "offset beyond": code(0, 1 << 40),
    "offset amid": code(0, 8),
    "offset true": code(0, True),
    "size 0": code(1, 0),
    "size beyond": code(1, 1 << 20),
    "size short": code(1, 64),
    "entry of no kernel": code(2, "other"),
    "entry empty": code(2, ""),
    "entry of code": code(2, "kernel; x"),
    "entry a number": code(2, 1),
    "entry long": code(2, "k" * 600),
    "warps 0": code(3, 0),
    "warps 5": code(3, 5),
    "warps true": code(3, True),
    "shared negative": code(4, -1),
    "shared huge": code(4, (232 << 10) + 1),
    "registers 256": code(5, 256),
    "local negative": code(6, -1),
    "codes that overlap": at("codes", 1, "sm_90", value=[0, 2 * SIZE + 8, "kernel", 4, 0, 0, 0]),
    "ptx of no kernel": at("codes", 0, "ptx", 2, value="other"),
    "ptx cut off": at("codes", 0, "ptx", 1, value=20),
}


@pytest.mark.parametrize("edit", WRONG.values(), ids=WRONG)
def test_wrong_parts(edit: Edit) -> None:
    value = json.loads(canonical(image_to_json(full())))
    edit(value)
    with pytest.raises(ArtifactError):
        image_from_json(value, full().sections)


def changed(arch: str, data: bytes) -> dict[str, bytes | memoryview]:
    return {**full().sections, arch: data}


@pytest.mark.parametrize(
    "sections",
    [
        changed("sm_90", bytes(2 * SIZE + 8)),
        changed("sm_90", cubin(80) + bytes(8) + cubin(80)),
        changed("sm_90", cubin(90)),
        changed("ptx", PTX.replace(b"entry", b"\0ntry")),
        changed("ptx", PTX.replace(b"entry", b"\xffntry")),
        changed("ptx", b""),
        changed("sm_80", cubin(80)),
    ],
)
def test_wrong_code(sections: dict[str, bytes | memoryview]) -> None:
    with pytest.raises(ArtifactError):
        image_from_json(json.loads(canonical(image_to_json(full()))), sections)


def test_every_bit_of_a_cubin_may_flip() -> None:
    """The reader of cubins never fails otherwise than by refusing."""
    value = json.loads(canonical(image_to_json(full())))
    data = bytearray(full().sections["sm_90"])
    for i in range(SIZE * 8):
        data[i // 8] ^= 1 << i % 8
        with suppress(ArtifactError):
            image_from_json(value, changed("sm_90", bytes(data)))
        data[i // 8] ^= 1 << i % 8
