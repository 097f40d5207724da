"""The GPU kernels of a file as JSON, every type, name and range checked when they are read.

A kernel is its text, its parameters, its variants, and for each variant where its code lies in
the section of an architecture. The code itself is in sections of its own, `gpu.sm_90` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeAlias

from netc.errors import ArtifactError, clean
from netc.ir.cubin import check_cubin
from netc.ir.gpu_code import PORTABLE, Code, GpuImage, GpuKernel, KernelText, Variant
from netc.runtime.checked import listed, text, whole, wrong

Sections: TypeAlias = Mapping[str, bytes | memoryview]

ELEMENTS = {"fp64": 8, "fp32": 4, "fp16": 2, "bf16": 2, "i64": 8, "i32": 4, "i16": 2,
            "i8": 1, "u8": 1, "i1": 1}  # bytes  # fmt: skip
NUMBERS = ("i32", "i64")
PARAMS = frozenset({*NUMBERS, *(f"*{element}" for element in ELEMENTS)})
ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", PORTABLE)
SECTION = "gpu"
WARPS = frozenset({1, 2, 4, 8, 16})
MOST_SHARED = 232 << 10  # bytes; more than a block may have on any architecture
_MOST_KERNELS, _MOST_VARIANTS, _MOST_PARAMS, _MOST_EXTENTS = 1 << 16, 256, 256, 32
_MOST_TEXT = 1 << 20  # characters of one kernel
_ENTRY = re.compile(r"[A-Za-z_][A-Za-z0-9_$]{0,511}")
_KERNEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def section_of(arch: str) -> str:
    """The name of the section with the code for an architecture."""
    return f"{SECTION}.{arch}"


def image_to_json(image: GpuImage) -> dict[str, Any]:
    """All of an image but the code. Raises ArtifactError where it could not be read again."""
    kernels = {name: _kernel_to_json(kernel) for name, kernel in image.kernels.items()}
    made = {"compiler": image.compiler, "kernels": kernels}
    image_from_json(made, image.sections)
    return made


def _kernel_to_json(kernel: GpuKernel) -> dict[str, Any]:
    t = kernel.text
    return {
        "text": t.text,
        "params": list(t.params),
        "aligned": list(t.aligned),
        "extents": t.extents,
        "variants": [
            [list(v.tile), [list(c) for c in v.constants], v.repeat, v.warps, v.stages, v.limit]
            for v in t.variants
        ],
        "codes": [
            {a: [c.offset, c.size, c.entry, c.warps, c.shared, c.registers, c.local]
             for a, c in codes.items()}
            for codes in kernel.codes
        ],
    }  # fmt: skip


def image_from_json(value: Any, sections: Sections) -> GpuImage:
    """The image, given its code sections by architecture. Raises ArtifactError."""
    if type(value) is not dict or set(value) != {"compiler", "kernels"}:
        raise wrong(value, "a mapping with compiler and kernels")
    if type(value["kernels"]) is not dict or len(value["kernels"]) > _MOST_KERNELS:
        raise wrong(value["kernels"], "a mapping of kernels")
    reading = _Reading(sections)
    kernels = {_name(n): reading.kernel(n, k) for n, k in value["kernels"].items()}
    if reading.used != set(sections):
        unused = ", ".join(sorted(set(sections) - reading.used))
        raise ArtifactError(f"no GPU kernel has code in {clean(unused)}")
    return GpuImage(kernels, dict(sections), text(value["compiler"]))


def _name(value: str) -> str:
    if not _KERNEL.fullmatch(value):
        raise wrong(value, "the name of a GPU kernel")
    return value


def within(value: Any, least: int, most: int) -> int:
    """A whole number in a range, both ends included."""
    if type(value) is not int or not least <= value <= most:
        raise wrong(value, f"a number from {least} to {most}")
    return value


def _some(value: Any, most: int) -> list[Any]:
    if len(listed(value)) > most:
        raise wrong(value, f"a list of at most {most}")
    return list(value)


class _Reading:
    """One image being read; code that several variants share is looked at once.

    Other codes do not overlap: no byte is looked at twice.
    """

    def __init__(self, sections: Sections) -> None:
        self.sections = sections
        self.used: set[str] = set()
        self._left = {arch: len(code) for arch, code in sections.items()}  # bytes
        self._seen: set[tuple[str, int, int, str]] = set()

    def kernel(self, name: str, value: Any) -> GpuKernel:
        """One kernel."""
        keys = {"text", "params", "aligned", "extents", "variants", "codes"}
        if type(value) is not dict or set(value) != keys:
            raise wrong(value, f"a mapping with {', '.join(sorted(keys))}")
        if len(text(value["text"])) > _MOST_TEXT:
            raise ArtifactError(f"the text of GPU kernel {clean(name)} is too long")
        params = tuple(_some(value["params"], _MOST_PARAMS))
        if not all(type(p) is str and p in PARAMS for p in params):
            raise wrong(params, "types of parameters")
        extents = within(value["extents"], 0, _MOST_EXTENTS)
        aligned = tuple(within(p, 0, len(params) - 1) for p in _some(value["aligned"], len(params)))
        variants = tuple(_variant(v, extents) for v in _some(value["variants"], _MOST_VARIANTS))
        if not variants:
            raise ArtifactError(f"GPU kernel {clean(name)} has no variants")
        codes = tuple(map(self.codes, listed(value["codes"], len(variants))))
        return GpuKernel(KernelText(value["text"], params, aligned, extents, variants), codes)

    def codes(self, value: Any) -> dict[str, Code]:
        """A variant's code for each architecture that has it."""
        if type(value) is not dict or not set(value) <= set(self.sections):
            raise wrong(value, "a mapping from architectures of the file")
        return {arch: self.code(arch, code) for arch, code in value.items()}

    def code(self, arch: str, value: Any) -> Code:
        """The place of one code, which is code for that architecture, and its launch facts."""
        offset, size, entry, warps, shared, registers, local = listed(value, 7)
        end = len(self.sections[arch])
        within(offset, 0, end)
        within(size, 1, end - offset)
        if not _ENTRY.fullmatch(text(entry)):
            raise wrong(entry, "the name of a function")
        if type(warps) is not int or warps not in WARPS:
            raise wrong(warps, f"a number of warps: {', '.join(map(str, sorted(WARPS)))}")
        within(shared, 0, MOST_SHARED)
        within(registers, 0, 255)
        within(local, 0, 1 << 20)
        self.used.add(arch)
        place = arch, offset, size, entry
        if place not in self._seen:
            self._left[arch] -= size
            if self._left[arch] < 0:
                raise ArtifactError(f"GPU codes for {arch} overlap")
            _check_code(arch, memoryview(self.sections[arch])[offset : offset + size], entry)
            self._seen.add(place)
        return Code(offset, size, entry, warps, shared, registers, local)


def _variant(value: Any, extents: int) -> Variant:
    tile, constants, repeat, warps, stages, limit = listed(value, 6)
    tiles = tuple(within(t, 1, (1 << 31) - 1) for t in listed(tile, extents))
    pairs = []
    for pair in _some(constants, _MOST_PARAMS):
        name, number = listed(pair, 2)
        if not text(name).isidentifier():
            raise wrong(name, "the name of a constant")
        pairs.append((name, whole(number)))
    if type(warps) is not int or warps not in WARPS:
        raise wrong(warps, "a number of warps")
    repeat, stages = within(repeat, 1, 1 << 20), within(stages, 1, 32)
    return Variant(tiles, tuple(pairs), repeat, warps, stages, within(limit, 0, 1 << 31))


def _check_code(arch: str, code: memoryview, entry: str) -> None:
    if arch != PORTABLE:
        check_cubin(code, arch, entry)
        return
    whole_text = bytes(code)
    name = entry.encode()
    if not whole_text.isascii() or b"\0" in whole_text.rstrip(b"\0"):
        raise ArtifactError("the portable GPU code is not text")
    if not re.search(rb"\.entry\s+" + re.escape(name) + rb"\b", whole_text):
        raise ArtifactError(f"the portable GPU code has no kernel {clean(entry)}")
