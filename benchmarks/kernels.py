"""Every convolution shape of three nets: percent of the FMA peak measured in the same run.

    python -m benchmarks.kernels [--nets googlenet] [--threads 1] [--json out.json]

Each shape is compiled as a net of its own (bias and ReLU included) and its step is timed by the
processor's counter; the peak is taken again before each shape, so that neither a slow machine
nor a busy moment passes for a bad kernel. Where there is one output point, and for inner
products, the peak is what reading the weights allows. Operations are those of the convolution, also
where Winograd's filtering does fewer: above 100 % then.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

import netc
from benchmarks import zoo
from benchmarks.load import Watch
from benchmarks.peak import Peak
from netc.codegen.cpu.target import native
from netc.ir.graph import Builder, Node
from netc.ir.types import f32
from netc.runtime.session import Executable
from netc.runtime.trace import timed

NETS = ("googlenet", "resnet50", "mobilenet")
SECONDS = 0.25  # a shape is run for


@dataclass(frozen=True)
class Shape:
    """One convolution as far as its speed goes."""

    channels: int
    outputs: int
    height: int
    width: int
    kernel: tuple[int, int]
    stride: int
    pad: tuple[int, int]
    groups: int
    is_fc: bool = False

    def __str__(self) -> str:
        if self.is_fc:
            return f"fc {self.channels}→{self.outputs}"
        step = f" /{self.stride}" if self.stride > 1 else ""
        group = " depthwise" if self.depthwise else f" g{self.groups}" if self.groups > 1 else ""
        kernel = "×".join(map(str, self.kernel))
        return f"{kernel}{step} {self.channels}→{self.outputs} @{self.height}{group}"

    @property
    def depthwise(self) -> bool:
        """One filter a channel."""
        return self.groups == self.channels == self.outputs > 1

    @property
    def is_read_bound(self) -> bool:
        """One output point: every weight is read and used once."""
        return self.height == self.width == 1

    @property
    def is_filtered(self) -> bool:
        """Whether Winograd's filtering pays."""
        window = (self.kernel, self.stride, self.pad) == ((3, 3), 1, (1, 1))
        return window and not self.depthwise and self.channels >= 16 and self.height >= 12

    @property
    def floor(self) -> int:
        """Percent of peak below which something is wrong, on one thread."""
        if self.is_filtered:
            return 180 if self.height >= 28 else 120
        if self.is_read_bound:
            return 65
        if self.depthwise:
            return 30 if self.stride > 1 else 50
        if self.channels <= 4 or self.stride > 1 or self.kernel == (1, 1):
            return 70
        return 80

    @property
    def wanted(self) -> int:
        """What a reasonable requirement asks for."""
        if self.is_filtered:
            return 220 if self.height >= 28 else 145
        if self.is_read_bound:
            return 80
        if self.depthwise:
            return 40 if self.stride > 1 else 65
        if self.kernel == (1, 1):
            return 80 if self.height >= 56 else 85
        if self.channels <= 4:
            return 85
        return 80 if self.stride > 1 else 90


def shapes_of(name: str) -> Counter[Shape]:
    """The convolutions of a net, and how often each comes."""
    net = zoo.read(name)
    found: Counter[Shape] = Counter()
    for node in net.graph.nodes:
        if node.op.name in ("conv", "fc"):
            found[_shape(node, net.sizes)] += 1
    return found


def _shape(node: Node, sizes: dict[str, int]) -> Shape:
    op = cast(Any, node.op)
    if node.op.name == "fc":
        outputs, channels = node.inputs[1].type.sizes(sizes)
        return Shape(channels, outputs, 1, 1, (1, 1), 1, (0, 0), 1, True)
    _, channels, height, width = node.inputs[0].type.sizes(sizes)
    outputs, _, *kernel = node.inputs[1].type.sizes(sizes)
    stride, pad, _ = op.window(2)
    return Shape(channels, outputs, height, width, tuple(kernel), stride[0], tuple(pad), op.groups)


def compiled(shape: Shape, threads: int) -> tuple[Executable, Any]:
    """A net of this convolution alone, and its input."""
    rng = np.random.default_rng(0)
    depth = shape.channels // shape.groups
    b = Builder()
    x = b.input("data", f32["N", shape.channels, shape.height, shape.width])
    window = () if shape.is_fc else shape.kernel
    weights = rng.standard_normal((shape.outputs, depth, *window)).astype(np.float32)
    w = b.param("w", f32[weights.shape], value=weights)
    bias = b.param("b", f32[shape.outputs,], value=np.zeros(shape.outputs, np.float32))
    attributes = {"stride": (shape.stride,) * 2, "pad": shape.pad, "groups": shape.groups}
    y = b.relu(b.fc(x, w, bias) if shape.is_fc else b.conv(x, w, bias, **attributes))
    exe = netc.compile(b.graph("one", {"y": y}), threads=threads)
    data = rng.standard_normal((1, shape.channels, shape.height, shape.width))
    return exe, exe.accepted({"data": data.astype(np.float32)}, {})


def conv_seconds(exe: Executable, arrays: Any) -> list[float]:
    """How long the convolution's steps took, run after run."""
    taken: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(taken) < 5 or time.perf_counter() < end:
        _, steps = timed(exe, arrays)
        most = max(steps, key=lambda s: s.flops)
        taken.append(sum(s.seconds for s in steps if s.name == most.name))
    return taken


def measure(shapes: Counter[Shape], threads: int) -> Iterator[dict[str, Any]]:
    """One row for each shape."""
    peak = Peak(native())
    for shape, count in shapes.items():
        exe, arrays = compiled(shape, threads)
        floats = shape.outputs * shape.channels // shape.groups * shape.kernel[0] * shape.kernel[1]
        top = peak.gflops() * threads
        if shape.is_read_bound:  # two operations for every four bytes
            top = peak.read(floats / (1 << 18)) / 2 * threads
        watch = Watch()
        taken = sorted(conv_seconds(exe, arrays))
        points = exe.outputs["y"].shape
        work = 2 * floats * int(np.prod(cast(Any, points[2:]), dtype=np.int64))
        best, median = taken[0], taken[len(taken) // 2]
        yield {
            "shape": str(shape),
            "count": count,
            "mflop": work / 1e6,
            "us": best * 1e6,
            "percent": 100 * work / best / 1e9 / top,
            "median_percent": 100 * work / median / 1e9 / top,
            "floor": shape.floor,
            "wanted": shape.wanted,
            "peak": top,
            "foreign": watch.foreign(),
        }


HEAD = ("op", "times", "MFLOP", "µs", "% of peak", "median", "floor", "asked", "")


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    verdict = "BELOW" if row["percent"] < row["floor"] else ""
    if row["percent"] >= row["wanted"]:
        verdict = "good"
    busy = " (busy)" if row["foreign"] > 0.25 else ""
    print(
        f"{row['shape']:<34}{row['count']:>6}{row['mflop']:>9.1f}{row['us']:>10.1f}"
        f"{row['percent']:>11.0f}{row['median_percent']:>8.0f}{row['floor']:>7}{row['wanted']:>7}"
        f"  {verdict}{busy}",
        flush=True,
    )


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    results: dict[str, Any] = {}
    for name in given.nets.split(","):
        widths = (34, 6, 9, 10, 11, 8, 7, 7)
        print(f"\n{name}, {given.threads} threads")
        print(
            HEAD[0].ljust(34)
            + "".join(h.rjust(w) for h, w in zip(HEAD[1:], widths[1:], strict=False))
        )
        rows = []
        for row in measure(shapes_of(name), given.threads):
            show(row)
            rows.append(row)
        spent = sum(r["us"] * r["count"] for r in rows)
        ideal = sum(r["percent"] / 100 * r["us"] * r["count"] for r in rows)
        share = 100 * ideal / spent
        below = sum(r["percent"] < r["floor"] for r in rows)
        good = sum(r["percent"] >= r["wanted"] for r in rows)
        print(
            f"all of {name}: {share:.0f} % of peak; of {len(rows)} shapes "
            f"{good} reach what is asked, {below} are below the floor"
        )
        results[name] = rows
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
