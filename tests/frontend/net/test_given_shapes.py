"""Shapes that are given in place of a net's symbols."""

from __future__ import annotations

import numpy as np
import pytest

from netc.errors import GraphError, UsageError
from tests.frontend.net.test_elaborate import read


def test_shapes_can_be_chosen() -> None:
    text = "net n(x: f32[N, 3, H, W]) -> y { y = x |> conv(4, 3) |> fc(5) }"
    g = read(text, shapes={"x": (2, 3, 9, 8)})
    assert str(g.outputs["y"].type) == "f32[2,5]"
    for wrong in ({"x": (2, 4, 9, 8)}, {"x": (2, 3)}, {"z": (2,)}):
        with pytest.raises(ValueError, match="shape"):
            read(text, shapes=wrong)


def test_a_size_that_is_given_is_so_wherever_the_net_names_it() -> None:
    text = """
    net n(x: f32[N, M], z: f32[2 * N, 4]) -> y {
      y = (concat(x, x, axis=0) + z) |> reshape((N, M * 2))
    }
    """
    g = read(text, shapes={"x": (3, 4)})
    assert str(g.inputs[1].types[0]) == "f32[6,4]"
    assert str(g.outputs["y"].type) == "f32[3,8]"
    both = "net n(x: f32[N], z: f32[N]) -> y { y = x + z }"
    with pytest.raises(GraphError, match=r"`z` is f32\[N\]; the shape given is \[4\]"):
        read(both, shapes={"x": (3,), "z": (4,)})


def test_a_shape_may_hold_names_of_sizes() -> None:
    text = "net n(x: f32[N, 3, H, W]) -> y { y = x |> conv(4, 3) |> relu }"
    g = read(text, shapes={"x": ["M", np.int64(3), "M", 12]})
    assert str(g.inputs[0].types[0]) == "f32[M,3,M,12]"
    with pytest.raises(GraphError, match="the shape given is"):
        read(text, shapes={"x": ("M", "C", 9, 8)})


WRONG_SHAPES = [(1.0, 3), (None, 3), (True, 3), (-1, 3), ("-1", 3), ("a b", 3), 5, "N,3", None]


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_what_is_no_shape(shape: object) -> None:
    with pytest.raises(UsageError, match="is not a shape for 'x'"):
        read("net n(x: f32[N, 3]) -> y { y = relu(x) }", shapes={"x": shape})
    with pytest.raises(UsageError, match="shapes is a mapping"):
        read("net n(x: f32[N, 3]) -> y { y = relu(x) }", shapes=[shape])
