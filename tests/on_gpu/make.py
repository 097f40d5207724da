"""Nets compiled where there is no GPU, with what they must give, to be run where there is one.

    python -m tests.on_gpu.make FOLDER [--count 100] [--arch sm_90]

Goldens of Caffe; random graphs on one GPU, on two logical ones, and on a GPU and the processor;
nets in shares over two logical GPUs; layers of many channels.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import netc
from netc.errors import NetcError
from netc.ir.device import Device
from netc.ir.graph import Graph
from tests.codegen.triton.rules import net_of
from tests.e2e.test_gpu_random_graphs import scattered
from tests.e2e.test_sharded_graphs import channels, of_batch, replicas, stages
from tests.goldens import NAMES, bound, golden
from tests.layered import layered
from tests.strategies import feeds, graphs, wanted

# What products of so many bits add to the error of float32, as a share of the largest value.
LOOSE = {"exact": 0.0, "high": 2e-6, "medium": 4e-3, "fp16": 4e-3, "low": 3e-2}
PRECISIONS = ("high", "exact", "high", "medium", "low", "fp16")
GPU, OTHER, CPU = Device("cuda", 0), Device("cuda", 1), Device("cpu", 0)
PORTABLE = "x86-64-v3"  # the processor's part of a mixed plan


@dataclass(frozen=True)
class Case:
    """A net, how it is compiled, its inputs, and its outputs with how far off they may be."""

    name: str
    graph: Graph
    feed: dict[str, Any]
    want: dict[str, tuple[Any, float]]
    options: dict[str, Any] = field(default_factory=dict)

    def make(self, folder: Path, arch: str) -> str:
        """Compile and write `name.bin` and `name.npz`; says what went wrong."""
        try:
            exe = netc.compile(
                self.graph, outputs=list(self.want), cpu=PORTABLE, arch=arch, **self.options
            )
        except NetcError as error:
            return f"{self.name}: {error.diagnostics[0].message}"
        exe.save(folder / f"{self.name}.bin")
        arrays = {f"in|{k}": x for k, x in self.feed.items() if k in exe.inputs}
        arrays |= {f"out|{k}": y for k, (y, _) in self.want.items()}
        bounds = {k: bound for k, (_, bound) in self.want.items()}
        np.savez_compressed(folder / f"{self.name}.npz", **arrays)
        (folder / f"{self.name}.json").write_text(json.dumps(bounds))
        return ""


def goldens(count: int) -> Iterator[Case]:
    """Caffe's own results, spread over the layers."""
    for name in NAMES[:: max(1, len(NAMES) // count)]:
        found = golden(name)
        want = {k: (y, bound(y)) for k, y in found.want.items()}
        yield Case(f"golden-{name}", found.graph, found.feed, want, {"target": "cuda"})


def drawn(count: int, **strategies: Any) -> list[dict[str, Any]]:
    """So many examples, the same ones each time."""
    found: list[dict[str, Any]] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(example=st.fixed_dictionaries(strategies))
    def collect(example: dict[str, Any]) -> None:
        found.append(example)

    collect()
    return found


def case(name: str, graph: Graph, seed: int, precision: str, options: dict[str, Any]) -> Case:
    """A net with random inputs, against the reference interpreter."""
    feed = feeds(graph, seed)
    want = {
        k: (w.exact, w.bound + LOOSE[precision] * _largest(w.exact))
        for k, w in wanted(graph, feed).items()
    }
    return Case(name, graph, feed, want, {**options, "precision": precision})


def _largest(y: Any) -> float:
    finite = y[np.isfinite(y)] if y.dtype.kind == "f" else y
    return max(1.0, float(np.abs(finite).max(initial=0.0)))


def random_cases(count: int) -> Iterator[Case]:
    """Random graphs, wholly on a GPU and scattered."""
    kinds = [[GPU], [GPU, OTHER], [GPU, CPU], [OTHER, CPU, GPU]]
    examples = drawn(
        count,
        graph=graphs(max_nodes=12),
        seed=st.integers(0, 99),
        optimize=st.booleans(),
        places=st.sampled_from(kinds),
        precision=st.sampled_from(PRECISIONS),
    )
    for i, made in enumerate(examples):
        places = made["places"]
        graph = scattered(made["graph"], places)
        options = {"devices": [str(d) for d in (GPU, OTHER, CPU)], "optimize": made["optimize"]}
        kind = "-".join(str(d).replace(":", "") for d in places)
        yield case(f"random-{i:03}-{kind}", graph, made["seed"], made["precision"], options)


WIDE = (  # layers that share kernels, and have other channels than those whose tiles they get
    "x |> conv(192, 3, pad=1) |> relu |> conv(64, 1) |> relu |> conv(320, 1) |> conv(512, 1)",
    "x |> conv(512, 1) |> relu |> conv(64, 3, pad=1) |> relu |> conv(192, 3, pad=1) |> relu",
    "x |> relu |> conv(1024, 1) |> relu |> conv(192, 1) |> relu |> conv(1024, 1) |> avg_pool(7)"
    " |> fc(320)",
)


def wide_cases() -> Iterator[Case]:
    """Layers of many channels: long chunks of depth, and kernels of several layers."""
    for i, (body, precision) in enumerate(product(WIDE, dict.fromkeys(PRECISIONS))):
        graph = net_of(f"(x: f32[N,64,7,7]) -> {body}")
        yield case(f"wide-{i:03}", graph, i, precision, {"target": "cuda"})


def sharded_cases(count: int) -> Iterator[Case]:
    """Layered nets in replicas, stages and shares of channels over two logical GPUs."""
    ways: tuple[Callable[..., Any], ...] = (replicas, stages, channels)
    examples = drawn(count, graph=layered(4), seed=st.integers(0, 1 << 20))
    for i, made in enumerate(examples):
        graph = of_batch(made["graph"], 4)
        rng = np.random.default_rng(made["seed"])
        sharding = ways[i % len(ways)](graph, ["cuda:0", "cuda:1"], rng)
        if sharding is None:
            continue
        options = {**sharding.said, "place": dict(sharding.place), "target": "cuda"}
        name = f"sharded-{i:03}-{ways[i % len(ways)].__name__}"
        yield case(name, graph, made["seed"], "high", options)


def make(folder: Path, count: int, arch: str) -> list[str]:
    """Compile every case; what could not be, and why."""
    folder.mkdir(parents=True, exist_ok=True)
    some = goldens(count), random_cases(count), sharded_cases(count // 3)
    cases = chain(*some, wide_cases())
    return [why for made in cases if (why := made.make(folder, arch))]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100, help="of each kind, about")
    parser.add_argument("--arch", default="sm_90")
    told = parser.parse_args()
    wrong = make(told.folder, told.count, told.arch)
    print("\n".join(wrong) or "all compiled")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
