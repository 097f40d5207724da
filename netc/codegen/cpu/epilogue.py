"""Epilogues: what one fused body makes of the sums of a matrix kernel, and where it goes.

A panel's sixteen channels lie in two planes of eight, whose addresses differ by one stride; rows
of an inner product are planes of eight floats side by side. The usual loop does a whole panel a
pixel; where only the first half of the last panel exists, another does eight channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from netc.codegen.cpu.emit import Function, Int, Module, Val, vec
from netc.codegen.cpu.microkernel import PANEL_ROW
from netc.codegen.cpu.stored import read, size_of, write
from netc.ir.gemm_plan import BLOCK, PANEL, Slot
from netc.ir.types import DType

Body = Callable[[Function, Val, Sequence[Val], Sequence[Val]], Val]

# args, scratch, first pixel, pixels, panel, panels, first image, group
PARAMS = ("ptr", "ptr", "i64", "i64", "i64", "i64", "i64", "i64")
_PIXEL_SLOTS = 5
_SCALE_SLOTS = 2  # [image][group][scale, −zero][16], and the i32 offset of each pixel's
SCALES = 2 * PANEL_ROW  # bytes of those of a group of an image


@dataclass(frozen=True)
class Epilogue:
    """What becomes of sums: `body(f, sums, channel operands, pixel operands)` on some lanes.

    `padded`: the channels of a group are no multiple of eight, so lanes beyond them are stored
    as zero. `rows`: the output is plain rows, where lanes beyond the channels are not touched.
    `scaled`: sums are integers. Less the byte that is 0 in the image times the sum of the channel's
    weights, each is worth the image's scale times the channel's; scale and sum of the channel are
    before its operands.
    `element` says how the output is stored, `pixels` how each operand of pixels is.
    """

    body: Body
    channels: int = 0
    pixels: tuple[str, ...] = ()
    padded: bool = True
    rows: bool = False
    scaled: bool = False
    element: str = ""

    @property
    def vectors(self) -> int:
        """How many things vary by channel."""
        return self.channels + 2 * self.scaled

    @property
    def first_pixels(self) -> int:
        """The slot of the first pixel operand; before it those of the images' scales."""
        return Slot.OPERANDS + self.vectors + _SCALE_SLOTS * self.scaled

    def slots(self) -> int:
        """Eight-byte slots of the whole argument block."""
        return self.first_pixels + _PIXEL_SLOTS * len(self.pixels)


class Slots:
    """Reads of one argument block."""

    def __init__(self, f: Function, args: Val) -> None:
        self.f, self.args = f, args

    def size(self, slot: int) -> Val:
        """A size or a stride."""
        return self.f.slot(self.args, slot)

    def ptr(self, slot: int) -> Val:
        """An address."""
        return self.f.slot(self.args, slot, "ptr")


def emit_epilogue(module: Module, epilogue: Epilogue) -> Function:
    """Panel by panel, pixel by pixel: sums and operands in, outputs out."""
    f = module.function(f"e{len(module.functions)}", PARAMS, internal=True)
    _, _, _, _, panel, panels, _, _ = f.args
    limit = f.slot(f.args[0], Slot.OUT_CHANNELS)
    with f.loop(0, panels) as turn:
        start = f.mul(f.add(panel, turn.index), PANEL)
        left = f.sub(limit, start)
        sums = f.gep(f.args[1], turn.index, PANEL_ROW)
        with f.if_(f.icmp("sgt", left, BLOCK)) as whole:
            _channels(f, epilogue, PANEL, start, left, sums)
            whole.otherwise()
            _channels(f, epilogue, BLOCK, start, left, sums)
    f.ret()
    return f


def _channels(
    f: Function, epilogue: Epilogue, width: int, start: Val, left: Val, sums: Val
) -> None:
    """All pixels of `width` channels from `start` of a group."""
    args, _, p0, pixels, _, panels, first, group = f.args
    slots = Slots(f, args)
    after = epilogue.first_pixels
    rows = [Slot.OUTPUT, *(after + _PIXEL_SLOTS * i for i in range(len(epilogue.pixels)))]
    places = [
        _Place(slots, row, (first, group, start), p0, element)
        for row, element in zip(rows, (epilogue.element, *epilogue.pixels), strict=True)
    ]
    lanes = _Lanes(f, epilogue, width, left)
    packed = f.add(f.mul(slots.size(Slot.PANELS), f.mul(group, PANEL)), start)
    constants = [
        lanes.read_packed(f.gep(slots.ptr(Slot.OPERANDS + i), packed, 4))
        for i in range(epilogue.vectors)
    ]
    pitch = f.mul(panels, PANEL_ROW)
    with f.loop(0, pixels) as pixel:
        acc = lanes.read_packed(f.gep(sums, f.mul(pixel.index, pitch)))
        if epilogue.scaled:
            scales = _scales(slots, after - _SCALE_SLOTS, (first, group), f.add(p0, pixel.index))
            acc = lanes.scaled(acc, scales, constants)
        output, *operands = [(place.planes(pixel.index), place.element) for place in places]
        read = [lanes.read(*operand) for operand in operands]
        for part, value in enumerate(acc):
            constant = [c[part] for c in constants[2 * epilogue.scaled :]]
            result = epilogue.body(f, value, constant, [r[part] for r in read])
            lanes.write(part, result, *output)


def _scales(slots: Slots, at: int, start: tuple[Val, Val], pixel: Val) -> Val:
    """Where the scales of a pixel's image lie, for a group; `pixel` counts from `start` on."""
    f = slots.f
    image, group = start
    place = f.add(f.mul(image, slots.size(Slot.GROUPS)), group)
    base = f.gep(slots.ptr(at), place, SCALES)
    return f.gep(base, f.sext(f.load("i32", f.gep(slots.ptr(at + 1), pixel, 4))))


class _Place:
    """Where a block's pixels lie in one tensor, from an image, a group and its channel on."""

    def __init__(
        self, slots: Slots, at: int, start: tuple[Val, Val, Val], p0: Val, element: str
    ) -> None:
        f = self.f = slots.f
        self.element, self.item = element, size_of(DType.F32, element)
        image, group, channel = start
        plane = slots.size(at + 3)
        shift = f.add(f.mul(image, slots.size(at + 2)), f.mul(group, slots.size(at + 4)))
        shift = f.add(shift, f.mul(f.lshr(channel, 3), plane))
        self.base = f.gep(slots.ptr(at), shift, self.item)
        self.offsets = f.gep(slots.ptr(at + 1), p0, 4)
        self.plane = f.mul(plane, self.item)

    def planes(self, index: Val) -> tuple[Val, Val]:
        """The addresses of pixel `index` of the block in two planes."""
        f = self.f
        offset = f.sext(f.load("i32", f.gep(self.offsets, index, 4)))
        lower = f.gep(self.base, offset, self.item)
        return lower, f.gep(lower, self.plane)


class _Lanes:
    """Some channels as vectors of the target; memory sees pieces of at most eight."""

    def __init__(self, f: Function, epilogue: Epilogue, width: int, left: Val) -> None:
        self.f, self.epilogue = f, epilogue
        self.lanes = min(width, f.target.lanes)
        self.piece = min(BLOCK, self.lanes)
        self.type = vec(self.lanes)
        self.starts = range(0, width, self.lanes)
        self.left = left

    def _mask(self, start: Int, lanes: int) -> Val:
        return self.f.lane_mask(self.f.sub(self.left, start), lanes)

    def _address(self, planes: tuple[Val, Val], channel: int, element: str) -> Val:
        item = size_of(DType.F32, element)
        return self.f.gep(planes[channel // BLOCK], item * (channel % BLOCK))

    def read_packed(self, base: Val) -> list[Val]:
        """Channels side by side, all of them there."""
        return [self.f.load(self.type, self.f.gep(base, 4 * start)) for start in self.starts]

    def scaled(self, sums: list[Val], scales: Val, channel: list[list[Val]]) -> list[Val]:
        """Integers as the floats they stand for."""
        f, out = self.f, []
        whole = vec(self.lanes, "i32")
        scale = f.load(self.type, scales)
        zero = f.load(whole, f.gep(scales, PANEL_ROW))  # its negative
        for value, weight, total in zip(sums, *channel[:2], strict=True):
            number, sum = (f.cast("bitcast", v, whole) for v in (value, total))
            number = f.cast("sitofp", f.add(number, f.mul(zero, sum)), self.type)
            out.append(f.fmul(number, f.fmul(scale, weight)))
        return out

    def read(self, planes: tuple[Val, Val], element: str) -> list[Val]:
        """Channels in planes; in rows, only those that exist are touched."""
        return [self._vector(planes, start, element) for start in self.starts]

    def _vector(self, planes: tuple[Val, Val], start: int, element: str) -> Val:
        f, type = self.f, vec(self.piece)
        pieces = []
        for channel in range(start, start + self.lanes, self.piece):
            address = self._address(planes, channel, element)
            if self.epilogue.rows and self.epilogue.padded:
                pieces.append(f.masked_load(address, self._mask(channel, self.piece), type))
            else:
                pieces.append(read(f, address, self.piece, element))
        return pieces[0] if len(pieces) == 1 else f.shuffle(pieces[0], pieces[1], range(self.lanes))

    def write(self, part: int, value: Val, planes: tuple[Val, Val], element: str) -> None:
        """Existing lanes, and zeros beyond them where the layout has room."""
        f, start, rows = self.f, self.starts[part], self.epilogue.rows
        if self.epilogue.padded and not rows:
            mask = self._mask(start, self.lanes)
            value = f.select(mask, value, f.f32(0.0, self.lanes))
        for first in range(0, self.lanes, self.piece):
            address = self._address(planes, start + first, element)
            piece = value
            if self.piece < self.lanes:
                piece = f.shuffle(value, value, range(first, first + self.piece))
            if self.epilogue.padded and rows:
                f.masked_store(piece, address, self._mask(start + first, self.piece))
            else:
                write(f, piece, address, element)
