"""run and time: a compiled model at work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from netc.cli.gpus import run_options
from netc.cli.hosts import host_options, named_hosts
from netc.cli.options import (
    EXISTING,
    WRITTEN,
    SecondsType,
    ShapeType,
    many,
    spare_inputs,
    threads_option,
)
from netc.cli.show import milliseconds, outputs, progress, say, table
from netc.errors import clean

_trust_options = (
    click.option("--sha256", help="The file's SHA-256; its code is then used as it is."),
    click.option(
        "--trust/--no-trust", default=None, help="Use the file's native code, or never do."
    ),
)


def _loading(command: Any) -> Any:
    for option in reversed(_trust_options):
        command = option(command)
    return threads_option(host_options(run_options(command)))


@click.command("run")
@click.argument("model", type=EXISTING)
@click.option(
    "-i",
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE",
    help=".npy, .npz or image; several images of one input make a batch.",
)
@click.option("-o", "--output", "out", type=WRITTEN, help="Write the outputs to this .npz.")
@click.option("--labels", type=EXISTING, help="Names of the classes, one a line.")
@click.option(
    "--draw", "draw_to", type=WRITTEN, help="Draw the boxes found onto the image, as PNG."
)
@click.option("--trace", "trace_to", type=WRITTEN, help="Write a trace for Perfetto, as JSON.")
@_loading
def run_command(
    model: Path,
    inputs: tuple[str, ...],
    out: Path | None,
    labels: Path | None,
    draw_to: Path | None,
    trace_to: Path | None,
    threads: int | None,
    sha256: str | None,
    trust: bool | None,
    hosts: tuple[str, ...],
    **gpu: Any,
) -> None:
    """Run MODEL once and print what it gives: the best five classes, or the boxes found.

    An image is given as numbers from 0 to 255, RGB; what else a net wants of it belongs in the
    net (netc compile --resize --mean --scale --channels).

    \b
    netc run model.bin --input data=x.npy --output out.npz
    netc run model.bin --input data=cat.jpg
    netc run ssd.bin --input data=street.jpg --draw found.png
    """
    from netc import api
    from netc.cli.feeds import check_arrays, pictures_of, read_feed, write_arrays
    from netc.frontend.labels import read_labels

    spare_inputs(out, draw_to, trace_to)
    given = read_labels(labels) if labels else None
    with progress(f"loading {clean(model.name)}"):
        exe = api.load(model, threads, trust, sha256, hosts=named_hosts(hosts), **gpu)
    if out is not None:
        check_arrays(out, exe.outputs)
    if draw_to is not None:
        from netc.cli.detections import check_drawing, draw

        pictures = pictures_of(inputs, exe.inputs)
        check_drawing(draw_to, pictures, exe.model.notes.get("notes", ()))
    feed = read_feed(inputs, exe.inputs)
    with progress("running"):
        if trace_to is None:
            got = exe(feed)
        else:
            from netc.runtime.atomic import write_file
            from netc.runtime.trace import timed, trace_json

            arrays = exe.accepted(feed, {})
            exe.run(arrays)
            got, steps = timed(exe, arrays)
            write_file(trace_to, [trace_json([steps]).encode()])
    names = exe.labels if given is None else given
    if out is not None:
        write_arrays(out, got)
        say(f"{clean(out)}: {', '.join(f'{clean(k)} {list(v.shape)}' for k, v in got.items())}")
    else:
        outputs(got, names)
    if draw_to is not None:
        count = draw(pictures[0], got, names, draw_to)
        say(f"{clean(draw_to)}: {count} boxes with a score of at least 0.5")


@click.command("time")
@click.argument("model", type=EXISTING)
@click.option("--batch", type=click.IntRange(1, 1 << 20), help="Size of the batch; 1 if open.")
@many("--shape", type=ShapeType(), help="The shape of an input; may be repeated.")
@click.option("--per-op/--whole", default=True, help="Also a row for every step.")
@click.option("--seconds", type=SecondsType(0.01, 3600), default=1.0, help="How long.")
@_loading
def time_command(
    model: Path,
    batch: int | None,
    shape: tuple[tuple[str, tuple[int | str, ...]], ...],
    per_op: bool,
    seconds: float,
    threads: int | None,
    sha256: str | None,
    trust: bool | None,
    hosts: tuple[str, ...],
    **gpu: Any,
) -> None:
    """Time MODEL on random inputs: the median run, and where it goes.

    Kernels on a GPU are timed alone, by its own clock.
    """
    from netc import api
    from netc.cli.timing import batch_of, gpu_said, measure, random_feed, sizes_said, step_rows

    with progress(f"loading {clean(model.name)}"):
        exe = api.load(model, threads, trust, sha256, hosts=named_hosts(hosts), **gpu)
    batch = batch_of(exe, batch)
    feed = random_feed(exe, batch, shape)
    with progress("timing") as step:
        taken = measure(exe, feed, seconds)
        step("timing the steps")
        rows, work = step_rows(exe, feed) if per_op else ([], 0.0)
        on_gpu = gpu_said(exe, feed)
    if rows:
        table(("step", "op", "ms", "%", "GFLOP/s", "GB/s"), rows, numbers=4)
    median = sorted(taken)[len(taken) // 2]
    speed = work / median / 1e9
    rate = f", {speed:.1f} GFLOP/s" if speed >= 0.05 else ""
    say(
        f"{clean(model.name)}: {sizes_said(exe, feed, batch)}, {exe.threads} threads, {exe.level}: "
        f"median {milliseconds(median)} ms, best {milliseconds(min(taken))} ms "
        f"of {len(taken)} runs{rate}{on_gpu}"
    )
