"""The kernels of a net on a GPU one by one: what each computes, takes and could reach."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from netc.codegen.backend import anchor_of
from netc.ir.dims import evaluate
from netc.ir.gpu_code import GpuImage, GpuKernel
from netc.ir.graph import Graph, Node
from netc.ir.ops.fused import Fused
from netc.ir.plan import IntArg, Step

WORST = 15  # kernels listed
Row = dict[str, Any]
Sizes = Mapping[str, int]


def rows(
    times: Iterable[Any], executable: Any, graph: Graph, sizes: Sizes, image: GpuImage
) -> list[Row]:
    """A row for each timed launch: `times` are those of a GPU executable.

    `us_of` is for what the variants took when they were measured.
    """
    steps = {(step.name, step.kernel): step for step in executable.plan.steps}
    nodes = {node.name: node for node in graph.nodes}
    made = []
    for time in times:
        kernel, step = image.kernels[time.kernel], steps[time.name, time.kernel]
        group, shape = described(nodes.get(time.name), time.op, sizes)
        row = {"name": time.name, "op": time.op, "class": group, "shape": shape}
        row |= {"kernel": time.kernel, "extents": extents(kernel, step, sizes)}
        row |= {"us": time.seconds * 1e6, "flops": time.flops, "bytes": time.bytes}
        made.append(row | {"variant": time.variant, "us_of": {}})
    return made


def extents(kernel: GpuKernel, step: Step, sizes: Sizes) -> list[int]:
    """The extents of a launch."""
    given = step.args[: kernel.text.extents]
    return [evaluate(arg.value, sizes) for arg in given if isinstance(arg, IntArg)]


def variants(kernel: GpuKernel) -> list[Row]:
    """The variants of a kernel, with what the compiler made of them."""
    made = []
    for variant, codes in zip(kernel.text.variants, kernel.codes, strict=True):
        row: Row = {"tile": list(variant.tile), "warps": variant.warps, "stages": variant.stages}
        row |= {"repeat": variant.repeat, "constants": dict(variant.constants)}
        for arch, code in codes.items():
            row |= {"arch": arch, "registers": code.registers, "shared": code.shared}
            row |= {"local": code.local, "size": code.size}
        made.append(row)
    return made


def described(node: Node | None, op: str, sizes: Sizes) -> tuple[str, str]:
    """The class of a kernel and its shape: "conv 3x3", "64x56x56 → 64x56x56 /1"."""
    if node is None or not isinstance(node.op, Fused):
        return op, ""
    anchor = anchor_of(node.op.body)
    first = anchor or next(n for n in reversed(node.op.body.nodes))
    results = _sizes(first.types[0].sizes(sizes))
    operands = [v.type.sizes(sizes) for v in first.inputs]
    shape = f"{_sizes(operands[0])} → {results}" if operands else results
    if anchor is None:
        return "pointwise", shape
    return _class(anchor, operands), shape + _stride(anchor)


def _class(anchor: Node, operands: Sequence[tuple[int, ...]]) -> str:
    op: Any = anchor.op
    if op.name in ("conv", "conv_transpose"):
        window = _sizes(operands[1][2:])
        groups = op.groups
        if groups > 1 and groups == operands[0][1]:
            return f"{op.name} depthwise {window}"
        return f"{op.name} {window}" + (f" in {groups} groups" if groups > 1 else "")
    if op.name in ("max_pool", "avg_pool"):
        return f"{op.name} {_sizes(op.kernel)}"
    return str(op.name)


def _stride(anchor: Node) -> str:
    stride = getattr(anchor.op, "stride", ())
    return f" /{_sizes(stride)}" if stride and set(stride) != {1} else ""


def _sizes(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))


def rated(row: Row, rates: Mapping[str, float], precision: str) -> Row:
    """A row with what it reaches, of the GPU's rate of products and of copies."""
    seconds = max(row["us"] * 1e-6, 1e-9)
    flops, moved = row["flops"] / seconds, row["bytes"] / seconds
    made = row | {"gflops": flops / 1e9, "gbs": moved / 1e9}
    if rates:
        made |= {"of_rate": flops / rates[precision], "of_copy": moved / rates["copy"]}
        least = max(row["flops"] / rates[precision], row["bytes"] / rates["copy"])
        made["lost_us"] = max(0.0, row["us"] - least * 1e6)
    return made


def print_kernels(tables: Sequence[Row], rates: Mapping[str, float], out: TextIO) -> None:
    """Kernels by class, then those that lose most time; `tables` have net, batch, precision."""
    whole = [
        rated(row, rates, table["precision"])
        | {key: table[key] for key in ("net", "batch", "precision")}
        | {"how": table["variants"][row["kernel"]][row["variant"]]}
        for table in tables
        for row in table["rows"]
    ]
    if not whole:
        return
    print("\nkernels by class: time, what the GPU reaches in them, and what it could", file=out)
    head = f"{'class':<24}{'precision':<10}{'batch':>6}{'launches':>9}{'ms':>9}"
    print(head + f"{'GFLOP/s':>10}{'of peak':>9}{'GB/s':>8}{'of copy':>9}{'lost ms':>9}", file=out)
    groups: dict[tuple[str, int, str], list[Row]] = {}
    for row in whole:
        groups.setdefault((row["precision"], row["batch"], row["class"]), []).append(row)
    for (precision, batch, name), members in sorted(groups.items(), key=_weight):
        print(f"{name:<24}{precision:<10}{batch:>6}{_summed(members, rates, precision)}", file=out)
    print(f"\nthe {WORST} kernels that lose most against their rate, of each batch", file=out)
    for precision, batch in dict.fromkeys((r["precision"], r["batch"]) for r in whole):
        mine = [r for r in whole if (r["precision"], r["batch"]) == (precision, batch)]
        for row in sorted(mine, key=lambda r: -r.get("lost_us", r["us"]))[:WORST]:
            print(_line(row), file=out)
    out.flush()


def _weight(item: tuple[tuple[str, int, str], list[Row]]) -> tuple[Any, ...]:
    (precision, batch, name), members = item
    return precision, batch, -sum(m["us"] for m in members), name


def _summed(members: Sequence[Row], rates: Mapping[str, float], precision: str) -> str:
    us = sum(m["us"] for m in members)
    flops = sum(m["flops"] for m in members) / (us * 1e-6)
    moved = sum(m["bytes"] for m in members) / (us * 1e-6)
    lost = sum(m.get("lost_us", math.nan) for m in members) / 1e3
    rate = flops / rates[precision] if rates else math.nan
    copy = moved / rates["copy"] if rates else math.nan
    numbers = f"{len(members):>9}{us / 1e3:>9.3f}{flops / 1e9:>10.0f}{rate:>9.0%}"
    return numbers + f"{moved / 1e9:>8.0f}{copy:>9.0%}{lost:>9.3f}"


def _line(row: Row) -> str:
    variant = row["how"]
    constants = " ".join(f"{k}={v}" for k, v in variant["constants"].items())
    reach = f"{row['gflops']:.0f} GFLOP/s {row['gbs']:.0f} GB/s"
    if "of_rate" in row:
        reach = f"{row['of_rate']:.0%} of peak, {row['of_copy']:.0%} of copy"
    where = f"{row['net']} b{row['batch']} {row['precision']}"
    what = f"{row['class']} {row['shape']} {row['extents']}"
    how = f"v{row['variant']} {constants} warps={variant['warps']} stages={variant['stages']}"
    return f"{row['us']:9.1f} us  {where} {row['name']}: {what}; {reach}; {how}{_others(row)}"


def _others(row: Row) -> str:
    """The other variants' times, the fastest first."""
    known = sorted((us, i) for i, us in row["us_of"].items())
    return f" [{' '.join(f'v{i}:{us:.1f}' for us, i in known[:4])}]" if known else ""
