"""Element-wise kernels and copies: every formula, every mix of layouts."""

import numpy as np
import pytest

from netc.ir.graph import Builder
from netc.ir.op import REGISTRY
from netc.ir.ops.elementwise import Cast
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, f32, u8
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected

OPS = [n for n, op in REGISTRY.items() if issubclass(op, Elementwise)]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", OPS)
def test_samples(level, name):
    for case in REGISTRY[name].samples:
        if case.error:
            continue
        body = body_of(REGISTRY[name](**case.attributes), case.inputs)
        arrays = {f"x{i}": a for i, a in enumerate(drawn(case))}
        (got,) = Bench(body, arrays, {}).run(level)
        (want,) = expected(body, arrays)
        close(got, want, 4, 1e-6 if name in ("formula", "softplus") else 1e-7)


def chain(b, x, y, scale):
    """relu(x · scale + y), and the sum before it."""
    total = b.add(b.mul(x, scale), y)
    return b.relu(total), total


PLAIN, C8 = "plain", "c8"
LAYOUTS = [(PLAIN, PLAIN, PLAIN), (C8, C8, C8), (PLAIN, C8, C8), (C8, PLAIN, C8), (C8, C8, PLAIN)]
SIZES = [(1, 8, 5, 7), (2, 3, 4, 33), (2, 20, 1, 1), (1, 16, 7, 7), (3, 17, 2, 16), (1, 1, 1, 1)]


def laid(type, layout):
    return type.blocked() if layout == C8 else type


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("halo", [(0, 0), (1, 2)])
def test_layouts(level, shape, layouts, halo):
    """Sums of operands in any layout, with a channel parameter, into any layout."""
    n, c, _, _ = shape
    rng = np.random.default_rng(3)
    for other in ((c, 1, 1), (n, c, 1, 1), (n, 1, *shape[2:]), (1, 1, 1, 1), shape):
        b = Builder()
        x = b.input("x", laid(f32[shape], layouts[0]))
        y = b.input("y", laid(f32[shape], layouts[1]))
        s = b.input("s", f32[other])
        out = b.relu(b.add(b.mul(x, s), y))
        if layouts[2] == PLAIN and out.type.layout.value == C8:
            out = relayout(out)
        body = b.graph("g", {"out": out})
        arrays = {k: rng.normal(size=t).astype(np.float32)
                  for k, t in (("x", shape), ("y", shape), ("s", other))}  # fmt: skip
        for param in (False, True):
            where = {k: Where(halo if v == C8 else (0, 0), spread=v == C8)
                     for k, v in zip(("x", "y", "out"), layouts, strict=True)}  # fmt: skip
            where["s"] = Where(param=param)
            (got,) = Bench(body, arrays, where).run(level, (1, 3))
            bound = 2e-7 * (np.abs(arrays["x"] * arrays["s"]) + np.abs(arrays["y"]))
            close(got, expected(body, arrays)[0], 4, bound)


def relayout(v):
    """The value as if its node gave row-major results."""
    from dataclasses import replace

    return replace(v.node, types=(v.type.plain(),)).out


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_two_outputs_and_many_rows(level):
    rng = np.random.default_rng(4)
    b = Builder()
    t = f32[2, 24, 40, 37].blocked()
    x, y = b.input("x", t), b.input("y", t)
    s = b.input("s", f32[24, 1, 1])
    first, second = chain(b, x, y, s)
    body = b.graph("g", {"a": first, "b": second})
    arrays = {"x": rng.normal(size=(2, 24, 40, 37)), "y": rng.normal(size=(2, 24, 40, 37)),
              "s": rng.normal(size=(24, 1, 1))}  # fmt: skip
    arrays = {k: v.astype(np.float32) for k, v in arrays.items()}
    got = Bench(body, arrays, {"x": Where((1, 1)), "s": Where(param=True)}).run(level)
    bound = 2e-7 * (np.abs(arrays["x"] * arrays["s"]) + np.abs(arrays["y"]))
    for g, want in zip(got, expected(body, arrays), strict=True):
        close(g, want, 4, bound)


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_bytes(level):
    """An image of bytes becomes floats, and copies of bytes stay bytes."""
    image = np.random.default_rng(5).integers(0, 256, (2, 3, 9, 21)).astype(np.uint8)
    b = Builder()
    x = b.input("x", u8[image.shape])
    body = b.graph("g", {"y": b.affine(b.cast(x, to=DType.F32), scale=0.5, shift=1.0), "x": x})
    got = Bench(body, {"x": image}, {}).run(level)
    np.testing.assert_array_equal(got[0], image * np.float32(0.5) + 1)
    np.testing.assert_array_equal(got[1], image)


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_cast(level):
    """Cut toward zero, held in range, NaN to 0."""
    for case in Cast.samples:
        body = body_of(Cast(**case.attributes), case.inputs)
        arrays = {f"x{i}": a * 3 for i, a in enumerate(drawn(case))}
        if arrays["x0"].dtype == np.float32 and arrays["x0"].size > 6:
            arrays["x0"].reshape(-1)[:6] = [np.nan, np.inf, -np.inf, 3e9, -3e9, 255.9]
        (got,) = Bench(body, arrays, {}).run(level)
        np.testing.assert_array_equal(got, expected(body, arrays)[0])


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_special_values(level):
    """NaN goes through relu, clip, maximum; infinities stay."""
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -3.0, 7.0, 2.0] * 3, np.float32)
    for make in (lambda b, x: b.relu(x), lambda b, x: b.clip(x), lambda b, x: b.relu(x, slope=0.5)):
        b = Builder()
        x = b.input("x", f32[27])
        body = b.graph("g", {"y": make(b, x)})
        (got,) = Bench(body, {"x": values}, {}).run(level)
        np.testing.assert_array_equal(got, expected(body, {"x": values}, np.float32)[0])
