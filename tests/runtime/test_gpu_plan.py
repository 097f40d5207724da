"""Plans on GPUs before they run: which launches wait for which, and how a plan is cut."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

import netc
from netc.compiler import Options, build
from netc.errors import ArtifactError, ResourceError
from netc.ir.device import Device
from netc.ir.gpu_code import MOST_ELEMENTS
from netc.ir.plan import Buffer, BufferArg, IntArg, Space, Step
from netc.ir.queues import with_waits
from netc.passes.base import Context
from netc.passes.shard_batch import Pipeline
from netc.runtime.conflicts import dependencies
from netc.runtime.driver import Launch
from netc.runtime.gpu_plan import GpuPlan
from netc.runtime.segments import MEMCPY, cut

from .gpu_handmade import ADD_TEXT, add_plan, bare, mixed_plan


def launch(
    reads: list[int], writes: list[int], group: int = -1, alone: int | None = None
) -> Launch:
    """Numbers stand for ten bytes each."""
    spans = [tuple((10 * b, 10 * b + 10) for b in touched) for touched in (reads, writes)]
    counters = () if alone is None else (alone,)
    return Launch("k", (1,), (), spans[0], spans[1], counters, group)


def test_what_waits_for_what() -> None:
    a, b, c = launch([0], [1]), launch([1], [2]), launch([0], [3])
    assert dependencies([a, b, c]) == [[], [0], []]
    join = launch([2, 3], [0])  # also writes what the first read: that follows from the others
    assert dependencies([a, b, c, join]) == [[], [0], [], [2, 1]]
    assert dependencies([a, launch([0], [1])]) == [[], [0]]
    assert dependencies([]) == []


def test_bytes_and_not_names_decide() -> None:
    part = Launch("k", (1,), (), (), ((5, 8),))
    beside = Launch("k", (1,), (), (), ((8, 12),))
    both = Launch("k", (1,), (), ((7, 9),), ())
    assert dependencies([part, beside, both]) == [[], [], [1, 0]]


def test_groups_do_not_wait_but_for_counters() -> None:
    parts = [launch([0], [1], group=4) for _ in range(3)]
    assert dependencies([*parts, launch([1], [2], group=5)]) == [[], [], [], [2, 1, 0]]
    counted = [launch([0], [1], group=4, alone=64) for _ in range(3)]
    assert dependencies(counted) == [[], [0], [1]]


@pytest.mark.parametrize("seed", range(40))
def test_every_conflict_is_ordered_and_nothing_more(seed: int) -> None:
    rng = random.Random(seed)
    launches = [
        launch(rng.sample(range(9), rng.randint(0, 3)), rng.sample(range(9), rng.randint(1, 2)))
        for _ in range(30)
    ]
    found = dependencies(launches)
    behind: list[set[int]] = []
    for before in found:
        behind.append(set(before).union(*(behind[j] for j in before)))
        for j in before:  # no edge follows from others
            assert not any(j in behind[k] for k in before if k != j)
    for i, after in enumerate(launches):
        for j, first in enumerate(launches[:i]):
            clash = {*first.writes} & {*after.reads, *after.writes} or {*first.reads} & {
                *after.writes
            }
            assert not clash or j in behind[i]


# ------------------------------------------------------------------------------ how it is cut


def test_a_plan_on_one_gpu_is_one_piece() -> None:
    plan = add_plan()
    (piece,) = cut(plan.steps, plan.buffers)
    assert (piece.queue, piece.copies, piece.steps, piece.after) == (
        (0, "compute"),
        False,
        [0, 1],
        set(),
    )


def test_a_plan_of_many_devices() -> None:
    plan = mixed_plan()
    pieces = cut(plan.steps, plan.buffers)
    assert [p.queue for p in pieces] == [
        None,
        (0, "copy"),
        (0, "compute"),
        (1, "copy"),
        (1, "compute"),
        (1, "back"),
        None,
    ]
    assert [p.after for p in pieces] == [set(), {0}, {1}, {2}, {3}, {4}, {5}]


def test_independent_steps_share_a_piece_across_others() -> None:
    """Two GPUs' steps take turns in the plan, but nothing passes between them."""
    steps = []
    for i in range(6):
        home = f"cuda:{i % 2}"
        steps.append(Step("g0", (IntArg(1),), f"s{i}", "add", (i,), (i + 6,), device=home))
    buffers = [Buffer(Space.ARENA, 4, device=f"cuda:{i % 2}") for i in range(12)]
    pieces = cut(with_waits(steps), buffers)
    assert [p.steps for p in pieces] == [[0, 2, 4], [1, 3, 5]]


DEVICES = ["cpu:0", "cpu:1", "cuda:0", "cuda:1", "cuda:2"]


@pytest.mark.parametrize("seed", range(40))
def test_pieces_keep_the_order_of_the_plan(seed: int) -> None:
    """Queues' steps stay in order, and whatever a step waits for is asked for before it."""
    rng = random.Random(seed)
    buffers = [Buffer(Space.ARENA, 4, device=rng.choice(DEVICES)) for _ in range(12)]
    steps = []
    for i in range(40):
        target, source = rng.sample(range(12), 2)
        home, there = buffers[target].device, buffers[source].device
        args = (BufferArg(target), BufferArg(source), IntArg(4))
        copied = home != there and "cuda" in home + there
        steps.append(
            Step(MEMCPY, args, f"s{i}", "copy", (source,), (target,), device=home, stream="copy")
            if copied
            else Step("g0", args, f"s{i}", "x", (), (target,), device=home)
        )
    waited = with_waits(steps)
    pieces = cut(waited, buffers)
    home_of = {i: n for n, piece in enumerate(pieces) for i in piece.steps}
    assert sorted(home_of) == list(range(40))
    for i, step in enumerate(waited):
        for w in step.waits:
            first, second = home_of[w], home_of[i]
            same = pieces[first].queue == pieces[second].queue
            assert first < second or (first == second and same)
            assert same or first in pieces[second].after
        own = (step.device, step.stream)
        before = [j for j in range(i) if (waited[j].device, waited[j].stream) == own]
        if before:
            last = home_of[before[-1]]
            assert last <= home_of[i]
            queues = pieces[last].queue, pieces[home_of[i]].queue
            assert queues[0] == queues[1] or last in pieces[home_of[i]].after


# ------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(("element", "size"), [("fp32", 4), ("bf16", 2), ("u8", 1)])
def test_a_buffer_that_no_kernel_reaches(element: str, size: int) -> None:
    """An index of 32 bits counts elements, not bytes, and those of the last tile too."""
    text = replace(ADD_TEXT, params=tuple(p.replace("fp32", element) for p in ADD_TEXT.params))
    plan = GpuPlan(add_plan(), bare(g0=text), 1 << 20)
    most = MOST_ELEMENTS * size // (24 * 4)  # rows of 24 floats
    plan.layout({"N": most})
    match = rf"(?s)^error: data would have {2 * size}.0 GiB.*smaller batch"
    with pytest.raises(ResourceError, match=match):
        plan.layout({"N": most + 1})


def test_numbers_beyond_32_bits_are_refused() -> None:
    plan = add_plan()
    first = plan.steps[0]
    wide = replace(first, args=(*first.args[:-1], IntArg(1 << 31)))
    made = GpuPlan(replace(plan, steps=(wide, *plan.steps[1:])), bare(g0=ADD_TEXT), 1 << 20)
    from netc.runtime.gpu_plan import Where

    where = Where({"N": 1}, {i: 4096 * i for i in range(4)}, {0: 0}, made.layout({"N": 1}).sizes)
    with pytest.raises(ResourceError, match="exceeds 32 bits"):
        made.launches(made.segments[0], where)


def test_a_copy_within_the_host_is_refused() -> None:
    plan = mixed_plan()
    steps = [replace(s, device="cpu:0") if s.name == "there" else s for s in plan.steps]
    buffers = [replace(b, device="cpu:0") if i == 2 else b for i, b in enumerate(plan.buffers)]
    with pytest.raises(ArtifactError):
        GpuPlan(replace(plan, steps=tuple(steps), buffers=tuple(buffers)), bare(g0=ADD_TEXT), 64)


def test_the_pieces_of_a_pipeline_are_its_micro_batches() -> None:
    """Else the second device would wait for all of them."""
    text = """
    net two(data: f32[6, 8, 9, 9]) -> y {
      x = data |> conv(8, 3, name="a") |> relu |> conv(8, 3, name="b") |> relu
      y = x |> conv(8, 3, name="c") |> relu |> conv(8, 3, name="d") |> relu
    }
    """
    graph = netc.parse(text, warn=lambda *_: None)
    gpus = (Device("cuda", 0), Device("cuda", 1))
    made = Pipeline(gpus, 3).run(graph, Context())
    built = build(made, Options(devices=gpus, targets=("cuda",), archs=()))
    plan = built.levels[0].plan
    pieces = cut(plan.steps, plan.buffers)
    by_queue = [[n for n, p in enumerate(pieces) if p.queue == q] for q in
                ((0, "compute"), (1, "copy"), (1, "compute"))]  # fmt: skip
    first, copies, second = by_queue
    assert [len(q) for q in by_queue] == [3, 3, 3]
    for a, b, c in zip(first, copies, second, strict=True):
        assert pieces[b].after == {a}
        assert pieces[c].after == {b}


def test_a_fetch_ends_a_piece_only_where_the_host_computes() -> None:
    """The copy back of an early result waits for the whole piece, unless a host step reads it."""

    def steps(host_reads: bool) -> list[Step]:
        args = (BufferArg(3), BufferArg(1), IntArg(4))
        made = [
            Step("g0", (IntArg(1),), "a", "x", (0,), (1,), device="cuda:0"),
            Step("g0", (IntArg(1),), "b", "x", (1,), (2,), device="cuda:0"),
            Step(MEMCPY, args, "c", "copy", (1,), (3,), device="cpu:0", stream="copy"),
        ]
        host = Step("h", (), "d", "x", (3,), (4,), device="cpu:0")
        return [*made, host] if host_reads else made

    homes = ("cuda:0", "cuda:0", "cuda:0", "cpu:0", "cpu:0")
    buffers = [Buffer(Space.ARENA, 4, device=home) for home in homes]
    for host_reads, found in ((False, [[0, 1], [2]]), (True, [[0], [1], [2], [3]])):
        pieces = cut(with_waits(steps(host_reads)), buffers)
        assert [p.steps for p in pieces] == found
