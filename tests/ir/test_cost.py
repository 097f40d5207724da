"""Costs against counts made by hand."""

from __future__ import annotations

from netc.ir.cost import bytes_of, cost, default_sizes, summarize
from netc.ir.dims import sym
from netc.ir.text import parse
from netc.ir.types import f32

NET = """graph @net(input %x: f32[N,3,8,8], param %w: f32[5,3,3,3], param %b: f32[5]) {
  %conv = conv(%x, %w, %b) : f32[N,5,6,6]
  %relu = relu(%conv) : f32[N,5,6,6]
  %flat = flatten(%relu) : f32[N,180]
  return %flat
}
"""


def test_convolution_counts_multiply_adds_twice() -> None:
    conv = parse(NET).by_name["conv"].node
    n = sym("N")
    assert cost(conv).flops == n * (5 * 6 * 6) * (2 * 27 + 1)
    assert cost(conv).read == n * (3 * 64 * 4) + (5 * 27 + 5) * 4
    assert cost(conv).written == n * (180 * 4)


def test_summary() -> None:
    s = summarize(parse(NET), {"N": 2})
    assert [r.name for r in s.rows] == ["conv", "relu", "flat"]
    assert [r.type for r in s.rows] == ["f32[2,5,6,6]", "f32[2,5,6,6]", "f32[2,180]"]
    assert s.parameters == 140
    assert s.weights == 560
    assert s.flops == 2 * 180 * 55 + 2 * 180
    assert s.rows[2].bytes == 0
    assert s.activations == (2 * 180 + 2 * 192) * 4


def test_blocks_are_filled_up() -> None:
    t = f32["N", 5, 3, 3].blocked()
    assert bytes_of(t) == sym("N") * (8 * 9 * 4)


def test_default_sizes() -> None:
    g = parse("graph @n(input %x: f32[N,3,H,W]) {\n  return %x\n}")
    assert default_sizes(g) == {"N": 1, "H": 224, "W": 224}
    assert default_sizes(g, {"H": 32})["H"] == 32
    g = parse("graph @n(input %x: f32[2*N,T,16*H]) {\n  return %x\n}")
    assert default_sizes(g) == {"N": 1, "T": 224, "H": 14}


def test_a_kernel_costs_what_its_body_does() -> None:
    g = parse(
        """graph @net(input %x: f32[2,4]) stage kernels {
  %k = fused(%x, body=graph @k0(input %a: f32[2,4]) {
    %b = relu(%a) : f32[2,4]
    %c = add(%b, %b) : f32[2,4]
    return %c
  }) : f32[2,4]
  return %k
}"""
    )
    (row,) = summarize(g).rows
    assert (row.op, row.flops, row.bytes) == ("relu+add", 16, 64)
