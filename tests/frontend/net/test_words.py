"""Every op of the registry is a word of the language: its samples are written as calls."""

from __future__ import annotations

from typing import Any

import pytest

import netc.ir.ops  # noqa: F401
from netc.frontend.net.elaborate import parse_net
from netc.frontend.net.show import escape
from netc.frontend.net.words import words
from netc.ir.op import REGISTRY, Case
from netc.ir.types import DType, TensorType

OWN = {word for word, w in words().items() if word in REGISTRY and w.owns}  # take parameters
LEGAL = [
    pytest.param(name, case, id=f"{name}-{i}")
    for name in sorted(words())
    if name in REGISTRY and name not in {*OWN, "dropout"}
    for i, case in enumerate(REGISTRY[name].samples)
    if not case.error
]


def literal(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case None:
            return "none"
        case str():
            return f'"{escape(value, chr(34))}"'
        case tuple():
            return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
    return str(value)


@pytest.mark.parametrize(("name", "case"), LEGAL)
def test_a_sample_can_be_written(name: str, case: Case) -> None:
    ports = ", ".join(f"x{i}: {t}" for i, t in enumerate(case.inputs))
    args = [f"x{i}" for i in range(len(case.inputs))]
    args += [f"{k}={literal(v)}" for k, v in case.attributes.items()]
    expected = REGISTRY[name](**case.attributes)
    count = len(_types(expected.infer(*case.inputs)))
    targets = ", ".join(f"y{i}" for i in range(count))
    g = parse_net(f"net n({ports}) -> y0 {{ {targets} = {name}({', '.join(args)}) }}")
    assert g.outputs["y0"].node.op == expected


def _types(types: TensorType | tuple[TensorType, ...]) -> tuple[TensorType, ...]:
    return types if isinstance(types, tuple) else (types,)


def test_every_word_says_what_it_takes() -> None:
    for word in words().values():
        assert str(word).startswith(f"{word.name}(")
        assert word.doc, word.name


def test_element_types_by_name() -> None:
    text = "net n(x: u8[2]) -> y {{ y = cast(x, {}) }}"
    for dtype in DType:
        for spelled in (str(dtype), f'"{dtype}"'):
            assert parse_net(text.format(spelled)).outputs["y"].type.dtype is dtype
