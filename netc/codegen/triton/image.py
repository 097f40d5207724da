"""Kernels as text to one image of machine code.

Equal variants are compiled once, what was compiled before comes from the cache, and the order
of the bytes does not depend on which worker was first: equal kernels give equal images.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from netc.codegen.triton.cache import open_cache
from netc.codegen.triton.job import TARGETS, Compiled, Failed, Job
from netc.codegen.triton.pool import Compilers
from netc.errors import UnsupportedError, UsageError, clean
from netc.ir.gpu_code import (
    PORTABLE,
    Code,
    GpuImage,
    GpuKernel,
    KernelText,
    Variant,
)

_ALIGN = 16  # bytes; where a code begins
_OLDEST = (3, 6)
# KiB of shared memory a block may have: CUDA C++ Programming Guide, "Technical Specifications"
_SHARED = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}

Progress = Callable[[int, int], None]  # done, total


class Row(NamedTuple):
    """A line of a table of compiled code."""

    kernel: str
    arch: str
    variant: Variant
    bytes: int
    registers: int
    shared: int
    spills: int


def build_image(
    kernels: Mapping[str, KernelText],
    archs: Sequence[str],
    cache: Path | None = None,
    progress: Progress | None = None,
    jobs: int | None = None,
) -> GpuImage:
    """All variants of the kernels for all architectures, but for those that are of no use.

    `cache` is a folder of the user's own, `jobs` how many processes compile.
    """
    compiler = compiler_version()
    archs = _known(archs)
    work = {job: None for text in kernels.values() for job in _jobs(text, archs).values()}
    answers = _compile(list(work), compiler, cache, progress, jobs)
    sections = {arch: Section() for arch in archs}
    compiled = {}
    for name in sorted(kernels):
        text = kernels[name]
        found = {place: answers[job] for place, job in _jobs(text, archs).items()}
        codes: list[dict[str, Code]] = [{} for _ in text.variants]
        for arch in archs:
            for i, code in _chosen(name, arch, found).items():
                codes[i][arch] = sections[arch].add(code)
        compiled[name] = GpuKernel(text, tuple(codes))
    data = {arch: bytes(section.data) for arch, section in sections.items()}
    return GpuImage(compiled, data, compiler)


def report(image: GpuImage) -> list[Row]:
    """What was compiled, by kernel, architecture and variant."""
    return [
        Row(name, arch, variant, code.size, code.registers, code.shared, code.local)
        for name, kernel in image.kernels.items()
        for arch in image.sections
        for variant, codes in zip(kernel.text.variants, kernel.codes, strict=True)
        if (code := codes.get(arch))
    ]


def compiler_version() -> str:
    """ "triton 3.6.0", without importing it; a `UsageError` where there is none to use."""
    advice = "pip install 'netc[cuda]'"
    if importlib.util.find_spec("triton") is None:
        raise UsageError("compiling for a GPU needs Triton", help=advice)
    try:
        version = metadata.version("triton")
    except metadata.PackageNotFoundError:
        raise UsageError("the Triton that is installed has no version", help=advice) from None
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdecimal())
    if numbers < _OLDEST:
        raise UsageError(f"compiling for a GPU needs Triton 3.6, not {version}", help=advice)
    return f"triton {version}"


class Section:
    """The code of one architecture; equal code is there once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._offsets: dict[bytes, int] = {}

    def add(self, code: Compiled) -> Code:
        """Where the code lies, and its launch facts."""
        if code.blob not in self._offsets:
            self.data += bytes(-len(self.data) % _ALIGN)
            self._offsets[code.blob] = len(self.data)
            self.data += code.blob
        return Code(
            offset=self._offsets[code.blob],
            size=len(code.blob),
            entry=code.entry,
            warps=code.warps,
            shared=code.shared,
            registers=code.registers,
            local=code.local,
        )


def _known(archs: Sequence[str]) -> list[str]:
    unknown = [arch for arch in archs if arch not in TARGETS]
    if unknown or not archs:
        what = f"no architecture {clean(unknown[0])}" if unknown else "no architecture is named"
        raise UsageError(what, help=f"there are {', '.join(TARGETS)}")
    return list(dict.fromkeys(archs))


def _jobs(text: KernelText, archs: Sequence[str]) -> dict[tuple[str, int], Job]:
    """The work of a kernel, by architecture and number of the variant."""
    return {
        (arch, i): Job(
            text=text.text,
            params=text.params,
            aligned=text.aligned,
            constants=tuple(sorted(variant.constants)),
            warps=variant.warps,
            stages=variant.stages,
            arch=arch,
        )
        for arch in archs
        for i, variant in enumerate(text.variants)
        if arch != PORTABLE or i in _portable(text)
    }


def _portable(text: KernelText) -> set[int]:
    """The variants that are PTX too: the driver compiles each of them when a file is loaded."""
    any_size = (i for i, variant in enumerate(text.variants) if not variant.limit)
    return {0, next(any_size, 0)}


def _compile(
    work: Sequence[Job],
    compiler: str,
    folder: Path | None,
    progress: Progress | None,
    workers: int | None,
) -> dict[Job, Compiled | Failed]:
    """The answer to each job, from the cache or from a worker."""
    answers: dict[Job, Compiled | Failed] = {}
    with open_cache(folder) as cache, Compilers(workers) as compilers:
        kept = ((job, cache.get(job.key(compiler))) for job in work)
        answers |= {job: code for job, code in kept if code}
        missing = [job for job in work if job not in answers]
        if progress and answers:
            progress(len(answers), len(work))
        for job, answer in compilers.answers(missing):
            answers[job] = answer
            if isinstance(answer, Compiled):
                cache.put(job.key(compiler), answer)
            if progress:
                progress(len(answers), len(work))
    return answers


def _chosen(
    name: str, arch: str, found: Mapping[tuple[str, int], Compiled | Failed]
) -> dict[int, Compiled]:
    """The variants that are of use on `arch`: those that do not spill, if there are such."""
    fit: dict[int, Compiled] = {}
    reasons = []
    for (where, i), answer in found.items():
        if where != arch:
            continue
        if reason := _unfit(answer, arch):
            reasons.append(reason)
            logging.getLogger("netc").debug("%s, variant %d, %s: %s", name, i, arch, reason)
        elif isinstance(answer, Compiled):
            fit[i] = answer
    if not fit:
        reason = reasons[0] if reasons else "it has no variants"
        raise UnsupportedError(
            f"the GPU kernel {clean(name)} does not compile for {arch}: {reason}",
            help="put its node on a CPU",
        )
    return {i: code for i, code in fit.items() if not code.local} or fit


def _unfit(answer: Compiled | Failed, arch: str) -> str:
    """Why an answer is of no use, or nothing."""
    if isinstance(answer, Failed):
        return answer.reason
    limit = _SHARED.get(arch)
    if limit is not None and answer.shared > limit << 10:
        return f"it needs {answer.shared} bytes of shared memory; a block has {limit << 10}"
    return ""
