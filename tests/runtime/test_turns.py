"""A batch in turns: the same bits as all at once, and only where images do not see each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import netc
from netc.errors import ResourceError
from netc.ir.dims import sym
from netc.ir.plan import IntArg
from netc.runtime import binding, faults, host, turns
from netc.runtime.binding import Binding
from netc.runtime.layout import Layout, layout_in_turns, plan_layout
from netc.runtime.session import Executable
from netc.runtime.trace import timed
from netc.runtime.turns import Batch, Turns, batch_of, stretches, turns_of
from tests.strategies import feeds, graphs

from .handmade import feed, make_executable, make_plan

NET = """
net tiny(data: f32[N, 3, 24, 20]) -> prob, far {
  x = data |> conv(24, 5, pad=2) |> relu |> max_pool(3, stride=2)
  x = x |> conv(32, 3, pad=1) |> relu |> conv(24, 3, pad=1) |> relu
  far = concat(x |> conv(16, 1) |> relu, x |> conv(24, 3, pad=1) |> relu) + 1.0
  prob = far |> global_avg_pool |> fc(10) |> softmax
}
"""


def tiny(threads: int = 1) -> Executable:
    graph = netc.parse(NET, warn=lambda *_: None)
    rng = np.random.default_rng(0)
    weights = {p.name: rng.normal(0, 0.1, p.types[0].sizes({})) for p in graph.params}
    given_ = {name: w.astype(np.float32) for name, w in weights.items()}
    return netc.compile(replace(graph, weights=given_), threads=threads)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 24, 20)).astype(np.float32)


def at_once(exe: Executable) -> Executable:
    """The same, never in turns."""
    exe._binder.in_turns = 0
    return exe


def in_turns(exe: Executable, choose: Callable[[Batch], tuple[Turns, ...]]) -> list[Layout]:
    """Let its runs be in these turns; the list gets every layout that has some."""
    plan, made = exe.image.plan, list[Layout]()

    def layout(known: Mapping[str, int]) -> Layout:
        batch = batch_of(plan, known, exe.threads)
        chosen = choose(batch) if batch else ()
        if batch is None or not chosen:
            return plan_layout(plan, known)
        made.append(layout_in_turns(plan, known, batch, chosen))
        return made[-1]

    exe._binder.layout = layout  # type: ignore[method-assign]
    return made


def by_chance(exe: Executable, seed: int) -> list[Layout]:
    """Turns wherever they may be, their gains drawn."""

    def gains(batch: Batch, count: int, cache: int, threads: int) -> np.ndarray:
        rng = np.random.default_rng((seed, count))
        return rng.normal(0.3, 1.0, len(batch.moved)) * 2.0**24

    def choose(batch: Batch) -> tuple[Turns, ...]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(turns, "_gains", gains)
            return turns_of(exe.image.plan, batch, 1, exe.threads)

    return in_turns(exe, choose)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_bits(threads: int) -> None:
    used = 0
    for seed in range(12):
        exe = tiny(threads)
        exe.poison()
        made = by_chance(exe, seed)
        for count in (2, 3, 5, 8):
            x = images(count)
            want = at_once(tiny(threads))(data=x)
            for _ in range(2):
                got = exe(data=x)
                assert all(np.array_equal(got[name], y) for name, y in want.items())
        used += len(made)
    assert used > 12


def test_an_error_names_what_turns_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the sizes of all at once, which no run takes: each part is within the whole."""
    said: list[tuple[int, int]] = []

    def require(total: int, parts: Callable[[], list[tuple[str, int]]], *_: object) -> None:
        said.append((max(size for _, size in parts()), total))

    monkeypatch.setattr(binding, "require_memory", require)
    exe = tiny(2)
    exe.start()
    made = in_turns(exe, lambda _: (Turns(0, len(exe.plan.steps), 1, 2),))
    exe(data=images(64))
    assert made
    assert all(part <= total for part, total in said)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(graphs(max_nodes=8), st.integers(2, 7), st.integers(1, 3), st.integers(0, 999))
def test_random_graphs(graph: netc.Graph, count: int, threads: int, seed: int) -> None:
    feed = feeds(graph, sizes={"N": count, "H": 13, "W": 11})
    want = at_once(netc.compile(graph, threads=threads))(feed)
    exe = netc.compile(graph, threads=threads)
    exe.poison()
    by_chance(exe, seed)
    for _ in range(2):
        got = exe(feed)
        assert all(np.array_equal(got[name], y, equal_nan=True) for name, y in want.items())


@pytest.mark.parametrize(
    "text",
    [
        "softmax(axis=0)",
        "reduce_mean(axes=(0,))",
        "transpose(perm=(1, 0, 2, 3))",
        "slice(axis=0, start=1)",
        "tile(times=2, axis=0)",
        "reshape(shape=(3*N, 24, 20))",
        "roi_pool(data |> im2col((1, 5)) |> abs |> slice(axis=1, stop=5) |> slice(axis=2, stop=1)"
        " |> slice(axis=3, stop=1) |> reshape(shape=(0, 5)), size=(2, 2))",
    ],
)
def test_who_sees_other_images_is_not_in_turns(text: str) -> None:
    graph = netc.parse(f"net n(data: f32[N, 3, 24, 20]) -> y {{ y = data |> abs |> {text} }}")
    exe = netc.compile(graph, optimize=False)
    alone = [s.name for s in exe.plan.steps if not s.by_image]
    assert "y" in alone
    want, x = at_once(netc.compile(graph))(data=images(6))["y"], images(6)
    for seed in range(4):
        by_chance(exe, seed)
        exe._bindings.clear()
        np.testing.assert_array_equal(exe(data=x)["y"], want)


def test_of_an_operand_that_all_images_share() -> None:
    text = "net n(data: f32[N, 3, 24, 20], m: f32[3, 24, 20]) -> y { y = (data - m) |> conv(8, 3) }"
    graph, x = netc.parse(text, warn=lambda *_: None), images(6)
    want = netc.compile(graph)(data=x, m=x[0])["y"]
    exe = netc.compile(graph, threads=2)
    assert all(step.by_image for step in exe.plan.steps)
    assert in_turns(exe, lambda batch: (Turns(0, len(exe.plan.steps), 1, 2),)) == []
    np.testing.assert_array_equal(exe(data=x, m=x[0])["y"], want)


# ---- which steps ------------------------------------------------------------------------------


def batch(exe: Executable, count: int, moved: float, fixed: float = 0.0) -> Batch:
    """A batch of a plan whose steps all move so many MB for an image, and so many for weights."""
    found = batch_of(exe.image.plan, {"N": count}, 1)
    assert found is not None
    every = np.ones(len(exe.plan.steps), np.int64)
    return replace(found, moved=every * int(moved * 1e6), fixed=every * int(fixed * 1e6))


def test_turns_are_as_long_as_the_cache_serves() -> None:
    exe = tiny()
    plan, steps = exe.image.plan, len(exe.plan.steps)
    for threads, count in ((1, 4), (2, 2), (4, 1)):
        found = turns_of(plan, batch(exe, 64, moved=1.0), 32 << 20, threads)
        assert found == (Turns(0, steps, count, threads),)


def test_weights_that_are_read_again_must_be_worth_it() -> None:
    exe = tiny()
    plan = exe.image.plan
    assert turns_of(plan, batch(exe, 64, moved=1.0, fixed=3.0), 32 << 20, 1)
    assert turns_of(plan, batch(exe, 64, moved=1.0, fixed=5.0), 32 << 20, 1) == ()
    assert turns_of(plan, batch(exe, 64, moved=0.01), 32 << 20, 1) == (), "all of it stays"
    assert turns_of(plan, batch(exe, 2, moved=1.0), 32 << 20, 2) == (), "an image for each"


def test_a_system_that_does_not_say_how_large_its_cache_is() -> None:
    exe = tiny()
    found = batch(exe, 64, moved=1.0)
    assert turns_of(exe.image.plan, found, 0, 1) == turns_of(exe.image.plan, found, 8 << 20, 1)


def test_a_size_beyond_64_bits_is_an_error() -> None:
    plan = make_plan()
    vast = replace(plan.steps[0], args=(*plan.steps[0].args, IntArg(sym("N") * (1 << 62))))
    exe = make_executable(replace(plan, steps=(vast, *plan.steps[1:]), batch="N"))
    with pytest.raises(ResourceError, match="exceeds 64 bits"):
        exe(feed(3))


def test_images_that_do_not_follow_one_another_stay_together() -> None:
    exe = tiny()
    plan = exe.image.plan
    found = batch(exe, 64, moved=1.0)
    assert found.rigid, "the scratch memory of filtered convolutions"
    users = [[i for i, s in enumerate(plan.steps) if b in (*s.reads, *s.writes)]
             for b in found.rigid]  # fmt: skip
    for seed in range(50):
        rng = np.random.default_rng(seed)
        drawn = replace(found, moved=(rng.integers(0, 2, len(plan.steps)) * 2**20))
        for t in turns_of(plan, drawn, 32 << 20, 1):
            inside = [{t.first <= i < t.end for i in steps} for steps in users]
            assert all(len(where) == 1 for where in inside)


def test_zeros_around_planes_are_in_turns_where_the_planes_are() -> None:
    exe = tiny()
    plan = exe.image.plan
    found = batch(exe, 64, moved=1.0)
    zeros = [(i, plan.users[w][1]) for i, s in enumerate(plan.steps) if s.op == "zero halo"
             for w in s.writes]  # fmt: skip
    assert zeros
    for seed in range(50):
        rng = np.random.default_rng(seed)
        drawn = replace(found, moved=(rng.integers(0, 2, len(plan.steps)) * 2**20))
        for t in turns_of(plan, drawn, 32 << 20, 1):
            assert all((t.first <= a < t.end) == (t.first <= b < t.end) for a, b in zeros)


def test_every_image_once() -> None:
    plan = tiny().image.plan
    end = len(plan.columns.names)
    for threads, count, many in ((1, 1, 2), (2, 3, 17), (3, 2, 4), (4, 64, 9)):
        chosen = [Turns(1, 3, count, threads), Turns(4, end, 1, threads)]
        done = np.zeros((end, many), int)
        for s in stretches(plan, many, chosen):
            done[s.first : s.end, s.before : s.before + s.count] += 1
            assert s.count <= max(count, threads) or s.first not in (1, 4)
        assert (done == 1).all()


# ---- runs -------------------------------------------------------------------------------------


def everything(exe: Executable) -> list[Layout]:
    """All steps in turns of one image."""
    return in_turns(exe, lambda found: (Turns(0, len(exe.plan.steps), 1, exe.threads),))


def test_memory_is_for_the_images_of_one_turn() -> None:
    exe, whole = tiny(2), at_once(tiny(2))
    made = everything(exe)
    exe(data=images(64))
    known = {"N": 64}
    assert made[0].arena < plan_layout(whole.image.plan, known).arena / 8


def test_a_cancelled_run_ends_early_and_the_next_is_right() -> None:
    exe, x = tiny(2), images(400)
    everything(exe)
    want = at_once(tiny(2))(data=x)["prob"]

    def cancel(binding: Binding) -> AbstractContextManager[None]:
        threading.Timer(0.005, binding.cancel).start()
        return nullcontext()

    cut = exe.run([x], cancel)["prob"]
    assert cut.shape == want.shape
    np.testing.assert_array_equal(exe(data=x)["prob"], want)


def test_where_no_thread_starts_one_does_it_all() -> None:
    want, x = at_once(tiny())(data=images(7))["prob"], images(7)
    exe = tiny(5)  # more than the pool has by now
    everything(exe)
    with faults.armed("pool.start", faults.raising(RuntimeError("can't start new thread"))):
        got = exe(data=x)["prob"]
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("threads", [1, 2])
def test_times_of_steps_in_turns(threads: int) -> None:
    exe, x = tiny(threads), images(9)
    everything(exe)
    outputs, steps = timed(exe, [x])
    np.testing.assert_array_equal(outputs["prob"], at_once(tiny())(data=x)["prob"])
    assert [s.name for s in steps] == [s.name for s in exe.plan.steps]
    assert all(s.seconds > 0 and s.start >= 0 for s in steps)
    whole = exe._bound([x]).seconds
    assert sum(s.seconds for s in steps) <= 1.01 * whole


def test_a_saved_file_is_in_turns_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny().save(tmp_path / "m.bin")
    monkeypatch.setattr(host, "cache_size", lambda: 1 << 20)
    exe, x = netc.load(tmp_path / "m.bin", threads=2), images(32)
    got = exe(data=x)["prob"]
    assert exe._bound([x]).own
    np.testing.assert_array_equal(got, at_once(tiny())(data=x)["prob"])
