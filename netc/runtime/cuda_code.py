"""Which code of a file runs on a GPU, and the code as kernels that can be started."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from netc.errors import ArtifactError, ResourceError, clean
from netc.ir.gpu_code import PORTABLE, Code, GpuImage, GpuKernel
from netc.runtime.cuda_probe import CUBINS
from netc.runtime.driver import Launch, NoGpuCode

_PLAIN_SHARED = 48 << 10  # bytes of shared memory that a block has without asking for more
_MOST_PROGRAMS = (1 << 31) - 1  # of a grid's first axis
_WARP = 32  # threads
_SCRATCH = 2  # pointers after a kernel's parameters, both null
_TARGET = re.compile(rb"\.target\s+sm_(\d+)")


@dataclass(frozen=True)
class Gpu:
    """What matters of a GPU for the choice of code."""

    name: str
    major: int
    minor: int
    shared: int  # bytes a block may ask for
    version: int  # of the driver; 13000 is CUDA 13.0

    @property
    def arch(self) -> str:
        """ "sm_90" for compute capability 9.0."""
        return f"sm_{self.major}{self.minor}"

    def architectures(self, held: Mapping[str, Any]) -> list[str]:
        """Of the sections of a file those whose code may run here, the best first.

        From 9.0 on code is for exactly one capability; below, for later ones of its major too.
        """
        fits = []
        if self.version >= CUBINS:
            numbers = [int(arch[3:]) for arch in held if arch != PORTABLE]
            mine = 10 * self.major + self.minor
            near = [n for n in numbers if n == mine or (n // 10 == self.major < 9 and n < mine)]
            fits = [f"sm_{n}" for n in sorted(near, reverse=True)]
        return fits + [PORTABLE] * (PORTABLE in held)


def usable(kernel: GpuKernel, gpu: Gpu, image: GpuImage) -> dict[int, list[tuple[str, Code]]]:
    """The variants of a kernel that a GPU can run, each with its codes, the best first."""
    architectures = gpu.architectures(image.sections)
    found = {}
    for variant, codes in enumerate(kernel.codes):
        held = [(arch, codes[arch]) for arch in architectures if arch in codes]
        fits = [
            (arch, code)
            for arch, code in held
            if code.shared <= gpu.shared and _portable_fits(arch, code, gpu, image)
        ]
        if fits:
            found[variant] = fits
    return found


def _portable_fits(arch: str, code: Code, gpu: Gpu, image: GpuImage) -> bool:
    """PTX runs on what it is for and on all that came later."""
    if arch != PORTABLE:
        return True
    head = bytes(image.sections[arch][code.offset : code.offset + min(code.size, 4096)])
    target = _TARGET.search(head)
    return target is not None and int(target[1]) <= 10 * gpu.major + gpu.minor


def require_code(image: GpuImage, gpu: Gpu) -> None:
    """Raise NoGpuCode where a kernel has no code for a GPU."""
    for name, kernel in image.kernels.items():
        if not usable(kernel, gpu, image):
            held = ", ".join(sorted(image.sections)) or "no architecture"
            why = f"{clean(gpu.name)} is {gpu.arch}, and the file has code for {held}"
            if gpu.version < CUBINS and PORTABLE not in image.sections:
                why += f"; its driver, for CUDA {gpu.version // 1000}, runs ptx only"
            help = f"compile the net for {gpu.arch} or ptx too"
            raise NoGpuCode(f"GPU kernel {clean(name)} does not run here: {why}", help=help)


@dataclass(frozen=True)
class Started:
    """One launch with one variant, as cuda.core takes it."""

    kernel: Any
    config: Any
    args: tuple[Any, ...]
    label: str


class Kernels:
    """The code of one image on one GPU, loaded when it is first wanted."""

    def __init__(self, core: Any, raw: Any, image: GpuImage, gpu: Gpu, ordinal: int) -> None:
        self._core, self._raw, self._image, self._ordinal = core, raw, image, ordinal
        self._gpu = gpu
        self._usable: dict[str, dict[int, list[tuple[str, Code]]]] = {}
        self._loaded: dict[tuple[str, int, int, str], tuple[Any, int]] = {}
        self._objects: list[Any] = []  # kept: kernels live in them

    def candidates(self, launch: Launch) -> list[int]:
        """The variants that may start a launch. Raises where there are none."""
        kernel = self._image.kernels[launch.kernel]
        if launch.kernel not in self._usable:
            self._usable[launch.kernel] = usable(kernel, self._gpu, self._image)
        variants = kernel.text.variants
        found = [
            v
            for v in self._usable[launch.kernel]
            if variants[v].fits(launch.extents, _MOST_PROGRAMS)
        ]
        if not found:
            help = "give a smaller batch or image"
            raise ResourceError(f"{clean(launch.label)} is too large for a GPU", help=help)
        return found

    def start_of(self, launch: Launch, variant: int) -> Started:
        """A launch ready to be given to a stream or a graph."""
        text = self._image.kernels[launch.kernel].text
        code, kernel, scratch = self._loaded_code(launch.kernel, variant, len(text.params))
        args: list[Any] = []
        for kind, value in zip(text.params, launch.args, strict=True):
            args.append(_NUMBERS[kind](value) if kind in _NUMBERS else int(value))
        config = self._core.LaunchConfig(
            grid=text.variants[variant].programs(launch.extents),
            block=_WARP * code.warps,
            shmem_size=code.shared,
        )
        label = f"{launch.label} ({launch.kernel})"
        return Started(kernel, config, (*args, *[0] * scratch), clean(label))

    def _loaded_code(self, name: str, variant: int, params: int) -> tuple[Code, Any, int]:
        """The first code of a variant that the driver takes."""
        *others, (arch, last) = self._usable[name][variant]
        for other, code in others:
            try:
                return code, *self._kernel(other, code, params)
            except Exception as error:
                why = f"{clean(name)}: no {other} code: {clean(error)}"
                logging.getLogger("netc").warning("%s", why)
        return last, *self._kernel(arch, last, params)

    def _kernel(self, arch: str, code: Code, params: int) -> tuple[Any, int]:
        """A kernel of the image, and how many null pointers end its arguments."""
        place = arch, code.offset, code.size, code.entry
        if place not in self._loaded:
            data = bytes(self._image.sections[arch][code.offset : code.offset + code.size])
            if arch == PORTABLE:
                made = self._core.ObjectCode.from_ptx(data.rstrip(b"\0") + b"\0")
            else:
                made = self._core.ObjectCode.from_cubin(data)
            kernel = made.get_kernel(code.entry)
            self._objects.append(made)
            if code.shared > _PLAIN_SHARED:
                self._allow_shared(kernel, code.shared)
            self._loaded[place] = kernel, _scratch(kernel, params)
        return self._loaded[place]

    def _allow_shared(self, kernel: Any, size: int) -> None:
        """Let a kernel's blocks have more shared memory than they have by default."""
        attribute = self._raw.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        status, device = self._raw.cuDeviceGet(self._ordinal)
        if not int(status):
            (status,) = self._raw.cuKernelSetAttribute(attribute, size, kernel.handle, device)
        if int(status):
            raise ResourceError(f"the GPU gives no {size} bytes of shared memory: {status}")


_NUMBERS = {"i32": np.int32, "i64": np.int64}


def _scratch(kernel: Any, params: int) -> int:
    """Triton ends the arguments with two pointers; the driver knows how many there are."""
    try:
        count = int(kernel.num_arguments)
    except Exception:  # before driver 12.4 it does not
        return _SCRATCH
    if not params <= count <= params + _SCRATCH:
        raise ArtifactError(f"a GPU kernel has {count} arguments where {params} are described")
    return count - params
