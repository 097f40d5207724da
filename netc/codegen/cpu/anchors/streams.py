"""One operand along one row: vectors in, vectors out, in the way its strides ask for.

A row of a row-major space runs over elements; a row of a blocked space over pixels of eight
channels, which makes eight elements of each. Modes:

    c   one element after the other
    0   one value for the whole row
    8   eight channel values, the same for every pixel
    p   one value a pixel, the same for its eight channels
    s   elements at a stride
    b   pixels at a stride, each eight elements side by side
    x   pixels at a stride and channels at another
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from netc.codegen.cpu.anchors.access import Access
from netc.codegen.cpu.anchors.formula import ELEMENTS
from netc.codegen.cpu.emit import Function, Int, Val, vec
from netc.codegen.cpu.stored import narrow, size_of, widen
from netc.codegen.operand import BLOCK
from netc.ir.types import DType


@dataclass(frozen=True)
class Port:
    """How an operand is walked, as far as code depends on it."""

    mode: str
    dtype: DType
    axes: int  # outer axes
    whole: bool = True
    unit: bool = False  # mode x: pixels lie one after the other
    element: str = ""  # how floats are stored

    @property
    def slots(self) -> int:
        """Argument slots it takes: address, outer strides, inner stride, lane stride."""
        return self.axes + 3

    @property
    def item(self) -> int:
        """Bytes of one element."""
        return size_of(self.dtype, self.element)

    @property
    def is_whole_float(self) -> bool:
        """Whether elements are float32 in all their bits."""
        return self.dtype is DType.F32 and not self.element


def plain_port(a: Access) -> Port:
    """The port of an operand over a row-major space."""
    inner = a.strides[-1]
    mode = "c" if inner == 1 else "0" if inner == 0 else "s"
    return Port(mode, a.dtype, len(a.strides) - 1, element=a.element)


def blocked_port(a: Access) -> Port:
    """The port of an operand over a blocked space."""
    inner = a.strides[-1]
    if a.lane == 0:
        mode = "0" if inner == 0 else "p"
    elif inner == 0:
        mode = "8"
    else:
        side_by_side = "c" if inner == BLOCK else "b"
        mode = side_by_side if a.lane == 1 and a.whole else "x"
    contiguous = a.lane == 1 and a.whole
    return Port(mode, a.dtype, len(a.strides) - 1, contiguous, inner == 1, a.element)


class Stream:
    """A port with the addresses of one row; `left` is how many channels exist from lane 0 on."""

    def __init__(
        self, f: Function, port: Port, base: Val, steps: tuple[Val, Val], left: Val | None = None
    ) -> None:
        self.f, self.port, self.base, self.left = f, port, base, left
        self.step, self.lane = steps
        self.element = "i16" if port.element else ELEMENTS[port.dtype]
        self.size = port.item
        self._held: Val | None = None
        if port.mode == "0":
            self._held = self._value(f.load(self.element, base, self.size))
        elif port.mode == "8":
            self._held = self._value(self._channels(base))

    def channel_bases(self, base: Val) -> list[Val]:
        """Addresses of the eight channels of a pixel; those that do not exist are the last one."""
        f, out = self.f, [base]
        for c in range(1, BLOCK):
            last = f.sub(self.left, 1) if self.left is not None else None
            channel = f.smin(last, c) if last is not None else f.const(c)
            out.append(f.gep(base, f.mul(channel, self.lane)))
        return out

    def _channels(self, base: Val) -> Val:
        """The eight channels of one pixel."""
        f = self.f
        if self.port.whole:
            return f.load(vec(BLOCK, self.element), base, self.size)
        return gathered(f, self.element, self.channel_bases(base), self.size)

    def _value(self, bits: Val) -> Val:
        """What is stored in these bits."""
        return widen(self.f, bits) if self.port.element else bits

    def load(self, at: Val, lanes: int, extra: int = 0) -> Val:
        """`lanes` elements from element `at + extra` of the row on."""
        f = self.f
        if self._held is None:
            return self._value(self._bits(at, lanes, extra))
        if self.port.mode == "0":
            return f.splat(self._held, lanes)
        return f.shuffle(self._held, self._held, [(extra + i) % BLOCK for i in range(lanes)])

    def _bits(self, at: Val, lanes: int, extra: int) -> Val:
        """The same as they are stored."""
        f, mode = self.f, self.port.mode
        if mode == "c":
            return f.load(vec(lanes, self.element), self._at(at, extra), self.size)
        if mode == "p":
            return self._per_pixel(at, lanes, extra)
        if mode == "s":
            places = [f.mul(f.add(at, extra + i), self.step) for i in range(lanes)]
            return gathered(f, self.element, [f.gep(self.base, p) for p in places], self.size)
        if mode == "b":
            places = self._blocks(at, lanes, extra)
            parts = [f.load(vec(min(lanes, BLOCK), self.element), p, self.size) for p in places]
            return parts[0] if len(parts) == 1 else f.shuffle(parts[0], parts[1], range(lanes))
        return self._pixels(at, lanes, extra)

    def masked(self, at: Val, mask: Val) -> Val:
        """The float32 elements under the mask, from element `at` on; modes c and 0."""
        if self._held is not None:
            return self.f.splat(self._held, mask.lanes)
        return self.f.masked_load(self._at(at, 0), mask, vec(mask.lanes))

    def store(self, value: Val, at: Val, extra: int = 0) -> None:
        """Elements from `at + extra` of the row on."""
        f, lanes = self.f, value.lanes
        value = narrow(f, value) if self.port.element else value
        if self.port.mode == "c":
            f.store(value, self._at(at, extra), self.size)
            return
        if self.port.mode == "s":
            for i in range(lanes):
                place = f.gep(self.base, f.mul(f.add(at, extra + i), self.step))
                f.store(f.extract(value, i), place, self.size)
            return
        if self.port.mode == "b":
            for i, place in enumerate(self._blocks(at, lanes, extra)):
                first = i * BLOCK
                whole = lanes <= BLOCK
                part = value if whole else f.shuffle(value, value, range(first, first + BLOCK))
                f.store(part, place, self.size)
            return
        for begin in range(0, lanes, BLOCK):
            number, first = divmod(extra + begin, BLOCK)
            pixel = f.gep(self.base, f.mul(f.add(f.ashr(at, 3), number), self.step))
            bases = self.channel_bases(pixel)[first:]
            for i in reversed(range(min(BLOCK, lanes))):  # the last one that exists is last
                f.store(f.extract(value, begin + i), bases[i], self.size)

    def masked_store(self, value: Val, at: Val, mask: Val) -> None:
        """The elements under the mask; mode c."""
        self.f.masked_store(value, self._at(at, 0), mask)

    def get(self, at: Val, lanes: int, mask: Val | None) -> Val:
        """Elements from `at` on, those under a mask where there is one."""
        return self.load(at, lanes) if mask is None else self.masked(at, mask)

    def put(self, value: Val, at: Val, mask: Val | None) -> None:
        """The same, stored."""
        if mask is None:
            self.store(value, at)
        else:
            self.masked_store(value, at, mask)

    def _at(self, at: Val, extra: int) -> Val:
        return self.f.gep(self.f.gep(self.base, at, self.size), extra * self.size)

    def _blocks(self, at: Val, lanes: int, extra: int) -> list[Val]:
        """Where the pixels of `lanes` elements from `at + extra` on begin, or the part of one."""
        f, pixel = self.f, self.f.ashr(at, 3)
        count = max(1, lanes // BLOCK)
        steps = [f.mul(f.add(pixel, extra // BLOCK + i), self.step) for i in range(count)]
        return [f.gep(f.gep(self.base, s), extra % BLOCK * self.size) for s in steps]

    def _per_pixel(self, at: Val, lanes: int, extra: int) -> Val:
        f = self.f
        count = max(1, lanes // BLOCK)
        pixel = f.ashr(at, 3)
        places = [
            f.gep(self.base, f.mul(f.add(pixel, extra // BLOCK + i), self.step))
            for i in range(count)
        ]
        values = gathered(f, self.element, places, self.size)
        if count == 1:
            return f.splat(values, lanes)
        return f.shuffle(values, values, [i // BLOCK for i in range(lanes)])

    def _pixels(self, at: Val, lanes: int, extra: int) -> Val:
        f = self.f
        first, count = extra // BLOCK, max(1, lanes // BLOCK)
        places: list[Val] = []
        for i in range(count):
            pixel = f.add(f.ashr(at, 3), first + i)
            bases = self.channel_bases(f.gep(self.base, f.mul(pixel, self.step)))
            start = extra % BLOCK
            places += bases[start : start + min(lanes, BLOCK)]
        return gathered(f, self.element, places, self.size)


def gathered(f: Function, element: str, places: Sequence[Val], align: int) -> Val:
    """A vector of scalars from anywhere; a scalar for one place."""
    values = [f.load(element, p, align) for p in places]
    if len(values) == 1:
        return values[0]
    out = Val(vec(len(values), element), "poison")
    for i, v in enumerate(values):
        out = f.insert(out, v, i)
    return out


class Ports:
    """Several operands in an argument block, and their streams along a row."""

    def __init__(self, f: Function, ports: Sequence[Port], first: int) -> None:
        self.f, self.ports = f, ports
        self.bases: list[Val] = []
        self.outer: list[list[Val]] = []
        self.steps: list[tuple[Val, Val]] = []
        for port in ports:
            self.bases.append(f.slot(f.args[0], first, "ptr"))
            rest = [f.slot(f.args[0], first + 1 + i) for i in range(port.axes + 2)]
            self.outer.append(rest[: port.axes])
            self.steps.append((rest[-2], rest[-1]))
            first += port.slots
        self.end = first

    def row(self, index: int, indices: Sequence[Int], start: Int = 0) -> tuple[Port, Val]:
        """A port and the address where its row begins, `start` steps in."""
        f, base = self.f, self.bases[index]
        strides = [*self.outer[index], self.steps[index][0]]
        for i, s in zip([*indices, start], strides, strict=True):
            if not (isinstance(i, int) and i == 0):
                base = f.gep(base, f.mul(s, i))
        return self.ports[index], base

    def streams(
        self, indices: Sequence[Int], start: Int = 0, left: Val | None = None
    ) -> list[Stream]:
        """The streams of one row: `indices` of the outer axes, `start` steps into the inner."""
        out = []
        for i in range(len(self.ports)):
            port, base = self.row(i, indices, start)
            out.append(Stream(self.f, port, base, self.steps[i], None if port.whole else left))
        return out
