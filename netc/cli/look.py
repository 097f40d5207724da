"""inspect, explain, draw, devices: what shows and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from netc.cli.gpus import chosen, for_gpus, precision_option, show_kernels, target_option
from netc.cli.hosts import host_options, named_hosts
from netc.cli.options import (
    EXISTING,
    WRITTEN,
    beside,
    prepare_options,
    source_options,
    spare_inputs,
)
from netc.cli.places import Places, place_options, place_options_only
from netc.cli.show import progress, say, size, table
from netc.errors import UsageError, clean


@click.command("inspect")
@click.argument("source", type=EXISTING)
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=1, help="For FLOPs and memory.")
@click.option("--ops", "each", is_flag=True, help="One line for every node, not for every op.")
@click.option("--params", is_flag=True, help="One line for every parameter: name, shape, readers.")
@place_options
@source_options
@prepare_options
def inspect_command(source: Path, batch: int, each: bool, params: bool, **options: Any) -> None:
    """Show the inputs, outputs, ops, FLOPs, memory and devices of a net or a compiled model."""
    from netc.cli.facts import model_lines, net_lines, node_rows, op_rows, param_rows, sizes_for
    from netc.cli.sources import is_model, read_source

    places = Places.taken(options)
    if is_model(source):
        _refuse({"output": options["output"], "labels": options["labels"], **vars(places)})
    graph = places.shown(read_source(source, options))
    sizes = sizes_for(graph, batch)
    say("\n".join(net_lines(graph, sizes)))
    if is_model(source):
        from netc.runtime.artifact import open_artifact

        file = open_artifact(source)
        say("\n".join(model_lines(file, graph, sizes)))
        if (image := file.gpu) is not None:
            steps = [s for info in file.levels for s in file.level(info.name).plan.steps]
            show_kernels(image, steps)
    if params:
        table(("parameter", "type", "read by", "numbers"), param_rows(graph, is_model(source)))
    if each:
        table(("node", "op", "shape", "device", "FLOP"), node_rows(graph, sizes), numbers=1)
    elif not params:
        table(("op", "count", "FLOP", "%"), op_rows(graph, sizes), numbers=3)


def _refuse(given: Mapping[str, Any]) -> None:
    """A model is shown as it was compiled: no option makes another net of it."""
    for name, value in given.items():
        if value:
            option = "replicate, --split or --pipeline" if name == "sharding" else name
            help = "leave it out, or inspect the net that the model was made from"
            raise UsageError(f"--{option} says how a net is compiled; this is a model", help=help)


@click.command("explain")
@click.argument("source", type=EXISTING)
@click.option("--rules", is_flag=True, help="Also every rewrite that was done.")
@click.option("--measure", is_flag=True, help="Also run it: predicted and measured times.")
@click.option("--trace", "trace_to", type=WRITTEN, help="Write the predicted run for Perfetto.")
@target_option
@precision_option
@place_options
@source_options
@prepare_options
def explain_command(
    source: Path,
    rules: bool,
    measure: bool,
    trace_to: Path | None,
    target: str,
    precision: tuple[str, ...],
    **options: Any,
) -> None:
    """Show where each kernel of SOURCE runs, what was fused into it, and why not more.

    With --machine or --trace a run is predicted, on devices that need not be here, as if products
    were of float32. With --measure the net runs on random inputs, and what each step took stands
    beside the prediction; without a table this machine is probed first.
    """
    from netc.cli.facts import kernel_rows, placement_rows
    from netc.cli.sources import is_model, read_source
    from netc.compiler import lower
    from netc.passes.hosts import on_hosts

    if is_model(source):
        raise UsageError("a compiled model has no journal", help="explain the net it was made from")
    spare_inputs(trace_to)
    places = Places.taken(options)
    wanted = chosen(True, (), places, target, arch=None, precision=precision, cache=True)
    made = places.arranged(read_source(source, options), wanted)
    graph, why, wanted = made.graph, made.placement, for_gpus(made.graph, made.options, None)
    if measure and on_hosts(graph, wanted.devices[:1]):
        help = "compile it, and netc time shows what each part takes"
        raise UsageError("--measure runs on this host, and the net is on others", help=help)
    if why is not None:
        said = f"{places.strategy}: predicted {why.seconds * 1e3:.3f} ms a run"
        table(("node", "on", "why"), placement_rows(why), title=said)
    with progress(f"lowering {clean(graph.name)}"):
        lowered = lower(graph, wanted)
    for note in lowered.graph.notes:
        say(f"note: {clean(note)}")
    columns, kernels = kernel_rows(lowered, wanted)
    table(columns, kernels)
    refusals = lowered.context.refusals
    if refusals:
        rows = [(r.node, r.pass_name, r.reason) for r in refusals]
        table(("node", "pass", "why not more"), rows)
    if rules:
        fired = (*made.fired, *lowered.context.fired)
        rows = [(f.node, f.pass_name, f.rule) for f in fired]
        table(("node", "pass", "rule"), rows, title=f"{len(rows)} rewrites")
    written = len(graph.nodes) - len(graph.params) - len(graph.inputs)
    say(f"{written} nodes became {len(kernels)} kernels; {len(refusals)} refusals")
    if places.machine is not None or trace_to is not None:
        from netc.cli.forecast import show_forecast

        show_forecast(lowered, wanted, places.machine, trace_to)
    if measure:
        from netc.cli.forecast import show_measured

        show_measured(lowered, wanted, places.machine)


@click.command("draw")
@click.argument("source", type=EXISTING)
@click.option("-o", "--out", type=WRITTEN, help="The .svg to write; SOURCE.svg where not given.")
@click.option("--devices", is_flag=True, help="Colour by device, not by kind of op.")
@click.option("--after", help="Draw the graph as it is after this pass.")
@place_options_only
@source_options
def draw_command(
    source: Path, out: Path | None, devices: bool, after: str | None, **options: Any
) -> None:
    """Draw a net or a compiled model as SVG, which any browser shows.

    \b
    netc draw model.net --shape data=8,3,224,224 --replicate cpu:0,cpu:1 --devices
    """
    from netc.cli.sources import read_source
    from netc.draw import draw
    from netc.runtime.atomic import write_file

    if out is not None and out.suffix.lower() != ".svg":
        raise UsageError(f"cannot write {clean(out.name)}", help="a drawing is a .svg file")
    out = out or beside(source, ".svg")
    spare_inputs(out)
    places = Places.taken(options)
    graph = places.shown(read_source(source, options))
    if after:
        from netc.cli.stages import graph_after

        graph = graph_after(graph, after)
    with progress(f"drawing {clean(graph.name)}"):
        text = draw(graph, devices)
    write_file(out, [text.encode()])
    say(f"{clean(out)}: {len(graph.nodes)} nodes, {size(len(text))}")


@click.command("devices")
@click.option("--probe", "probing", is_flag=True, help="Measure speeds, memory and links.")
@click.option("-o", "--out", type=WRITTEN, help="With --probe: write the machine table here.")
@host_options
def devices_command(probing: bool, out: Path | None, hosts: tuple[str, ...]) -> None:
    """List the devices of this machine, and what netc can do with each.

    What is measured are the processor, as one device, and all GPUs, or what NETC_DEVICES names;
    with --host those of other hosts too, and how far they are.

    \b
    NETC_DEVICES=cpu:0,cpu:1 netc devices --probe -o machine.json
    netc devices --probe --host node1='ssh node1 netc worker' -o machine.json
    """
    from netc.cli.facts import device_rows
    from netc.runtime.logical import named_devices

    named = named_devices()
    if (out is not None or hosts) and not probing:
        option = "--host" if out is None else "--out"
        raise UsageError(f"{option} is for --probe", help="netc devices --probe --out machine.json")
    if not probing:
        table(("device", "what", "memory", "netc"), device_rows())
        return
    from netc.cli.probe import devices_here, measured
    from netc.cli.probe_hosts import with_hosts
    from netc.runtime.atomic import write_file

    commands = named_hosts(hosts) or {}
    names = devices_here(named)
    with progress("measuring") as step:
        machine = measured([d for d in names if d.host not in commands])
        machine = with_hosts(machine, names, commands, step) if commands else machine
    rows = [
        (str(d), size(s.memory), f"{s.flops / 1e9:.1f} GFLOP/s", f"{s.bandwidth / 1e9:.1f} GB/s",
         f"{s.launch * 1e9:.0f} ns")
        for d, s in machine.specs.items()
    ]  # fmt: skip
    table(("device", "memory", "speed", "reads", "a step"), rows)
    listed = {f"{a} to {b}": link for (a, b), link in machine.links.items()}
    if machine.between is not None:
        listed["between processors" if listed else "between devices"] = machine.between
    for what, link in listed.items():
        say(f"{what} {link.bandwidth / 1e9:.1f} GB/s, {link.latency * 1e6:.1f} us")
    if out is not None:
        write_file(out, [machine.show().encode()])
