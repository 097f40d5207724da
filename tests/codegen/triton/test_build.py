"""From kernel texts to an image: the same bytes each time, whatever the workers do."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import types
from collections import namedtuple
from pathlib import Path

import pytest

from netc.codegen.triton.image import Row, build_image, compiler_version, report
from netc.codegen.triton.job import Compiled, Failed
from netc.codegen.triton.pool import Compilers
from netc.codegen.triton.worker import Refused, bindings, launch_facts
from netc.errors import ResourceError, UnsupportedError, UsageError
from netc.ir.cubin import check_cubin
from netc.ir.gpu_code import Code, GpuImage
from tests.codegen.triton.texts import HEAD, SCALE, answers, job, matmul, scale

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
KILLED = "import os\nos.kill(os.getpid(), 9)\n"
FACTS = {"name": "kernel", "num_warps": 8, "shared": 4096, "num_ctas": 1, "tensordesc_meta": []}
FACTS |= {"global_scratch_size": 0, "profile_scratch_size": 0, "launch_pdl": False}


def bytes_of(image: GpuImage, code: Code, arch: str) -> bytes:
    return bytes(image.sections[arch][code.offset : code.offset + code.size])


@needs_triton
def test_an_image_is_the_same_with_no_cache_a_cache_and_other_workers(tmp_path: Path) -> None:
    kernels = {"b": scale(128, 256), "a": matmul(16), "c": scale(256)}
    seen: list[tuple[int, int]] = []
    archs = ["sm_90", "ptx"]
    first = build_image(kernels, archs, tmp_path / "one", lambda *p: seen.append(p), jobs=2)
    assert seen == [(i, 6) for i in range(1, 7)]  # the kernel c is a variant of b
    backwards = dict(reversed(kernels.items()))
    assert build_image(backwards, archs, tmp_path / "two", jobs=1) == first
    seen.clear()
    assert build_image(kernels, archs, tmp_path / "one", lambda *p: seen.append(p)) == first
    assert seen == [(6, 6)]


@needs_triton
def test_codes_lie_in_their_section_and_say_how_they_start() -> None:
    image = build_image({"s": scale(128, 256), "t": scale(256), "m": matmul(32)}, ["sm_90", "ptx"])
    assert re.fullmatch(r"triton \d+\.\d+\.\d+.*", image.compiler)
    assert image.kernels["t"].codes[0]["sm_90"] == image.kernels["s"].codes[1]["sm_90"]
    for kernel in image.kernels.values():
        assert ["ptx" in codes for codes in kernel.codes] == [True, False][: len(kernel.codes)]
        portable = kernel.codes[0]["ptx"]
        for codes in kernel.codes:
            native = codes["sm_90"]
            needs = check_cubin(bytes_of(image, native, "sm_90"), "sm_90", native.entry)
            assert (needs.registers, needs.local) == (native.registers, native.local)
            assert native.registers > 0
            assert native.offset % 16 == portable.offset % 16 == 0
            text = bytes_of(image, portable, "ptx").decode()
            assert ".version 8.0\n.target sm_80\n" in text
            assert f".visible .entry {portable.entry}(" in text
    tile = image.kernels["m"].codes[0]["sm_90"]
    assert (tile.entry, tile.warps) == ("kernel", 4)
    assert tile.shared >= 2 * 32 * 32 * 4  # two tiles of floats, at the least
    rows = report(image)
    assert len(rows) == 7
    assert rows[0] == Row(
        "m", "sm_90", matmul(32).variants[0], tile.size, tile.registers, tile.shared, 0
    )


@needs_triton
def test_a_worker_that_is_killed_takes_only_its_own_job_along() -> None:
    loud = scale(32, head="print('hello' * 99)\n" + HEAD)  # not into the protocol
    dead = [job(scale(head=KILLED)), job(scale(head="import os\nos._exit(3)\n"))]
    said = job(scale(head="import os, sys\nprint('x error: why', file=sys.stderr)\nos.abort()\n"))
    good = [job(scale(16)), job(loud), job(scale(64))]
    got = answers([*dead, said, *good])
    assert got[dead[0]] == Failed("the compiler died of SIGKILL")
    assert got[dead[1]] == Failed("the compiler ended with status 3")
    assert got[said] == Failed("the compiler died of SIGABRT: x error: why")
    assert all(isinstance(got[j], Compiled) for j in good)


@needs_triton
@pytest.mark.parametrize(
    "head",
    [
        "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'x.ttir')\n",
        "import errno, os\nraise RuntimeError(f'ptxas fatal: {os.strerror(errno.EDQUOT)}')\n",
        "import errno, os, sys\nprint(os.strerror(errno.ENOSPC), file=sys.stderr)\nos.abort()\n",
    ],
)
def test_a_full_disk_is_no_fault_of_a_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    why = f"no room for the compiler's temporary files in {tmp_path}/netc-gpu-.*: .+"
    with pytest.raises(ResourceError, match=why) as caught:
        build_image({"g0": scale(head=head)}, ["ptx"])
    assert caught.value.exit_code == 9
    assert not list(tmp_path.iterdir())


@needs_triton
def test_a_pass_that_crashes_says_why_only_in_print() -> None:
    head = """
import os
os.write(1, b"a.cpp:7:1: remark\\na.cpp:9:1: error: no such layout\\nmodule {}\\n")
raise RuntimeError("PassManager::run failed")
"""
    crash, good = job(scale(head=head)), job(scale(16))
    with Compilers(1) as compilers:
        got = dict(compilers.answers([crash, good]))
        assert len(compilers._all) == 2  # what has crashed compiles no more
    assert got[crash] == Failed("a.cpp:9:1: error: no such layout")
    assert isinstance(got[good], Compiled)


@needs_triton
def test_a_job_has_its_time_and_no_process_is_left() -> None:
    slow = job(scale(head="import time\ntime.sleep(60)\n"))
    with Compilers(1, seconds=0.5) as compilers:
        assert dict(compilers.answers([slow])) == {slow: Failed("it took more than 0.5 s")}
        workers = list(compilers._all)
    assert [w._process.returncode for w in workers] == [-9]


@needs_triton
def test_an_interrupt_ends_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    slow = scale(head="import time\ntime.sleep(60)\n")
    with pytest.raises(KeyboardInterrupt):
        build_image({"a": scale(16), "b": slow}, ["sm_80"], progress=interrupt, jobs=2)
    assert list(tmp_path.iterdir()) == []


@needs_triton
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (SCALE.replace("* 2", "* two"), "two is not defined.*, at `tl.store"),
        (SCALE.replace("B)\n", "B + 1)\n"), "range must be a power of 2, at `at ="),
        (SCALE.replace("def kernel", "def colonel"), "no Triton function `kernel`"),
        (SCALE.replace("B: tl", "A: tl.constexpr, B: tl"), "no value for A"),
        (SCALE.replace("x, y,", "x, y, z,"), "has 4 run-time parameters, the kernel 3"),
        ("def", "invalid syntax"),
        (
            SCALE.replace(
                "at < n) *", "at < n) + tl.inline_asm_elementwise('bogus $0;', '=r', [],"
            ).replace("[], 2", "[], tl.int32, True, 1)"),
            "ptxas.*Not a name of any known instruction: 'bogus'",
        ),
    ],
)
def test_a_text_that_does_not_compile(body: str, reason: str) -> None:
    with pytest.raises(
        UnsupportedError, match=f"kernel bad does not compile for sm_80: .*{reason}"
    ):
        build_image({"bad": scale(body=body)}, ["sm_80"], jobs=1)


@needs_triton
def test_variants_that_fail_spill_or_do_not_fit_are_left_out() -> None:
    odd = scale(100, 128)  # a range of 100 does not compile
    big = matmul(32, 128, warps=4, stages=4)  # the large one is for more shared memory than sm_86's
    spills = matmul(16, 64, warps=1)
    image = build_image({"odd": odd, "big": big, "spills": spills}, ["sm_86"])
    there = {name: [set(c) for c in k.codes] for name, k in image.kernels.items()}
    assert there == {
        "odd": [set(), {"sm_86"}],
        "big": [{"sm_86"}, set()],
        "spills": [{"sm_86"}, set()],
    }
    only = build_image({"spills": matmul(64, warps=1)}, ["sm_86"])
    assert only.kernels["spills"].codes[0]["sm_86"].local > 0


@needs_triton
def test_a_damaged_entry_of_the_cache_is_compiled_again(tmp_path: Path) -> None:
    kernels = {"a": scale(128)}
    image = build_image(kernels, ["sm_80"], tmp_path)
    (entry,) = tmp_path.iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-9] + b"something")
    assert build_image(kernels, ["sm_80"], tmp_path) == image
    assert entry.read_bytes() == whole


@needs_triton
def test_the_user_s_environment_does_not_reach_the_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = build_image({"a": scale(128)}, ["sm_80"])
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("DISABLE_PTXAS_OPT", "1")
    assert build_image({"a": scale(128)}, ["sm_80"]) == plain


def test_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Triton\n  help: pip install 'netc\[cuda\]'"):
        build_image({"a": scale()}, ["sm_80"])


def test_a_triton_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for version in ("3.5.1", "2.1.0"):
        monkeypatch.setattr("importlib.metadata.version", lambda _, v=version: v)
        with pytest.raises(UsageError, match=f"needs Triton 3.6, not {version}"):
            compiler_version()
    monkeypatch.setattr("importlib.metadata.version", lambda _: "3.10.0+git1")
    assert compiler_version() == "triton 3.10.0+git1"


@needs_triton
def test_an_architecture_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="no architecture sm_70\n  help: there are sm_80, sm_86"):
        build_image({"a": scale()}, ["sm_70"])


@pytest.mark.parametrize(
    "more", [{}, {"clc": False, "min_shared_mem": None, "launch_cooperative_grid": False}]
)
def test_metadata_of_old_and_new_compilers(more: dict[str, object]) -> None:
    facts = FACTS | more
    expected = {"entry": "kernel", "warps": 8, "shared": 4096}
    assert launch_facts(facts) == expected
    assert launch_facts(namedtuple("Metadata", facts)(**facts)) == expected


@pytest.mark.parametrize(
    ("name", "value"), [("num_ctas", 2), ("global_scratch_size", 256), ("tensordesc_meta", [{}])]
)
def test_launches_that_netc_cannot_do(name: str, value: object) -> None:
    with pytest.raises(Refused, match=f"needs {name} = "):
        launch_facts(FACTS | {name: value})


def test_parameters_come_before_constants() -> None:
    names = [("n", False), ("x", False), ("B", True)]
    arguments = [types.SimpleNamespace(name=n, is_constexpr=c) for n, c in names]
    types_, values = bindings(arguments, ("i32", "*fp32"), {"B": 4, "unused": 1})
    assert types_ == {"n": "i32", "x": "*fp32", "B": "constexpr"}
    assert values == {"B": 4}
    with pytest.raises(Refused, match="behind a constant"):
        bindings(arguments[::-1], ("i32", "*fp32"), {"B": 4})
