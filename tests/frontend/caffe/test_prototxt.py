"""The text reader: what it accepts, what it says of what it does not, and how long it takes."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from netc.errors import ParseError
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.prototxt import parse_message, read_text

from .files import refused


def layer(fields: str) -> Message:
    found: Message = read_text(f"layer {{ {fields} }}").messages("layer")[0]
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("kernel_size: 3", [3]),
        ("kernel_size:3 kernel_size : 5", [3, 5]),
        ("kernel_size: [3, 5]", [3, 5]),
        ("kernel_size: []", []),
        ("kernel_size: 0x10 kernel_size: 010", [16, 8]),
        ("kernel_size: 3; kernel_size: 5,", [3, 5]),
        ("kernel_size: # why not\n 3", [3]),
    ],
)
def test_whole_numbers(text: str, value: list[int]) -> None:
    assert (
        layer(f"convolution_param {{ {text} }}").sub("convolution_param").all("kernel_size")
        == value
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.", 1), (".5", 0.5), ("-1e-3", -1e-3), ("1f", 1), ("2.5F", 2.5), ("- 3", -3), ("7", 7),
     ("inf", math.inf), ("-inf", -math.inf), ("Infinity", math.inf),
     ("1e40", math.inf), ("-1e40", -math.inf), ("3.4028235e38", 3.4028235e38), ("1e-46", 0),
     ("1e-45", 1e-45)],
)  # fmt: skip
def test_floats(text: str, value: float) -> None:
    assert (
        layer(f"relu_param {{ negative_slope: {text} }}").sub("relu_param").real("negative_slope")
        == value
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [("'a'", "a"), ('"a" \'b\'\n"c"', "abc"), (r'"\n\x41\101\"\\"', '\nAA"\\'), ('"#{}"', "#{}"),
     ('"día"', "día"), (r'"\303\255"', "í")],
)  # fmt: skip
def test_strings(text: str, value: str) -> None:
    assert layer(f"name: {text}").text("name") == value


@pytest.mark.parametrize(("text", "value"), [("AVE", "AVE"), ("1", "AVE"), ("0", "MAX")])
def test_enumerators(text: str, value: str) -> None:
    assert layer(f"pooling_param {{ pool: {text} }}").sub("pooling_param").text("pool") == value


@pytest.mark.parametrize("text", ["true", "True", "t", "1"])
def test_truth(text: str) -> None:
    assert (
        layer(f"pooling_param {{ global_pooling: {text} }}")
        .sub("pooling_param")
        .flag("global_pooling")
    )


@pytest.mark.parametrize(
    "text",
    ["layer { name: 'a' }", "layer: { name: 'a' }", "layer < name: 'a' >", "layer: [{name: 'a'}]",
     "\ufefflayer {\r\n  name: 'a'\r\n}\r\n", "layer{name:'a'};"],
)  # fmt: skip
def test_messages(text: str) -> None:
    assert [m.text("name") for m in read_text(text).messages("layer")] == ["a"]


def test_defaults() -> None:
    p = layer("").sub("convolution_param")
    assert (p.whole("group"), p.flag("bias_term"), p.all("pad")) == (1, True, [])


def test_places() -> None:
    net = read_text('name: "n"\n\nlayer {\n  name: "a"\n  type: "ReLU"\n}\n', "n.prototxt")
    found = net.messages("layer")[0]
    assert str(found.span()) == "n.prototxt:3:1"
    assert str(found.span("type")) == "n.prototxt:5:3"


def test_unknown_fields_are_kept_and_warned_about_once() -> None:
    net = read_text("layer { nmae: 'x' }\nlayer { nmae: 'y' deep { a: 1 b { c: [d, 'e'] } } }", "n")
    assert [str(w).splitlines()[0] for w in net.document.warnings] == [
        "n:1:9: warning: LayerParameter has no field nmae; ignored (here and 1 more times)",
        "n:2:19: warning: LayerParameter has no field deep; ignored",
    ]
    assert net.document.warnings[0].help == "did you mean name?"


def test_engines_of_any_fork_are_ignored() -> None:
    text = "convolution_param { engine: MKL2017 } relu_param { engine: 7 }"
    assert not layer(text).document.warnings


MISTAKES = [
    ("layer {", "n:1:8: error: the file ends inside the message opened on line 1"),
    ("}", "n:1:1: error: } closes nothing that is open here"),
    ("layer { name: conv }", "n:1:15: error: name takes a quoted string, not conv"),
    ("layer { name: 'a\n}", "n:1:15: error: this string does not end on its line"),
    ("layer { name 'a' }", "n:1:14: error: expected : after name, found 'a'"),
    ("layer: 5", "n:1:8: error: layer takes a message in { }, not 5"),
    ("name { }", "n:1:6: error: name takes a quoted string, not a message"),
    ("name: 'a'\nname: 'b'", "n:2:1: error: name is given twice; first on line 1"),
    ("name: ['a']", "n:1:7: error: name takes one value, not a list"),
    ("input_dim: [1 2]", "n:1:15: error: expected , or ] in the list, found 2"),
    ("input_dim: 3.5", "n:1:12: error: input_dim takes a whole number, not 3.5"),
    ("input_dim: 1.2.3", "n:1:12: error: input_dim takes a whole number, not 1.2.3"),
    (f"input_dim: {'9' * 30}", f"n:1:12: error: input_dim takes a whole number, not {'9' * 30}"),
    ("debug_info: 2", "n:1:13: error: debug_info takes true or false, not 2"),
    ("= 3", "n:1:1: error: expected the name of a field, found ="),
    ("layer { include { phase: TESTS } }",
     "n:1:26: error: phase takes TRAIN or TEST, not TESTS"),
    ("layer { pooling_param { pool: 'AVE' } }",
     "n:1:31: error: pool takes MAX, AVE, STOCHASTIC or AVE_EXC_PAD, not 'AVE'"),
    ("layer { pooling_param { kernel_size: -3 } }",
     "n:1:38: error: kernel_size takes a whole number from 0, not -3"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes(text: str, message: str) -> None:
    assert str(refused(read_text, text, "n")).splitlines()[0] == message


def test_a_mistake_shows_its_line() -> None:
    assert str(refused(read_text, "layer {\n  name: conv\n}", "n")).splitlines() == [
        "n:2:9: error: name takes a quoted string, not conv",
        "    name: conv",
        "          ^",
        '  help: quote it: "conv"',
    ]


BOMBS = {
    "depth": "layer { " * 100_000,
    "unknown depth": "x { " * 100_000,
    "fields": "d:1 " * 1_000_000,
    "size": "a" * (100 << 20),
    "quotes": '"' * 4_000_000,
    "spaces": " " * 4_000_000 + '"',
    "minus": "-" + " " * 4_000_000,
    "comment": "#" * (4 << 20) + "\n{",
    "backslashes": '"' + "\\" * 4_000_000,
}


@pytest.mark.parametrize("kind", BOMBS)
def test_bombs_end_soon_in_an_error(kind: str) -> None:
    start = time.process_time()
    error = refused(read_text, BOMBS[kind], "n")
    assert isinstance(error, ParseError)
    assert len(str(error)) < 2000
    assert time.process_time() - start < 2  # seconds; under 1 where the machine is free


def test_speed(shared: Path) -> None:
    text = (shared / "nets" / "caffe-model__deploy_inception-v4.prototxt").read_text()
    times = []
    for _ in range(3):
        start = time.process_time()
        read_text(text)
        times.append(time.process_time() - start)
    assert min(times) < 0.2  # 0.02 s where the machine is free


def test_every_public_file_is_read(shared: Path) -> None:
    for folder in ("nets", "models", "caffe"):
        for path in sorted((shared / folder).rglob("*.prototxt")):
            net = read_text(path.read_bytes().decode(), path.name)
            assert not net.document.warnings, net.document.warnings


def test_a_solver_that_holds_a_net() -> None:
    text = 'base_lr: 0.1\nnet_param { name: "n" layer { name: "a" } }'
    solver: Any = read_text(text)
    assert solver.type.name == "SolverParameter"
    assert solver.sub("net_param").text("name") == "n"


def test_one_message_by_its_type() -> None:
    assert parse_message("dim: 3 dim: 4", "BlobShape").all("dim") == [3, 4]
