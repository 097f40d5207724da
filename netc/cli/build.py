"""compile, convert, verify: what writes a file, or checks one that was written."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from netc.cli.gpus import chosen, for_gpus, show_kernels, total_lines
from netc.cli.gpus import compile_options as gpu_options
from netc.cli.options import (
    EXISTING,
    WRITTEN,
    beside,
    prepare_options,
    source_options,
    spare_inputs,
)
from netc.cli.places import Places, place_options
from netc.cli.show import counting, progress, say, size, table
from netc.errors import ArtifactError, UsageError, clean
from netc.runtime.artifact import ARCHITECTURES

_LEVELS = ("native", *ARCHITECTURES)


@click.command("compile")
@click.argument("source", type=EXISTING)
@click.option("-o", "--out", type=WRITTEN, help="The file to write; SOURCE.bin where not given.")
@click.option("--cpu", multiple=True, type=click.Choice(_LEVELS), help="May be repeated.")
@gpu_options
@place_options
@click.option("--no-optimize", is_flag=True, help="Run the net as it was written.")
@click.option("-v", "--verbose", is_flag=True, help="Also a table of the GPU kernels.")
@source_options
@prepare_options
def compile_command(
    source: Path,
    out: Path | None,
    cpu: tuple[str, ...],
    target: str,
    arch: str | None,
    precision: tuple[str, ...],
    cache: bool,
    no_optimize: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Compile SOURCE, a .net, .prototxt or .ir file, into one file that runs.

    \b
    netc compile model.net -o model.bin
    netc compile deploy.prototxt --weights net.caffemodel -o model.bin
    netc compile model.net --target cpu,cuda --precision medium -o model.bin
    netc compile model.net --shape data=8,3,224,224 --replicate cpu:0,cpu:1 -o model.bin
    """
    from netc.cli.sources import is_model, read_source
    from netc.compiler import build
    from netc.runtime.session import save_artifact

    if is_model(source):
        raise UsageError(f"{clean(source.name)} is compiled already")
    out = out or beside(source, ".bin")
    spare_inputs(out)
    gpu = {"arch": arch, "precision": precision, "cache": cache}
    places = Places.taken(options)
    wanted = chosen(not no_optimize, cpu, places, target, **gpu)
    with progress(f"reading {clean(source.name)}"):
        graph = read_source(source, options)
        made = places.arranged(graph, wanted)
        graph, wanted = made.graph, for_gpus(made.graph, made.options, arch)
    began = time.perf_counter()
    with counting(f"compiling {clean(graph.name)}", "kernels") as count:
        model = build(graph, replace(wanted, progress=count))
    seconds = time.perf_counter() - began
    written = save_artifact(model, out)
    if model.gpu is not None:
        if verbose:
            show_kernels(model.gpu, [s for level in model.levels for s in level.plan.steps])
        say("\n".join(total_lines(model.gpu)) + f" in {seconds:.1f} s")
    levels = ", ".join(dict.fromkeys(x.name for m in model.parts or [model] for x in m.levels))
    parts = f" in {len(model.parts)} parts" if model.parts else ""
    say(f"{clean(out)}: {size(written)}, {len(graph.nodes)} nodes{parts}, code for {levels}")


@click.command("convert")
@click.argument("source", type=EXISTING)
@click.option("-o", "--out", type=WRITTEN, required=True, help="The .net or .ir file to write.")
@source_options
@prepare_options
def convert_command(source: Path, out: Path, **options: Any) -> None:
    """Write SOURCE, a Caffe prototxt, in the .net language (or as IR text, by OUT's suffix).

    Weights that are read go beside OUT, as OUT.npz, for --weights.
    """
    from netc.cli.feeds import check_arrays, write_arrays
    from netc.cli.sources import read_source
    from netc.runtime.atomic import write_file

    arrays = beside(out, ".npz")
    spare_inputs(out, arrays)
    graph = read_source(source, options)
    check_arrays(arrays, graph.weights)
    if out.suffix == ".net":
        from netc.frontend.net.write import write_net

        text = write_net(graph)
    elif out.suffix == ".ir":
        from netc.ir.text import show

        text = show(graph)
    else:
        raise UsageError(f"cannot write {clean(out.name)}", help="the file is .net or .ir")
    write_file(out, [text.encode()])
    say(f"{clean(out)}: {len(text.splitlines())} lines, {len(graph.nodes)} nodes")
    if graph.weights:
        write_arrays(arrays, graph.weights)
        say(f"{clean(arrays)}: {len(graph.weights)} arrays")


@click.command("verify")
@click.argument("model", type=EXISTING)
def verify_command(model: Path) -> None:
    """Rebuild MODEL from its IR and weights, and compare code, plans and weights byte by byte.

    GPU code is compared where this machine has the Triton that made it; the kernels' texts always.
    """
    from netc.cli.rebuild import DIFFERS, compared, nets_in, rebuild, why_no_code
    from netc.runtime.artifact import open_artifact

    file = open_artifact(model)
    rows, without = [], ""
    for label, each in nets_in(file):
        why = why_no_code(each)
        with counting(f"rebuilding {label or clean(model.name)}", "kernels") as count:
            rebuilt = rebuild(each, not why, count)
        found = compared(each, rebuilt, why)
        rows += [(f"{label}{name}", length, said) for name, length, said in found]
        without = without or why
    table(
        ("section", "size", "rebuilt"), [(name, size(length), said) for name, length, said in rows]
    )
    differing = [name for name, _, said in rows if said == DIFFERS]
    if differing:
        by = "" if file.compiler == rebuilt.compiler else f" (it was made by netc {file.compiler})"
        raise ArtifactError(f"{clean(model.name)} differs in {', '.join(differing)}{by}")
    but = f", but for GPU code, which was not compared: {without}" if without else ""
    but += ", but for what calls its parts" if file.on_hosts else ""
    say(f"{clean(model.name)}: what this netc builds from its IR is the same, byte for byte{but}")
