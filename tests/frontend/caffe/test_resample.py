"""FlowNet 2's layers that change sizes, against what its CUDA computes, written out in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

import netc
from netc.errors import UnsupportedError

from .files import read, refused
from .test_flow import both, images, layer, types
from .test_layers import Array, inputs


def cubic(x: float) -> float:
    x = abs(x)
    if x <= 1:
        return x * x * (1.5 * x - 2.5) + 1
    return x * (x * (-0.5 * x + 2.5) - 4) + 2 if x < 2 else 0.0


def triangle(x: float) -> float:
    return x + 1 if -1 <= x < 0 else 1 - x if 0 <= x <= 1 else 0.0


def away(x: float) -> int:
    """C's round."""
    return math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1)


def resampled(x: Array, size: tuple[int, int], kind: str, antialias: bool = True) -> Array:
    """InterpolationKernel and NearestNeighborKernel of resample_layer.cu."""
    items, channels, tall, wide = x.shape
    y = np.zeros((items, channels, *size))
    fx, fy = wide / size[1], tall / size[0]
    antialias = antialias and (fx > 1 or fy > 1)
    kernel, width = (cubic, 4) if kind == "CUBIC" else (triangle, 2)
    ax, ay = (1 / fx, 1 / fy) if antialias else (1.0, 1.0)
    rx = 2 if fx < 1 else math.ceil(width / ax)
    ry = 2 if fy < 1 else math.ceil(width / ay)
    for i, j in np.ndindex(*size):
        x_in, y_in = j * fx + fy / 2 - 0.5, i * fy + fx / 2 - 0.5
        column, row = away(x_in), away(y_in)
        if kind == "NEAREST":
            y[:, :, i, j] = x[:, :, min(row, tall - 1), min(column, wide - 1)]
            continue
        sums, weights = np.zeros((items, channels)), 0.0
        for r in range(max(row - ry, 0), min(row + ry, tall - 1) + 1):
            for k in range(max(column - rx, 0), min(column + rx, wide - 1) + 1):
                w = ax * kernel(ax * (x_in - k)) * ay * kernel(ay * (y_in - r))
                sums += w * x[:, :, r, k]
                weights += w
        y[:, :, i, j] = sums / weights if weights else 0
    return y


SIZES = [(10, 14), (5, 7), (9, 4), (3, 3), (2, 11), (20, 28), (1, 1), (5, 14)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["NEAREST", "LINEAR", "CUBIC"])
def test_resample(kind: str, size: tuple[int, int]) -> None:
    x = images(2, 3, 5, 7)
    for field in ("", "antialias: false"):
        given = f"type: {kind} height: {size[0]} width: {size[1]} {field}"
        y = both(layer("Resample", f"resample_param {{ {given} }}"), {"a": x})["y"]
        np.testing.assert_allclose(y, resampled(x, size, kind, not field), atol=1e-5)


def test_the_second_bottom_gives_the_size() -> None:
    x, like = images(1, 2, 4, 6), images(1, 1, 8, 9)
    y = both(layer("Resample", "", "a b"), {"a": x, "b": like})["y"]
    np.testing.assert_allclose(y, resampled(x, (8, 9), "LINEAR"), atol=1e-5)
    y = both(layer("Downsample", "", "a c"), {"a": x, "c": images(1, 1, 3, 2)})["y"]
    np.testing.assert_allclose(y, downsampled(x, (3, 2))[0], atol=1e-5)


def test_resample_is_linear_and_antialiased_unless_said() -> None:
    x = images(1, 2, 8, 8)
    y = both(layer("Resample", "resample_param { height: 3 width: 5 }"), {"a": x})["y"]
    np.testing.assert_allclose(y, resampled(x, (3, 5), "LINEAR"), atol=1e-5)


def downsampled(x: Array, size: tuple[int, int]) -> tuple[Array, float]:
    """DownsampleFeatures of downsample_layer.cu, and how far the weights of what is not known are
    at least from those at which a result turns to NaN."""
    items, channels, tall, wide = x.shape
    y, gap = np.zeros((items, channels, *size)), 1.0
    sx, sy = (wide - 1) / (size[1] - 1), (tall - 1) / (size[0] - 1)
    rx, ry = math.ceil(sx), math.ceil(sy)
    for n, k, i, j in np.ndindex(*y.shape):
        at_x, at_y = j / (size[1] - 1) * (wide - 1), i / (size[0] - 1) * (tall - 1)
        value = weights = unknown = 0.0
        for r in range(max(away(at_y) - ry, 0), min(away(at_y) + ry, tall - 1) + 1):
            for q in range(max(away(at_x) - rx, 0), min(away(at_x) + rx, wide - 1) + 1):
                w = max(0.0, 1 - abs(q - at_x) / sx) * max(0.0, 1 - abs(r - at_y) / sy)
                if np.isnan(x[n, k, r, q]):
                    unknown += w
                else:
                    value, weights = value + w * x[n, k, r, q], weights + w
        y[n, k, i, j] = value / weights if unknown <= 0.5 * weights else np.nan
        gap = min(gap, abs(unknown - 0.5 * weights))
    return y, gap


def holed(share: float, size: tuple[int, int]) -> Array:
    """An image that lacks a share of its numbers, none of its results on the brink of NaN."""
    rng = np.random.default_rng(3)
    for _ in range(1000):
        x = rng.normal(size=(1, 2, 6, 8)).astype(np.float32)
        x[rng.random(x.shape) < share] = np.nan
        wanted, gap = downsampled(x, size)
        if gap > 1e-3 and np.isnan(wanted).any() == (share > 0):
            return x
    raise AssertionError


@pytest.mark.parametrize(
    ("size", "share"),
    [((7, 9), 0.0)] + [(s, n) for s in [(2, 2), (3, 5), (4, 8), (6, 3)] for n in (0.0, 0.4)],
)
def test_downsample(size: tuple[int, int], share: float) -> None:
    x = holed(share, size)
    given = f"downsample_param {{ top_height: {size[0]} top_width: {size[1]} }}"
    y = both(layer("Downsample", given), {"a": x})["y"]
    np.testing.assert_allclose(y, downsampled(x, size)[0], atol=1e-5)


def test_downsample_to_the_same_size_is_nothing() -> None:
    x = images(1, 2, 4, 4)
    text = layer("Downsample", "downsample_param { top_height: 4 top_width: 4 }") + layer(
        "AbsVal", bottoms="y", tops="z"
    ).replace('"l"', '"m"')
    np.testing.assert_array_equal(both(text, {"a": x})["z"], np.abs(x))


@pytest.mark.parametrize(
    ("kind", "rest", "says"),
    [
        ("Resample", "resample_param { width: 4 }", "height must be at least 1"),
        ("Resample", "resample_param { height: 4 factor: 2 }", "width must be at least 1"),
        ("Downsample", "downsample_param { top_width: 4 }", "top_height must be at least 1"),
        ("Downsample", "downsample_param { top_height: 1 top_width: 4 }", "at least 2 are needed"),
    ],
)
def test_what_is_wrong_with_a_size(kind: str, rest: str, says: str) -> None:
    assert says in str(refused(read, inputs("a", 1, 2, 8, 8) + layer(kind, rest)))
    assert "needs 4 axes" in str(refused(read, inputs("a", 2, 8) + layer(kind, rest)))


def test_a_size_of_nothing_is_refused() -> None:
    text = inputs("a", 1, 2, 8, 8) + inputs("b", 1, 2, 0, 4) + layer("Resample", "", "a b")
    assert "f32[1,2,0,4] has no pixels" in str(refused(read, text))


def test_the_kind_of_resampling_that_is_refused() -> None:
    text = layer("Resample", "resample_param { type: AREA height: 2 width: 2 }")
    said = refused(read, inputs("a", 1, 2, 8, 8) + text)
    assert isinstance(said, UnsupportedError)
    assert "type AREA; NEAREST, LINEAR and CUBIC are" in str(said)


def accumulated(xs: list[Array], size: tuple[int, int]) -> Array:
    """accum_layer.cpp."""
    items, channels = len(xs[0]), sum(x.shape[1] for x in xs)
    y = np.zeros((items, channels, *size))
    before = 0
    for x in xs:
        _, count, tall, wide = x.shape
        for i, j in np.ndindex(*size):
            at_x, at_y = j / (size[1] - 1) * (wide - 1), i / (size[0] - 1) * (tall - 1)
            left, top = math.floor(at_x), math.floor(at_y)
            right, bottom = min(left + 1, wide - 1), min(top + 1, tall - 1)
            u, v = at_x - left, at_y - top
            y[:, before : before + count, i, j] = (
                (1 - u) * (1 - v) * x[:, :, top, left]
                + u * v * x[:, :, bottom, right]
                + (1 - u) * v * x[:, :, bottom, left]
                + u * (1 - v) * x[:, :, top, right]
            )
        before += count
    return y


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ("", (6, 7)),
        ("top_height: 9 top_width: 8", (9, 8)),
        ("top_height: 9 top_width: 7", (6, 7)),
        ("size_divisible_by: 4", (8, 8)),
        ("size_divisible_by: 3", (6, 7)),
    ],
)
def test_accum(fields: str, size: tuple[int, int]) -> None:
    feed = {"a": images(2, 3, 4, 7), "b": images(2, 2, 6, 5), "c": images(2, 1, 6, 7)}
    y = both(layer("Accum", f"accum_param {{ {fields} }}", "a b c"), feed)["y"]
    np.testing.assert_allclose(y, accumulated([*feed.values()], size), atol=1e-5)


def test_an_accum_of_a_references_size() -> None:
    feed = {"a": images(2, 3, 4, 7), "b": images(2, 2, 6, 5), "c": images(2, 9, 5, 5)}
    y = both(layer("Accum", "accum_param { have_reference: true }", "a b c"), feed)["y"]
    np.testing.assert_allclose(y, accumulated([feed["a"], feed["b"]], (5, 5)), atol=1e-5)


@pytest.mark.parametrize(
    ("field", "size"),
    [("", "max(H,(H+1)//2),max(W,(W+1)//2)"), ("have_reference: true", "H,W")],
)
def test_an_accum_leaves_sizes_open(field: str, size: str) -> None:
    pool = "pooling_param { kernel_size: 2 stride: 2 }"
    text = layer("Pooling", pool, "a", "b").replace('"l"', '"p"')
    tail = " a" if field else ""
    text += layer("Accum", f"accum_param {{ {field} }}", f"a b{tail}")
    graph = read(inputs("a", 1, 3, 8, 8) + text)
    assert types(graph) == {"y": f"f32[N,6,{size}]"}
    x = images(2, 3, 5, 7)
    y = netc.compile(graph)(a=x)["y"]
    less = np.zeros((2, 3, 3, 4))
    for i, j in np.ndindex(3, 4):
        less[:, :, i, j] = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((2, 3))
    np.testing.assert_allclose(y, accumulated([x, less], (5, 7)), atol=1e-5)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("have_reference: true", "a reference needs a bottom before it"),
        ("size_divisible_by: 0", "size_divisible_by must be at least 1"),
    ],
)
def test_what_is_wrong_with_an_accum(rest: str, says: str) -> None:
    text = layer("Accum", f"accum_param {{ {rest} }}")
    assert says in str(refused(read, inputs("a", 1, 2, 8, 8) + text))
    text = inputs("a", 1, 2, 8, 8) + inputs("b", 2, 2, 8, 8) + layer("Accum", "", "a b")
    assert "bottoms are f32[1,2,8,8] and f32[2,2,8,8]" in str(refused(read, text))
