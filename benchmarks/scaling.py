"""Predicted speed-ups of nets on 1, 2, 4 and 8 GPUs, as a table and a picture.

    python -m benchmarks.scaling [-o docs/scaling.svg] [--nets vgg16 …] [--batch 64]

Plans are the GPU back end's, with kernels as text only: no GPU is needed. They run on the virtual
clock of `netc.runtime.sim`, on the table `eight gpus`. The batch is the same for any number of
GPUs. Three ways: `replicate` gives each GPU a share of the batch, `pipeline` a stage (as many
micro-batches as stages), `channel split` a share of the output channels of every convolution and
inner product; those in too few groups to be shared stay whole on the first GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import zoo
from benchmarks.scaling_limits import Account, Run, account, limit
from benchmarks.scaling_svg import picture
from netc.compiler import Options, build
from netc.ir.device import Device
from netc.ir.graph import Graph
from netc.ir.machine import Machine, eight_gpus
from netc.ir.ops.convolution import Fc, Windowed
from netc.passes.base import Context, Pass
from netc.passes.shard_batch import Pipeline, Replicate
from netc.passes.shard_channels import SplitChannels
from netc.runtime.sim import simulate

NETS = ("vgg16", "resnet50", "alexnet")
GPUS = (1, 2, 4, 8)
WAYS = ("replicate", "pipeline", "channel split")


@dataclass(frozen=True)
class Point:
    """One net, cut one way, on so many GPUs."""

    net: str
    way: str
    gpus: int
    seconds: float
    speedup: float  # over one GPU
    busiest: str  # device and stream, or link, with its share of the run
    copied: float  # bytes
    found: Account
    limit: str


def fixed(name: str, batch: int) -> Graph:
    """A net of the zoo for this batch only: shares are cut when compiling."""
    net = zoo.read(name, batch)
    shapes = {given: array.shape for given, array in net.feed.items()}
    return replace(zoo.graph_of(name, shapes=shapes), weights=net.graph.weights)


def cutting(way: str, graph: Graph, machine: Machine, devices: tuple[Device, ...]) -> Pass:
    """The pass that brings a net to these devices."""
    if way == "replicate":
        return Replicate(devices)
    if way == "pipeline":
        return Pipeline(devices, len(devices), machine)
    return SplitChannels(shareable(graph, len(devices)), devices)


def shareable(graph: Graph, ranks: int) -> tuple[str, ...]:
    """The convolutions and inner products that have a group, or channels, for each rank."""
    whole = {n.name for n in graph.nodes if isinstance(n.op, Windowed) and 1 < n.op.groups < ranks}
    named = (n.name for n in graph.nodes if isinstance(n.op, Windowed | Fc))
    return tuple(name for name in named if name not in whole)


def run(graph: Graph, way: str, gpus: int, machine: Machine) -> Run:
    """The plan and the time line of a net on the first GPUs of a machine."""
    devices = machine.devices[:gpus]
    cut = cutting(way, graph, machine, devices).run(graph, Context())
    made = build(cut, Options(devices=devices, targets=("cuda",), archs=()))
    plan = made.levels[0].plan
    return Run(plan, simulate(plan, {}, machine, len(made.weights)), gpus)


def point(net: str, way: str, made: Run, alone: Run, machine: Machine) -> Point:
    """What a run comes to."""
    seconds, found = made.line.seconds, account(made, alone, machine)
    return Point(
        net=net,
        way=way,
        gpus=made.gpus,
        seconds=seconds,
        speedup=alone.line.seconds / seconds,
        busiest=busiest(made),
        copied=made.copied(),
        found=found,
        limit=limit(made, found, way) if made.gpus > 1 else "one GPU",
    )


def busiest(made: Run) -> str:
    """The device and stream, or the link, that works longest, and its share of the run."""
    every = {" ".join(queue): s for queue, s in made.line.busy().items()}
    every |= {" to ".join(link): s for link, s in made.links().items()}
    name = max(every, key=lambda n: every[n])
    return f"{name} {every[name] / made.line.seconds:.0%}"


def measured(net: str, batch: int, gpus: Sequence[int], machine: Machine) -> Iterator[Point]:
    """Every way on every number of GPUs."""
    graph = fixed(net, batch)
    alone = run(graph, WAYS[0], 1, machine)
    for way in WAYS:
        for count in gpus:
            made = alone if count == 1 else run(graph, way, count, machine)
            yield point(net, way, made, alone, machine)


def show(point: Point) -> str:
    """A line of the long table."""
    rounded = {what: round(share, 3) + 0.0 for what, share in point.found.shares.items()}  # no -0
    shares = " ".join(f"{what} {share:.1%}" for what, share in rounded.items())
    return (
        f"{point.net:10}{point.way:14}{point.gpus:3}{point.seconds * 1e3:9.2f} ms"
        f"{point.speedup:7.2f}x  {point.busiest:22}{point.copied / 1e6:9.0f} MB  {shares}"
    )


def summary(points: Sequence[Point]) -> Iterator[str]:
    """A table in Markdown: a row for each net and way, the last columns for the most GPUs."""
    counts = sorted({p.gpus for p in points})
    heads = [f"{n}" for n in counts[1:]]
    most = f"on {counts[-1]}"
    yield f"| | {' | '.join(heads)} | ms {most} | busiest {most} | copied | what limits {most} |"
    yield "|---" * (len(heads) + 5) + "|"
    for net, way in dict.fromkeys((p.net, p.way) for p in points):
        curve = {p.gpus: p for p in points if (p.net, p.way) == (net, way)}
        last = curve[counts[-1]]
        speeds = " | ".join(f"{curve[n].speedup:.2f}" for n in counts[1:])
        yield (
            f"| {net}, {way} | {speeds} | {last.seconds * 1e3:.2f} | {last.busiest} "
            f"| {last.copied / 1e6:,.0f} MB | {last.limit} |"
        )


def main(args: Sequence[str] | None = None) -> None:
    """Predict, print, and draw."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--gpus", nargs="+", type=int, default=GPUS, choices=range(1, 9))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("-o", "--out", type=Path, help="where the picture goes, an SVG")
    given = parser.parse_args(args)
    machine, points = eight_gpus(), []
    for net in given.nets:
        for made in measured(net, given.batch, sorted({1, *given.gpus}), machine):
            print(show(made), flush=True)
            points.append(made)
    print("", *summary(points), sep="\n")
    if given.out is not None:
        title = f"Predicted speed-up over one GPU, batch {given.batch}, table “{machine.name}”"
        given.out.write_text(picture(title, points), encoding="utf-8")


if __name__ == "__main__":
    main()
