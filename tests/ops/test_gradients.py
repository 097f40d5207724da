"""Gradients against central differences in float64."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import domain_of, draw_array

from netc.errors import GraphError
from netc.ir.derivative import summed
from netc.ir.graph import Builder, Graph
from netc.ir.interpret import interpret
from netc.ir.op import REGISTRY, Array, Case, Op, case
from netc.ir.scalar import Elementwise
from netc.ir.types import DType, f32

STEP = 1e-6
# Results that are flat but at jumps, or random numbers that do not depend on x.
NO_GRADIENT = {"equal", "greater", "less", "threshold", "floor"}


def with_gradient() -> list[object]:
    out = []
    for name, op in sorted(REGISTRY.items()):
        if name in NO_GRADIENT or not (issubclass(op, Elementwise) or op.grad is not Op.grad):
            continue
        legal = [
            s
            for s in op.samples
            if not s.error
            and all(_small(t) for t in s.inputs)
            and s.attributes.get("mode", "constant") == "constant"
        ]
        out += [pytest.param(name, s, id=f"{name}-{i}") for i, s in enumerate(legal)]
    return out


def _small(t: object) -> bool:
    return t.dtype is DType.F32 and t.count <= 400  # type: ignore[attr-defined]


def gradient_graph(name: str, sample: Case) -> tuple[Graph, Graph]:
    """The op alone, and the gradients of Σ dy · y for a given dy."""
    b = Builder()
    xs = tuple(b.input(f"x{i}", t) for i, t in enumerate(sample.inputs))
    node = b(REGISTRY[name](**sample.attributes), *xs, name="y")
    y = node.out
    forward = b.graph("forward", {"y": y})
    dy = b.input("dy", y.type)
    grads = node.op.grad(b, xs, y, dy)
    assert len(grads) == len(xs)
    for g, x in zip(grads, xs, strict=True):
        assert g is None or g.type == x.type
    outputs = {f"x{i}": g for i, g in enumerate(grads) if g is not None}
    return forward, b.graph("gradient", outputs)


@pytest.mark.parametrize(("name", "sample"), with_gradient())
def test_against_differences(name: str, sample: Case) -> None:
    forward, backward = gradient_graph(name, sample)
    rng = np.random.default_rng(5)
    xs = {
        f"x{i}": away_from_kinks(draw_array(t, domain_of(sample, i), rng))
        for i, t in enumerate(sample.inputs)
    }
    dy = rng.normal(size=interpret(forward, xs)["y"].shape)
    got = interpret(backward, {**xs, "dy": dy})
    for key, x in xs.items():
        want = differences(forward, xs, key, dy)
        # Attributes are float32 within; differences lose half of float64's 16 digits.
        np.testing.assert_allclose(got.get(key, np.zeros_like(x)), want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        ("tile", case(f32[2, 0], times=3)),
        ("reshape", case(f32[0, 6], shape=(2, 3, -1))),
        ("flatten", case(f32[2, 3, 0], axis=0)),
        ("add", case(f32[2, 0], f32[1, 0])),
        ("mul", case(f32[2, 0, 3], f32[3])),
        ("reduce_sum", case(f32[3, 0], axes=(0,))),
        ("reduce_mean", case(f32[3, 0, 2], axes=(0,))),
        ("fc", case(f32[2, 0], f32[3, 0], f32[3])),
        ("fc", case(f32[0, 2], f32[3, 2], f32[3])),
    ],
)
def test_sizes_of_0(name: str, sample: Case) -> None:
    forward, backward = gradient_graph(name, sample)
    xs = {f"x{i}": np.ones(t.shape) for i, t in enumerate(sample.inputs)}
    y = interpret(forward, xs)["y"]
    got = interpret(backward, {**xs, "dy": np.ones(y.shape)})
    assert {key: dx.shape for key, dx in got.items()} == {key: x.shape for key, x in xs.items()}
    assert all(np.isfinite(dx).all() for dx in got.values())


def away_from_kinks(x: Array) -> Array:
    """x with what lies close to 0 moved: √|x| and its like bend too much there."""
    return np.where((np.abs(x) < 0.05) & (x != 0), 0.05, x.astype(np.float64))


def differences(graph: Graph, xs: dict[str, Array], key: str, dy: Array) -> Array:
    out = np.zeros_like(xs[key])
    for at in np.ndindex(*out.shape):
        if key == "x0" and graph.outputs["y"].op.name == "where":
            continue  # a condition
        ends = []
        for sign in (1, -1):
            moved = xs[key].copy()
            moved[at] += sign * STEP
            ends.append(float((interpret(graph, {**xs, key: moved})["y"] * dy).sum()))
        out[at] = (ends[0] - ends[1]) / (2 * STEP)
    return out


def slope(name: str, x: list[float], **attributes: object) -> list[float]:
    _, backward = gradient_graph(name, Case((f32[len(x)],), attributes))
    feed = {"x0": np.array(x), "dy": np.ones(len(x))}
    return [float(v) for v in interpret(backward, feed, np.float32)["x0"]]


def test_kinks_and_far_ends() -> None:
    far = [-1000.0, 1000.0]
    assert slope("relu", [-1.0, 0.0, 1.0]) == [0, 0, 1]
    assert slope("abs", [-1.0, 0.0, -0.0, 1.0]) == [-1, 0, 0, 1]
    assert slope("clip", [-2.0, -1.0, 0.5, 1.5, 2.0], low=-1.0, high=1.5) == [0, 1, 1, 1, 0]
    assert slope("clip", [-2.0, 3.0], low=-np.inf, high=3.0) == [1, 1]
    assert slope("sigmoid", far) == [0, 0]
    assert slope("tanh", far) == [0, 0]
    assert slope("swish", far) == [0, 1]
    assert slope("softplus", [-1000.0, 0.0, 1000.0]) == [0, 0.5, 1]
    assert slope("elu", far) == [0, 1]


def test_a_jump_has_no_gradient() -> None:
    b = Builder()
    x = b.input("x", f32[3])
    y = b.floor(x)
    assert y.op.grad(b, (x,), y, x) == (None,)
    i = b.argmax(x, axis=0)
    with pytest.raises(GraphError, match="has no gradient"):
        i.op.grad(b, (x,), i, i)


def test_sums_undo_broadcasting() -> None:
    b = Builder()
    v = b.input("v", f32["N", 3, 4, 5])
    for t in (f32[3, 1, 1], f32[()], f32[1, 3, 1, 5], f32["N", 3, 4, 5], f32["N", 1, 1, 1]):
        assert summed(b, v, t).type == t
