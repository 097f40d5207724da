"""Reading cubins: a synthetic one of either layout, damaged ones, and real ones by Triton."""

from __future__ import annotations

import random
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from netc.errors import ArtifactError
from netc.ir.cubin import Needs, check_cubin, read_cubin
from tests.codegen.triton.texts import ARCHS, compile_all, job, matmul

NAMES = b"\0.names\0.symtab\0.nv.info\0.text.kernel\0kernel\0"


def cubin(flags: int, abi: int) -> bytes:
    """A kernel with 42 registers, a frame of 8 bytes and a stack of 16."""
    facts = [(0x2F, 42), (0x11, 8), (0x12, 16)]
    info = struct.pack("<BBH", 3, 0x50, 7) + b"".join(
        struct.pack("<BBHII", 4, attribute, 8, 1, value) for attribute, value in facts
    )
    symbols = bytes(24) + struct.pack("<IBBHQQ", NAMES.index(b"kernel\0", 30), 0x12, 0, 4, 0, 64)
    parts = [(b".names", 3, NAMES, 0), (b".symtab", 2, symbols, 1)]
    parts += [(b".nv.info", 1, info, 0), (b".text.kernel", 1, bytes(64), 0)]
    body, table = b"", bytes(64)
    for name, kind, data, link in parts:
        where = 64 + len(body)
        at = NAMES.index(name)
        table += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, where, len(data), link, 0, 1, 0)
        body += data
    ident = b"\x7fELF\x02\x01\x01\x33" + bytes([abi]) + bytes(7)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", ident, 2, 190, 1, 0, 0, 64 + len(body), flags, 64, 0, 0, 64, 5, 1
    )
    return header + body + table


@pytest.mark.parametrize(("flags", "abi"), [(0x5A0D5A, 7), (0x6005A04, 8)])
def test_both_layouts_of_the_flags(flags: int, abi: int) -> None:
    assert check_cubin(cubin(flags, abi), "sm_90", "kernel") == Needs(42, 16)


def test_a_cubin_for_another_gpu_and_another_kernel() -> None:
    with pytest.raises(ArtifactError, match="for sm_90, not for sm_80"):
        check_cubin(cubin(0x5A0D5A, 7), "sm_80", "kernel")
    with pytest.raises(ArtifactError, match="no kernel other"):
        check_cubin(cubin(0x5A0D5A, 7), "sm_90", "other")


def test_what_is_not_a_cubin() -> None:
    whole = cubin(0x5A0D5A, 7)
    other = whole[:18] + struct.pack("<H", 62) + whole[20:]  # an ELF file for x86-64
    for blob in (b"", b"//\n.version 8.0\n" * 9, other):
        with pytest.raises(ArtifactError):
            read_cubin(blob)


def test_tables_of_symbols_that_overlap_are_refused() -> None:
    whole = bytearray(cubin(0x5A0D5A, 7))
    symbols = bytes(whole[-3 * 64 : -2 * 64])
    struct.pack_into("<H", whole, 60, 5 + 1)  # sections
    with pytest.raises(ArtifactError, match="more than one table of symbols"):
        read_cubin(whole + symbols)


def test_no_cut_is_taken_for_whole() -> None:
    whole = cubin(0x5A0D5A, 7)
    for size in range(len(whole)):
        with pytest.raises(ArtifactError):
            read_cubin(whole[:size])


def test_damage_ends_in_an_error_of_ours_or_in_none() -> None:
    chance, whole = random.Random(1), cubin(0x6005A04, 8)
    for _ in range(3000):
        blob = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            blob[chance.randrange(len(blob))] = chance.choice([0, 1, 127, 128, 255])
        with suppress(ArtifactError):
            read_cubin(blob)


def test_real_cubins_need_what_their_own_tool_says(tmp_path: Path) -> None:
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    jobs = [job(matmul(32, warps=1), arch) for arch in ARCHS]
    jobs.append(job(matmul(64, warps=1), "sm_80"))  # too much for the registers of 32 threads
    for asked, code in compile_all(jobs).items():
        path = tmp_path / "code.cubin"
        path.write_bytes(code.blob)
        command = [str(tool), "-res-usage", str(path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert f"REG:{code.registers} STACK:{code.local} " in said
        assert check_cubin(code.blob, asked.arch, "kernel") == Needs(code.registers, code.local)
        assert (code.local > 0) == (asked == jobs[-1])
