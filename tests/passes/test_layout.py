"""Channel blocks: who gets them, and what conversions that takes."""

from __future__ import annotations

import pytest

from netc.ir.device import Device
from netc.ir.graph import Graph, Node
from netc.ir.ops.layout import ToBlocked, ToPlain
from netc.ir.types import Layout
from netc.passes.base import Context
from netc.passes.layout import AssignLayout
from tests.passes.rule import graph, run, unchanged

CONV = "stride=(1, 1), pad=(0, 0), dilation=(1, 1)"


def laid_out(text: str) -> Graph:
    """The graph after layout; edges are row-major, results unchanged."""
    after, _ = run(AssignLayout(), graph(text))
    for v in (*after.outputs.values(), *(n.out for n in after.inputs)):
        assert v.type.layout is Layout.PLAIN
    return after


def kinds(g: Graph) -> list[str]:
    """Op names, sources aside; a mark on those whose result is blocked."""
    return [
        n.op.name + ("*" if n.types[0].layout is Layout.C8 else "")
        for n in g.nodes
        if n.op.name not in ("input", "param", "const")
    ]


def net(lines: str, x: str = "f32[N,16,9,9]", params: str = "") -> str:
    return f"graph @g(input %x: {x}{params}) {{\n{lines}\n  return %y\n}}"


W = ", param %w: f32[16,16,1,1], param %w3: f32[16,3,1,1], param %p: f32[16,1,1]"


def test_one_conversion_each_way() -> None:
    g = laid_out(net(
        f"""%a = conv(%x, %w, {CONV}) : f32[N,16,9,9]
        %b = relu(%a) : f32[N,16,9,9]
        %c = max_pool(%b, kernel=(3, 3), stride=(2, 2), pad=(0, 0)) : f32[N,16,4,4]
        %d = conv(%c, %w, {CONV}) : f32[N,16,4,4]
        %e = add(%d, %c) : f32[N,16,4,4]
        %y = mul(%e, %p) : f32[N,16,4,4]""", params=W,
    ))  # fmt: skip
    assert kinds(g) == [
        "to_blocked*", "conv*", "relu*", "max_pool*", "conv*", "add*", "mul*", "to_plain",
    ]  # fmt: skip


def test_first_convolution_reads_the_users_layout() -> None:
    """3 channels are not worth 8 lanes: row-major in, blocks out."""
    g = laid_out(net(
        f"""%s = affine(%x, scale=0.5) : f32[N,3,9,9]
        %a = conv(%s, %w3, {CONV}) : f32[N,16,9,9]
        %b = relu(%a) : f32[N,16,9,9]
        %y = conv(%b, %w, {CONV}) : f32[N,16,9,9]""", "f32[N,3,9,9]", W,
    ))  # fmt: skip
    assert kinds(g) == ["affine", "conv", "to_blocked*", "relu*", "conv*", "to_plain"]


def test_inner_product_reads_blocks() -> None:
    text = net(
        f"%a = conv(%x, %w, {CONV}) : f32[N,16,2,2]\n%y = fc(%a, %f) : f32[N,5]",
        "f32[N,16,2,2]", W + ", param %f: f32[5,64]",
    )  # fmt: skip
    assert kinds(laid_out(text)) == ["to_blocked*", "conv*", "fc"]


@pytest.mark.parametrize("c", [1, 3, 5, 7, 8, 16, 17])
@pytest.mark.parametrize(
    ("op", "made"),
    [
        ("softmax(%a)", "f32[2,{c},4,4]"),
        ("reduce_max(%a, axes=(1,))", "f32[2,4,4]"),
        ("reduce_sum(%a, axes=(1, 3), keep=true)", "f32[2,1,4,1]"),
        ("argmax(%a, axis=1)", "f32[2,1,4,4]"),
        ("transpose(%a, perm=(0, 2, 3, 1))", "f32[2,4,4,{c}]"),
        ("reshape(%a, shape=(0, -1))", "f32[2,{n}]"),
        ("slice(%a, axis=3, start=1, stop=3)", "f32[2,{c},4,2]"),
        ("slice(%a, axis=1, start=0, stop=1)", "f32[2,1,4,4]"),
        ("concat(%a, %a)", "f32[2,{d},4,4]"),
        ("concat(%a, %x, axis=3)", "f32[2,{c},4,8]"),
        ("tile(%a, times=2)", "f32[2,{d},4,4]"),
        ("lrn(%a, size=3)", "f32[2,{c},4,4]"),
        ("add(%a, %q)", "f32[2,{c},4,4]"),
        ("crop(%a, %x)", "f32[2,{c},4,4]"),
        ("global_avg_pool(%a)", "f32[2,{c},1,1]"),
        ("resize_nearest(%a)", "f32[2,{c},8,8]"),
    ],
)
def test_any_op_after_a_convolution(c: int, op: str, made: str) -> None:
    """Reductions over channels, moves and element-wise ops, with full and odd blocks."""
    type = made.format(c=c, d=2 * c, n=16 * c)
    params = f", param %w: f32[{c},{c},1,1], param %q: f32[4,1]"
    lines = (
        f"%a = conv(%x, %w, {CONV}) : f32[2,{c},4,4]\n%b = {op} : {type}\n%y = relu(%b) : {type}"
    )
    laid_out(net(lines, f"f32[2,{c},4,4]", params))


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ("%y = relu(%x) : f32[N,16,9,9]", ""),
        ("%y = concat(%x, %x, axis=2) : f32[N,16,18,9]", ""),
        (
            f"%y = conv(%x, %v, {CONV}, groups=4) : f32[N,12,9,9]",
            "%y stays row-major: 4 groups of 3 output channels do not fill blocks of 8",
        ),
    ],
)
def test_left_row_major(lines: str, why: str) -> None:
    unchanged(AssignLayout(), net(lines, params=", param %v: f32[12,4,1,1]"), why)


def test_groups_of_whole_blocks_and_within_blocks() -> None:
    text = net(
        f"%a = conv(%x, %v, {CONV}, groups=2) : f32[N,16,9,9]\n"
        f"%b = conv(%a, %w, {CONV}, groups=4) : f32[N,16,9,9]\n"
        f"%y = conv(%b, %d, {CONV}, groups=16) : f32[N,16,9,9]",
        params=", param %v: f32[16,8,1,1], param %w: f32[16,4,1,1], param %d: f32[16,1,1,1]",
    )
    assert kinds(laid_out(text)) == ["to_blocked*", "conv*", "conv*", "conv*", "to_plain"]


def test_transposed_convolutions_are_convolutions() -> None:
    attributes = "stride=(2, 2), pad=(0, 0), dilation=(1, 1)"
    text = net(
        f"%a = conv_transpose(%x, %w, {attributes}) : f32[N,16,17,17]\n"
        f"%b = conv_transpose(%a, %v, {attributes}, groups=2) : f32[N,16,33,33]\n"
        f"%y = conv_transpose(%b, %o, {attributes}, groups=4) : f32[N,12,65,65]",
        params=W + ", param %v: f32[16,8,1,1], param %o: f32[16,3,1,1]",
    )
    found = ["to_blocked*", "conv_transpose*", "conv_transpose*", "to_plain", "conv_transpose"]
    assert kinds(laid_out(text)) == found
    few = net(
        f"%a = conv_transpose(%x, %w, {attributes}) : f32[N,16,17,17]\n"
        f"%y = conv(%a, %u, {CONV}) : f32[N,16,17,17]",
        "f32[N,3,9,9]", ", param %w: f32[3,16,1,1], param %u: f32[16,16,1,1]",
    )  # fmt: skip
    assert kinds(laid_out(few)) == ["conv_transpose", "to_blocked*", "conv*", "to_plain"]


def test_concat_of_odd_channels_is_row_major() -> None:
    text = net(
        f"%a = conv(%x, %v, {CONV}) : f32[N,12,9,9]\n%b = concat(%a, %a) : f32[N,24,9,9]\n"
        "%y = relu(%b) : f32[N,24,9,9]",
        params=", param %v: f32[12,16,1,1]",
    )
    assert kinds(laid_out(text)) == ["to_blocked*", "conv*", "to_plain", "concat", "relu"]


def test_the_cut_is_where_least_moves() -> None:
    """Row-major is wanted at the end: converted after pooling, where it is a quarter."""
    text = net(
        f"""%a = conv(%x, %w, {CONV}) : f32[N,16,64,64]
        %b = relu(%a) : f32[N,16,64,64]
        %c = max_pool(%b, kernel=(2, 2), stride=(2, 2), pad=(0, 0)) : f32[N,16,32,32]
        %d = relu(%c) : f32[N,16,32,32]
        %y = softmax(%d) : f32[N,16,32,32]""",
        "f32[N,16,64,64]", W,
    )  # fmt: skip
    found = kinds(laid_out(text))
    assert found == ["to_blocked*", "conv*", "relu*", "max_pool*", "relu*", "to_plain", "softmax"]


def test_back_end_refuses() -> None:
    def refuses(node: Node) -> str | None:
        return "no kernel for that" if node.op.name == "conv" else None

    text = net(f"%y = conv(%x, %w, {CONV}) : f32[N,16,9,9]", params=W)
    unchanged(AssignLayout(refuses), text, "no kernel for that")


def test_laid_out_once() -> None:
    text = net(f"%y = conv(%x, %w, {CONV}) : f32[N,16,9,9]", params=W)
    once = laid_out(text)
    assert AssignLayout().run(once, Context()) is once


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("%y = slice(%a, start=4, stop=12) : f32[N,8,9,9]", ["to_plain", "slice"]),
        ("%y = slice(%a, start=8, stop=15) : f32[N,7,9,9]", ["to_plain", "slice"]),
        ("%y = slice(%a, start=8, stop=16) : f32[N,8,9,9]", ["slice*", "to_plain"]),
        (
            "%m = slice(%x, start=0, stop=1) : f32[N,1,9,9]\n%y = mul(%a, %m) : f32[N,16,9,9]",
            ["to_plain", "slice", "mul"],
        ),
    ],
)
def test_blocks_are_whole(lines: str, found: list[str]) -> None:
    """Slices within a block, and operands with one of many channels, are row-major."""
    text = net(f"%a = conv(%x, %w, {CONV}) : f32[N,16,9,9]\n{lines}", params=W)
    assert kinds(laid_out(text)) == ["to_blocked*", "conv*", *found]


def test_blocks_are_made_where_they_are_read() -> None:
    """Another device may have none: what a GPU gives a processor crosses row-major."""
    before = """
    graph @g(input %x: f32[1,8,8,8]) {
      %a = relu(%x) : f32[1,8,8,8] @ cuda:0
      %b = max_pool(%a, kernel=(3, 3)) : f32[1,8,6,6] @ cpu:0
      %c = max_pool(%b, kernel=(3, 3)) : f32[1,8,4,4] @ cpu:0
      return %c
    }
    """

    def refuses(node: Node) -> str | None:
        return "" if node.device == Device("cuda") else None

    after, _ = run(AssignLayout(refuses), graph(before))
    found = {n.op.name: n.device for n in after.nodes if isinstance(n.op, ToBlocked | ToPlain)}
    assert found == {"to_blocked": Device("cpu"), "to_plain": Device("cpu")}
