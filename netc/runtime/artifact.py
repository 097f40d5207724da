"""What `netc compile` makes and `netc.load` reads: the model, and native code as a cache of it.

The model is the IR text and the weights. A level is a plan and a code image for one kind of
processor; it is used only after `netc.runtime.trust` has allowed it.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from netc.errors import ArtifactError, ResourceError, UsageError, clean
from netc.ir.gpu_code import GpuImage
from netc.ir.plan import PART, Plan
from netc.runtime import digest, gpu_json
from netc.runtime.atomic import Buffer, write_file
from netc.runtime.container import (
    Container,
    Json,
    Payload,
    canonical,
    parse_canonical,
    seal,
    unseal,
)
from netc.runtime.faults import fault
from netc.runtime.keys import tag_of
from netc.runtime.limits import DEFAULT, Limits
from netc.runtime.plan_json import plan_from_json, plan_to_json

ABI = 2  # of plans, kernels, argument blocks and the context; another ABI is never mapped
ARCHITECTURES = {
    "x86-64-v2": "x86_64",
    "x86-64-v3": "x86_64",
    "x86-64-v3-vnni": "x86_64",
    "x86-64-v4": "x86_64",
    "x86-64-v4-vnni": "x86_64",
    "x86-64-v4-bf16": "x86_64",
    "aarch64": "aarch64",
    "aarch64-dot": "aarch64",
    "aarch64-bf16": "aarch64",
}
ON_GPU, HOSTS, ANY = "cuda", "hosts", "any"  # levels of plans without code; what they fit
LEVELS = {**ARCHITECTURES, ON_GPU: ANY, HOSTS: ANY}
MAX_PARTS = 256  # of a net on several hosts
_WEIGHT_ALIGN = 64  # bytes; one cache line, and the widest vector


@dataclass(frozen=True, eq=False, kw_only=True)
class LevelInfo:
    """A kind of processor: those that have all of `features` (the kernel's spelling)."""

    name: str
    features: frozenset[str]
    abi: int = ABI
    tuning: str = ""  # the processor model the code was tuned for, where it was

    @property
    def arch(self) -> str:
        """The instruction set, or `any`."""
        return LEVELS[self.name]


@dataclass(frozen=True, eq=False, kw_only=True)
class Level(LevelInfo):
    """Plan and code for one kind of processor."""

    plan: Plan
    code: Buffer
    symbols: Mapping[str, int]  # function -> its offset in the code


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled net in memory."""

    ir: str
    weights: Buffer
    levels: Sequence[Level]
    params: Json = field(default_factory=dict)  # how the weights hold the parameters
    locs: Json = field(default_factory=dict)  # node name -> its place in the user's source
    labels: Sequence[str] = ()
    notes: Json = field(default_factory=dict)  # options, sizes, reasons: for `inspect`
    compiler: str = ""  # netc's version
    gpu: GpuImage | None = None  # the kernels of steps on cuda devices
    parts: Sequence[Artifact] = ()  # of a net on several hosts: what the steps of its plan call

    def pieces(self, key: bytes | None = None) -> list[Buffer]:
        """The file, in pieces. Equal artifacts and keys give equal bytes."""
        payloads = [
            Payload("ir", [self.ir.encode()]),
            Payload("labels", [canonical(list(self.labels))]),
            Payload("locs", [canonical(self.locs)]),
            Payload("notes", [canonical(self.notes)]),
            Payload("params", [canonical(self.params)]),
        ]
        for level in sorted(self.levels, key=lambda level: level.name):
            plan = {"plan": plan_to_json(level.plan), "symbols": dict(level.symbols)}
            payloads.append(Payload(f"plan.{level.name}", [canonical(plan)]))
            payloads.append(Payload(f"code.{level.name}", [level.code], _WEIGHT_ALIGN))
        payloads += _gpu_payloads(self.gpu)
        for number, part in enumerate(self.parts):
            payloads.append(Payload(f"{PART}{number}", part.pieces(), _WEIGHT_ALIGN))
        payloads.append(Payload("weights", [self.weights], _WEIGHT_ALIGN))
        meta: Json = {"compiler": self.compiler, "levels": {}}
        for level in self.levels:
            features, tuning = sorted(level.features), level.tuning
            meta["levels"][level.name] = {"abi": level.abi, "features": features, "tuning": tuning}
        return seal(payloads, meta, (lambda signed: tag_of(key, signed)) if key else None)

    def save(self, path: str | os.PathLike[str], key: bytes | None = None) -> int:
        """Write the file whole or not at all; returns its size in bytes."""
        return write_file(path, self.pieces(key))


@dataclass(frozen=True, eq=False)
class ArtifactFile:
    """A file whose every byte has been checked, its parts read when they are asked for."""

    name: str
    container: Container
    levels: tuple[LevelInfo, ...]
    limits: Limits = DEFAULT

    @property
    def ir(self) -> str:
        """The model's IR text."""
        return self._text("ir")

    @property
    def weights(self) -> memoryview:
        """The weights section, in place."""
        return self.container.view("weights")

    @property
    def compiler(self) -> str:
        """The version of netc that made the file."""
        return str(self.container.meta["compiler"])

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, where the net has some."""
        labels = self._json("labels", list)
        if not all(isinstance(label, str) for label in labels):
            raise ArtifactError("the labels are not all text")
        return tuple(labels)

    @property
    def params(self) -> Json:
        """How the weights hold the parameters."""
        return dict(self._json("params", dict))

    @property
    def locs(self) -> Json:
        """Node name -> its place in the user's source."""
        return dict(self._json("locs", dict))

    @property
    def notes(self) -> Json:
        """Options, sizes, reasons."""
        return dict(self._json("notes", dict))

    @cached_property
    def gpu(self) -> GpuImage | None:
        """The GPU kernels and their code, where there are some. Only for a file that is trusted."""
        if gpu_json.SECTION not in self.container.sections:
            return None
        named = {arch: gpu_json.section_of(arch) for arch in gpu_json.ARCHS}
        held = {a: self.container.view(s) for a, s in named.items() if s in self.container.sections}
        return gpu_json.image_from_json(self._json(gpu_json.SECTION, dict), held)

    @cached_property
    def parts(self) -> tuple[ArtifactFile, ...]:
        """The parts of a net on several hosts, every byte of each checked."""
        views = [self.container.view(f"{PART}{n}") for n in range(_count_parts(self.container))]
        named = [(view, f"{self.name}, part {n}") for n, view in enumerate(views)]
        parts = tuple(read_artifact(view, name, self.limits) for view, name in named)
        if any(part.on_hosts for part in parts):
            raise ArtifactError("model.bin is damaged: a part is itself on several hosts")
        return parts

    @property
    def on_hosts(self) -> bool:
        """Whether the net is on several hosts, in parts."""
        return any(info.name == HOSTS for info in self.levels)

    def level(self, name: str) -> Level:
        """A level's plan and code. Only for a file that is trusted."""
        info = next(info for info in self.levels if info.name == name)
        value = self._json(f"plan.{name}", dict)
        if set(value) != {"plan", "symbols"} or not isinstance(value["symbols"], dict):
            raise ArtifactError(f"section plan.{name} is not {{plan, symbols}}")
        code, symbols = self.container.view(f"code.{name}"), value["symbols"]
        if not all(type(at) is int and 0 <= at < len(code) for at in symbols.values()):
            raise ArtifactError(f"section plan.{name} has a symbol outside the code")
        plan, about = plan_from_json(value["plan"]), vars(info)
        return Level(**about, plan=plan, code=code, symbols=symbols)

    def artifact(self) -> Artifact:
        """All of the file, as what can be saved again. Only for a file that is trusted."""
        return Artifact(
            ir=self.ir,
            weights=self.weights,
            levels=[self.level(info.name) for info in self.levels],
            params=self.params,
            locs=self.locs,
            labels=self.labels,
            notes=self.notes,
            compiler=self.compiler,
            gpu=self.gpu,
            parts=[part.artifact() for part in self.parts],
        )

    def sha256(self) -> str:
        """The ordinary SHA-256 of the whole file, as `sha256sum` prints it."""
        return digest.plain(self.container.data).hex()

    def _text(self, name: str) -> str:
        try:
            return bytes(self.container.view(name)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(f"section {name} is not UTF-8: {clean(error)}") from None

    def _json(self, name: str, kind: type) -> Any:
        value = parse_canonical(self.container.view(name), f"section {name}")
        if not isinstance(value, kind):
            raise ArtifactError(f"section {name} is not a {kind.__name__}")
        return value


def section_caps(limits: Limits) -> dict[str, int]:
    """The closed set of section names and the most bytes each may have."""
    caps = {"ir": limits.text_bytes, "locs": limits.text_bytes, "weights": limits.tensor_bytes}
    caps |= dict.fromkeys(("labels", "notes", "params"), limits.meta_bytes)
    for name in LEVELS:
        caps |= {f"plan.{name}": limits.plan_bytes, f"code.{name}": limits.code_bytes}
    caps |= {gpu_json.section_of(arch): limits.code_bytes for arch in gpu_json.ARCHS}
    caps |= {f"{PART}{number}": limits.file_bytes for number in range(MAX_PARTS)}
    return caps | {gpu_json.SECTION: limits.plan_bytes}


def _gpu_payloads(image: GpuImage | None) -> list[Payload]:
    """The sections of GPU code, sorted by name; none where there are no kernels."""
    if image is None or not image.kernels:
        return []
    codes = {arch: code for arch, code in sorted(image.sections.items()) if len(code)}
    value = gpu_json.image_to_json(GpuImage(image.kernels, codes, image.compiler))
    parts = [Payload(gpu_json.section_of(a), [code], _WEIGHT_ALIGN) for a, code in codes.items()]
    return [Payload(gpu_json.SECTION, [canonical(value)]), *parts]


def open_artifact(path: str | os.PathLike[str], limits: Limits = DEFAULT) -> ArtifactFile:
    """Map a `model.bin` and check every byte of it. Raises ArtifactError or UsageError."""
    return read_artifact(_mapped(path, limits), clean(os.fspath(path)), limits)


def read_artifact(data: Buffer, name: str, limits: Limits = DEFAULT) -> ArtifactFile:
    """Check every byte of a `model.bin` in memory."""
    container = unseal(memoryview(data).toreadonly(), section_caps(limits), limits)
    for required in ("ir", "labels", "locs", "notes", "params", "weights"):
        container.view(required)
    return ArtifactFile(name, container, _infos(container, limits), limits)


def _mapped(path: str | os.PathLike[str], limits: Limits) -> memoryview:
    """The file's bytes, mapped from one open descriptor."""
    fault("artifact.open")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise UsageError(f"cannot read {clean(path)}: it is not a regular file")
            if not 0 < status.st_size <= limits.file_bytes:
                raise ArtifactError(f"{clean(path)} has {status.st_size} bytes: no model.bin")
            fault("artifact.map")
            flags = mmap.MAP_PRIVATE | getattr(mmap, "MAP_POPULATE", 0)
            return memoryview(mmap.mmap(fd, status.st_size, flags, mmap.PROT_READ))
        finally:
            os.close(fd)
    except (OSError, ValueError) as error:
        if isinstance(error, ArtifactError | UsageError):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            raise ResourceError(f"cannot map {clean(path)}: {why}") from error
        raise UsageError(f"cannot read {clean(path)}: {why}") from error


def _infos(container: Container, limits: Limits) -> tuple[LevelInfo, ...]:
    """What the header says of the levels: each has its two sections, and there are no others."""
    meta = container.meta
    if set(meta) != {"compiler", "levels"} or not isinstance(meta["levels"], dict):
        raise ArtifactError("model.bin is damaged: the header's meta is not {compiler, levels}")
    if not isinstance(meta["compiler"], str):
        raise ArtifactError("model.bin is damaged: the compiler's version is not text")
    infos = tuple(_info(name, value, limits) for name, value in meta["levels"].items())
    named = {f"{part}.{info.name}" for info in infos for part in ("plan", "code")}
    found = {name for name in container.sections if name.startswith(("plan.", "code."))}
    if named != found:
        differ = clean(", ".join(sorted(named ^ found)))
        raise ArtifactError(f"model.bin is damaged: levels and sections differ: {differ}")
    codes = [name for name in container.sections if name.startswith(f"{gpu_json.SECTION}.")]
    if codes and gpu_json.SECTION not in container.sections:
        raise ArtifactError("model.bin is damaged: GPU code without GPU kernels")
    if (_count_parts(container) > 0) != (HOSTS in meta["levels"]):
        raise ArtifactError("model.bin is damaged: a net on several hosts has parts, others none")
    return infos


def _count_parts(container: Container) -> int:
    """How many parts a file has; they are numbered from 0 without gaps."""
    named = {name for name in container.sections if name.startswith(PART)}
    if named != {f"{PART}{number}" for number in range(len(named))}:
        raise ArtifactError("model.bin is damaged: the numbers of its parts have gaps")
    return len(named)


def _info(name: str, value: Any, limits: Limits) -> LevelInfo:
    known = name in LEVELS and isinstance(value, dict)
    if not known or set(value) != {"abi", "features", "tuning"}:
        raise ArtifactError(f"model.bin is damaged: level {clean(name)} is not one")
    features, abi, tuning = value["features"], value["abi"], value["tuning"]
    if not isinstance(features, list) or len(features) > limits.features:
        raise ArtifactError(f"model.bin is damaged: the features of {name} are not a list")
    if not all(isinstance(text, str) for text in (*features, tuning)) or type(abi) is not int:
        raise ArtifactError(f"model.bin is damaged: level {name} has parts of wrong types")
    return LevelInfo(name=name, features=frozenset(features), abi=abi, tuning=tuning)
