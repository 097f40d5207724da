"""What is said of a layer is said of what computes it after the passes."""

from __future__ import annotations

import pytest

import netc
from netc.codegen.precision import most_exact
from netc.compiler import Options, lower
from netc.errors import GraphError


def words(text: str, **precisions: str) -> dict[str, str]:
    """The precisions of kernels of a net on a GPU that are not the net's own, `high`."""
    graph = netc.parse(text, warn=lambda _: None)
    return dict(lower(graph, Options(targets=("cuda",), precisions=precisions)).precisions)


CHAIN = """
net n(x: f32[N, 3, 9, 9]) -> y {
  h = x |> conv(8, 3, name="c1") |> batch_norm(name="bn") |> relu(name="r1")
  y = h |> conv(8, 3, name="c2") |> relu(name="r2")
}
"""


def test_a_convolution_is_folded_and_fused() -> None:
    assert words(CHAIN, c1="low") == {"r1": "low"}
    assert words(CHAIN, c2="exact") == {"r2": "exact"}


def test_what_joins_a_convolution_follows_it() -> None:
    assert words(CHAIN, r1="low") == {}
    assert words(CHAIN, bn="low") == {}


SIBLINGS = """
net n(x: f32[N, 8, 9, 9]) -> a, b {
  p = x |> conv(8, 1, name="c1") |> relu
  q = x |> conv(16, 1, name="c2") |> relu
  a = p |> max_pool(2)
  b = q |> max_pool(2)
}
"""


def test_siblings_that_became_one_are_as_exact_as_the_most_exact() -> None:
    assert words(SIBLINGS, c1="low") == {}
    assert set(words(SIBLINGS, c1="low", c2="medium").values()) == {"medium"}
    assert set(words(SIBLINGS, c1="exact").values()) == {"exact"}


BLOCK = """
block pair(x) { return x |> conv(4, 1) |> conv(4, 1) }
net n(x: f32[N, 4, 5, 5]) -> y { y = x |> pair(name="p") |> conv(4, 1, name="c") }
"""


def test_a_name_means_a_block() -> None:
    graph = netc.parse(BLOCK, warn=lambda _: None)
    inside = [n.name for n in graph.nodes if n.name.startswith("p/") and n.op.name == "conv"]
    assert len(inside) == 2
    assert words(BLOCK, p="low") == dict.fromkeys(inside, "low")


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(GraphError, match="there is no layer 'c11' to compute") as e:
        words(CHAIN, c11="low")
    assert "did you mean c1" in str(e.value)


def test_order() -> None:
    assert most_exact(["low", "medium", "high"]) == "high"
    assert most_exact(["fp16", "exact", "low"]) == "exact"


PRODUCTS = """
net n(x: f32[N, 9, 8], w: f32[5, 8]) -> y, z {
  b = param(f32[5])
  y = fc(x, w=w, b=b, axis=2, name="made") |> relu
  z = matmul(x, param(f32[8, 8]), name="fixed") |> matmul(x |> transpose([0, 2, 1]), name="p")
}
"""


def test_a_product_stays_what_it_is_called() -> None:
    assert set(words(PRODUCTS, made="low").values()) == {"low"}
    assert words(PRODUCTS, fixed="exact") == {"fixed": "exact"}
    assert words(PRODUCTS, p="medium") == {"p": "medium"}
