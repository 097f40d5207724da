"""Texts made to hurt: each ends in a clean error, or in an answer, soon."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net

SECONDS = 10.0  # of this process; five would do on a machine that does nothing else


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < SECONDS


def net(body: str, before: str = "") -> str:
    return f"{before}\nnet n(x: f32[N, 3, 8, 8]) -> y {{\n{body}\n}}\n"


def refused(text: str, why: str) -> None:
    with pytest.raises(NetcError, match=why):
        parse_net(text, warn=lambda d: None)


BLOCKS = "\n".join(f"block b{i}(x) {{ return b{i + 1}(x) }}" for i in range(1000))
DOUBLING = "\n".join(f"block d{i}(x) {{ return d{i + 1}(d{i + 1}(x)) }}" for i in range(40))
FORMULAS = "\n".join(f"op f{i}(x) = f{i + 1}(x) + f{i + 1}(x)" for i in range(60))
NUMBERS = "op c0(x) = 1\n" + "\n".join(
    f"op c{i}(x) = c{i - 1}(2) + c{i - 1}(3)" for i in range(1, 30)
)
CHAIN = "\n".join(f"op f{i}(x) = relu(f{i + 1}(x))" for i in range(1000))
TEXTS = 'let t0 = "ab"\n' + "\n".join(f'let t{i + 1} = "{{t{i}}}{{t{i}}}"' for i in range(60))
POWERS = "let p0 = 99\n" + "\n".join(f"let p{i + 1} = p{i} * p{i}" for i in range(60))
SIZES = "let a = N + H + W\n" + "\n".join("let a = a * (N + 2 * H + 3 * W)" for i in range(60))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (net("y = " + "(" * 200_000 + "x" + ")" * 200_000), "nested more than 200"),
        (net("y = " + "relu(" * 199 + "x" + ")" * 199), "never"),
        (net("y = " + "[" * 100_000), "nested more than 200"),
        (net("repeat 2 {" * 500 + "}" * 500), "nested more than 200"),
        ("(" * 100 + "]" * 100, "does not close"),
        ("x " * 500_000, "more than 250000 words and signs"),
        ("#" * (5 << 20), "at most 4194304 are read"),
        ("\ud800", "not UTF-8"),
        (net("repeat 1000000000 { }"), "steps"),
        (net("repeat 1000000 { repeat 1000000 { x = relu(x) } }"), "more than 100000 nodes"),
        (net("y = b0(x)", BLOCKS), "nested more than 200"),
        (net("y = d0(x)", DOUBLING + "\nblock d40(x) { return relu(x) }"), "nested more than 200"),
        (net("y = f0(x)", FORMULAS + "\nop f60(x) = x"), "longer than 4000"),
        (net("y = x + c29(x)", NUMBERS), r":\d+:\d+: error: the net takes more than 1000000 steps"),
        (net("y = f0(x)", CHAIN + "\nop f1000(x) = x"), "nested too deeply"),
        (net("y = relu(x, name=t60)", TEXTS), "longer than 1000"),
        (net("y = affine(x, p60)", POWERS), "beyond 64 bits"),
        (net(SIZES.replace("\n", "\n  ")).replace("3, 8, 8]", "H, W]"), "too long an expression"),
        (net("y = conv(x, 2147483648, 3)"), "between 0 and 2147483647"),
        (net("y = conv(x, 4, 3, groups=0)"), "at least 1"),
        (net("y = conv(x, 4, 0)"), "at least 1"),
        (net("y = conv(x, 4, 3, stride=0)"), "at least 1"),
        (net("y = conv(x, 4, 3, pad=4611686018427387904)"), "too large"),
        (net("y = conv(x, 4, 3, dilation=-1)"), "at least 1"),
        (net("y = max_pool(x, 0)"), "at least 1"),
        (net("y = reshape(x, (-1, -1))"), "."),
        (net("y = tile(x, 1, 99999999999)"), "."),
        (net("y = x\n" + "y = -" + "-" * 100_000 + "x"), "never"),
        (net("y = " + " + ".join(["x"] * 20_000)), "never"),
        (net("y = x" + " |> relu" * 20_000), "never"),
        (net("y = x" + "[0]" * 1000), "more than 8 indexes"),
        (net("if true {" * 199 + "y = x" + "}" * 199), "never"),
        (net("if true {" * 200 + "y = x" + "}" * 200), "nested more than 200"),
        (net("y = x if 1 > 2 { z = x }" + " else if 1 > 2 { z = x }" * 20_000), "never"),
        (net("y = x if" + " true and" * 20_000 + " true { }"), "never"),
        (net("y = x if" + " not" * 20_000 + " true { }"), "two `not` in a row"),
        (net("repeat 1000000 { if true { }" + " else if true { }" * 20_000 + "}"), "steps"),
        (net("repeat 100000 { if false {" + "z = x " * 50_000 + "} }"), "steps"),
    ],
    ids=range(38),
)
def test_it_ends_soon(text: str, why: str) -> None:
    if why != "never":
        refused(text, why)
        return
    assert parse_net(text, warn=lambda d: None).outputs["y"].type.rank == 4


NAMES = (
    '"', "'", "\\", "\n", '"""', "{}", "{i}", "%s", "__import__('os')", "\0", "\u202e", "../x", "`",
    "#", "//", "net", "", " ", "a b", "x.w", "é", "日本", "\x1b[31m", "a" * 900, "%x", "@",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_any_name_in_any_place(name: str) -> None:
    from netc.frontend.net.show import escape

    quoted = f"`{escape(name, '`')}`"
    text = '"' + escape(name.replace("{", "{{").replace("}", "}}"), '"') + '"'
    source = f"""
    block b(x) {{ return conv(x, 2, 1, name={text}) }}
    net {quoted}(x: f32[N, 3, 8, 8]) -> {quoted} {{ {quoted} = b(x, name="s") }}
    """
    if not name:
        refused(source, "a name is empty")
        return
    g = parse_net(source, warn=lambda d: None)
    assert g.name == name
    assert list(g.outputs) == [name]
    assert [n.name for n in g.params] == [f"s/{name}.w", f"s/{name}.b"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_errors_show_names_safely(name: str) -> None:
    from netc.frontend.net.show import escape

    quoted = f"`{escape(name or 'z', '`')}`"
    with pytest.raises(NetcError) as e:
        parse_net(f"net n(x: f32[2]) -> y {{ y = {quoted} }}", name)
    assert all(c.isprintable() or c == "\n" for c in str(e.value))
    assert len(str(e.value)) < 2000
