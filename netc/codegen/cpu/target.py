"""Processor levels a model can be compiled for, and the way from LLVM text to an object file."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import llvmlite.binding as llvm

from netc.processor import architecture, cpu_features

_V2 = ("cx16", "sahf", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
_QUADS = (*_V4, "avx512vnni")
_PAIRS = (*_QUADS, "avx512bf16")
_ARM = ("neon", "fp-armv8")
_ARM_PAIRS = (*_ARM, "dotprod", "bf16")
_LINUX = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}

# The kernel's own spelling (/proc/cpuinfo) of what each level needs.
_FLAGS_V2 = frozenset({"cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"})
_FLAGS_V3 = _FLAGS_V2 | {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"}
_FLAGS_V4 = _FLAGS_V3 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_FLAGS_QUADS = _FLAGS_V4 | {"avx512_vnni"}
_FLAGS_PAIRS = _FLAGS_QUADS | {"avx512_bf16"}
_FLAGS_ARM = frozenset({"asimd", "fp"})
_FLAGS = {
    "x86-64-v2": _FLAGS_V2,
    "x86-64-v3": _FLAGS_V3,
    "x86-64-v3-vnni": _FLAGS_V3 | {"avx_vnni"},
    "x86-64-v4": _FLAGS_V4,
    "x86-64-v4-vnni": _FLAGS_QUADS,
    "x86-64-v4-bf16": _FLAGS_PAIRS,
    "aarch64": _FLAGS_ARM,
    "aarch64-dot": _FLAGS_ARM | {"asimddp"},
    "aarch64-bf16": _FLAGS_ARM | {"asimddp", "bf16"},
}


@dataclass(frozen=True)
class Target:
    """One processor level: what LLVM must know, and what kernel rules choose their tiles by."""

    name: str
    arch: str  # x86_64 or aarch64
    cpu: str
    features: tuple[str, ...]
    lanes: int  # float32 values in one vector register
    registers: int  # vector registers
    fma: bool
    quads: bool = False  # adds up four products of bytes in each lane
    pairs: bool = False  # adds up two products of bfloat16 in each lane

    @property
    def triple(self) -> str:
        """The LLVM triple; images are always ELF, whatever machine compiles them."""
        return _LINUX[self.arch]

    @property
    def vector_bytes(self) -> int:
        """Bytes in one vector register."""
        return 4 * self.lanes

    @property
    def is_x86(self) -> bool:
        """Whether x86 intrinsics may be used."""
        return self.arch == "x86_64"


LEVELS = {  # of one architecture, the better the later
    t.name: t
    for t in (
        Target("x86-64-v2", "x86_64", "x86-64-v2", _V2, 4, 16, False),
        Target("x86-64-v3", "x86_64", "x86-64-v3", _V3, 8, 16, True),
        Target("x86-64-v3-vnni", "x86_64", "x86-64-v3", (*_V3, "avxvnni"), 8, 16, True, True),
        Target("x86-64-v4", "x86_64", "x86-64-v4", _V4, 16, 32, True),
        Target("x86-64-v4-vnni", "x86_64", "x86-64-v4", _QUADS, 16, 32, True, True),
        Target("x86-64-v4-bf16", "x86_64", "x86-64-v4", _PAIRS, 16, 32, True, True, True),
        Target("aarch64", "aarch64", "generic", _ARM, 4, 32, True),
        Target("aarch64-dot", "aarch64", "generic", (*_ARM, "dotprod"), 4, 32, True, True),
        Target("aarch64-bf16", "aarch64", "generic", _ARM_PAIRS, 4, 32, True, True, True),
    )
}


def required_features(level: str) -> frozenset[str]:
    """The /proc/cpuinfo flags (x86 `flags`, ARM `Features`) code for `level` needs."""
    return _FLAGS[level]


def runnable() -> list[Target]:
    """The levels whose code the processor of this process runs, from the lowest on."""
    features = cpu_features()
    here = [t for t in LEVELS.values() if t.arch == architecture()]
    return [t for t in here if required_features(t.name) <= features]


@functools.cache
def native(pairs: bool = False, quads: bool = False) -> Target:
    """The best level of the processor this process runs on.

    With `pairs` or `quads` one that has these, where it can; other code is the same there.
    """
    levels = [t for t in runnable() if not t.quads or t.quads & quads or t.pairs & pairs]
    lowest = [t for t in LEVELS.values() if t.arch == architecture()] or [LEVELS["x86-64-v2"]]
    return levels[-1] if levels else lowest[0]


def target_named(name: str, pairs: bool = False, quads: bool = False) -> Target:
    """The level called `name`, or the host's own for `native`."""
    return native(pairs, quads) if name == "native" else LEVELS[name]


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


@functools.cache
def _machine(target: Target, opt: int) -> llvm.TargetMachine:
    _initialize()
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu,
        features=",".join(f"+{name}" for name in target.features),
        opt=opt,
        reloc="pic",
        codemodel="small",
    )


def compile_module(text: str, target: Target, opt: int = 1) -> bytes:
    """LLVM text -> ELF object. Kernels are emitted in final form, so no IR pass runs."""
    machine = _machine(target, opt)
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))


def assembly(text: str, target: Target, opt: int = 1) -> str:
    """The same code as `compile_module`, as assembly: for tests that count spills."""
    machine = _machine(target, opt)
    return str(machine.emit_assembly(llvm.parse_assembly(text)))
