"""The flat linker and the loader."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from pathlib import Path

import pytest

from netc.codegen.cpu.emit import Module, Val
from netc.codegen.cpu.image import PAGE, Image, link
from netc.codegen.cpu.target import LEVELS, assembly, compile_module, native, required_features
from netc.errors import ResourceError, VerifyError
from netc.runtime.code import CodeMapping, load_image, map_image


def sample(level: str) -> Module:
    """k1(x) = k0's constant table at x, through a call and a function pointer."""
    module = Module(LEVELS[level])
    table = module.constant("i64", [3, 1, 4, 1, 5])
    inner = module.function("k0", ("i64",), "i64", internal=True)
    inner.ret(inner.load("i64", inner.gep(table, inner.args[0], 8), 8))
    outer = module.function("k1", ("i64", "ptr"), "i64")
    direct = outer.call(inner, outer.args[0])
    outer.store(inner.pointer, outer.args[1], 8)
    pointer = outer.load("ptr", outer.args[1], 8)
    again = outer.call(pointer, outer.args[0], ret="i64")
    outer.ret(outer.add(outer.mul(direct, 10), again))
    return module


def linked(level: str) -> Image:
    return link(compile_module(sample(level).text(), LEVELS[level]))


def call_k1(mapping: CodeMapping, image: Image, index: int) -> int:
    cell = ctypes.c_int64()
    k1 = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    return int(k1(mapping.entry(image.symbols["k1"]))(index, ctypes.addressof(cell)))


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_every_level_links_to_whole_pages(level: str) -> None:
    image = linked(level)
    assert len(image.code) % PAGE == 0
    assert set(image.symbols) == {"k1"}


def test_code_runs_from_anonymous_memory() -> None:
    image = linked("x86-64-v2") if native().is_x86 else linked("aarch64")
    mapping = load_image(image.code)
    assert [call_k1(mapping, image, i) for i in range(5)] == [33, 11, 44, 11, 55]


def test_code_runs_in_place_from_a_file(tmp_path: Path) -> None:
    image = linked("x86-64-v2") if native().is_x86 else linked("aarch64")
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(bytes(PAGE) + image.code)
        file.flush()
        mapping = map_image(file.fileno(), PAGE, len(image.code))
        assert call_k1(mapping, image, 4) == 55


def test_no_page_is_writable_and_executable() -> None:
    mapping = load_image(linked(native().name).code)
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        low, high = (int(x, 16) for x in span.split("-"))
        if low <= mapping.address < high:
            assert rights.startswith("r-x")
            return
    raise AssertionError("the mapping is not in the process's own list")


def test_an_entry_outside_the_image_is_refused() -> None:
    mapping = load_image(bytes(mmap.PAGESIZE))
    with pytest.raises(ResourceError, match="outside"):
        mapping.entry(mmap.PAGESIZE)


def test_an_undefined_symbol_is_an_error() -> None:
    module = Module(native())
    f = module.kernel()
    f.call(Val("ptr", f"@{module.declare('elsewhere', 'void', [])}"))
    f.ret()
    with pytest.raises(VerifyError, match="elsewhere"):
        link(compile_module(module.text(), native()))


def test_a_writable_section_is_an_error() -> None:
    module = Module(native())
    module.define("@state", "global i64 7")
    f = module.kernel()
    f.store(f.const(1), Val("ptr", "@state"), 8)
    f.ret()
    with pytest.raises(VerifyError, match="writable"):
        link(compile_module(module.text(), native()))


def test_what_is_not_elf_is_an_error() -> None:
    with pytest.raises(VerifyError, match="ELF"):
        link(b"MZ" + bytes(100))


def test_levels_need_ever_more() -> None:
    v2, v3, v4 = (required_features(f"x86-64-v{i}") for i in (2, 3, 4))
    assert v2 < v3 < v4


def test_without_fma_nothing_is_called() -> None:
    target = LEVELS["x86-64-v2"]
    module = Module(target)
    f = module.function("k0", ("float", "float", "float"), "float")
    f.ret(f.fma(*f.args))
    text = assembly(module.text(), target)
    assert "mulss" in text
    assert "call" not in text
