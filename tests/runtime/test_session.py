"""A plan runs: sizes, outputs, lifetimes, memory, many shapes."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import netc
from netc.errors import ArtifactError, InputError, ResourceError
from netc.ir.plan import Buffer, BufferArg, IntArg, MadeArg, Port, Space, WeightArg
from netc.runtime import faults
from netc.runtime.audit import audited
from netc.runtime.limits import Limits
from netc.runtime.session import Executable, executable, load

from .handmade import (
    WIDTH,
    feed,
    made_plan,
    make_artifact,
    make_executable,
    make_level,
    make_plan,
    reference,
)


@pytest.fixture(scope="module", params=[1, 2, 3])
def exe(request: pytest.FixtureRequest) -> Executable:
    return make_executable(threads=request.param)


@pytest.mark.parametrize("n", [1, 2, 5, 64])
def test_runs(exe: Executable, n: int) -> None:
    x = feed(n)
    out = exe(**x)
    assert set(out) == {"out"}
    np.testing.assert_array_equal(out["out"], reference(**x))
    np.testing.assert_array_equal(exe(x)["out"], out["out"])


def test_what_it_takes_and_gives() -> None:
    exe = make_executable()
    assert {name: str(spec) for name, spec in exe.inputs.items()} == {
        "data": "f32[N,24]",
        "extra": "f32[N,24]",
    }
    assert exe.outputs["out"].shape == ("N", WIDTH)
    assert "data: f32[N,24]" in repr(exe)


def test_shapes_may_change_from_call_to_call(exe: Executable) -> None:
    for n in [*range(1, 14), 100, *range(14, 0, -1), 1, 100]:
        x = feed(n, seed=n)
        np.testing.assert_array_equal(exe(x)["out"], reference(**x))


def test_an_empty_batch(exe: Executable) -> None:
    out = exe(feed(0))["out"]
    assert out.shape == (0, WIDTH)
    assert out.dtype == np.float32


def test_outputs_own_their_memory(exe: Executable) -> None:
    first = exe(feed(3, 1))["out"]
    kept = first.copy()
    exe(feed(3, 2))
    np.testing.assert_array_equal(first, kept)
    assert first.flags.owndata
    assert first.flags.writeable
    first[:] = 0
    np.testing.assert_array_equal(exe(feed(3, 1))["out"], kept)


def test_outputs_outlive_the_executable() -> None:
    exe = make_executable()
    x = feed(4)
    out = exe(x)["out"]
    del exe
    gc.collect()
    np.testing.assert_array_equal(out, reference(**x))


def test_poisoned_memory_changes_nothing(exe: Executable) -> None:
    exe.poison()
    x = feed(7)
    np.testing.assert_array_equal(exe(x)["out"], reference(**x))
    exe.poison(False)


def test_two_names_of_one_value_are_two_arrays() -> None:
    plan = make_plan()
    plan = replace(plan, outputs=(*plan.outputs, Port("again", plan.outputs[0].type, 4)))
    out = make_executable(plan)(feed(2))
    np.testing.assert_array_equal(out["out"], out["again"])
    assert not np.shares_memory(out["out"], out["again"])


def test_an_output_may_say_how_many_rows_it_has() -> None:
    plan = make_plan()
    plan = replace(plan, outputs=(replace(plan.outputs[0], count=5),))
    steps = list(plan.steps)
    steps[-1] = replace(steps[-1], args=(BufferArg(5), IntArg(2)))
    x = feed(6)
    out = make_executable(replace(plan, steps=tuple(steps)))(x)["out"]
    np.testing.assert_array_equal(out, reference(**x)[:2])
    assert out.flags.owndata


def test_too_little_memory_is_said_before_it_is_taken() -> None:
    exe = executable(make_artifact(), 1, Limits(memory=1 << 20))
    assert exe(feed(8))["out"].shape == (8, WIDTH)
    with pytest.raises(
        ResourceError, match=r"needs .* may take 1\.0 MiB; biggest: tables 1.8 MiB, data"
    ):
        exe(feed(20_000))
    assert exe(feed(8))["out"].shape == (8, WIDTH), "the executable is usable again"


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_are_made_once(threads: int) -> None:
    exe, x = make_executable(made_plan(), threads), feed(5)
    assert not exe.image.is_ready
    for start in (exe.start, exe.start, lambda: None):
        start()
        made = exe.image.made
        np.testing.assert_array_equal(exe(x)["out"], reference(**x, made=True))
        assert exe.image.made is made


def test_weights_are_made_when_a_file_is_loaded(tmp_path: Path) -> None:
    make_executable(made_plan()).save(tmp_path / "m.bin")
    exe, x = load(tmp_path / "m.bin", 1, trust=True), feed(5)
    assert exe.image.is_ready
    np.testing.assert_array_equal(exe(x)["out"], reference(**x, made=True))
    audited(exe, exe.accepted(x, {}))


def test_weights_that_could_not_be_made_are_made_later() -> None:
    exe, x = make_executable(made_plan()), feed(5)
    with faults.armed("arena.allocate", faults.raising(MemoryError())), pytest.raises(MemoryError):
        exe.start()
    np.testing.assert_array_equal(exe(x)["out"], reference(**x, made=True))
    small = executable(make_artifact(made_plan()), 1, Limits(memory=100))
    with pytest.raises(ResourceError, match="weights"):
        small.start()


def test_a_wrong_input_is_refused_before_weights_are_made() -> None:
    exe = make_executable(made_plan())
    with faults.armed("arena.allocate", faults.raising(MemoryError())), pytest.raises(InputError):
        exe(data=3, extra=3)
    assert not exe.image.is_ready


def test_made_weights_have_an_end() -> None:
    plan = made_plan()
    first = plan.steps[0]
    args = (*first.args[:2], MadeArg(65), first.args[3])
    with pytest.raises(ArtifactError, match="beyond the weights"):
        make_executable(replace(plan, steps=(replace(first, args=args), *plan.steps[1:])))


def test_a_failing_allocation_is_an_error() -> None:
    exe = make_executable()
    with faults.armed("arena.allocate", faults.raising(MemoryError())), pytest.raises(MemoryError):
        exe(feed(3))
    assert exe(feed(3))["out"].shape == (3, WIDTH)


def test_an_offset_beyond_32_bits_is_refused() -> None:
    plan = make_plan()
    gather = plan.steps[1]
    table = gather.args[3]
    far = replace(table, parts=(replace(table.parts[0], strides=(1 << 27, -1)),))
    steps = list(plan.steps)
    steps[1] = replace(gather, args=(*gather.args[:3], far, gather.args[4]))
    with pytest.raises(ResourceError, match="one image is too large"):
        make_executable(replace(plan, steps=tuple(steps)))(feed(40))


def test_sizes_that_do_not_fit_are_refused() -> None:
    exe = make_executable()
    x = feed(3)
    with pytest.raises(InputError, match=r"(?s)extra: .*N is not 2: N is 3 by data"):
        exe(data=x["data"], extra=x["extra"][:2])


def test_only_the_sizes_at_fault_are_told() -> None:
    net = netc.parse("net s(a: f32[N, 3, H, W], b: f32[N, W]) -> y, z { y = a |> relu\n z = b }")
    exe, a = netc.compile(net), np.ones((2, 3, 8, 9), np.float32)
    with pytest.raises(InputError, match=r"W is not 7: W is 9 by a$"):
        exe(a=a, b=np.ones((2, 7), np.float32))


def test_plans_that_name_what_is_not_there() -> None:
    plan = make_plan()
    first = plan.steps[0]
    other = {
        "calls nothing": replace(first, kernel="nothing"),
        "buffer 9": replace(first, args=(BufferArg(9), *first.args[1:])),
        "buffer -1": replace(first, args=(BufferArg(-1), *first.args[1:])),
        "beyond the weights": replace(first, args=(WeightArg(1 << 20), *first.args[1:])),
        "what nothing makes": replace(first, args=(MadeArg(64), *first.args[1:])),
    }
    for step in other.values():
        with pytest.raises(ArtifactError):
            make_executable(replace(plan, steps=(step, *plan.steps[1:])))
    with pytest.raises(ArtifactError, match="inputs and buffers differ"):
        make_executable(replace(plan, inputs=plan.inputs[:1]))
    buffers = (*plan.buffers[:5], Buffer(Space.ARENA, 8, 3, 99))
    with pytest.raises(ArtifactError, match="buffer 5 lives"):
        make_executable(replace(plan, buffers=buffers))


def test_code_without_a_run_loop() -> None:
    level = make_level(make_plan())
    symbols = {name: at for name, at in level.symbols.items() if name != "netc_run"}
    with pytest.raises(ArtifactError, match="netc_run"):
        executable(make_artifact(levels=[replace(level, symbols=symbols)]), 1)
