"""A linker of one page: an ELF object becomes one flat, position-independent image.

Kernels call nothing outside their module, so every relocation is relative and can be settled
here; what is left is bytes that run at any page-aligned address, and where each symbol begins.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from netc.errors import VerifyError

PAGE = 4096
_PROGBITS, _SYMTAB, _RELA, _NOBITS = 1, 2, 4, 8
_WRITE, _ALLOC = 1, 2
_MACHINES = {62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True)
class Image:
    """Code and constants, and the offset of every kernel in them."""

    code: bytes
    symbols: dict[str, int]


@dataclass(frozen=True)
class _Section:
    index: int
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int
    is_global: bool


@dataclass(frozen=True)
class _Object:
    """One ELF object: its sections, where the loaded ones begin in the image, its symbols."""

    elf: bytes
    sections: list[_Section]
    bases: dict[int, int]
    symbols: list[_Symbol]

    def exported(self) -> dict[str, int]:
        """Its global symbols by name."""
        own = (s for s in self.symbols if s.is_global and s.section in self.bases)
        return {s.name: self.bases[s.section] + s.value for s in own}


def link(*elves: bytes) -> Image:
    """Lay the loaded sections of some objects end to end and settle their relocations."""
    machine = _machine_of(elves[0])
    code = bytearray()
    objects = []
    for elf in elves:
        sections = list(_sections(elf))
        bases = _lay_out(elf, sections, code)
        objects.append(_Object(elf, sections, bases, _symbols(elf, sections)))
    exported = {name: at for o in objects for name, at in o.exported().items()}
    for o in objects:
        for table in o.sections:
            if table.type == _RELA and table.info in o.bases:
                _relocate(o, code, table, exported, machine)
    return Image(bytes(code), exported)


def _machine_of(elf: bytes) -> str:
    if elf[:6] != b"\x7fELF\x02\x01":
        raise VerifyError("the object is not 64-bit little-endian ELF")
    number = struct.unpack_from("<H", elf, 18)[0]
    if number not in _MACHINES:
        raise VerifyError(f"no linker for ELF machine {number}")
    return _MACHINES[number]


def _text(elf: bytes, start: int) -> str:
    return elf[start : elf.index(b"\0", start)].decode()


def _sections(elf: bytes) -> Iterator[_Section]:
    table = struct.unpack_from("<Q", elf, 40)[0]
    size, count, names_at = struct.unpack_from("<HHH", elf, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", elf, table + i * size) for i in range(count)]
    strings = rows[names_at][4]
    for index, (name, type, flags, _, offset, length, link_, info, align, _) in enumerate(rows):
        title = _text(elf, strings + name)
        yield _Section(index, title, type, flags, offset, length, link_, info, max(1, align))


def _lay_out(elf: bytes, sections: list[_Section], code: bytearray) -> dict[int, int]:
    bases: dict[int, int] = {}
    for s in sections:
        if not s.flags & _ALLOC or not s.size or s.name.startswith((".eh_frame", ".note")):
            continue
        if s.flags & _WRITE or s.type == _NOBITS:
            raise VerifyError(f"section {s.name} is writable; an image has no data of its own")
        code.extend(bytes(-len(code) % s.align))
        bases[s.index] = len(code)
        code += elf[s.offset : s.offset + s.size]
    code.extend(bytes(-len(code) % PAGE))
    return bases


def _symbols(elf: bytes, sections: list[_Section]) -> list[_Symbol]:
    found = []
    for table in (s for s in sections if s.type == _SYMTAB):
        strings = sections[table.link].offset
        for at in range(table.offset, table.offset + table.size, 24):
            name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", elf, at)
            found.append(_Symbol(_text(elf, strings + name), section, value, info >> 4 == 1))
    return found


def _relocate(
    o: _Object, code: bytearray, table: _Section, exported: dict[str, int], machine: str
) -> None:
    settle = _RELOCATIONS[machine]
    for at in range(table.offset, table.offset + table.size, 24):
        offset, info, addend = struct.unpack_from("<QQq", o.elf, at)
        symbol, kind = o.symbols[info >> 32], info & 0xFFFFFFFF
        if kind not in settle:
            raise VerifyError(f"unknown {machine} relocation {kind} against {symbol.name}")
        place = o.bases[table.info] + offset
        settle[kind](code, place, _address(o, symbol, exported) + addend)


def _address(o: _Object, symbol: _Symbol, exported: dict[str, int]) -> int:
    """Where a symbol is in the image: in its own object, or exported by another."""
    if symbol.section in o.bases:
        return o.bases[symbol.section] + symbol.value
    if symbol.section == 0 and symbol.name in exported:
        return exported[symbol.name]
    raise VerifyError(f"kernel code refers to {symbol.name or '?'}, which is nowhere")


def _put(code: bytearray, place: int, mask: int, bits: int) -> None:
    word = struct.unpack_from("<I", code, place)[0]
    struct.pack_into("<I", code, place, (word & ~mask & 0xFFFFFFFF) | (bits & mask))


def _relative32(code: bytearray, place: int, target: int) -> None:
    struct.pack_into("<i", code, place, target - place)


def _branch26(code: bytearray, place: int, target: int) -> None:
    _put(code, place, 0x03FFFFFF, (target - place) >> 2)


def _put_adr(code: bytearray, place: int, value: int) -> None:
    _put(code, place, 0x60FFFFE0, (value & 3) << 29 | (value >> 2 & 0x7FFFF) << 5)


def _adr(code: bytearray, place: int, target: int) -> None:
    _put_adr(code, place, target - place)


def _adrp(code: bytearray, place: int, target: int) -> None:
    _put_adr(code, place, (target >> 12) - (place >> 12))


def _low12(shift: int) -> Callable[[bytearray, int, int], None]:
    def settle(code: bytearray, place: int, target: int) -> None:
        _put(code, place, 0x003FFC00, (target & 0xFFF) >> shift << 10)

    return settle


# ELF x86-64 psABI table 4.9; ELF for the Arm 64-bit architecture, section 5.7.
_RELOCATIONS: dict[str, dict[int, Callable[[bytearray, int, int], None]]] = {
    "x86_64": {2: _relative32, 4: _relative32},
    "aarch64": {
        261: _relative32,
        274: _adr,
        275: _adrp,
        277: _low12(0),
        278: _low12(0),
        282: _branch26,
        283: _branch26,
        284: _low12(1),
        285: _low12(2),
        286: _low12(3),
        299: _low12(4),
    },
}
