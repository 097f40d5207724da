"""What the command line says of GPUs: options to compile and run, and tables of kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from netc.cli.show import size, table
from netc.errors import UsageError, clean

if TYPE_CHECKING:
    from netc.cli.places import Places
    from netc.compiler import Options
    from netc.ir.gpu_code import GpuImage
    from netc.ir.graph import Graph

F = TypeVar("F", bound=Callable[..., Any])

COLUMNS = ("kernel", "does", "arch", "variants", "bytes", "registers", "shared", "spills")
NUMBERS = 5  # of the columns, the last ones
_MANY = 3  # ops named of a kernel that many steps run

_TARGET = click.option("--target", default="cpu", help="cpu, cuda or cpu,cuda.")
_PRECISION = click.option(
    "--precision",
    multiple=True,
    metavar="[LAYER=]NAME",
    help="exact, high, low, int8, on GPUs medium, fp16; of a layer conv1=low. Repeatable.",
)
_COMPILE = (
    click.option("--arch", help="GPU architectures: sm_80,sm_90,ptx where not given; or native."),
    _PRECISION,
    click.option("--cache/--no-cache", default=True, help="Keep compiled GPU kernels."),
)
_RUN = (
    click.option("--gpu", help="auto, cuda or interpret; NETC_GPU where not given."),
    click.option("--on-gpu-loss", default="error", help="error, or cpu to go on without a GPU."),
)


def target_option(command: F) -> F:
    """What a net is compiled for."""
    return _TARGET(command)


def precision_option(command: F) -> F:
    """How exactly its products are computed."""
    return _PRECISION(command)


def compile_options(command: F) -> F:
    """The options that say how GPU code is made."""
    return _apply((_TARGET, *_COMPILE), command)


def run_options(command: F) -> F:
    """The options that say where a net for GPUs runs."""
    return _apply(_RUN, command)


def _apply(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def chosen(optimize: bool, cpu: Sequence[str], places: Places, target: str, **gpu: Any) -> Options:
    """The compiler's options as a command line says them."""
    from netc import api, choices

    precision, precisions = precisions_of(gpu["precision"])
    cache = choices.cache_of(gpu["cache"])
    gpus = {"precision": precision, "precisions": precisions, "cache": cache}
    levels, sharding = cpu or ("native",), places.sharding
    made = api.compile_options(optimize, levels, None, places.devices, target, sharding, **gpus)
    if gpu["arch"] is not None:
        choices.archs_of(gpu["arch"], "cuda")  # refused before the net is read
    return made


def for_gpus(graph: Graph, options: Options, arch: str | None) -> Options:
    """The options with the architectures that a placed graph is to be compiled for."""
    from netc import choices

    return choices.for_gpus(graph, options, arch, "cuda", choices.ARCHS)


def precisions_of(words: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The precision of the net, and those of layers: `medium`, `conv1=low`."""
    whole, layers = [], dict[str, str]()
    for word in (w.strip() for said in words for w in said.split(",")):
        layer, equals, name = word.rpartition("=")
        if not equals:
            whole.append(name)
        elif layers.setdefault(layer, name) != name:
            what = f"{clean(layer)} has precision {clean(layers[layer])} already"
            raise UsageError(f"--precision {clean(word)!r}: {what}")
    if len(set(whole)) > 1:
        both = " and ".join(map(clean, whole[:2]))
        help = "for one layer say LAYER=NAME"
        raise UsageError(f"--precision says both {both} of the whole net", help=help)
    return whole[0] if whole else "high", layers


def show_kernels(image: GpuImage, steps: Sequence[Any]) -> None:
    """A table of the kernels."""
    table(COLUMNS, kernel_rows(image, what_kernels_do(steps)), numbers=NUMBERS)


def kernel_rows(image: GpuImage, does: Mapping[str, str]) -> list[tuple[object, ...]]:
    """A row for each kernel and architecture, and one of all together for each architecture."""
    rows: list[tuple[object, ...]] = []
    for name in sorted(image.kernels, key=_by_number):
        for arch in sorted(image.sections):
            codes = [c[arch] for c in image.kernels[name].codes if arch in c]
            if codes:
                bytes_ = sum({c.offset: c.size for c in codes}.values())
                most = [max(getattr(c, f) for c in codes) for f in ("registers", "shared", "local")]
                rows.append((name, does.get(name, ""), arch, len(codes), size(bytes_), *most))
        if not any(image.kernels[name].codes):
            count = len(image.kernels[name].text.variants)
            rows.append((name, does.get(name, ""), "text", count, "", "", "", ""))
    return rows


def total_lines(image: GpuImage) -> Iterator[str]:
    """How much code there is for each architecture, and by which compiler."""
    for arch in sorted(image.sections):
        codes = [c[arch] for kernel in image.kernels.values() for c in kernel.codes if arch in c]
        spilling = sum(c.local > 0 for c in codes)
        spills = f", {spilling} that spill" if spilling else ""
        bytes_ = size(len(image.sections[arch]))
        yield f"{arch}: {len(image.kernels)} kernels, {len(codes)} variants, {bytes_}{spills}"
    if not image.sections:
        yield f"{len(image.kernels)} GPU kernels as text, with no machine code"
    if image.compiler:
        yield f"compiled by {clean(image.compiler)}"


def what_kernels_do(steps: Sequence[Any]) -> dict[str, str]:
    """What each kernel does, by the steps that run it."""
    found: dict[str, dict[str, None]] = {}
    for step in steps:
        if step.device.startswith("cuda"):
            found.setdefault(step.kernel, {})[step.op] = None
    return {
        kernel: ", ".join(list(ops)[:_MANY]) + (" …" if len(ops) > _MANY else "")
        for kernel, ops in found.items()
    }


def _by_number(kernel: str) -> tuple[int, str]:
    return len(kernel), kernel
