"""Every GPU kernel rule against the reference: samples of all ops, sizes known at run time only."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import netc
from netc.codegen.triton import anchors
from netc.codegen.triton.image import build_image
from netc.errors import UnsupportedError
from netc.ir.gpu_code import KernelText
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Case
from netc.ir.ops.normalization import Softmax
from netc.ir.scalar import Elementwise
from tests.codegen.triton.rules import (
    COMPACT,
    NETS,
    feed_of,
    judge,
    kernels_of,
    net_of,
    run,
    run_variant,
    sample_feed,
    sample_graph,
    samples,
)
from tests.goldens import MISSING, NAMES, agree, golden

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
MATRIX = ("conv", "fc")  # whose kernels have tests of their own


@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-written"])
@pytest.mark.parametrize(
    ("name", "sample"), [pytest.param(n, s, id=f"{n}-{i}") for n, i, s in samples()]
)
def test_sample(name: str, sample: Case, optimize: bool) -> None:
    graph, feed = sample_graph(name, sample, tail=optimize), sample_feed(sample)
    judge(graph, feed, run(graph, feed, optimize=optimize))


def test_an_op_without_a_rule_can_run_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(anchors.RULES, Softmax)
    graph = netc.parse("net n(x: f32[2, 3]) -> z { y = relu(x) |> softmax  z = relu(y) }")
    with pytest.raises(UnsupportedError, match="no kernel for softmax") as caught:
        netc.compile(graph, target="cuda", gpu="interpret")
    assert caught.value.diagnostics[0].help == "--place y=cpu:0 runs it on a processor"
    exe = netc.compile(graph, target="cuda", gpu="interpret", place={"y": "cpu:0"})
    assert exe(x=np.zeros((2, 3), np.float32))["z"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(("text", "sizes"), NETS)
def test_sizes_known_at_run_time(text: str, sizes: dict[str, int]) -> None:
    graph = net_of(text)
    feed = feed_of(graph, sizes)
    judge(graph, feed, run(graph, feed))


@pytest.mark.parametrize(("text", "sizes"), NETS[::3])
def test_another_variant_computes_the_same(text: str, sizes: dict[str, int]) -> None:
    graph = net_of(text)
    feed = feed_of(graph, sizes)
    judge(graph, feed, run_variant(graph, feed, 1))


@pytest.mark.parametrize(("text", "sizes"), NETS)
def test_values_of_16_bits(text: str, sizes: dict[str, int]) -> None:
    """bf16 has 8 bits: a few roundings, also of what exp makes larger; places stay exact."""
    graph = net_of(text)
    if "stochastic" in text or "argmax" in text:
        return  # another element is chosen where two are near
    feed = feed_of(graph, sizes)
    judge(graph, feed, run(graph, feed, precision="low"), share=3e-2)


@pytest.mark.parametrize(
    ("rows", "known"), [(1, False), (30, False), (1500, False), (1, True), (30, True)]
)
def test_compact(rows: int, known: bool) -> None:
    text = COMPACT.replace("N", str(rows)) if known else COMPACT
    graph = netc.parse(text, warn=lambda *_: None)
    feed = feed_of(graph, {"N": rows})
    feed["i"] = np.random.default_rng(0).integers(0, 2, rows).astype(np.float32)
    judge(graph, feed, run(graph, feed))


def test_random_numbers_are_those_of_every_other_back_end() -> None:
    graph = net_of("(x: f32[N,5,H,W]) -> exp(x) |> random_uniform(seed=9) |> max_pool(1)")
    feed = feed_of(graph, {"N": 3, "H": 4, "W": 7})
    (want,) = interpret(graph, feed).values()
    np.testing.assert_array_equal(run(graph, feed)["y"], want.astype(np.float32))


NAN, INF = float("nan"), float("inf")
SPECIAL = np.array([[1, 2, NAN, 3], [1, 2, 3, 4], [INF, 1, 2, 3], [-INF] * 4, [INF, INF, -INF, 0],
                    [NAN] * 4, [-0.0, 0, -0.0, 0]], np.float32)  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("call", ["softmax(x)", "log_softmax(x)", "reduce_max(x, axes=(1))",
                                  "reduce_sum(x, axes=(1))", "argmax(x, axis=1, top_k=3)",
                                  "argmax(x, values=true)"])  # fmt: skip
def test_special_values_in_rows(call: str, turned: bool) -> None:
    x = np.ascontiguousarray(SPECIAL.T if turned else SPECIAL)
    graph = net_of(f"(x: f32[N,{x.shape[1]}]) -> {call}")
    judge(graph, {"x": x}, run(graph, {"x": x}))


@pytest.mark.parametrize("call", ["max_pool(x, 2, pad=1)", "avg_pool(x, 2, pad=1)",
                                  "max_pool_index(x, 2, pad=1)", "global_max_pool(x)",
                                  "global_avg_pool(x)", "stochastic_pool(x, 2)"])  # fmt: skip
def test_special_values_in_windows(call: str) -> None:
    x = SPECIAL[None, None]
    graph = net_of(f"(x: f32[N,1,7,4]) -> {call}")
    judge(graph, {"x": x}, run(graph, {"x": x}))


# ------------------------------------------------------------------------------- compilation


def texts(whole: bool) -> dict[str, KernelText]:
    """Kernels of different text: of all samples and nets, or of one sample of each anchor."""
    found: dict[str, tuple[str, KernelText]] = {}
    for name, i, sample in samples():
        if whole or (i == 0 and not issubclass(REGISTRY[name], Elementwise)):
            for symbol, text in kernels_of(sample_graph(name, sample, tail=True)).items():
                found.setdefault(text.text, (f"{name}_{i}_{symbol}", text))
    for i, (text, _) in enumerate(NETS):
        if whole:
            for precision in ("high", "low"):
                for symbol, kernel in kernels_of(net_of(text), precision=precision).items():
                    found.setdefault(kernel.text, (f"net{i}_{symbol}", kernel))
    return dict(found.values())


def test_a_kernel_of_every_anchor_compiles() -> None:
    kernels = texts(whole=False)
    build_image({n: k for n, k in kernels.items() if not n.startswith(MATRIX)}, ["sm_90"])


@pytest.mark.long
def test_every_kernel_compiles() -> None:
    kernels = texts(whole=True)
    image = build_image(kernels, ["sm_90"])
    assert image.kernels.keys() == kernels.keys()


# ---------------------------------------------------------------------------------- goldens


def check_golden(name: str, optimize: bool) -> None:
    """One of Caffe's own results; the rule is that of the processor's goldens."""
    case = golden(name)
    out = run(case.graph, case.feed, optimize=optimize)
    for blob, want in case.want.items():
        agree(out[blob], want)


@pytest.mark.skipif(not NAMES, reason=MISSING)
@pytest.mark.parametrize("name", NAMES[::8])
def test_golden(name: str) -> None:
    check_golden(name, optimize=True)


@pytest.mark.long
@pytest.mark.skipif(not NAMES, reason=MISSING)
@pytest.mark.parametrize("optimize", [True, False], ids=["optimized", "as-written"])
@pytest.mark.parametrize("name", NAMES)
def test_every_golden(name: str, optimize: bool) -> None:
    check_golden(name, optimize)
