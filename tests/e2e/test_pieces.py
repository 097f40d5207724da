"""split and slice: equal parts, given sizes, ends counted from the end, known sizes or not."""

from __future__ import annotations

import numpy as np
import pytest

import netc
from netc.errors import GraphError, NetcError
from netc.ir.op import Array

X = np.random.default_rng(2).standard_normal((5, 12, 3, 4)).astype(np.float32)


def cut(statement: str, outputs: int, type: str = "f32[N,12,H,W]") -> list[list[Array]]:
    """What `y0, y1, … = statement` gives for X, compiled with and without passes."""
    names = [f"y{i}" for i in range(outputs)]
    targets = ", ".join(names)
    net = netc.parse(f"net t(x: {type}) -> {targets} {{ {targets} = {statement} }}")
    runs = [netc.compile(net, optimize=optimize)(x=X) for optimize in (True, False)]
    return [[run[name] for name in names] for run in runs]


@pytest.mark.parametrize(
    ("parts", "axis", "ends"),
    [
        ("3", 1, [4, 8]),
        ("1", 1, []),
        ("[-1]", 1, []),
        ("[6, 4, 2]", 1, [6, 10]),
        ("[2, -1, 3]", 1, [2, 9]),
        ("[12, -1]", 1, [12]),
        ("[2, -1]", 0, [2]),
        ("[-1, 1]", -1, [3]),
        ("[H - 1, 1]", 2, [2]),
        ("[N // 2, -1]", 0, [2]),
    ],
)
def test_split(parts: str, axis: int, ends: list[int]) -> None:
    want = np.split(X, ends, axis)
    text = parts.replace("H", "size(x, 2)").replace("N", "size(x, 0)")
    for got in cut(f"split(x, {text}, axis={axis})", len(want)):
        for one, other in zip(got, want, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("type", ["f32[N,12,H,W]", "f32[5,12,3,4]"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize(
    ("start", "stop"), [(-1, None), (-2, -1), (0, -1), (1, -2), (-3, None), (1, None), (2, 3)]
)
def test_slice(start: int, stop: int | None, axis: int, type: str) -> None:
    places = [slice(None)] * 4
    places[axis] = slice(start, stop)
    arguments = f"axis={axis}, start={start}, stop={'none' if stop is None else stop}"
    for (got,) in cut(f"slice(x, {arguments})", 1, type):
        np.testing.assert_array_equal(got, X[tuple(places)])


@pytest.mark.parametrize(
    ("start", "stop", "want"),
    [("-H", "none", X[:, -3:]), ("0", "-2 * H", X[:, :-6]), ("-H - 2", "-H", X[:, -5:-3])],
)
def test_ends_of_symbols_count_from_the_end_too(start: str, stop: str, want: Array) -> None:
    start, stop = (end.replace("H", "size(x, 2)") for end in (start, stop))
    for (got,) in cut(f"slice(x, start={start}, stop={stop})", 1):
        np.testing.assert_array_equal(got, want)


def test_the_last_none_are_none() -> None:
    net = netc.parse("net t(x: f32[4,5,H]) -> y, z { y = slice(x, 1, -H)  z = slice(x, 1, 0, -H) }")
    got = netc.compile(net)(x=np.ones((4, 5, 0), np.float32))
    assert [got["y"].shape, got["z"].shape] == [(4, 0, 0), (4, 5, 0)]


def test_more_parts_than_nodes_are_refused_at_once() -> None:
    with pytest.raises(GraphError, match="more than 100000 nodes"):
        netc.parse("net t(x: f32[2000000000]) -> y { y = split(x, 2000000000, axis=0) |> concat }")


def test_both_from_python() -> None:
    @netc.net
    def t(x: netc.f32[5, 12, 3, 4]):
        a, b = netc.split(x, [10, -1])
        return {"a": a, "b": netc.slice(b, start=-1)}

    got = netc.compile(t)(x=X)
    np.testing.assert_array_equal(got["a"], X[:, :10])
    np.testing.assert_array_equal(got["b"], X[:, -1:])


def test_an_end_before_the_axis_is_found_when_the_net_runs() -> None:
    exe = netc.compile(netc.parse("net t(x: f32[N,2]) -> y { y = slice(x, axis=0, start=-3) }"))
    assert exe(x=np.ones((3, 2), np.float32))["y"].shape == (3, 2)
    with pytest.raises(NetcError, match="N"):
        exe(x=np.ones((2, 2), np.float32))


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("split(x, [4, 4])", r"parts of \[4, 4\] are 8 together; the axis is 12"),
        ("split(x, [8, 8, -1])", r"parts of \[8, 8, -1\] are 16 together; the axis is 12"),
        ("split(x, [-1, 2, -1])", "one -1 at most"),
        ("split(x, [-2, 14])", "a size is -1, 0 or more"),
        ("split(x, [])", "one size at least"),
        ("split(x, [2, 3], axis=0)", r"parts of \[2, 3\] are 5 together; the axis is N"),
        ("split(x, 2, axis=0)", "2 parts do not divide an axis of N"),
        ("split(x, 5)", "5 parts do not divide an axis of 12"),
        ("slice(x, start=-13)", "-1 to 12 of 12: the start is negative"),
        ("slice(x, start=-1, stop=-2)", "11 to 10 of 12: it ends before it starts"),
        ("slice(x, axis=4)", "outside"),
    ],
)
def test_mistakes(call: str, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        netc.parse(f"net t(x: f32[N,12,H,W]) -> y {{ y = relu({call}) }}")
