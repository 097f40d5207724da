"""Texts and the graphs they stand for, as IR text."""

from __future__ import annotations

import textwrap
from dataclasses import replace

import numpy as np
import pytest

from netc.errors import Diagnostic, GraphError, WeightsError
from netc.frontend.net.elaborate import parse_net
from netc.ir.graph import Graph
from netc.ir.interpret import interpret
from netc.ir.text import show


def read(text: str, **options: object) -> Graph:
    options.setdefault("warn", lambda d: None)
    return parse_net(textwrap.dedent(text), "t.net", **options)


def check(text: str, expected: str, **options: object) -> None:
    """The graph's nodes, one a line; inputs and parameters are left out."""
    lines = [line.strip() for line in show(read(text, **options)).splitlines()]
    nodes = [line for line in lines if line.startswith(("return", "%"))]
    assert nodes == textwrap.dedent(expected).strip().splitlines()


def test_a_layer_names_its_parameters() -> None:
    g = read("net n(x: f32[N, 3, 8, 8]) -> y { y = x |> conv(4, 3, pad=1) |> relu }")
    assert [n.name for n in g.nodes] == ["x", "conv.w", "conv.b", "conv", "y"]
    assert [str(n.types[0]) for n in g.params] == ["f32[4,3,3,3]", "f32[4]"]
    assert str(g.outputs["y"].type) == "f32[N,4,8,8]"


def test_names_of_nodes() -> None:
    check(
        """
        net n(x: f32[2]) -> y {
          a = x |> relu |> tanh |> relu
          a = relu(a)
          y = a |> tanh(name="odd name") |> tanh
        }
        """,
        """
        %relu = relu(%x) : f32[2]
        %tanh = tanh(%relu) : f32[2]
        %a = relu(%tanh) : f32[2]
        %a_1 = relu(%a) : f32[2]
        %"odd name" = tanh(%a_1) : f32[2]
        %y = tanh(%"odd name") : f32[2]
        return %y
        """,
    )


def test_blocks_put_their_nodes_under_their_name() -> None:
    check(
        """
        block b(x, f=2) { return x |> affine(f) }
        net n(x: f32[2]) -> y { y = x |> b |> b(3, name="c") |> b(f=4, name="") |> b }
        """,
        """
        %b/affine = affine(%x, scale=2.0) : f32[2]
        %c/affine = affine(%b/affine, scale=3.0) : f32[2]
        %affine = affine(%c/affine, scale=4.0) : f32[2]
        %y/affine = affine(%affine, scale=2.0) : f32[2]
        return "y" = %y/affine
        """,
    )


def test_the_empty_name_is_that_of_the_block() -> None:
    check(
        """
        block unit(x, name="u") { return x |> relu(name="") |> tanh(name="t{name}") }
        net n(x: f32[2]) -> y { y = x |> unit |> unit(name="v") }
        """,
        """
        %u = relu(%x) : f32[2]
        %u/tu = tanh(%u) : f32[2]
        %v = relu(%u/tu) : f32[2]
        %v/tv = tanh(%v) : f32[2]
        return "y" = %v/tv
        """,
    )


def test_repeat_let_and_arithmetic() -> None:
    check(
        """
        let base = 2 * (3 + 1) // 3          # 2
        net n(x: f32[N, 8]) -> y {
          repeat base + 1 as i {
            let n = i + 1
            x = x |> affine(10 % 4, -i / 2, name="a{n}")
          }
          y = reshape(x, (N * 2, max(2, 4), -1))
        }
        """,
        """
        %a1 = affine(%x, scale=2.0) : f32[N,8]
        %a2 = affine(%a1, scale=2.0, shift=-0.5) : f32[N,8]
        %a3 = affine(%a2, scale=2.0, shift=-1.0) : f32[N,8]
        %y = reshape(%a3, shape=(<2*N>, 4, -1)) : f32[2*N,4,1]
        return %y
        """,
    )


def test_operators_on_tensors() -> None:
    check(
        """
        net n(x: f32[N, 2, 4, 4], z: f32[N, 2, 4, 4]) -> y {
          a = x * 2 + 1 - z
          b = 1 - a / z
          y = -(3 * b) / 4 + maximum(a, 0.5)
        }
        """,
        """
        %affine = affine(%x, scale=2.0) : f32[N,2,4,4]
        %affine_1 = affine(%affine, shift=1.0) : f32[N,2,4,4]
        %a = sub(%affine_1, %z) : f32[N,2,4,4]
        %div = div(%a, %z) : f32[N,2,4,4]
        %b = affine(%div, scale=-1.0, shift=1.0) : f32[N,2,4,4]
        %affine_2 = affine(%b, scale=3.0) : f32[N,2,4,4]
        %affine_3 = affine(%affine_2, scale=-1.0) : f32[N,2,4,4]
        %div_1/const = const(type=f32[], value=4.0) : f32[]
        %div_1 = div(%affine_3, %div_1/const) : f32[N,2,4,4]
        %maximum/const = const(type=f32[], value=0.5) : f32[]
        %maximum = maximum(%a, %maximum/const) : f32[N,2,4,4]
        %y = add(%div_1, %maximum) : f32[N,2,4,4]
        return %y
        """,
    )


def test_one_number_per_channel() -> None:
    g = read("net n(x: u8[N, 3, 4, 4]) -> y { y = (cast(x, f32) - [104, 117, 123]) * 0.5 }")
    (mean,) = g.weights.values()
    assert mean.shape == (3, 1, 1)
    assert mean.ravel().tolist() == [104, 117, 123]
    given = np.full((1, 3, 4, 4), 124, np.uint8)
    assert interpret(g, {"x": given})["y"][0, :, 0, 0].tolist() == [10, 3.5, 0.5]


@pytest.mark.parametrize("value", ["x - [1, 2, 3]", "-([1, 2, 3] - x)", "maximum(x, [1, 2, 3])"])
@pytest.mark.parametrize("shape", ["N,3", "3", "N,3,2", "N,3,5,3", "N,3,1,3,3"])
def test_a_list_meets_the_channels_at_any_rank(shape: str, value: str) -> None:
    g = read(f"net n(x: f32[{shape}]) -> y {{ y = {value} }}")
    x = np.full([int(d) if d.isdigit() else 4 for d in shape.split(",")], 2.0, np.float32)
    axis = min(1, x.ndim - 1)
    along = np.arange(1.0, 4).reshape(3, *(1 for _ in x.shape[axis + 1 :]))
    wanted = np.maximum(x, along) if "max" in value else x - along
    np.testing.assert_array_equal(interpret(g, {"x": x})["y"], wanted)


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("select(k > 0, x, -x)", 2),
        ("select(k > 4, x, -x)", -2),
        ("select(3 > 2, x, y)", 2),
        ("select(3 < 2, x, y) + select(k == 3, 1, k)", 6),
    ],
)
def test_a_comparison_of_numbers_selects_when_compiling(body: str, wanted: float) -> None:
    g = read(f"op u(x, y, k=3) = {body}\nnet n(x: f32[1]) -> z {{ z = u(x, x + 3) }}")
    assert interpret(g, {"x": np.array([2.0])})["z"] == [wanted]


@pytest.mark.parametrize("term", [" + x", " - 2.0 / x", " * x", " / (x + 1)"])
def test_a_chain_is_not_nested(term: str) -> None:
    g = read(f"op o(x) = x{term * 60}\nnet n(x: f32[2]) -> y {{ y = o(x) }}")
    body = g.outputs["y"].op.body  # type: ignore[attr-defined]
    assert body == ("x" + term * 60).replace("x", "x0").replace(".0", "")


def test_brackets_of_a_user_op() -> None:
    g = read("""
    op p(a, b=-1.5) = a - (b - a) - (a / (a * b)) / (a - 1) * (-(-a))
    op o(x) = p(-x) * p(x + 1) - p(select(x < 1, x - (2 - x), x))
    net n(x: f32[2]) -> y { y = o(x) }
    """)
    x = np.array([0.25, 3.0])

    def p(a: np.ndarray, b: float = -1.5) -> np.ndarray:
        return a - (b - a) - (a / (a * b)) / (a - 1) * a

    want = p(-x) * p(x + 1) - p(np.where(x < 1, x - (2 - x), x))
    np.testing.assert_allclose(interpret(g, {"x": x})["y"], want, rtol=1e-6)


def test_a_user_op_is_one_formula() -> None:
    check(
        """
        let half = 0.5
        op gate(x, beta=1.0) = sigmoid(beta * x)
        op swish(x, beta=1.0) = x * gate(x, beta=beta)
        op leaky(x, y, slope) = select(x > y, x, slope * x - half) |> tanh
        op shrunk(x) = clip(x, low=-1, high=1) + expm(x)
        op expm(x) = -(-x)
        op over(x, least=-inf) = min(max(x, least), inf)
        op snake(x, a=1.0) = x + sin(a * x) * sin(a * x) / a - cos(0)
        net n(x: f32[2], z: f32[2]) -> a, b, c, d, e {
          a = swish(x)
          b = swish(x, 1.5) |> leaky(z, slope=0.1)
          c = shrunk(b)
          d = over(x)
          e = snake(x, 2)
        }
        """,
        """
        %a = formula(%x, body="x0 * sigmoid(1 * x0)") : f32[2]
        %swish = formula(%x, body="x0 * sigmoid(1.5 * x0)") : f32[2]
        %b = formula(%swish, %z, body="tanh(select(x0 > x1, x0, 0.1 * x0 - 0.5))") : f32[2]
        %c = formula(%b, body="min(max(x0, -1), 1) + -(-x0)") : f32[2]
        %d = formula(%x, body="min(max(x0, -inf), inf)") : f32[2]
        %e = formula(%x, body="x0 + sin(2 * x0) * sin(2 * x0) / 2 - 1") : f32[2]
        return %a, %b, %c, %d, %e
        """,
    )


def test_a_default_may_use_the_parameters_before_it() -> None:
    check(
        """
        let width = 4
        block unit(x, width=width, kernel=2 * width + 1, pad=kernel // 2) {
          return x |> conv(width, kernel, pad=pad)
        }
        op bell(x, scale=2, square=scale * scale) = exp(-(x * x) / square)
        net n(x: f32[N, 3, 32, 32]) -> a, b, c {
          a = unit(x, 1)
          b = unit(x, kernel=5)
          c = bell(x, 3)
        }
        """,
        """
        %a/conv = conv(%x, %a/conv.w, %a/conv.b, pad=(1, 1)) : f32[N,1,32,32]
        %b/conv = conv(%x, %b/conv.w, %b/conv.b, pad=(2, 2)) : f32[N,4,32,32]
        %c = formula(%x, body="exp(-(x0 * x0) / 9)") : f32[N,3,32,32]
        return "a" = %a/conv, "b" = %b/conv, %c
        """,
    )


def test_several_results() -> None:
    check(
        """
        block both(x) { return relu(x), tanh(x) }
        net n(x: f32[N, 6]) -> a, y {
          a, b, c = split(x, 3)
          d, e = both(b)
          y = concat(c, d, e, axis=1)
        }
        """,
        """
        %split/0 = slice(%x, stop=2) : f32[N,2]
        %split/2 = slice(%x, start=4, stop=6) : f32[N,2]
        %split/1 = slice(%x, start=2, stop=4) : f32[N,2]
        %both/relu = relu(%split/1) : f32[N,2]
        %both/tanh = tanh(%split/1) : f32[N,2]
        %y = concat(%split/2, %both/relu, %both/tanh) : f32[N,6]
        return "a" = %split/0, %y
        """,
    )


def test_shardings() -> None:
    g = read(
        """
        let count = 2
        block b(x) {
          split channels over cpu:0,
            cpu:2 by input { x = x |> conv(2, 1, name="c") |> relu }
          return x
        }
        net n(x: f32[4, 2, 4, 4]) -> y {
          replicate over cpu:0, cpu:1 { a = relu(x)  c = tanh(a) }
          pipeline over cpu:0, cpu:2 micro_batches=count * 2 { a = a |> b  on cpu:2 { e = exp(a) } }
          pipeline over cpu, cpu:1, cpu:2 { y = a + e + c }
        }
        """
    )
    stages = "pipeline(cpu:0, cpu:2, micro_batches=4)"
    both = f"{stages} @ split(cpu:0, cpu:2, by=input)"
    assert {n.name: n.place for n in g.nodes if n.place} == {
        "a": "replicate(cpu:0, cpu:1)",
        "c": "replicate(cpu:0, cpu:1)",
        "a_1/c": both,
        "a_1/x": both,
        "e": f"cpu:2 @ {stages}",
        "add": "pipeline(cpu:0, cpu:1, cpu:2, micro_batches=3)",
        "y": "pipeline(cpu:0, cpu:1, cpu:2, micro_batches=3)",
    }


def test_the_words_of_shardings_are_names_too() -> None:
    g = read(
        """
        net n(split: f32[4, 2]) -> over, channels {
          replicate = relu(split)
          over = replicate
          pipeline = tanh(over) |> relu
          by = pipeline micro_batches = by
          channels, over = split(micro_batches, 2)
        }
        """
    )
    assert [str(v.type) for v in g.outputs.values()] == ["f32[4,1]", "f32[4,1]"]


def test_devices() -> None:
    g = read(
        """
        block b(x) { return x |> conv(2, 1) |> relu }
        net n(x: f32[N, 2, 4, 4]) -> y {
          a = relu(x) @ cpu:1
          on cuda:0@node1 { a = a |> b |> tanh @ cpu }
          c = a |> b @ cuda:1 |> relu
          y = c + c @ sim:2
        }
        """
    )
    placed = {n.name: str(n.device) for n in g.nodes if n.device}
    assert placed == {
        "a": "cpu:1",
        **{f"b/{part}": "cuda:0@node1" for part in ("conv.w", "conv.b", "conv", "relu")},
        "a_1": "cpu:0",
        **{f"b_1/{part}": "cuda:1" for part in ("conv.w", "conv.b", "conv", "relu")},
        "y": "sim:2",
    }


def test_shared_parameters() -> None:
    g = read(
        """
        net siamese(a: f32[N, 1, 8, 8], b: f32[N, 1, 8, 8]) -> y {
          w = param(f32[4, 1, 3, 3], init=gaussian(0, 0.01))
          first = conv(a, w=w, name="conv1")
          second = conv(b, w=w, b=conv1.b)
          f = fc(first, 10, name="f")
          g = fc(second, 10, params=f)
          y = f - fc(second, 10, params="f") + g
        }
        """
    )
    assert [n.name for n in g.params] == ["w", "conv1.b", "f.w", "f.b"]


def test_sizes_of_tensors() -> None:
    check(
        """
        block depthwise(x) { return x |> conv(channels(x), 3, groups=channels(x), bias=false) }
        net n(x: f32[N, 6, H, W]) -> y {
          x = depthwise(x)
          y = reshape(x, (size(x, 0), 6, size(x, 2) * size(x, -1)))
        }
        """,
        """
        %depthwise/conv = conv(%x, %depthwise/conv.w, groups=6) : f32[N,6,H-2,W-2]
        %y = reshape(%depthwise/conv, shape=(<N>, 6, <H*W+4-2*H-2*W>)) : f32[N,6,H*W+4-2*H-2*W]
        return %y
        """.replace("depthwise", "x_1"),
    )


def test_any_name_goes() -> None:
    g = read('net `a"b\\n{}`(`日本 語`: f32[N]) -> `return` { `return` = relu(`日本 語`) }')
    assert g.name == 'a"b\n{}'
    assert g.inputs[0].name == "日本 語"
    assert list(g.outputs) == ["return"]


def test_places() -> None:
    g = read("net n(x: f32[2]) -> y {\n  y = x |>\n    relu\n}")
    assert str(g.outputs["y"].node.loc) == "t.net:3:5"


def test_dropout_is_for_training() -> None:
    text = "net n(x: f32[2, 3]) -> y { y = x |> dropout(0.25) |> relu }"
    assert [n.op.name for n in read(text).nodes] == ["input", "relu"]
    wanted = ["input", "dropout", "relu"]
    assert [n.op.name for n in read(text, phase="train").nodes] == wanted
    assert [n.op.name for n in read(text.replace("0.25", "0.25, always=true")).nodes] == wanted


def test_one_of_several_nets() -> None:
    text = "net a(x: f32[2]) -> y { y = relu(x) } net b(x: f32[3]) -> y { y = relu(x) }"
    assert read(text, net="b").name == "b"


WEIGHTED = 'net n(x: f32[N, 2, 4, 4]) -> y { y = x |> conv(2, 1, name="c") |> prelu }'


def test_weights_by_name() -> None:
    arrays = {
        "c.w": np.ones((2, 2, 1, 1)), "c.b": np.zeros((1, 1, 1, 2)), "y.slope": np.ones(2)
    }  # fmt: skip
    told: list[Diagnostic] = []
    g = read(WEIGHTED, weights=arrays, strict=True, warn=told.append)
    assert not told
    assert {k: v.shape for k, v in g.weights.items()} == {
        "c.w": (2, 2, 1, 1), "c.b": (2,), "y.slope": (2, 1, 1)
    }  # fmt: skip


def test_weights_that_do_not_match() -> None:
    told: list[Diagnostic] = []
    arrays = {"c.w": np.ones((2, 2, 1, 1)), "d.w": np.ones(3)}
    read(WEIGHTED, weights=arrays, warn=told.append)
    assert [d.message for d in told] == [
        "the weights lack c.b, y.slope: drawn with seed 0",
        "the net has no parameters for these weights: d.w",
    ]
    with pytest.raises(WeightsError, match="lack"):
        read(WEIGHTED, weights=arrays, strict=True)
    with pytest.raises(WeightsError, match=r"c.w is \[2,2,1,1\] in the net, \[3\] in the weights"):
        read(WEIGHTED, weights={"c.w": np.ones(3)})


def test_no_weights_are_told() -> None:
    told: list[Diagnostic] = []
    read(WEIGHTED, warn=told.append)
    assert [str(d) for d in told] == [
        "warning: no weights are given: 3 parameters are drawn with seed 0"
    ]


def test_the_log_says_itself_how_severe_a_remark_is(caplog: pytest.LogCaptureFixture) -> None:
    read(WEIGHTED, warn=None)
    assert caplog.messages == ["no weights are given: 3 parameters are drawn with seed 0"]


def test_layers() -> None:
    g = read(
        """
        net n(x: f32[N, 4, 8, 8], i: f32[N, 3]) -> a, b, c, d, e {
          a = x |> conv_transpose(6, 4, stride=2, pad=1, groups=2, init=bilinear)
          b = x |> prelu(shared=true) |> batch_norm(eps=0.001) |> scale |> bias
          c = embed(i, 10, 5)
          d = x |> scale(bias=false)
          e = x |> layer_norm(axis=2)
        }
        """
    )
    shapes = {n.name: str(n.types[0]) for n in g.params}
    assert shapes == {
        "a.w": "f32[4,3,4,4]", "a.b": "f32[6]", "prelu.slope": "f32[]",
        "batch_norm.mean": "f32[4,1,1]", "batch_norm.variance": "f32[4,1,1]",
        "scale.w": "f32[4,1,1]", "scale.b": "f32[4,1,1]", "b.b": "f32[4,1,1]",
        "c.w": "f32[10,5]", "c.b": "f32[5]", "d.w": "f32[4,1,1]",
        "e.w": "f32[8,8]", "e.b": "f32[8,8]",
    }  # fmt: skip
    assert {k: str(v.type) for k, v in g.outputs.items()} == {
        "a": "f32[N,6,16,16]", "b": "f32[N,4,8,8]", "c": "f32[N,3,5]", "d": "f32[N,4,8,8]",
        "e": "f32[N,4,8,8]",
    }  # fmt: skip


def test_layer_norm() -> None:
    g = read("net n(x: f32[N, 4, 6]) -> y { y = layer_norm(x, eps=0.1) }")
    x = np.random.default_rng(0).normal(3, 2, (2, 4, 6))
    w, b = np.arange(6) / 4, np.arange(6) - 2.0
    graph = replace(g, weights={"y.w": w.astype(np.float32), "y.b": b.astype(np.float32)})
    spread = np.sqrt(x.var(2, keepdims=True) + np.float32(0.1))
    wanted = (x - x.mean(2, keepdims=True)) / spread * w + b
    np.testing.assert_allclose(interpret(graph, {"x": x.astype(np.float32)})["y"], wanted, 1e-5)
    with pytest.raises(GraphError, match=r"`w` is f32\[4,6\]; the sizes from `axis` on are \[6\]"):
        read("net n(x: f32[4, 6]) -> y { y = layer_norm(x, w=x) }")
