"""A plan with steps on GPUs: checked once, then bound to sizes and addresses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netc.errors import ArtifactError, ResourceError, VerifyError, clean
from netc.ir.gpu_code import ALIGNED, MOST_ELEMENTS, GpuImage, GpuKernel
from netc.ir.plan import ALIGN, Buffer, BufferArg, IntArg, Plan, Space, Step, WeightArg
from netc.runtime.driver import Launch, Span
from netc.runtime.flat_plan import FlatPlan, flatten
from netc.runtime.gpu_json import ELEMENTS, NUMBERS
from netc.runtime.layout import Layout, buffer_sizes, named_sizes, place_regions
from netc.runtime.memory import size_text
from netc.runtime.ports import value_of
from netc.runtime.segments import MEMCPY, Segment, cuda_index, cut, is_gpu_step

COUNTERS = ("*i32", "*i64")  # what may be a counter among the weights, which launches change


class GpuPlan:
    """What does not depend on sizes: the pieces of the plan, and the host's part as a plan."""

    def __init__(self, plan: Plan, image: GpuImage, weights: int) -> None:
        self.plan, self.image = flatten(plan), image
        self.steps = self.plan.steps
        self.homes = [cuda_index(buffer.device) for buffer in self.plan.buffers]
        self.devices = tuple(sorted({n for n in self.homes if n is not None} | _used(self.steps)))
        self.first_weight = weights
        self.elements: dict[int, int] = {}  # bytes of the smallest that kernels see in a buffer
        for step in self.steps:
            self._check(step, weights)
        self._check_ports()
        self.segments = cut(self.steps, self.plan.buffers)
        self.groups = _groups(self.steps)
        self.host_steps = [i for i, step in enumerate(self.steps) if not is_gpu_step(step)]
        self.host = self._host_plan() if self.host_steps else None

    def _check(self, step: Step, weights: int) -> None:
        """Refuse a step that names what is not there, or whose arguments do not fit."""
        device = cuda_index(step.device)
        if step.kernel == MEMCPY:
            self._check_copy(step)
        elif device is not None:
            offsets = list(self._offsets(step, self._kernel(step)))
            if any(not 0 <= at <= weights for at in offsets):
                raise ArtifactError("the plan reads beyond the weights")
            self.first_weight = min([self.first_weight, *offsets])

    def _kernel(self, step: Step) -> GpuKernel:
        if step.kernel not in self.image.kernels:
            raise ArtifactError(f"the plan runs {clean(step.kernel)}, which is no GPU kernel")
        return self.image.kernels[step.kernel]

    def _offsets(self, step: Step, kernel: GpuKernel) -> Iterator[int]:
        """The places in the weights that a step uses, its arguments checked on the way."""
        text = kernel.text
        if len(step.args) != text.extents + len(text.params):
            raise _misfit(step, f"has {len(step.args)} arguments")
        for kind, arg in zip(("i64",) * text.extents + text.params, step.args, strict=True):
            match arg:
                case IntArg() if kind in NUMBERS:
                    pass
                case BufferArg(buffer, _) if kind not in NUMBERS:
                    if self.plan.buffers[buffer].device != step.device:
                        raise _misfit(step, f"uses buffer {buffer} of another device")
                    size = ELEMENTS[kind.removeprefix("*")]
                    self.elements[buffer] = min(size, self.elements.get(buffer, size))
                case WeightArg(offset) if kind not in NUMBERS:
                    yield offset
                case _:
                    raise _misfit(step, f"gives a {type(arg).__name__} for a {kind}")

    def _check_copy(self, step: Step) -> None:
        match step.args:
            case (BufferArg(target, _), BufferArg(source, _), IntArg()):
                devices = [self.plan.buffers[b].device for b in (target, source)]
            case _:
                raise _misfit(step, "is no copy")
        if devices[0] != step.device or all(cuda_index(d) is None for d in devices):
            raise _misfit(step, f"copies from {clean(devices[1])} to {clean(devices[0])}")

    def _check_ports(self) -> None:
        plan = self.plan
        for ports, space in ((plan.inputs, Space.INPUT), (plan.outputs, Space.OUTPUT)):
            held = {i for i, buffer in enumerate(plan.buffers) if buffer.space is space}
            if {port.buffer for port in ports} != held:
                raise ArtifactError(f"the plan's {space.value}s and buffers differ")
        for i, buffer in enumerate(plan.buffers):
            if not 0 <= buffer.first <= buffer.last <= max(0, len(self.steps) - 1):
                raise ArtifactError(f"the plan's buffer {i} lives from no step to no step")
        for port in plan.outputs:
            if port.count is not None and plan.buffers[port.count].space is not Space.ARENA:
                raise ArtifactError(f"output {clean(port.name)} has its count outside the arena")

    def _host_plan(self) -> FlatPlan:
        """The host's steps with the host's ports; of buffers elsewhere only the numbers stay."""
        last = len(self.host_steps) - 1
        buffers = tuple(
            replace(b, first=0, last=last) if home is None else Buffer(Space.ARENA, 0, 0, last)
            for b, home in zip(self.plan.buffers, self.homes, strict=True)
        )
        inputs, outputs = (
            tuple(p for p in ports if self.homes[p.buffer] is None)
            for ports in (self.plan.inputs, self.plan.outputs)
        )
        steps = tuple(replace(self.steps[i], waits=()) for i in self.host_steps)
        outputs = tuple(replace(p, count=None) for p in outputs)
        return flatten(Plan(inputs, outputs, buffers, steps, setup=self.plan.setup))

    def layout(self, known: Mapping[str, int]) -> Places:
        """Where buffers lie for these sizes: the host's arena, and an arena of each device."""
        sizes = buffer_sizes(self.plan, known)
        self._check_sizes(sizes, known)
        for i, (size, home) in enumerate(zip(sizes, self.homes, strict=True)):
            most = MOST_ELEMENTS * self.elements.get(i, size)  # any size where no kernel is
            if home is not None and size > most:
                name = named_sizes(self.plan, sizes)[i][0]
                what = f"{name} would have {size_text(size)} on a GPU; a kernel reaches "
                help = "give a smaller batch or image"
                raise ResourceError(what + size_text(most), help=help)
        lives = [self._life(i) for i in range(len(sizes))]
        offsets: dict[int, int] = {}
        arenas: dict[int | None, int] = {}
        for home in (None, *self.devices):
            inside = [i for i, where in enumerate(self.homes) if where == home]
            if home is None:
                inside = [i for i in inside if self.plan.buffers[i].space is Space.ARENA]
            found, total = place_regions(self.plan, inside, sizes, lives)
            offsets |= found
            arenas[home] = max(total, ALIGN) + ALIGN
        return Places(sizes, offsets, arenas)

    def _check_sizes(self, sizes: Sequence[int], known: Mapping[str, int]) -> None:
        """What the caller gives and gets has as many bytes as its buffer."""
        for port in (*self.plan.inputs, *self.plan.outputs):
            size, held = value_of(port.type.count * port.type.dtype.size, known), sizes[port.buffer]
            if size != held:
                what = f"{clean(port.name)} has {size} bytes and its buffer {held}"
                raise ArtifactError(f"the plan is damaged: {what}")

    def _life(self, buffer: int) -> tuple[int, int]:
        """What the caller gives and gets lies on a device for the whole run."""
        b = self.plan.buffers[buffer]
        whole = b.space is not Space.ARENA
        return (0, max(0, len(self.steps) - 1)) if whole else (b.first, b.last)

    def host_layout(self, places: Places) -> Layout:
        """The host's part of it."""
        mine = {i: at for i, at in places.offsets.items() if self.homes[i] is None}
        sizes = [s * (home is None) for s, home in zip(places.sizes, self.homes, strict=True)]
        return Layout(sizes, mine, places.arenas[None])

    def launches(self, segment: Segment, where: Where) -> list[tuple[int, Launch]]:
        """A piece's launches with their steps; those of no programs are left out."""
        made = []
        for i in segment.steps:
            launch = self._launch(i, where)
            variants = self.image.kernels[launch.kernel].text.variants
            if min(v.programs(launch.extents) for v in variants) > 0:
                made.append((i, launch))
        return made

    def _launch(self, index: int, where: Where) -> Launch:
        step = self.steps[index]
        text = self.image.kernels[step.kernel].text
        home = cuda_index(step.device)
        assert home is not None
        values = [where.value(arg, home) for arg in step.args]
        extents, args = values[: text.extents], values[text.extents :]
        for place in text.aligned:
            if args[place] % ALIGNED:
                raise VerifyError(f"{_said(step)}: argument {place} is no multiple of {ALIGNED}")
        for kind, value in zip(text.params, args, strict=True):
            if kind == "i32" and not -(1 << 31) <= value < 1 << 31:
                raise ResourceError(f"{_said(step)}: {value} exceeds 32 bits",
                                    help="give a smaller batch or image")  # fmt: skip
        if any(e < 0 for e in extents):
            raise VerifyError(f"{_said(step)}: extents {extents}")
        reads = [where.span(b) for b in step.reads]
        writes = [where.span(b) for b in step.writes]
        counters = [
            value
            for kind, arg, value in zip(text.params, step.args[text.extents :], args, strict=True)
            if isinstance(arg, WeightArg) and kind in COUNTERS
        ]
        return Launch(
            kernel=step.kernel,
            extents=tuple(extents),
            args=tuple(args),
            reads=tuple(reads),
            writes=tuple(writes),
            alone=tuple(counters),
            group=self.groups[index],
            label=step.name,
        )

    def copies(
        self, segment: Segment, known: Mapping[str, int], sizes: Sequence[int]
    ) -> list[Copy]:
        """A piece's copies that move something, each within its buffers."""
        made = []
        for i in segment.steps:
            target, source, size = self.steps[i].args
            assert isinstance(target, BufferArg)
            assert isinstance(source, BufferArg)
            assert isinstance(size, IntArg)
            to, start, count = (
                value_of(d, known) for d in (target.offset, source.offset, size.value)
            )
            for buffer, at in ((target.buffer, to), (source.buffer, start)):
                if min(at, count) < 0 or at + count > sizes[buffer]:
                    raise VerifyError(f"{_said(self.steps[i])}: {count} bytes at {at} of {buffer}")
            if count:
                made.append(Copy(i, target.buffer, to, source.buffer, start, count))
        return made


@dataclass(frozen=True)
class Places:
    """Sizes of all buffers, offsets of those in an arena, and the arenas' lengths."""

    sizes: list[int]
    offsets: dict[int, int]
    arenas: dict[int | None, int]  # by device, the host's under None


@dataclass(frozen=True)
class Copy:
    """Bytes from one buffer to another."""

    step: int
    target: int
    target_offset: int
    source: int
    source_offset: int
    size: int


@dataclass(frozen=True)
class Where:
    """What arguments stand for: addresses of buffers and, per device, of the weights."""

    known: Mapping[str, int]
    buffers: Mapping[int, int]
    weights: Mapping[int, int]  # of the section's first byte, whether it is there or not
    sizes: Sequence[int]

    def value(self, arg: object, home: int) -> int:
        """An address or a number."""
        match arg:
            case BufferArg(buffer, offset):
                return self.buffers[buffer] + value_of(offset, self.known)
            case WeightArg(at):
                return self.weights[home] + at
            case IntArg(number):
                return value_of(number, self.known)
        raise AssertionError(arg)

    def span(self, buffer: int) -> Span:
        """The bytes of a buffer."""
        start = self.buffers[buffer]
        return start, start + self.sizes[buffer]


def _used(steps: Sequence[Step]) -> set[int]:
    found = {cuda_index(step.device) for step in steps}
    return {n for n in found if n is not None}


def _groups(steps: Sequence[Step]) -> list[int]:
    """Steps of one queue without a barrier between them, which do not depend on each other."""
    number: dict[tuple[str, str], int] = {}
    groups, fresh = [], 0
    for step in steps:
        queue = step.device, step.stream
        if queue not in number:
            number[queue], fresh = fresh, fresh + 1
        groups.append(number[queue])
        if step.barrier:
            del number[queue]
    return groups


def _said(step: Step) -> str:
    return f"{clean(step.name)} ({clean(step.op)}) on {clean(step.device)}"


def _misfit(step: Step, why: str) -> ArtifactError:
    return ArtifactError(f"the plan's step {_said(step)} {why}")
