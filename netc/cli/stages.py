"""dump, opt, bisect: the stops between a net and its code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from netc.cli.gpus import run_options, target_option
from netc.cli.options import EXISTING, WRITTEN, source_options, spare_inputs
from netc.cli.show import progress, say, table
from netc.errors import UsageError, VerifyError, clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from netc.ir.graph import Graph, Stage
    from netc.passes.base import Context, Pass


def standard_passes(optimize: bool = True, target: str = "cpu") -> tuple[Pass, ...]:
    """The passes that `netc compile` runs for a target."""
    from netc.choices import targets_of
    from netc.codegen.accept import row_major, why_not
    from netc.ir.device import Device
    from netc.passes.pipelines import INFERENCE, MINIMAL, for_back_end

    default = Device("cuda" if "cuda" in targets_of(target) else "cpu")
    passes = INFERENCE if optimize else MINIMAL
    return for_back_end(passes, why_not, row_major(default), default)


def prepared(graph: Graph) -> tuple[Graph, Context]:
    """A graph with every parameter drawn, and a context with the checks of NETC_CHECK."""
    from dataclasses import replace

    from netc import api
    from netc.ir.interpret import initial_weights
    from netc.passes.base import Context

    options = api.compile_options(True, "native", None)
    weights = initial_weights(graph, options.seed)
    return replace(graph, weights=weights), Context(check=options.check, seed=options.seed)


def graph_after(graph: Graph, name: str, optimize: bool = True, target: str = "cpu") -> Graph:
    """A net as it is after the standard passes up to the one called `name`."""
    from netc.errors import GraphError
    from netc.ir.graph import Stage
    from netc.passes.base import run_passes

    chosen = _until(standard_passes(optimize, target), name)
    if graph.stage is not Stage.NET:
        raise GraphError("this graph has had its passes", help="leave out --after")
    graph, context = prepared(graph)
    with progress(f"running {len(chosen)} passes"):
        return run_passes(graph, chosen, context)


@click.command("dump")
@click.argument("source", type=EXISTING)
@click.option("--after", "after", help="The pass to stop after; none: the net as it was read.")
@click.option("--list", "listing", is_flag=True, help="List the passes in their order.")
@click.option("-o", "--out", type=WRITTEN, help="Write here instead of printing.")
@click.option("--no-optimize", is_flag=True, help="The passes of an unoptimized compilation.")
@target_option
@source_options
def dump_command(
    source: Path,
    after: str | None,
    listing: bool,
    out: Path | None,
    no_optimize: bool,
    target: str,
    **options: Any,
) -> None:
    """Print SOURCE as IR text, as it is after a pass."""
    from netc.cli.sources import read_source

    if listing:
        say("\n".join(p.name for p in standard_passes(not no_optimize, target)))
        return
    spare_inputs(out)
    graph = read_source(source, options)
    _give(graph_after(graph, after, not no_optimize, target) if after else graph, out)


def _until(passes: Sequence[Pass], name: str) -> tuple[Pass, ...]:
    from netc.passes.base import until

    try:
        return until(passes, name)
    except VerifyError as e:
        raise UsageError(e.diagnostics[0].message) from None


def _give(graph: Graph, out: Path | None) -> None:
    from netc.ir.text import show
    from netc.runtime.atomic import write_file

    if out is None:
        say(show(graph).rstrip())
    else:
        write_file(out, [show(graph).encode()])


@click.command("opt")
@click.argument("source", type=EXISTING)
@click.option(
    "-p",
    "--passes",
    "wanted",
    multiple=True,
    help='Passes with their options: "fuse{max_inputs=8}"; several by commas or repeated.',
)
@click.option("-o", "--out", type=WRITTEN, help="Write here instead of printing.")
@source_options
def opt_command(source: Path, wanted: tuple[str, ...], out: Path | None, **options: Any) -> None:
    """Run passes on SOURCE, usually a .ir file, and print the graph; with none named, all."""
    from netc.cli.pipeline_text import passes_named
    from netc.cli.sources import read_source
    from netc.passes.base import run_passes

    spare_inputs(out)
    standard = standard_passes()
    chosen = passes_named(",".join(wanted), standard) if wanted else standard
    graph, context = prepared(read_source(source, options))
    chosen = _staged(graph.stage, chosen, standard)
    with progress(f"running {len(chosen)} passes"):
        graph = run_passes(graph, chosen, context)
    _give(graph, out)


def _staged(stage: Stage, chosen: Sequence[Pass], standard: Sequence[Pass]) -> tuple[Pass, ...]:
    """The passes, with those between that bring a graph to the stage the next one takes."""
    out: list[Pass] = []
    for each in chosen:
        if stage not in each.needs:
            out.append(_bridge(stage, each, standard))
            stage = out[-1].gives or stage
        out.append(each)
        stage = each.gives or stage
    return tuple(out)


def _bridge(stage: Stage, wanted: Pass, standard: Sequence[Pass]) -> Pass:
    for each in standard:
        if stage in each.needs and each.gives in wanted.needs:
            return each
    fits = " or ".join(s.value for s in wanted.needs)
    raise UsageError(f"{wanted.name} takes a graph at stage {fits}; this one is at {stage.value}")


@click.command("bisect")
@click.argument("source", type=EXISTING)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the inputs that are tried.")
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=2, help="Their batch size.")
@target_option
@run_options
@source_options
def bisect_command(
    source: Path, seed: int, batch: int, target: str, gpu: str, on_gpu_loss: str, **options: Any
) -> None:
    """Find the pass of SOURCE's compilation that first changes results.

    The graph after each pass is interpreted in float64 and compared with the net as it was read;
    then the compiled code is run and compared too.
    """
    from netc.cli.bisection import compiled, seeded_feed, walk
    from netc.cli.sources import read_source
    from netc.ir.graph import Stage

    graph, context = prepared(read_source(source, options))
    if graph.stage is not Stage.NET:
        raise UsageError("this graph has had its passes", help="give the net it was made from")
    context.check = 0
    feed = seeded_feed(graph, seed, batch)
    passes = standard_passes(target=target)
    verdicts = []
    with progress("interpreting the net") as step:
        for verdict in walk(graph, passes, feed, context):
            step(f"after {verdict.name}: {verdict.error:.1e}")
            verdicts.append(verdict)
            if not verdict.fine:
                break
        else:
            step("running the compiled net")
            final = compiled(graph, feed, target=target, gpu=gpu, on_gpu_loss=on_gpu_loss)
            verdicts.append(final)
    rows = [
        (v.name, "" if v.changed else "no change", f"{v.error:.2e}", "ok" if v.fine else "DIFFERS")
        for v in verdicts
    ]
    table(("after", "", "error", ""), rows)
    last = verdicts[-1]
    if not last.fine:
        raise VerifyError(f"{last.name} changes output {clean(last.output)!r} by {last.error:.2e}")
    say("no pass changes results, nor does the compiled code")
