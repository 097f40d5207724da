"""Pooling over regions against loops, on processors too, and where regions are odd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import netc
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.op import Array
from netc.ir.types import f32
from tests.strategies import regions

NAN, INF = math.nan, math.inf
F = np.float32
CORNERS = [  # image, x0, y0, x1, y1
    [0, 0, 0, 15, 15], [1, 3, 2, 9.5, 12.49], [1.9, 3, 2, 9, 12], [-0.5, 1, 1, 4, 4],
    [-1, 0, 0, 15, 15], [2, 0, 0, 15, 15], [NAN, 0, 0, 9, 9], [INF, 0, 0, 9, 9],
    [-INF, 0, 0, 9, 9], [1e30, 0, 0, 9, 9], [0, 9, 12, 3, 2], [0, 40, 2, 60, 9],
    [0, -60, -60, -40, -40], [1, -10, -10, 40, 40], [0, 5, 5, 5, 5], [0, 0.5, 1.5, 2.5, 3.5],
    [0, -0.5, -1.5, 2.5, 0.5], [0, NAN, 0, 9, 9], [0, 0, NAN, 9, 9], [0, 0, 0, NAN, 9],
    [0, 0, 0, 9, NAN], [0, -INF, -INF, INF, INF], [0, INF, 0, INF, 9], [0, 1e30, 0, 1e30, 9],
    [0, -1e30, 3, 1e30, 5], [1, 0, 0, 1e30, 1e30], [1, 3e9, 0, -3e9, 9], [0, 0, 0, 13, 13],
    [1, 7, 0, 7, 13], [1, 0, 0, 1e-40, 1e-40],
]  # fmt: skip


def nearest(v: Any) -> Any:
    low = np.floor(abs(v))
    return F(math.copysign(low + (abs(v) - low >= 0.5), v))


def held(v: Any) -> Any:
    return v if np.isnan(v) else F(min(max(v, F(-(2**22))), F(2**22)))


def roi_bin(first: Any, last: Any, scale: Any, i: int, count: int) -> tuple[Any, Any]:
    start, end = nearest(held(first * scale)), nearest(held(last * scale))
    step = np.maximum(end - start + F(1), F(1)) / F(count)
    return np.floor(F(i) * step) + start, np.ceil(F(i + 1) * step) + start


def ps_roi_bin(first: Any, last: Any, scale: Any, i: int, count: int) -> tuple[Any, Any]:
    start, end = held(nearest(first) * scale), held((nearest(last) + F(1)) * scale)
    step = np.maximum(end - start, F(0.1)) / F(count)
    return np.floor(held(F(i) * step) + start), np.ceil(held(F(i + 1) * step) + start)


def clipped(edges: tuple[Any, Any], size: int) -> range:
    low, high = (0 if np.isnan(e) else int(min(max(e, 0), size)) for e in edges)
    return range(low, high)


@np.errstate(all="ignore")
def by_hand(x: Array, rois: Array, scale: float, size: tuple[int, int], parts: bool) -> Array:
    """In float32 where places are found, straight from the layers' description."""
    n, c, h, w = x.shape
    ph, pw = size
    each = ph * pw if parts else 1
    out = np.zeros((len(rois), c // each, ph, pw))
    bins: Callable[..., Any] = ps_roi_bin if parts else roi_bin
    for r, q, i, j in np.ndindex(*out.shape):
        image, x0, y0, x1, y1 = rois[r].astype(np.float32)
        if not -1 < image < n:
            continue
        rows = clipped(bins(y0, y1, F(scale), i, ph), h)
        columns = clipped(bins(x0, x1, F(scale), j, pw), w)
        plane = x[int(image), (q * ph + i) * pw + j if parts else q]
        values = [plane[y, z] for y in rows for z in columns]
        if values:
            out[r, q, i, j] = sum(values) / len(values) if parts else np.max(values)
    return out


def net(parts: bool, size: tuple[int, int], scale: float, channels: int) -> Graph:
    """One op, behind one that is computed, so that its input has a layout of the net's own."""
    b = Builder()
    x, rois = b.input("x", f32["N", channels, "H", "W"]), b.input("rois", f32["R", 5])
    x = b.affine(x, scale=1.0)
    if parts:
        count = channels // size[0] ** 2
        y = b.ps_roi_pool(x, rois, channels=count, group=size[0], scale=scale)
    else:
        y = b.roi_pool(x, rois, size=size, scale=scale)
    return b.graph("net", {"y": y})


CASES = [
    (parts, size, scale, h, w)
    for parts, sizes in ((False, [(7, 7), (2, 3), (1, 1)]), (True, [(3, 3), (7, 7), (1, 1)]))
    for size in sizes
    for scale, h, w in ((1.0, 14, 16), (0.3, 9, 11), (0.0625, 6, 5))
]


@pytest.mark.parametrize(("parts", "size", "scale", "h", "w"), CASES)
def test_by_hand(parts: bool, size: tuple[int, int], scale: float, h: int, w: int) -> None:
    rng = np.random.default_rng(0)
    channels = 2 * size[0] ** 2 if parts else 11
    x = rng.normal(size=(2, channels, h, w)).astype(np.float32)
    drawn = regions((40, 5), 2, int(h / scale), rng)
    rois = np.concatenate([np.array(CORNERS), drawn]).astype(np.float32)
    graph = net(parts, size, scale, channels)
    want = by_hand(x.astype(np.float64), rois, scale, size, parts)
    got = interpret(graph, {"x": x, "rois": rois})["y"]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-14)  # means of numbers of size 1
    exe = netc.compile(graph)
    run = exe(x=x, rois=rois)["y"]
    np.testing.assert_allclose(run, want, rtol=0, atol=1e-6 if parts else 1e-7)
    assert (run.any(axis=(1, 2, 3)) == want.any(axis=(1, 2, 3))).all()
    assert exe(x=x, rois=rois[:0])["y"].shape == (0, *want.shape[1:])


def test_a_region_of_two_pixels() -> None:
    """Its corners round to (1, 0) and (2, 0): two columns, three bins that overlap."""
    x = np.arange(8.0).reshape(1, 1, 2, 4)
    graph = net(False, (1, 3), 1.0, 1)
    got = interpret(graph, {"x": x, "rois": np.array([[0, 0.5, 0.49, 1.5, -0.49]])})["y"]
    np.testing.assert_array_equal(got, [[[[1, 2, 2]]]])


@pytest.mark.parametrize("parts", [False, True])
def test_nan_and_infinities_in_a_bin(parts: bool) -> None:
    x = np.zeros((1, 1, 1, 4))
    x[..., 1:] = NAN, INF, -INF
    graph = net(parts, (1, 1), 1.0, 1)
    rows = np.array([[0, i, 0, i, 0] for i in range(4)] + [[0, 0, 0, 3, 0], [0, 2, 0, 3, 0]])
    want = [0, NAN, INF, -INF, NAN, NAN if parts else INF]
    feed = {"x": x.astype(np.float32), "rois": rows.astype(np.float32)}
    np.testing.assert_array_equal(interpret(graph, feed)["y"].ravel(), want)
    np.testing.assert_array_equal(netc.compile(graph)(feed)["y"].ravel(), want)
