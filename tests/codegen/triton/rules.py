"""Graphs that GPU kernel rules are tried on, and how: in Triton's interpreter, or as NETC_GPU says.

NETC_GPU=cuda pytest tests/codegen/triton/test_rules.py
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import netc
from netc.codegen.triton.image import build_image
from netc.compiler import Options, build
from netc.errors import NetcError
from netc.ir.device import Device
from netc.ir.gpu_code import KernelText, Variant
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Case
from netc.ir.types import DType, Layout
from netc.runtime.artifact import Artifact
from netc.runtime.driver import GpuOptions
from netc.runtime.session import executable
from tests.codegen.cpu.harness import close, drawn

SEPARATE = ("input", "param", "const", "fused", "copy")  # no kernels, or tested elsewhere

# A net, then the sizes of its symbols. Operands named i… hold places from -2 to 12.
NETS: tuple[tuple[str, dict[str, int]], ...] = (
    ("(x: f32[N,8,H,W]) -> max_pool(x, 3, stride=2, ceil=true) |> relu", {"N": 2, "H": 9, "W": 6}),
    ("(x: f32[N,8,H,W]) -> max_pool(x, 9, stride=2, pad=3, ceil=true)", {"N": 2, "H": 9, "W": 12}),
    ("(x: f32[N,8,H,W]) -> avg_pool(x, 3, stride=2, pad=1, ceil=true)", {"N": 2, "H": 9, "W": 6}),
    ("(x: f32[N,8,H,W]) -> avg_pool(x, 9, stride=4, pad=3)", {"N": 1, "H": 19, "W": 12}),
    ("(x: f32[N,8,H,W]) -> max_pool(x, 8, stride=6, ceil=true)", {"N": 2, "H": 3, "W": 9}),
    ("(x: f32[N,8,H,W]) -> max_pool(x, 5, stride=4, ceil=true) |> relu", {"N": 2, "H": 2, "W": 3}),
    ("(x: f32[N,8,H,W]) -> avg_pool(x, 5, stride=3, pad=1, ceil=true)", {"N": 2, "H": 1, "W": 6}),
    ("(x: f32[N,8,2,3]) -> avg_pool(x, 4, stride=3, ceil=true)", {"N": 2}),
    ("(x: f32[N,8,2,3]) -> max_pool_index(x, 4, stride=3, ceil=true)", {"N": 2}),
    ("(x: f32[N,8,H,W]) -> stochastic_pool(exp(x), 4, stride=3, ceil=true, train=true)",
     {"N": 2, "H": 2, "W": 3}),
    ("(x: f32[N,8,H,W]) -> max_pool_index(x, 9, stride=2, pad=1)", {"N": 2, "H": 9, "W": 12}),
    ("(x: f32[N,8,H,W]) -> stochastic_pool(exp(x), 9, pad=1)", {"N": 2, "H": 9, "W": 12}),
    ("(x: f32[N,8,H,W]) -> stochastic_pool(exp(x), 3, stride=2, pad=1, train=true, seed=4)",
     {"N": 2, "H": 9, "W": 6}),
    ("(x: f32[N,8,H,W]) -> sigmoid(x) |> global_avg_pool |> relu", {"N": 2, "H": 9, "W": 5}),
    ("(x: f32[N,38,H,W]) -> sigmoid(x) |> global_avg_pool", {"N": 1, "H": 39, "W": 25}),
    ("(x: f32[N,8,60,60]) -> global_max_pool(exp(x)) |> relu", {"N": 2}),
    ("(x: f32[N,8,H,W]) -> reduce_max(x, axes=(2,3)) |> relu", {"N": 2, "H": 9, "W": 5}),
    ("(x: f32[N,8,9,40]) -> reduce_mean(sigmoid(x), axes=(1,2,3)) |> relu", {"N": 2}),
    ("(x: f32[N,5]) -> reduce_mean(exp(x), axes=(0))", {"N": 3000}),
    ("(x: f32[3,N]) -> reduce_sum(exp(x), axes=(1))", {"N": 100000}),
    ("(x: f32[N,8,H,W]) -> softmax(exp(x), axis=3) |> relu", {"N": 2, "H": 4, "W": 5}),
    ("(x: f32[N,8,H,W]) -> log_softmax(exp(x), axis=1)", {"N": 2, "H": 4, "W": 5}),
    ("(x: f32[3,N]) -> softmax(exp(x), axis=1)", {"N": 5000}),
    ("(x: f32[900,5]) -> log_softmax(x, axis=0)", {}),
    ("(x: f32[N,8,H,W]) -> lrn(x, size=51, beta=1.0) |> lrn(size=3)", {"N": 2, "H": 3, "W": 4}),
    ("(x: f32[N,8,5,6]) -> argmax(x, axis=1)", {"N": 2}),
    ("(x: f32[N,9000]) -> argmax(x, top_k=3, values=true)", {"N": 2}),
    ("(x: f32[N,8,3,4]) -> argmax(relu(x), top_k=5)", {"N": 2}),
    ("(x: f32[N,8,3,4]) -> argmax(relu(x), top_k=70, values=true, first=true) |> relu", {"N": 2}),
    ("(x: f32[N,W]) -> argmax(x, axis=1, top_k=3)", {"N": 2, "W": 30}),
    ("(x: f32[N,W]) -> argmax(x, axis=1, top_k=12, values=true)", {"N": 2, "W": 150}),
    ("(x: f32[N,137,H], z: f32[12,1]) -> add(argmax(x, axis=1, top_k=12), z)", {"N": 2, "H": 3}),
    ("(x: f32[N,8,3,4], i: f32[N,1,3,4]) -> accuracy(relu(x), relu(i), top_k=2, ignore=3)",
     {"N": 2}),
    ("(x: f32[N,8,3,4], i: f32[N,1,3,4]) -> accuracy_per_class(relu(x), i) |> relu", {"N": 2}),
    ("(x: f32[N,8,3,4], i: f32[N,4,3]) -> pick(relu(x), i)", {"N": 2}),
    ("(x: f32[N,8,H,W], i: f32[M]) -> gather(exp(x), i, axis=2)",
     {"N": 2, "H": 9, "W": 5, "M": 7}),
    ("(x: f32[N,8,W], i: f32[N,8,M]) -> gather(exp(x), i, axis=2, batch=2) |> relu",
     {"N": 2, "W": 5, "M": 7}),
    ("(x: f32[N,8,W]) -> x |> iota(axis=2) |> exp", {"N": 2, "W": 5}),
    ("(x: f32[N,8,H,W]) -> im2col(exp(x), (3,2), stride=2, pad=1)", {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> exp(x) |> transpose(perm=(0,3,1,2)) |> relu",
     {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> exp(x) |> pad(before=(0,1,2,0), after=(0,0,1,3), value=5) |> relu",
     {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> exp(x) |> tile(axis=2, times=3) |> relu", {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W], z: f32[N,8,4,4]) -> exp(x) |> crop(z, offset=(1,2)) |> relu",
     {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> resize_bilinear(x, scale=(2,3)) |> relu", {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> resize_bilinear(x, scale=(2,3), align_corners=false)",
     {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> resize_bilinear(x, size=(1,7))", {"N": 2, "H": 5, "W": 6}),
    ("(x: f32[N,8,H,W]) -> unpool(max_pool(x, 2, stride=2), max_pool_index(x, 2, stride=2),"
     " scale=(2,2)) |> affine(2, 1)", {"N": 2, "H": 6, "W": 4}),
    ("(x: f32[N,8,3,4], i: f32[N,8,3,4]) -> unpool(relu(x), affine(i, 1), size=(3,4))", {"N": 2}),
    ("(x: f32[N,8,3,4], i: f32[N,8,3,4]) -> concat(unpool(relu(x), affine(i, 1), size=(3,4)), x)",
     {"N": 2}),
    ("(x: f32[N,8,H,W], z: f32[1,3,A,B]) -> prior_box(x, z, min_size=(10,), max_size=(20,),"
     " aspect_ratio=(2,), step=(3,4), clip=true) |> relu",
     {"N": 1, "H": 3, "W": 4, "A": 40, "B": 41}),
    ("(x: f32[N,8,H,W], z: f32[1,3,A,B]) -> prior_box(x, z, min_size=(10,))",
     {"N": 1, "H": 3, "W": 4, "A": 40, "B": 41}),
    ("(x: f32[N,M,4]) -> exp(x) |> non_max_suppression(overlap=0.3, border=1) |> relu",
     {"N": 2, "M": 9}),
    ("(x: f32[N,H,W,4]) -> non_max_suppression(x, overlap=0.9, eta=0.5) |> affine(2, 1)",
     {"N": 2, "H": 3, "W": 5}),
    ("(x: f32[N,4], z: f32[N]) -> mul(non_max_suppression(x, overlap=0), z)", {"N": 9}),
    ("(x: f32[N,8,H,W], i: f32[R,5]) -> roi_pool(exp(x), affine(i, 1), size=(2,3)) |> relu",
     {"N": 9, "H": 7, "W": 12, "R": 20}),
    ("(x: f32[N,8,H,W], i: f32[R,5]) -> ps_roi_pool(exp(x), affine(i, 1), channels=2, group=2)",
     {"N": 9, "H": 7, "W": 12, "R": 20}),
    ("(x: f32[N,8,H,W]) -> dropout(x, seed=4) |> random_normal(seed=3)",
     {"N": 2, "H": 5, "W": 6}),
    *(
        (f"(x: f32[N,8,H,W]) -> conv_transpose(relu(x), {channels}, {kernel}, stride={stride},"
         f" pad={pad}, dilation={spread}, groups={groups}) |> relu", {"N": 1, "H": 5, "W": 4})
        for channels, kernel, stride, pad, spread, groups in (
            (8, 4, 2, 1, 1, 8), (8, 16, 8, 4, 1, 8), (8, 3, 2, 1, 2, 8), (8, 8, 1, 3, 2, 8),
            (4, 3, 2, 1, 1, 4), (8, 5, 3, 2, 1, 8),
        )
    ),
    *(  # windows with more taps than are written out
        (f"(x: f32[N,4,{image}]) -> conv(x, {channels}, {kernel}, {more}, groups=4) |> relu",
         {"N": 2, "D": 3, "H": 7, "W": 6})
        for image, channels, kernel, more in (
            ("H,W", 4, "(9,8)", "pad=(4,3)"), ("H,W", 8, "(3,60)", "pad=(0,30), stride=(2,3)"),
            ("W", 4, 55, "pad=27"), ("D,H,W", 4, "(3,6,5)", "pad=(1,2,2), dilation=(1,1,2)"),
        )
    ),
)  # fmt: skip
COMPACT = """net t(x: f32[N,8,3,3], z: f32[N,2], i: f32[N]) -> a, b, n {
    y = exp(x)
    a, b, n = compact(y, z, i)
}"""


def net_of(text: str) -> Graph:
    """The net of a row of NETS, parameters drawn."""
    head, body = text.split(" -> ")
    graph = netc.parse(f"net t{head} -> y {{ y = {body} }}", warn=lambda *_: None)
    rng = np.random.default_rng(1)
    shapes = {n.name: n.types[0].sizes({}) for n in graph.params}
    weights = {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}
    return replace(graph, weights=weights)


def feed_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Inputs of a net of NETS."""
    rng = np.random.default_rng(0)
    feed = {}
    for n in graph.inputs:
        shape = tuple(n.types[0].sizes(dict(sizes)))
        place = n.name.startswith("i")
        made = rng.integers(-2, 12, shape) if place else rng.standard_normal(shape)
        feed[n.name] = made.astype(np.float32)
    return feed


def samples() -> list[tuple[str, int, Case]]:
    """Every legal sample of every op that has kernels; blocked layouts are the processor's."""
    found = []
    for name, op in sorted(REGISTRY.items()):
        legal = [s for s in op.samples if not s.error and name not in SEPARATE]
        for i, s in enumerate(legal):
            if all(t.layout is Layout.PLAIN for t in s.inputs):
                found.append((name, i, s))
    return found


def sample_graph(name: str, sample: Case, tail: bool) -> Graph:
    """The op alone, or with something element-wise behind it besides."""
    b = Builder()
    xs = [b.input(f"x{i}", t) for i, t in enumerate(sample.inputs)]
    node = b(REGISTRY[name](**sample.attributes), *xs, name="y")
    outs = {f"y{i}": v for i, v in enumerate(node.results)}
    if tail and len(node.results) == 1 and node.types[0].dtype is DType.F32:
        more = b.const(type=node.types[0].plain(), value=0.25)
        outs["tail"] = b.relu(b.add(node.out, more))
    return b.graph("sample", outs)


def sample_feed(sample: Case) -> dict[str, np.ndarray]:
    """Inputs of a sample."""
    return {f"x{i}": x for i, x in enumerate(drawn(sample))}


def with_variants(made: Artifact, pick: Callable[[tuple[Variant, ...]], Variant]) -> Artifact:
    """The same, each kernel with one of its variants only; for the interpreter."""
    assert made.gpu is not None
    kernels = {
        name: replace(k, text=replace(k.text, variants=(pick(k.text.variants),)), codes=k.codes[:1])
        for name, k in made.gpu.kernels.items()
    }
    return replace(made, gpu=replace(made.gpu, kernels=kernels))


def kernels_of(graph: Graph, **options: Any) -> dict[str, KernelText]:
    """The texts of a graph's kernels."""
    made = build(graph, Options(devices=(Device("cuda", 0),), archs=(), **options))
    assert made.gpu is not None
    return {name: kernel.text for name, kernel in made.gpu.kernels.items()}


def run(graph: Graph, feed: Mapping[str, np.ndarray], **options: Any) -> dict[str, np.ndarray]:
    """The outputs, on memory that was filled with NaN before."""
    options = {"gpu": "interpret", "cache": False, **options}
    exe = netc.compile(graph, target="cuda", **options)
    exe.poison()
    return exe(feed)


def run_variant(graph: Graph, feed: Mapping[str, np.ndarray], number: int) -> dict[str, np.ndarray]:
    """The outputs with this variant of every kernel, the last one where there are fewer."""
    made = build(graph, Options(devices=(Device("cuda", 0),), archs=()))
    only = with_variants(made, lambda known: known[min(number, len(known) - 1)])
    return executable(only, None, gpu=GpuOptions("interpret"))(feed)


def judge(
    graph: Graph, feed: Mapping[str, np.ndarray], out: Mapping[str, np.ndarray], share: float = 2e-6
) -> None:
    """Within a few units in the last place, or 2e-6 of the largest: sums here are short."""
    for name, want in interpret(graph, feed).items():
        got, exact = out[name], np.asarray(want)
        if exact.dtype.kind != "f":
            np.testing.assert_array_equal(got, exact)
            continue
        finite = np.abs(exact[np.isfinite(exact)])
        close(got, exact, 8, share * float(finite.max(initial=0.0)))


def main() -> None:
    """Everything on a GPU: compiled together, then run one by one."""
    graphs = {f"{n}-{i}": (sample_graph(n, s, True), sample_feed(s)) for n, i, s in samples()}
    for i, (text, sizes) in enumerate(NETS):
        graph = net_of(text)
        graphs[f"net {i} {text}"] = graph, feed_of(graph, sizes)
    kernels = {f"{i}_{n}": k for i, (g, _) in enumerate(graphs.values())
               for n, k in kernels_of(g, precision="exact").items()}  # fmt: skip
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        build_image(kernels, [sys.argv[1] if len(sys.argv) > 1 else "sm_90"], Path(folder))
        for name, (graph, feed) in graphs.items():
            try:
                judge(graph, feed, run(graph, feed, gpu="cuda", cache=folder, precision="exact"))
            except (AssertionError, NetcError) as error:
                failed += 1
                print(f"{name}: {' '.join(str(error).split())[:300]}", flush=True)
    print(f"{failed} of {len(graphs)} failed")


if __name__ == "__main__":
    main()
