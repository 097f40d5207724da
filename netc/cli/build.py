"""compile, convert, verify: what writes a file, or checks one that was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.cli.options import EXISTING, WRITTEN, prepare_options, source_options
from netc.cli.places import arranged, place_options
from netc.cli.show import progress, say, size, table
from netc.errors import ArtifactError, UsageError, clean

if TYPE_CHECKING:
    from netc.runtime.artifact import ArtifactFile

_LEVELS = ("native", "x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64")


@click.command("compile")
@click.argument("source", type=EXISTING)
@click.option("-o", "--out", type=WRITTEN, help="The file to write; SOURCE.bin where not given.")
@click.option("--target", default="cpu", help="cpu, cuda or cpu,cuda.")
@click.option("--cpu", multiple=True, type=click.Choice(_LEVELS), help="May be repeated.")
@place_options
@click.option("--no-optimize", is_flag=True, help="Run the net as it was written.")
@source_options
@prepare_options
def compile_command(
    source: Path,
    out: Path | None,
    target: str,
    cpu: tuple[str, ...],
    devices: str | None,
    place: tuple[str, ...],
    placement: Path | None,
    strategy: str | None,
    no_optimize: bool,
    **options: Any,
) -> None:
    """Compile SOURCE, a .net, .prototxt or .ir file, into one file that runs.

    \b
    netc compile model.net -o model.bin
    netc compile deploy.prototxt --weights net.caffemodel -o model.bin
    """
    from netc import api
    from netc.cli.sources import is_model, read_source
    from netc.compiler import build
    from netc.runtime.session import save_artifact

    if is_model(source):
        raise UsageError(f"{clean(source.name)} is compiled already")
    wanted = api.compile_options(not no_optimize, cpu or ("native",), None, devices)
    api.check_targets(target)
    out = out or source.with_suffix(".bin")
    with progress(f"reading {clean(source.name)}") as step:
        graph = read_source(source, options)
        graph, _ = arranged(graph, devices, place, placement, strategy)
        api.check_places(graph)
        step(f"compiling {clean(graph.name)}")
        made = build(graph, wanted)
        step(f"writing {clean(out.name)}")
        written = save_artifact(made, out)
    levels = ", ".join(level.name for level in made.levels)
    say(f"{clean(out)}: {size(written)}, {len(graph.nodes)} nodes, code for {levels}")


@click.command("convert")
@click.argument("source", type=EXISTING)
@click.option("-o", "--out", type=WRITTEN, required=True, help="The .net or .ir file to write.")
@source_options
@prepare_options
def convert_command(source: Path, out: Path, **options: Any) -> None:
    """Write SOURCE, a Caffe prototxt, in the .net language (or as IR text, by OUT's suffix).

    Weights that are read go beside OUT, as OUT.npz, for --weights.
    """
    from netc.cli.feeds import write_arrays
    from netc.cli.sources import read_source
    from netc.runtime.atomic import write_file

    graph = read_source(source, options)
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
        beside = out.with_suffix(".npz")
        write_arrays(beside, graph.weights)
        say(f"{clean(beside)}: {len(graph.weights)} arrays")


@click.command("verify")
@click.argument("model", type=EXISTING)
def verify_command(model: Path) -> None:
    """Rebuild MODEL from its IR and weights, and compare code, plans and weights byte by byte."""
    from netc.compiler import Options, recompile
    from netc.runtime.artifact import open_artifact, read_artifact

    file = open_artifact(model)
    with progress(f"rebuilding {clean(model.name)}"):
        made = recompile(file, Options(cpu=tuple(level.name for level in file.levels)))
    rebuilt = read_artifact(memoryview(b"".join(made.pieces())), "<rebuilt>")
    rows = [(name, size(length), verdict) for name, length, verdict in _compared(file, rebuilt)]
    table(("section", "size", "rebuilt"), rows)
    differing = [name for name, _, verdict in rows if verdict != "same"]
    if differing:
        by = "" if file.compiler == rebuilt.compiler else f" (it was made by netc {file.compiler})"
        raise ArtifactError(f"{clean(model.name)} differs in {', '.join(differing)}{by}")
    say(f"{clean(model.name)}: what this netc builds from its IR is the same, byte for byte")


def _compared(file: ArtifactFile, rebuilt: ArtifactFile) -> list[tuple[str, int, str]]:
    """Each section that the compiler derives, its size, and whether it came out the same."""
    rows = []
    for name in file.container.sections:
        if name in ("labels", "locs", "notes"):
            continue
        view = file.container.view(name)
        same = name in rebuilt.container.sections and view == rebuilt.container.view(name)
        rows.append((name, len(view), "same" if same else "DIFFERS"))
    return rows
