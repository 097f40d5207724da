"""What is known of a net, a model and this machine, as lines and rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from netc.cli.drawn import usual_sizes
from netc.cli.show import amount, size
from netc.errors import NetcError, clean
from netc.ir.device import Device
from netc.ir.dims import evaluate
from netc.ir.graph import Graph, Node
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.plan import PART
from netc.processor import architecture
from netc.runtime import host
from netc.runtime.artifact import HOSTS, ArtifactFile

if TYPE_CHECKING:
    from netc.compiler import Lowered, Options
    from netc.ir.plan import Plan
    from netc.passes.partition.placement import Placement

Row = tuple[object, ...]
_MANY = 12  # outputs that are listed


def sizes_for(graph: Graph, batch: int) -> dict[str, int]:
    """A size for every symbol of the inputs: the batch in front, an image's usual size inside."""
    return usual_sizes([node.types[0] for node in graph.inputs], batch, graph.usual)


def net_lines(graph: Graph, sizes: Mapping[str, int]) -> list[str]:
    """Name, inputs, outputs, parameters, work."""
    lines = [f"net {clean(graph.name)}"]
    lines += [f"  input   {clean(n.name)}: {n.types[0]}" for n in graph.inputs]
    outputs = list(graph.outputs.items())
    lines += [f"  output  {clean(name)}: {v.type}" for name, v in outputs[:_MANY]]
    if len(outputs) > _MANY:
        lines.append(f"  …       {len(outputs) - _MANY} more outputs")
    count = sum(int(evaluate(n.types[0].count, {})) for n in graph.params)
    lines.append(f"  params  {len(graph.params)} arrays, {count:,} numbers, {size(4 * count)}")
    work = sum(flops(n, sizes) for n in graph.nodes)
    at = ", ".join(f"{clean(k)} = {v}" for k, v in sizes.items())
    lines.append(f"  work    {amount(work, 'FLOP')} a run" + (f" with {at}" if at else ""))
    shards = dict.fromkeys(s for n in graph.nodes for s in n.shards)
    devices = {n.device for n in graph.nodes if n.device} | {d for s in shards for d in s.devices}
    lines.append(f"  devices {', '.join(map(str, sorted(devices))) or 'any'}")
    lines += [f"  sharded {shard}" for shard in shards]
    if graph.labels:
        lines.append(f"  labels  {len(graph.labels)}, from {clean(graph.labels[0])!r}")
    return lines + [f"  note    {clean(note)}" for note in graph.notes]


def flops(node: Node, sizes: Mapping[str, int]) -> int:
    """Floating-point operations of a node; 0 where its sizes are not known."""
    try:
        return int(evaluate(node.op.flops(*(v.type for v in node.inputs)), sizes))
    except (NetcError, KeyError):
        return 0


def op_rows(graph: Graph, sizes: Mapping[str, int]) -> list[Row]:
    """Per op: how many, FLOPs, share."""
    counts: dict[str, list[int]] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Input | Param):
            seen = counts.setdefault(_does(node), [0, 0])
            seen[0] += 1
            seen[1] += flops(node, sizes)
    total = sum(work for _, work in counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    return [
        (name, count, amount(work), f"{100 * work / total:.1f}") for name, (count, work) in ordered
    ]


def node_rows(graph: Graph, sizes: Mapping[str, int]) -> list[Row]:
    """Per node: name, op, type, device, FLOPs."""
    return [
        (n.name, n.op.name, ", ".join(map(str, n.types)), n.place, amount(flops(n, sizes)))
        for n in graph.nodes
        if not isinstance(n.op, Param)
    ]


def param_rows(graph: Graph, stored: bool) -> list[Row]:
    """Per parameter: name, type, the nodes that read it, and where its numbers come from.

    All of a model are `stored` in it.
    """
    rows: list[Row] = []
    for n in graph.params:
        assert isinstance(n.op, Param)
        readers = ", ".join(user.name for user in graph.uses[n.out] if user is not None)
        drawn = "given" if n.name in graph.weights else f"drawn: {n.op.init.kind}"
        rows.append((n.name, str(n.types[0]), readers, "stored" if stored else drawn))
    return rows


def model_lines(file: ArtifactFile, graph: Graph, sizes: Mapping[str, int]) -> list[str]:
    """What a compiled file holds: code, weights, memory of a run, whether its code is trusted.

    `graph` is its own, of kernels.
    """
    from netc.cli.gpus import total_lines
    from netc.runtime.artifact import ABI
    from netc.runtime.trust import judge

    lines = [f"model made by netc {clean(file.compiler)}, sha256 {file.sha256()}"]
    readable = [info for info in file.levels if info.abi == ABI]
    for info in file.levels:
        if info not in readable:
            lines.append(f"  {info.name}: for ABI {info.abi}, not {ABI}: made again at load")
            continue
        level = file.level(info.name)
        if info.name == HOSTS:
            lines.append(f"  hosts: {len(level.plan.steps)} calls of {len(file.parts)} parts")
            continue
        made = level.plan.made_size
        weights = f", {size(made)} of weights made at load" if made else ""
        tuned = f", tuned for {clean(info.tuning)}" if info.tuning else ""
        lines.append(
            f"  {info.name}: {len(level.plan.steps)} steps, {size(len(level.code))} of code, "
            f"{_memory(level.plan, sizes)} of memory a run{weights}{tuned}"
        )
    if file.gpu is not None:
        lines += [f"  gpu     {line}" for line in total_lines(file.gpu)]
    if file.on_hosts:
        lines += _part_lines(file)
    else:
        lines.append(f"  precision {_precision(file, graph)}")
        lines.append(f"  weights {size(len(file.weights))}")
    conditions = file.level(readable[0].name).plan.conditions if readable else ()
    for condition in (c for c in conditions if c.minimum > 0):
        lines.append(f"  needs   {condition.size} ≥ {condition.minimum}: {clean(condition.why)}")
    verdict = judge(file, None, None)
    trusted = "trusted" if verdict.trusted else f"made again at load: {clean(verdict.why)}"
    return [*lines, f"  code    {trusted}"]


def _part_lines(file: ArtifactFile) -> list[str]:
    """The parts of a net on several hosts, as a run calls them."""
    steps = file.level(HOSTS).plan.steps
    lines = []
    for number, part in enumerate(file.parts):
        calls = [step for step in steps if step.kernel == f"{PART}{number}"]
        times = f", {len(calls)} times a run" if len(calls) > 1 else ""
        levels = ", ".join(info.name for info in part.levels)
        what = f"{size(len(part.weights))} of weights, code for {levels}"
        hosts = dict.fromkeys(Device.parse(step.device).host or "this host" for step in calls)
        where = f"on {clean(', '.join(hosts))}" if hosts else "called by nothing"
        named = "".join(f"{clean(step.name)}, " for step in calls[:1])
        lines.append(f"  {PART}{number}  {where}: {named}{what}{times}")
    return lines


def _memory(plan: Plan, sizes: Mapping[str, int]) -> str:
    """The memory of a run, by device where GPUs are among them."""
    from netc.runtime.flat_plan import flatten
    from netc.runtime.layout import place_region, plan_layout

    homes = sorted({b.device for b in plan.buffers})
    if not any(home.startswith("cuda") for home in homes):
        return size(plan_layout(flatten(plan), dict(sizes)).arena)
    said = []
    for home in homes:
        inside = [b for b in plan.buffers if b.device == home]
        lives = [(b.first, b.last) for b in inside]
        total = place_region([int(evaluate(b.size, sizes)) for b in inside], lives)[1]
        said.append(f"{size(total)} on {clean(home)}")
    return " and ".join(said)


def _precision(file: ArtifactFile, graph: Graph) -> str:
    """How exactly products are computed; other kernels by the names of the nodes in them."""
    from netc.recompile import noted

    said = noted(file)
    inside = {n.name: " + ".join(clean(m.name) for m in _inside(n)) for n in graph.nodes}
    others = [f"{inside.get(k) or clean(k)} {p}" for k, p in said.get("precisions", {}).items()]
    more = f"; {', '.join(others[:_MANY])}{' …' if len(others) > _MANY else ''}" if others else ""
    return f"{said.get('precision', 'high')}{more}"


def kernel_rows(lowered: Lowered, options: Options) -> tuple[tuple[str, ...], list[Row]]:
    """Columns, and a row for each kernel; its precision where any but the usual is asked for."""
    said = options.named != {type(options).precision}
    rows: list[Row] = []
    for node in lowered.order:
        if isinstance(node.op, Input | Param | Const):
            continue
        precision = lowered.precisions.get(node.name, options.precision)
        row = (node.name, _does(node), node.device or "cpu:0", precision)
        rows.append(row if said else row[:-1])
    columns = ("kernel", "does", "on", "precision")
    return (columns if said else columns[:-1]), rows


def placement_rows(placement: Placement) -> list[Row]:
    """Per node: where a strategy put it, and why."""
    return [(n, d, placement.why[n]) for n, d in placement.devices.items()]


def _does(node: Node) -> str:
    return " + ".join(n.op.name for n in _inside(node))


def _inside(node: Node) -> list[Node]:
    """The nodes in a kernel; the node itself where it is none."""
    if node.op.name != "fused":
        return [node]
    body = cast(Any, node.op).body
    return [n for n in body.nodes if not isinstance(n.op, Input | Const)]


def device_rows() -> list[Row]:
    """This machine's devices."""
    threads = host.thread_count(None)
    kind = f"{_processor()}, {host.core_count()} cores, {threads} threads by default"
    rows: list[Row] = [("cpu:0", kind, size(host.available_memory()), f"code for {_levels()}")]
    rows += gpu_rows()
    for i, name in enumerate(filter(None, os.environ.get("NETC_DEVICES", "").split(","))):
        rows.append((name.strip(), f"logical device {i} of NETC_DEVICES", "", ""))
    return rows


def _processor() -> str:
    """The processor's own name."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return architecture()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return clean(names[0]) if names else architecture()


def _levels() -> str:
    """The levels whose code this processor runs."""
    from netc.codegen.cpu.target import runnable

    return ", ".join(target.name for target in runnable()) or "no level"


def gpu_rows() -> list[Row]:
    """NVIDIA GPUs: what each is and which code it runs; or why there are none."""
    from netc.runtime.cuda_probe import CUBINS, probe
    from netc.runtime.gpu_json import ARCHS
    from netc.runtime.gpus import list_gpus

    found = probe()
    if not found.count:
        return [("cuda", f"none: {found.why}", "", _gpu_compiler())]
    driver = f"driver for CUDA {found.version // 1000}.{found.version % 1000 // 10}"
    rows: list[Row] = []
    for i, gpu in enumerate(list_gpus()):
        code = gpu.arch if gpu.arch in ARCHS and found.version >= CUBINS else "PTX"
        what = f"{clean(gpu.name)}, compute {'.'.join(map(str, gpu.capability))}, {driver}"
        rows.append((f"cuda:{i}", what, size(gpu.memory), f"runs {code}, {_gpu_compiler()}"))
    return rows


def _gpu_compiler() -> str:
    """Whether nets can be compiled for GPUs here."""
    from netc.codegen.triton.image import compiler_version
    from netc.errors import UsageError

    try:
        return f"code by {compiler_version()}"
    except UsageError as error:
        return error.diagnostics[0].message
