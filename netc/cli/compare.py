"""diff: two models of one net, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netc.cli.gpus import run_options
from netc.cli.options import EXISTING
from netc.cli.show import progress, say, table
from netc.errors import clean


@click.command("diff")
@click.argument("first", type=EXISTING, metavar="A")
@click.argument("second", type=EXISTING, metavar="B")
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE",
    help=".npy, .npz or image; random numbers where none is given.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the random numbers.")
@click.option("--batch", type=click.IntRange(1, 1 << 20), default=1, help="Their batch size.")
@run_options
def diff_command(
    first: Path, second: Path, inputs: tuple[str, ...], seed: int, batch: int, **gpu: Any
) -> None:
    """Run two models of one net on the same inputs and compare every value they have in common.

    Values stand in the order in which they are made, each with the largest |A - B|, what part of
    the largest |B| that is, and how far A and B are from float64. Those where the error grows are
    marked: it is there that a precision may be chosen (netc compile --precision LAYER=NAME).
    Both models are compiled again with more outputs; their own code is not run.

    \b
    netc diff exact.bin low.bin --input data=x.npy
    """
    from netc import api
    from netc.cli.bisection import seeded_feed
    from netc.cli.feeds import read_feed
    from netc.cli.values import check_inputs, compared, model_of
    from netc.runtime.artifact import open_artifact
    from netc.runtime.ports import spec_of

    runs = api.gpu_options(gpu["gpu"], gpu["on_gpu_loss"])
    with progress("reading") as step:
        a, b = (model_of(open_artifact(path), runs) for path in (first, second))
        check_inputs(a, b)
        specs = {n.name: spec_of(n.types[0]) for n in a.graph.inputs}
        feed = read_feed(inputs, specs) if inputs else seeded_feed(a.graph, seed, batch)
        step("running both, and the reference")
        found = compared(a, b, feed, runs)
    marks = {True: "grows", False: ""}
    rows = [
        (v.name, v.type, *(f"{e:.1e}" for e in (v.most, v.part, v.first, v.second)), marks[v.grows])
        for v in found
    ]
    columns = ("value", "type", "|A-B|", "of |B|", "A's error", "B's error", "")
    table(columns, rows)
    worst = max(found, key=lambda v: v.part)
    if worst.most == 0:
        say(f"{clean(first)} and {clean(second)} give the same in all {len(found)} values")
        return
    start = next((v.name for v in found if v.grows), worst.name)
    say(
        f"{len(found)} values; the largest difference, {worst.part:.1e}, is in "
        f"{clean(worst.name)}; it first grows in {clean(start)}"
    )
