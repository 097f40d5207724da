"""What a cubin says of itself: its architecture, its kernels, and what a thread of each needs.

A cubin is a 64-bit ELF file. Each kernel is a function symbol in a section `.text.<name>`;
`.nv.info` is a list of attributes, of which three per kernel matter here:

    register count · frame size · least stack      (u8 form, u8 attribute, u16 size or value)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from netc.errors import ArtifactError, clean

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")  # Elf64_Ehdr
_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_MAGIC = b"\x7fELF\x02\x01\x01"  # 64 bits, little endian, version 1
_EM_CUDA = 190
_SYMTAB, _NOBITS, _FUNCTION = 2, 8, 2
_NAME = 512  # bytes; no name of a kernel or a section is longer
_SIZED = 4  # the form of an attribute whose u16 is a size; in other forms it is the value
_REGISTERS, _FRAME, _STACK = 0x2F, 0x11, 0x12


@dataclass(frozen=True)
class Needs:
    """What one thread of a kernel takes."""

    registers: int = 0
    local: int = 0  # bytes of spills and stack


@dataclass(frozen=True)
class Cubin:
    """An architecture (90 is sm_90) and the kernels with their needs, by name."""

    arch: int
    kernels: Mapping[str, Needs]


def read_cubin(blob: bytes | memoryview) -> Cubin:
    """The facts of a cubin; an `ArtifactError` where the bytes are not one."""
    try:
        return _read(memoryview(blob).cast("B"))
    except (struct.error, OverflowError, UnicodeDecodeError) as error:
        raise ArtifactError("the GPU code is damaged: not a whole cubin") from error


def check_cubin(blob: bytes | memoryview, arch: str, entry: str) -> Needs:
    """The needs of kernel `entry` of a cubin for `arch` ("sm_90"), or an `ArtifactError`."""
    cubin = read_cubin(blob)
    if f"sm_{cubin.arch}" != arch:
        raise ArtifactError(f"the GPU code is for sm_{cubin.arch}, not for {clean(arch)}")
    if entry not in cubin.kernels:
        raise ArtifactError(f"the GPU code has no kernel {clean(entry)}")
    return cubin.kernels[entry]


def _read(data: memoryview) -> Cubin:
    ident, _, machine, _, _, _, table, flags, *rest = _HEADER.unpack_from(data)
    width, count, names_at = rest[3:]
    if not ident.startswith(_MAGIC) or machine != _EM_CUDA or width != _SECTION.size:
        raise ArtifactError("the GPU code is not a cubin")
    sections = [
        _Section(data, *_SECTION.unpack_from(data, table + i * width)) for i in range(count)
    ]
    if names_at >= count:
        raise ArtifactError("the GPU code is damaged: its sections have no names")
    names = sections[names_at].bytes()
    named = {s.label(names): s for s in sections}
    symbols = [section for section in sections if section.kind == _SYMTAB]
    if len(symbols) > 1:  # several that overlap would take long to read
        raise ArtifactError("the GPU code is damaged: it has more than one table of symbols")
    functions = {
        index: name
        for section in symbols
        for index, name in _functions(section, sections)
        if f".text.{name}" in named
    }
    info = named.get(".nv.info")
    facts = dict(_attributes(info.bytes())) if info else {}
    needs = {name: _needs(facts, index) for index, name in functions.items()}
    # ABI version 7 has the architecture in bits 0…7 of the flags, version 8 in bits 8…15
    return Cubin(flags & 0xFF if ident[8] < 8 else flags >> 8 & 0xFF, needs)


@dataclass(frozen=True)
class _Section:
    """A section header, in the order of its fields."""

    data: memoryview
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int

    def bytes(self) -> memoryview:
        """What the section holds in the file."""
        if self.kind == _NOBITS:
            return self.data[:0]
        if self.offset + self.size > len(self.data):
            raise ArtifactError("the GPU code is damaged: a section ends beyond the file")
        return self.data[self.offset : self.offset + self.size]

    def label(self, names: memoryview) -> str:
        """The section's name."""
        self.bytes()  # that it is whole
        return _text(names, self.name)


def _text(table: memoryview, offset: int) -> str:
    return table[offset : offset + _NAME].tobytes().split(b"\0", 1)[0].decode("ascii")


def _functions(symbols: _Section, sections: list[_Section]) -> Iterator[tuple[int, str]]:
    """Index and name of each function of a table of symbols."""
    if symbols.link >= len(sections):
        raise ArtifactError("the GPU code is damaged: its symbols have no names")
    names, table = sections[symbols.link].bytes(), symbols.bytes()
    for index in range(len(table) // _SYMBOL.size):
        name, kind, _, where, _, _ = _SYMBOL.unpack_from(table, index * _SYMBOL.size)
        if kind & 0xF == _FUNCTION and where:
            yield index, _text(names, name)


def _attributes(info: memoryview) -> Iterator[tuple[tuple[int, int], int]]:
    """(attribute, symbol) and the value, of the attributes that have both."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form != _SIZED:
            continue
        if size == 8:
            symbol, value = struct.unpack_from("<II", info, at)
            yield (attribute, symbol), value
        at += size


def _needs(facts: Mapping[tuple[int, int], int], symbol: int) -> Needs:
    local = max(facts.get((_FRAME, symbol), 0), facts.get((_STACK, symbol), 0))
    return Needs(facts.get((_REGISTERS, symbol), 0), local)
