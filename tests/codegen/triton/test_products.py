"""Matrix kernels: every window and layout, split sums, tile choices, packed weights."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netc.codegen.precision import Precision
from netc.codegen.triton import packing
from netc.codegen.triton.tiles import SHARED, SPLIT_PROGRAMS, Work, best, candidates
from netc.compiler import Options, build
from netc.errors import ArtifactError
from netc.ir.device import Device
from netc.ir.gpu_code import Variant
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.plan import WeightArg
from netc.runtime.driver import GpuOptions
from netc.runtime.session import executable
from tests.codegen.triton.rules import feed_of, kernels_of, net_of, with_variants

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
NETS = (
    ("(x: f32[N,20,9,7]) -> x |> relu |> conv(24, 3, pad=1, stride=2) |> relu", 2),
    ("(x: f32[N,64,8,8]) -> x |> relu |> conv(32, 3, pad=2, dilation=2)", 1),
    ("(x: f32[N,48,9,9]) -> x |> relu |> conv(36, 3, groups=3) |> relu", 2),
    ("(x: f32[N,3,12,10]) -> x |> conv(8, 5, stride=2, pad=2) |> relu", 2),
    ("(x: f32[N,40,7,7]) -> x |> relu |> conv(24, 1, stride=2) |> sigmoid", 3),
    ("(x: f32[N,32,5,5]) -> x |> relu |> conv_transpose(12, 4, stride=2, pad=1) |> relu", 2),
    ("(x: f32[N,16,6,6]) -> x |> relu |> conv_transpose(8, 3, groups=2)", 2),
    ("(x: f32[N,20,5,7]) -> x |> relu |> conv_transpose(6, 2, stride=2) |> relu", 2),
    ("(x: f32[N,4,3,1]) -> x |> relu |> conv_transpose(6, 2, stride=2) |> relu", 2),
    ("(x: f32[N,4,1,1]) -> x |> relu |> conv_transpose(1, 2, stride=2)", 1),
    ("(x: f32[N,10,9,9]) -> x |> relu |> conv(12, 3, dilation=2) |> relu |> conv(8, 3, pad=1)", 2),
    ("(x: f32[N,24,30]) -> x |> relu |> conv(20, 3, pad=1)", 2),
    ("(x: f32[N,16,4,5,6]) -> x |> relu |> conv(8, 3, pad=1)", 1),
    ("(x: f32[N,12,5,5]) -> x |> relu |> fc(30) |> relu", 5),
    ("(x: f32[N,7,40]) -> x |> relu |> fc(12, axis=2)", 3),
    ("(x: f32[N,24,6,6]) -> x |> affine(shift=0.5) |> prelu |> conv(16, 1) |> relu", 2),
    ("(x: f32[N,24,6,6]) -> add(x |> relu |> conv(16, 1), x |> conv(16, 3, pad=1)) |> relu", 2),
    ("(x: f32[N,24,6,6]) -> concat(x |> conv(10, 1), x |> relu |> conv(6, 3, pad=1)) |> fc(9)", 2),
    ("(x: f32[N,24,9,7], w: f32[20,24,3,3]) -> conv(x, relu(w), pad=1) |> relu", 2),
    ("(x: f32[N,24,9,7], w: f32[8,30,3,1]) -> conv(x, slice(relu(w), 1, 9, 21), groups=2)", 2),
    ("(x: f32[N,24,5,5], w: f32[24,12,3,3]) -> conv_transpose(x, relu(w), stride=2)", 1),
    ("(x: f32[N,24], w: f32[8,30]) -> fc(x, slice(relu(w), start=5, stop=29))", 3),
    ("(x: f32[N,H,6]) -> x |> relu |> fc(12, axis=2)", 3),
    ("(x: f32[N,H,8,5]) -> x |> relu |> fc(12, axis=2) |> relu", 2),
    ("(x: f32[N,3,H,W]) -> x |> conv(8, 3) |> transpose((0,2,3,1)) |> fc(5, axis=3)", 2),
    ("(x: f32[N,20,4,3], w: f32[8,240]) -> x |> relu |> flatten |> fc(w=w)", 3),
    ("(x: f32[N,4,6,5], w: f32[5,6]) -> slice(relu(x), 3, 1, 4) |> transpose((0,1,3,2))"
     " |> fc(w=w, axis=3)", 2),
    ("(x: f32[N,8], w: f32[M,8], b: f32[M]) -> fc(x, w=w, b=b) |> relu", 3),
    ("(x: f32[N,C], w: f32[N,C]) -> fc(x, w=w, bias=false)", 3),
    ("(x: f32[N,C,H,W], w: f32[M,W]) -> x |> relu |> fc(w=w, bias=false, axis=3)", 2),
    ("(x: f32[N,3,9,7], w: f32[N,3,1,1]) -> conv(x, w=w, bias=false) |> relu", 3),
    ("(x: f32[N,C,H,W], w: f32[M,C,3,3], b: f32[M]) -> conv(x, w=relu(w), b=b, pad=1)", 2),
    ("(x: f32[N,8,9,7], w: f32[C,4,3,3]) -> conv(x, w=w, groups=2, bias=false)", 2),
    ("(x: f32[N,C,5,5], w: f32[C,M,2,2]) -> conv_transpose(x, w=w, stride=2, bias=false)", 2),
    ("(x: f32[N,8,5,5], w: f32[8,M,2,2]) -> conv_transpose(x, w=w, groups=2, bias=false)", 2),
)  # fmt: skip
MATRICES = (
    ("(x: f32[N,3,17,20], y: f32[N,3,20,9]) -> matmul(relu(x), relu(y)) |> relu", 2),
    ("(x: f32[N,3,5,64], y: f32[N,3,33,64]) -> matmul(relu(x), relu(y), transpose_y=true)", 2),
    ("(x: f32[N,20,17], y: f32[N,9,20]) -> matmul(relu(x), y, transpose_x=true, transpose_y=true)",
     3),
    ("(x: f32[N,3,H,C], y: f32[N,3,C,M]) -> matmul(relu(x), relu(y)) |> relu", 2),
    ("(x: f32[C,H], y: f32[C,M]) -> matmul(x, y, transpose_x=true)", 1),
    ("(x: f32[N,3,H,C], y: f32[3,M,C]) -> matmul(relu(x), relu(y), transpose_y=true) |> relu", 2),
    ("(x: f32[3,H,C], y: f32[N,1,C,M]) -> matmul(relu(x), relu(y))", 2),
    ("(x: f32[N,1,H,C], y: f32[3,C,M]) -> matmul(relu(x), relu(y)) |> relu", 2),
    ("(x: f32[N,5,7,24], y: f32[24,20]) -> matmul(relu(x), relu(y)) |> relu", 2),
    ("(x: f32[H,24], y: f32[N,24,20]) -> matmul(relu(x), y) |> relu", 2),
    ("(x: f32[N,5,7,24]) -> relu(x) |> matmul(param(f32[24,20])) |> relu", 2),
    ("(x: f32[N,24]) -> matmul(x, param(f32[20,24]), transpose_y=true)", 3),
    ("(x: f32[N,3,7,24]) -> relu(x) |> matmul(param(f32[3,24,20])) |> relu", 2),
    ("(x: f32[N,24,7]) -> matmul(param(f32[5,24]), relu(x)) |> relu", 2),
    ("(x: f32[N,3,24,7]) -> matmul(param(f32[3,24,20]), relu(x), transpose_x=true)", 2),
    ("(x: f32[N,4,9,50], y: f32[N,4,30,9]) -> matmul(slice(relu(x), 3, 7, 27),"
     " slice(relu(y), 2, 3, 23))", 2),
    ("(x: f32[N,4,9,5], y: f32[N,4,9,6]) -> concat(relu(x), exp(y), axis=3)"
     " |> matmul(relu(x), transpose_x=true)", 2),
    ("(x: f32[N,4,9,11], y: f32[N,4,11,6]) -> concat(matmul(x, y), matmul(x, relu(y)), axis=2)"
     " |> relu |> matmul(y, transpose_y=true)", 2),
    ("(x: f32[N,4,9,11], y: f32[N,4,11,6], b: f32[6], r: f32[N,4,9,6]) -> matmul(relu(x), y)"
     " |> affine(scale=0.125) |> add(b) |> add(relu(r)) |> relu", 2),
    ("(x: f32[N,4,9,8], m: f32[N,1,1,9]) -> matmul(relu(x), relu(x), transpose_y=true)"
     " |> affine(0.35) |> add(m) |> relu", 2),
    ("(x: f32[N,4,9,8], m: f32[N,1,9,1], h: f32[4,1,1]) -> matmul(relu(x), x, transpose_y=true)"
     " |> add(m) |> mul(h)", 2),
    ("(x: f32[N,5,9,8], y: f32[8,7], m: f32[5,1,7]) -> matmul(relu(x), y) |> add(m)", 2),
    ("(x: f32[N,1,300], y: f32[N,300,1]) -> matmul(x, y) |> relu", 2),
    ("(x: f32[3,400], y: f32[400,20]) -> matmul(x, y) |> relu", 1),
)  # fmt: skip
OPEN = {"H": 5, "W": 7, "M": 6, "C": 20}  # sizes known at run time only, beside the batch
# How far a result may be from the float64 one, as a share of the largest: three tf32 products and
# float32 sums of at most 432 terms; one rounding to bf16 (2⁻⁹) of operands and of each value kept.
DEEPEST = 256  # channels
BOUNDS = {"exact": 1e-6, "high": 2e-6, "low": 2e-2, "fp16": 3e-3}


def error(
    graph: Graph, batch: int, pick: Callable[[tuple[Variant, ...]], Variant], **options: str
) -> float:
    """The largest error of the net's output, each kernel run with the variant that is picked."""
    gpu = Options(devices=(Device("cuda"),), archs=())
    made = build(graph, replace(gpu, **options))  # type: ignore[arg-type]
    feed = feed_of(graph, {"N": batch, **OPEN})
    exe = executable(with_variants(made, pick), gpu=GpuOptions("interpret"))
    exe.poison()
    got, want = exe(feed)["y"], interpret(graph, feed)["y"]
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / np.abs(want).max())


def most_split(variants: tuple[Variant, ...]) -> Variant:
    """The variant that splits its sums most, among those the interpreter is quick with."""
    return max(variants, key=lambda v: (v.repeat, v.tile))


def largest(variants: tuple[Variant, ...]) -> Variant:
    """The variant with the largest tile."""
    return max(variants, key=lambda v: int(np.prod(v.tile)))


def deepest(variants: tuple[Variant, ...]) -> Variant:
    """A variant with the longest chunk of depth there is, whatever the channels of the layer."""
    some = variants[0]
    longer = {k: DEEPEST if k == "BK" else n for k, n in some.constants}
    return replace(some, constants=tuple(longer.items()))


@needs_triton
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize(("text", "batch"), [*NETS, *MATRICES])
def test_products(text: str, batch: int, precision: str) -> None:
    assert error(net_of(text), batch, largest, precision=precision) <= BOUNDS[precision]


@needs_triton
@pytest.mark.parametrize(("text", "batch"), [*NETS, *MATRICES])
def test_split_sums(text: str, batch: int) -> None:
    assert error(net_of(text), batch, most_split) <= BOUNDS["high"]


@needs_triton
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("window", ["1", "3, pad=1"])
@pytest.mark.parametrize("channels", [64, 192, 320])
def test_chunks_longer_than_the_channels(channels: int, window: str, precision: str) -> None:
    """Layers share a text and its variants: one may get those made for another with more."""
    graph = net_of(f"(x: f32[N,{channels},3,3]) -> x |> relu |> conv(20, {window}) |> relu")
    assert error(graph, 2, deepest, precision=precision) <= BOUNDS[precision]


@pytest.mark.long
@needs_triton
@settings(max_examples=600, deadline=None)
@given(
    channels=st.lists(st.sampled_from((48, 64, 128, 192, 320, 512)), min_size=3, max_size=3),
    window=st.sampled_from(("1", "3, pad=1")),
    precision=st.sampled_from(sorted(BOUNDS)),
    number=st.integers(0, 40),
)
def test_any_variant(channels: list[int], window: str, precision: str, number: int) -> None:
    first, *others = channels
    layers = " |> ".join(f"conv({n}, {window}) |> relu" for n in others)
    graph = net_of(f"(x: f32[N,{first},3,3]) -> x |> relu |> {layers}")
    found = error(graph, 2, lambda known: known[number % len(known)], precision=precision)
    assert found <= 2 * BOUNDS[precision]  # of two layers


@needs_triton
def test_layers_of_other_sizes_share_their_text() -> None:
    layers = " |> ".join(f"conv({n}, 3, pad=1) |> relu" for n in (64, 128, 256, 64))
    kernels = kernels_of(net_of(f"(x: f32[N,64,28,28]) -> x |> relu |> {layers}"))
    products = [k for k in kernels.values() if k.extents == 3]
    assert len(products) == 2  # of the last one the result is row-major, for the user


@needs_triton
def test_no_name_of_a_net_reaches_a_text() -> None:
    graph = net_of('(x: f32[N,8,6,6]) -> x |> conv(8, 1, name="zebra") |> relu(name="yak")')
    assert not any(w in k.text for k in kernels_of(graph).values() for w in ("zebra", "yak"))


WORKS = st.builds(
    Work,
    rows=st.integers(1, 500_000),
    columns=st.integers(1, 4096),
    run=st.integers(1, 5_000),
    runs=st.integers(1, 49),
    groups=st.integers(1, 8),
    item=st.sampled_from([2, 4]),
)


@given(WORKS, st.sampled_from([p for p in Precision if p.on_gpus is p]))
@settings(max_examples=200, deadline=None)
def test_candidates_fit_the_machine(work: Work, precision: Precision) -> None:
    found = candidates(work, precision, split=True)
    assert found
    for v in found:
        rows, columns, _ = v.tile
        depth = dict(v.constants)["BK"]
        assert v.stages * (rows + columns) * depth * work.item <= SHARED
        assert v.repeat == 1 or v.programs((work.rows, work.columns, work.groups)) <= SPLIT_PROGRAMS
    assert any(not v.limit for v in best([work], precision))


@given(
    groups=st.integers(1, 3),
    columns=st.integers(1, 5),
    channels=st.integers(1, 20),
    taps=st.lists(st.integers(1, 3), min_size=0, max_size=3).map(tuple),
    more=st.integers(-1, 2),
    transposed=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_packed_convolutions_come_back(
    groups: int, columns: int, channels: int, taps: tuple[int, ...], more: int, transposed: bool
) -> None:
    flat = 0 if more < 0 else channels + more
    layout = packing.Layout(groups, columns, taps, channels, flat, transposed)
    shape = (groups * columns, channels, *taps)
    if transposed:
        shape = (groups * channels, columns, *taps)
    check_packing(layout, shape)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3), st.randoms())
@settings(max_examples=100, deadline=None)
def test_packed_inner_products_come_back(sizes: list[int], random: object) -> None:
    order = [a for a, size in enumerate(sizes) if size != 1]
    random.shuffle(order)  # type: ignore[attr-defined]
    depth = int(np.prod(sizes))
    last = sizes[order[-1]] if order else 1
    taps = depth // max(last, 1)
    layout = packing.Layout(1, 5, (taps,), last, 0, False, tuple(sizes), tuple(order))
    check_packing(layout, (5, depth))


def check_packing(layout: packing.Layout, shape: tuple[int, ...]) -> None:
    """Packed and unpacked by what a file says of it, a parameter is what it was."""
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packed = packing.packed_array(array, layout)
    assert packed.size == packing.packed_count(layout.words, shape)
    np.testing.assert_array_equal(packing.unpack(packed, layout.words, shape), array)


@pytest.mark.parametrize(("precision", "whole"), [("high", 0), ("medium", 4), ("low", 4)])
def test_gpus_take_only_what_kernels_read(precision: str, whole: int) -> None:
    """Parameters that are rounded stay in the file whole too: before all that kernels read."""
    graph = net_of("(x: f32[N,64,8,8]) -> x |> relu |> conv(64, 3, pad=1) |> relu |> conv(16, 1)")
    made = build(graph, Options(devices=(Device("cuda"),), archs=(), precision=precision))
    (level,) = made.levels
    read = [a.offset for s in level.plan.steps for a in s.args if isinstance(a, WeightArg)]
    assert min(read) == whole * 64 * 64 * 9


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (17, 120), (120,), ()])
@pytest.mark.parametrize(
    "words",
    [
        ("gpu_conv", 1, 9, 16), ("gpu_conv", 5, True, 9), ("gpu_conv", 1 << 40, 0, 0),
        ("gpu_conv", 0, 0, 0), ("gpu_conv", 3, 0, 1), ("gpu_conv", 1, 1, 0), ("gpu_conv", 1, -1, 0),
        ("gpu_conv",), ("gpu_patches", 1), ("gpu_fc", 1, True, 5, -16, -1), ("gpu_fc", 1, 1),
        ("gpu_fc", 2, 120, -120, -1, 0), ("gpu_fc", 1, 7, 120, 0), ("gpu_conv", 1.0, 0, 0),
    ],
)  # fmt: skip
def test_packings_that_do_not_fit_are_refused(words: tuple, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArtifactError, match="packed in an unknown way"):
        packing.packed_count(words, shape)
