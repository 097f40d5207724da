"""Every command does what it says on a small net."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import click
import numpy as np
import pytest
from click.testing import Result

from netc.cli.app import COMMANDS, main
from netc.runtime.artifact import open_artifact
from netc.runtime.session import save_artifact

Invoke = Callable[..., Result]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(netc: Invoke, command: str) -> None:
    text = netc(command, "--help").output
    assert "Usage: netc" in text
    assert "Usage" in netc("--help").output


def test_the_module_is_the_command() -> None:
    command = [sys.executable, "-m", "netc", "inspect", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert said.startswith("Usage: netc inspect ")


def test_every_option_says_what_it_is(netc: Invoke) -> None:
    """One with no words is only its name and what it takes."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert silent == [], name


def test_compile_then_run_gives_what_the_reference_gives(
    netc: Invoke, model: Path, folder: Path
) -> None:
    import netc as package

    netc("run", model, "--input", "data=x.npy", "--output", "out.npz", "--threads", "1")
    graph = package.read("small.net")
    wanted = package.interpret(graph, {"data": np.load("x.npy")})["prob"]
    with np.load("out.npz") as got:
        assert got.files == ["prob"]
        np.testing.assert_allclose(got["prob"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("word", ["data=x.npy", "x.npy", "data=x.npz", "x.npz", "data=x.png"])
def test_inputs_of_every_kind(netc: Invoke, model: Path, word: str) -> None:
    assert "prob  float32" in netc("run", model, "-i", word).output


def test_labels_make_the_output_readable(netc: Invoke, model: Path) -> None:
    text = netc("run", model, "-i", "x.png", "--labels", "labels.txt").output
    assert {"cat", "dog", "owl"} <= set(text.split())
    assert text.count("%") == 3


def test_two_images_are_a_batch(netc: Invoke, model: Path) -> None:
    assert "float32[2, 3]" in netc("run", model, "-i", "x.png", "-i", "data=x.png").output


def test_trace_is_what_perfetto_reads(netc: Invoke, model: Path) -> None:
    netc("run", model, "-i", "x.npy", "--trace", "t.json")
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    assert any(e["ph"] == "X" and e["dur"] >= 0 for e in events)


def test_time_has_a_row_per_step(netc: Invoke, model: Path) -> None:
    text = netc("time", model, "--seconds", "0.05", "--batch", "3", "--threads", "1").output
    assert "median" in text
    assert "softmax" in text


@pytest.mark.parametrize("source", ["small.net", "small.prototxt", "small.bin"])
def test_inspect(netc: Invoke, model: Path, source: str) -> None:
    text = netc("inspect", source).output
    assert "input   data: f32[" in text
    assert "output  prob" in text


def test_inspect_of_a_model_shows_memory_and_trust(netc: Invoke, model: Path) -> None:
    text = netc("inspect", model).output
    assert "of memory a run" in text
    assert "code    trusted" in text


def test_a_model_of_another_netc_is_made_again(netc: Invoke, model: Path) -> None:
    """Its plan has another form, which only its own netc reads."""
    wanted = netc("run", model, "-i", "x.npy").stdout
    made = open_artifact(model).artifact()
    save_artifact(replace(made, levels=[replace(level, abi=1) for level in made.levels]), "old.bin")
    assert "for ABI 1, not 2: made again at load" in netc("inspect", "old.bin").output
    again = netc("run", "old.bin", "-i", "x.npy")
    assert again.stdout == wanted
    assert "old.bin: recompiled: no code fits" in again.stderr


def test_explain(netc: Invoke) -> None:
    text = netc("explain", "small.net", "--rules").output
    assert "conv + " in text
    assert "relu" in text
    assert "precision" not in text


def test_explain_says_how_exactly(netc: Invoke) -> None:
    said = netc("explain", "small.net", "--precision", "low,conv=exact").stdout
    rows = [words for line in said.splitlines() if "cpu:0" in (words := line.split())]
    assert {row[-1] for row in rows} == {"low", "exact"}
    assert all((row[-1] == "exact") == ("conv" in row) for row in rows)
    said = netc("explain", "small.net", "--precision", "medium", code=2).output
    assert "precision medium is for GPUs" in said


def test_dump_before_and_after_a_pass(netc: Invoke) -> None:
    names = netc("dump", "small.net", "--list").output.split()
    assert "graph @small" in netc("dump", "small.net").output
    for name in names:
        assert "graph @small" in netc("dump", "small.net", "--after", name).output


def test_opt_runs_the_passes_it_is_told(netc: Invoke) -> None:
    netc("dump", "small.net", "-o", "small.ir")
    assert "graph @small" in netc("opt", "small.ir", "-p", "canonicalize,cse").output


def test_opt_says_what_passes_and_options_there_are(netc: Invoke) -> None:
    assert "there are" in netc("opt", "small.net", "-p", "nothing", code=2).output
    assert "no option 'x'" in netc("opt", "small.net", "-p", "cse{x=1}", code=2).output
    assert "cannot read passes" in netc("opt", "small.net", "-p", "cse{", code=2).output


def test_draw(netc: Invoke, model: Path, folder: Path) -> None:
    for source in ("small.net", "small.prototxt", "small.bin"):
        netc("draw", source, "-o", "net.svg", "--devices")
        ElementTree.fromstring((folder / "net.svg").read_text())


def test_convert_round_trips(netc: Invoke) -> None:
    netc("convert", "small.prototxt", "-o", "again.net")
    netc("convert", "small.prototxt", "-o", "again.ir")
    netc("compile", "again.net", "-o", "again.bin")
    assert "prob" in netc("inspect", "again.bin").output


def test_verify(netc: Invoke, model: Path) -> None:
    assert "byte for byte" in netc("verify", model).output


def test_every_level_is_compiled_and_verified(netc: Invoke) -> None:
    levels = ("x86-64-v2", "x86-64-v3", "aarch64")
    netc("compile", "small.net", "-o", "l.bin", *(w for name in levels for w in ("--cpu", name)))
    text = netc("inspect", "l.bin").output
    assert all(name in text for name in levels)
    netc("verify", "l.bin")


def test_bisect_finds_nothing_in_a_good_net(netc: Invoke) -> None:
    assert "no pass changes results" in netc("bisect", "small.net").output


def test_bisect_knows_that_stored_parameters_are_rounded(netc: Invoke, folder: Path) -> None:
    text = "net n(d: f32[N,3,9,9]) -> y { y = conv(d, 8, 3) |> batch_norm |> relu |> conv(4, 1) }"
    (folder / "norm.net").write_text(text)
    said = netc("bisect", "norm.net").output
    assert re.search(r"fold_params +\d\.\d+e-0[789] +ok", said)
    assert "no pass changes results" in said


def test_devices(netc: Invoke) -> None:
    assert "cpu:0" in netc("devices").output


def test_compile_names_the_file_after_the_source(netc: Invoke, folder: Path) -> None:
    netc("compile", "small.net")
    assert (folder / "small.bin").exists()


def test_shape_and_output_options(netc: Invoke, folder: Path) -> None:
    text = (folder / "small.prototxt").read_text()
    bare = text.replace("input_shape { dim: 1 dim: 1 dim: 8 dim: 8 }", "")
    (folder / "bare.prototxt").write_text(bare)
    netc("inspect", "bare.prototxt", code=4)
    shown = netc("inspect", "bare.prototxt", "--shape", "data=4,1,8,8", "--output", "c").output
    assert "input   data: f32[" in shown
    assert "output  c" in shown


def test_a_net_is_cut_before_a_layer_that_is_not_supported(netc: Invoke, folder: Path) -> None:
    more = 'layer { name: "d" type: "MultiBoxLoss" bottom: "c" top: "d" }\n'
    (folder / "ssd.prototxt").write_text((folder / "small.prototxt").read_text() + more)
    assert "--output c gives what it reads" in netc("compile", "ssd.prototxt", code=5).stderr
    netc("compile", "ssd.prototxt", "--output", "c")
    assert "output  c" in netc("inspect", "ssd.bin").output


def test_opt_brings_a_graph_to_the_stage_a_pass_takes(folder: Path, netc: Invoke) -> None:
    netc("dump", "small.net", "-o", "small.ir")
    assert "fused(" in netc("opt", "-p", "fuse{max_inputs=8}", "small.ir").output
    netc("dump", "small.net", "--after", "fuse", "-o", "kernels.ir")
    assert "this one is at kernels" in netc("opt", "-p", "cse", "kernels.ir", code=2).output
    netc("bisect", "kernels.ir", code=2)
    netc("compile", "kernels.ir", code=4)
    netc("explain", "kernels.ir", code=4)


def test_ir_and_weights_go_together(folder: Path, netc: Invoke) -> None:
    np.savez("w.npz", **{"conv.w": np.zeros((4, 1, 3, 3)), "conv.b": np.zeros(4)})
    netc("convert", "small.net", "--weights", "w.npz", "-o", "small.ir")
    netc("compile", "small.ir", "--weights", "small.npz", "-o", "small.bin")


def test_an_empty_batch_is_shown(folder: Path, netc: Invoke, model: Path) -> None:
    np.save("none.npy", np.zeros((0, 1, 8, 8), np.float32))
    assert "float32[0, 3]" in netc("run", model, "-i", "none.npy").output


def test_labels_that_fit_no_output_are_said(
    folder: Path, netc: Invoke, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "two.txt").write_text("cat\ndog\n")
    netc("run", model, "-i", "x.npy", "--labels", "two.txt")
    assert "no output has 2 classes" in caplog.text
    caplog.clear()
    netc("compile", "small.net", "--labels", "labels.txt", "-o", "named.bin")
    assert not [r for r in caplog.records if "classes" in r.message]
    netc("compile", "small.net", "--labels", "two.txt", "-o", "named.bin")
    assert "no output has 2 classes" in caplog.text


@pytest.mark.parametrize(
    "words", [("time", "two.bin", "--seconds", "0.01"), ("explain", "two.net", "--measure")]
)
def test_inputs_whose_sizes_are_expressions(
    folder: Path, netc: Invoke, words: tuple[str, ...]
) -> None:
    text = "net two(a: f32[N, 3], b: f32[2*N, 3]) -> y, z { y = a |> fc(4)  z = b |> fc(5) }"
    (folder / "two.net").write_text(text)
    netc("compile", "two.net", "-o", "two.bin")
    assert "ms" in netc(*words).output
    (folder / "less.net").write_text("net less(b: f32[N], a: f32[N - 5, 3]) -> y { y = relu(a) }")
    netc("compile", "less.net", "-o", "less.bin")
    assert "has no array with N = 1" in netc("time", "less.bin", code=2).output
    assert "f32[N-5,3]" in netc("bisect", "less.net", code=2).output
    netc("time", "less.bin", "--batch", "6", "--seconds", "0.01")


def test_open_sizes_are_usually_those_of_the_file(folder: Path, netc: Invoke) -> None:
    (folder / "large.prototxt").write_text("""
        input: "data" input_dim: 1 input_dim: 2 input_dim: 240 input_dim: 232
        layer { name: "p" type: "Pooling" bottom: "data" top: "p"
                pooling_param { kernel_size: 8 stride: 8 } }
        layer { name: "c" type: "Convolution" bottom: "p" top: "c"
                convolution_param { num_output: 3 kernel_size: 29 } }""")
    netc("compile", "large.prototxt", "-o", "large.bin")
    assert "batch 2" in netc("time", "large.bin", "--batch", "2", "--seconds", "0.01").output
    for source in ("large.prototxt", "large.bin"):
        assert "with N = 1, H = 240, W = 232" in netc("inspect", source).output
    assert "no pass changes results" in netc("bisect", "large.prototxt", "--batch", "1").output
    assert "give the same" in netc("diff", "large.bin", "large.bin").output


def test_time_says_the_batch_that_a_net_fixes(folder: Path, netc: Invoke) -> None:
    (folder / "two.net").write_text("net two(x: f32[2, 3]) -> y { y = relu(x) }")
    netc("compile", "two.net", "-o", "two.bin")
    assert "batch 2" in netc("time", "two.bin", "--seconds", "0.01").output
    assert "batch is 2" in netc("time", "two.bin", "--batch", "3", code=2).output


def test_time_takes_shapes_and_says_those_left_open(folder: Path, netc: Invoke) -> None:
    (folder / "open.net").write_text("net open(x: f32[N, 3, 32*H, W]) -> y { y = relu(x) }")
    netc("compile", "open.net", "-o", "open.bin")
    timed = ["time", "open.bin", "--seconds", "0.01", "--whole"]
    assert "batch 1, x [1,3,224,224], " in netc(*timed).output
    assert "batch 2, x [2,3,64,9], " in netc(*timed, "--shape", "x=2,3,64,9").output
    assert "it is never [1,3,33,9]" in netc(*timed, "--shape", "x=1,3,33,9", code=2).output
    assert "no input 'y'" in netc(*timed, "--shape", "y=1,3,32,9", code=2).output


def test_a_shape_may_be_a_multiple(folder: Path, netc: Invoke) -> None:
    (folder / "open.net").write_text("net open(x: f32[N, 3, H, W]) -> y { y = relu(x) }")
    netc("compile", "open.net", "-o", "open.bin", "--shape", "x=1,3,32*H,32*W")
    assert "f32[1,3,32*H,32*W]" in netc("inspect", "open.bin").output
    wrong = netc("compile", "open.net", "-o", "open.bin", "--shape", "x=1,3,H*,W", code=2)
    assert "not a shape such as" in wrong.output


def test_inspect_lists_parameters(folder: Path, netc: Invoke) -> None:
    (folder / "three.net").write_text(
        'net three(x: f32[N, 3]) -> y { y = fc(x, 3, name="a")  y = fc(y, 3, params="a") }'
    )
    lines = [
        " ".join(line.split())
        for line in netc("inspect", "three.net", "--params").output.splitlines()
    ]
    assert "a.w f32[3,3] a, y drawn: xavier" in lines
    netc("compile", "three.net", "-o", "three.bin")
    assert "stored" in netc("inspect", "three.bin", "--params").output
