"""The texts of generated kernels, and what the compiler makes of their main loops.

A text that changes is looked at and kept: run them with `NETC_GOLDEN=write`.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from netc.codegen.triton.image import build_image
from netc.ir.gpu_code import GpuImage, KernelText
from tests.codegen.triton.rules import kernels_of, net_of

GOLDEN = Path(__file__).parent / "golden"
TEXTS = {
    "conv3x3_add_relu": "(x: f32[N,64,14,14]) -> add(x |> relu |> conv(64, 3, pad=1), x |> sigmoid)"
    " |> relu |> conv(8, 1)",
    "first_layer": "(x: f32[N,3,32,32]) -> x |> conv(64, 7, stride=2, pad=3) |> relu |> conv(8, 1)",
    "depthwise": "(x: f32[N,32,14,14]) -> x |> relu |> conv(32, 3, pad=1, groups=32) |> conv(8, 1)",
    "max_pool": "(x: f32[N,64,15,15]) -> x |> relu |> max_pool(3, stride=2) |> conv(8, 1)",
    "regions": "(x: f32[N,64,15,15], rois: f32[R,5]) -> x |> relu |> roi_pool(rois, size=(7, 7))",
    "softmax": "(x: f32[N,100]) -> x |> softmax",
    "attention": "(x: f32[N,12,197,64], m: f32[N,1,1,197]) -> matmul(relu(x), exp(x),"
    " transpose_y=true) |> affine(scale=0.125) |> add(m) |> softmax(axis=3)",
    "prologue": "(x: f32[N,64,14,14]) -> x |> prelu |> conv(32, 1) |> relu |> conv(8, 1)",
}
# A chain of the layers of ResNet-50's stages, each with its kernel of its own; over the pools
# between them no stride goes up, and the last convolution has one from the start.
STAGES = " |> max_pool(3, pad=1) |> ".join(
    f"conv({n}, 1, stride={s}) |> relu |> conv({n}, 3, pad=1) |> relu |> conv({4 * n}, 1) |> relu"
    for n, s in ((64, 1), (128, 2), (256, 2), (512, 2))
)

# Twelve heads: all tokens with all, then what comes of that with the values of all.
HEADS = (
    "(x: f32[N,12,{0},64], m: f32[N,1,1,{0}]) -> matmul(relu(x), exp(x), transpose_y=true)"
    " |> affine(scale=0.125) |> add(m) |> softmax(axis=3) |> matmul(relu(x)) |> softmax(axis=3)"
)
NETS = {
    "stages": f"(x: f32[1,64,56,56]) -> x |> relu |> {STAGES} |> conv(64, 3, stride=2, pad=1)",
    "odd": HEADS.format(197),
    "even": HEADS.format(512),
}


def of_interest(text: str) -> KernelText:
    """The kernel of the net's middle: products before rows before elements, the largest text."""
    kernels = [k for k in kernels_of(net_of(text)).values() if len(k.text) > 400]
    return max(kernels, key=lambda k: (k.text.count("tl.dot("), len(k.text)))


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str) -> None:
    made = of_interest(TEXTS[name]).text
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("NETC_GOLDEN") == "write":
        path.write_text(made, encoding="utf-8")
    assert made == path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def image() -> GpuImage:
    """The products of ResNet-50's stages and of attention, each in the form ranked first."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    kernels = {}
    for precision in ("high", "medium", "low"):
        for title, net in NETS.items():
            if (precision, title) != ("high", "even"):  # the large tiles of a test of their own
                for name, k in products(net, precision).items():
                    kernels[f"{precision}_{title}_{name}"] = replace(k, variants=k.variants[:1])
    return build_image(kernels, ["sm_80", "sm_90"])


def products(net: str, precision: str) -> dict[str, KernelText]:
    """The matrix kernels of a net."""
    kernels = kernels_of(net_of(net), precision=precision)
    return {name: k for name, k in kernels.items() if k.extents == 3}


@pytest.fixture(scope="module")
def codes(image: GpuImage) -> dict[str, dict[str, str]]:
    """Their machine code."""
    return disassembly(image)


def test_nothing_spills(image: GpuImage) -> None:
    for name, kernel in image.kernels.items():
        for arch, code in kernel.codes[0].items():
            assert code.local == 0, f"{name} on {arch}: {code.local} bytes a thread"
            assert 0 < code.registers <= 255


def test_where_large_tiles_spill_others_are_left(tmp_path: Path) -> None:
    """Three products for one of 64 × 128 results take more registers than four warps of sm_80."""
    pytest.importorskip("triton", reason="Triton is not installed")
    kernels = {
        name: replace(k, variants=(k.variants[0], k.variants[-1]))
        for name, k in products(NETS["even"], "high").items()
    }
    image = build_image(kernels, ["sm_80"], tmp_path)
    for kernel in image.kernels.values():
        assert {code.local for codes in kernel.codes for code in codes.values()} == {0}


def test_products_use_the_matrix_units(codes: dict[str, dict[str, str]]) -> None:
    """Their instructions stand in the machine code: HMMA on sm_80, HGMMA too on sm_90."""
    for arch, words in (("sm_80", ("HMMA",)), ("sm_90", ("HMMA", "HGMMA"))):
        for name, code in codes[arch].items():
            assert any(f" {w}." in code for w in words), f"{name} on {arch}"
            assert " LDL" not in code


def test_matrices_are_read_sixteen_bytes_at_once(codes: dict[str, dict[str, str]]) -> None:
    """What products of 512 tokens read goes to shared memory so, while others are multiplied."""
    for arch, found in codes.items():
        for name, code in ((n, c) for n, c in found.items() if "_even_" in n):
            assert re.search(r" LDGSTS\.E\.BYPASS(\.\w+)?\.128 ", code), f"{name} on {arch}"
            assert " LDGSTS.E " not in code, f"{name} on {arch}"
            assert " LDG.E.U16 " not in code, f"{name} on {arch}"


def disassembly(image: GpuImage) -> dict[str, dict[str, str]]:
    """The machine code of each kernel as text, by architecture."""
    import subprocess
    import tempfile

    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    out: dict[str, dict[str, str]] = {arch: {} for arch in image.sections}
    for name, kernel in image.kernels.items():
        for arch, code in kernel.codes[0].items():
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(image.sections[arch][code.offset : code.offset + code.size])
                file.flush()
                done = subprocess.run(
                    [str(tool), "-sass", file.name], capture_output=True, text=True, check=True
                )
            out[arch][name] = done.stdout
    return out
