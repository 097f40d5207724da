"""Mistakes and hostile files end in a message and an exit code, never in a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import netc as api
from netc.cli import main
from netc.errors import NetcError

Invoke = Callable[..., Result]
Shell = Callable[..., "subprocess.CompletedProcess[str]"]
JUNK = bytes(range(256)) * 16
READERS = ("compile", "inspect", "explain", "dump", "draw", "bisect")


def plant(folder: Path, kind: str, suffix: str) -> str:
    """A file that is not what its suffix says, or nothing at all."""
    path = folder / f"bad{suffix}"
    match kind:
        case "empty":
            path.write_bytes(b"")
        case "junk":
            path.write_bytes(JUNK)
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "text":
            path.write_text("Lorem { ipsum: dolor\n")
    return path.name


@pytest.mark.parametrize("suffix", [".net", ".prototxt", ".ir", ".bin", ".xyz", ""])
@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "folder", "fifo", "text"])
@pytest.mark.parametrize("command", READERS)
def test_hostile_sources(folder: Path, netc: Invoke, command: str, kind: str, suffix: str) -> None:
    name = plant(folder, kind, suffix)
    words = ("-o", "out.svg") if command == "draw" else ()
    result = CliRunner().invoke(main, [command, name, *words])
    legal = kind == "empty" and suffix in (".prototxt", ".net", ".ir")
    assert result.exit_code in {c.exit_code for c in all_errors()} | ({0} if legal else set())
    assert result.exit_code != 70, result.output
    assert "Traceback" not in result.output
    assert "error" in result.output.lower() or legal


def all_errors() -> list[type[NetcError]]:
    found, todo = [], [NetcError]
    while todo:
        kind = todo.pop()
        found.append(kind)
        todo += kind.__subclasses__()
    return found


@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "folder", "fifo", "text"])
@pytest.mark.parametrize("suffix", [".npy", ".npz", ".png", ".jpg", ".gif", ".tif", ".xyz"])
def test_hostile_inputs(folder: Path, netc: Invoke, model: Path, kind: str, suffix: str) -> None:
    name = plant(folder, kind, suffix)
    result = netc("run", model, "--input", f"data={name}", code=7)
    assert "error: " in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["run", "time", "verify", "inspect"])
@pytest.mark.parametrize("kind", ["missing", "empty", "junk", "folder", "fifo", "text"])
def test_hostile_models(folder: Path, netc: Invoke, command: str, kind: str) -> None:
    name = plant(folder, kind, ".bin")
    code = 2 if kind in ("missing", "folder", "fifo") else 8
    assert "error: " in netc(command, name, code=code).output


def test_a_flipped_bit_is_found(netc: Invoke, model: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    netc("run", model, "-i", "x.npy", code=8)


def test_a_bomb_of_an_image_is_judged_by_its_header(
    folder: Path, netc: Invoke, model: Path
) -> None:
    Image.new("1", (9000, 9000)).save(folder / "big.png")
    start = time.perf_counter()
    text = netc("run", model, "-i", "data=big.png", code=7).output
    assert "at most 64,000,000 pixels" in text
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("size", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".bmp", ".npy", ".npz"])
def test_truncated_inputs(
    folder: Path, netc: Invoke, model: Path, suffix: str, size: float
) -> None:
    path = folder / f"cut{suffix}"
    pixels = np.random.default_rng(1).integers(0, 255, (8, 8), np.uint8)
    if suffix == ".npy":
        np.save(path, pixels)
    elif suffix == ".npz":
        np.savez(path, data=pixels)
    else:
        Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * size)])
    result = CliRunner().invoke(main, ["run", str(model), "-i", f"data={path.name}"])
    assert result.exit_code in (0, 7), result.output  # decoders mend some truncations


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense=x.npy"], "no input 'nonsense'"),
        ([], "no value for data"),
        (["data=labels.txt"], "of no kind netc reads"),
        (["data=wrong.npy"], "expected f32[N,1,8,8]"),
        (["data=text.npy"], "error: "),
        (["data=objects.npy"], "error: "),
        (["data=x.npy", "x.npz"], "input data is given twice"),
        (["x.npy", "data=x.npy"], "input data is given twice"),
        (["data=x.png", "data=x.npy"], "input data is given twice"),
    ],
)
def test_inputs_that_do_not_fit(
    folder: Path, netc: Invoke, model: Path, words: list[str], message: str
) -> None:
    np.save("wrong.npy", np.zeros((2, 3, 8, 8), np.float32))
    np.save("text.npy", np.array(["a", "b"]))
    np.save("objects.npy", np.array([{}, []], object), allow_pickle=True)
    pairs = [w for word in words for w in ("-i", word)]
    assert message in netc("run", model, *pairs, code=7).output


@pytest.mark.parametrize(
    "words",
    [
        ["compile", "small.net", "--cpu", "z80"],
        ["compile", "small.net", "--shape", "data"],
        ["compile", "small.net", "--phase", "later"],
        ["compile", "small.net", "--level", "3"],
        ["compile", "small.bin"],
        ["run", "small.bin", "--threads", "0"],
        ["run", "small.bin", "--threads", "257"],
        ["time", "small.bin", "--seconds", "nan"],
        ["opt", "small.net", "-p", "fuse{max_inputs=8,max_inputs=9}"],
        ["inspect", "small.bin", "--output", "data"],
        ["inspect", "small.bin", "--devices", "cpu:0"],
        ["inspect", "small.bin", "--machine", "eight gpus"],
        ["run", "small.bin", "-i", "x.npy", "--output", "out.txt"],
        ["convert", "small.prototxt", "-o", "x.doc"],
        ["draw", "small.net", "-o", "x.png"],
        ["dump", "small.net", "--after", "nothing"],
        ["explain", "small.bin"],
        ["compile", "."],
        ["compile", ""],
        ["draw", "."],
        ["draw", ""],
        ["diff", "small.bin", "small.bin", "--seed", "-1"],
        ["bisect", "small.net", "--seed", "-1"],
        ["frobnicate"],
        ["run"],
        ["--nonsense"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_code_2(netc: Invoke, model: Path, words: list[str]) -> None:
    assert "rror: " in netc(*words, code=2).output


@pytest.mark.parametrize(
    "words",
    [
        ["\x1b[31mred"],
        ["compile", "small.net", "--cpu", "\x1b[31m"],
        ["compile", "small.net", "--\x1b[31m"],
        ["compile", "small.net", "extra\x1b[31m"],
        ["compile", "\x1b[31m.net"],
        ["compile", "small.net", "--shape", "\u202e=1"],
        ["compile", "small.net", "--output", "\x1b[31m"],
        ["run", "small.bin", "-i", "\x1b[31m=x.npy"],
        ["run", "small.bin", "-i", "data=\x1b[31m.npy"],
        ["run", "small.bin", "-i", "data=\x1b]0;x\x07.png"],
    ],
)
def test_control_characters_are_escaped(model: Path, words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code in (2, 4, 7), result.output
    assert not {"\x1b", "\u202e", "\x07"} & set(result.output)


def test_unknown_target_is_unsupported(netc: Invoke) -> None:
    netc("compile", "small.net", "--target", "abacus", code=5)


@pytest.mark.parametrize(
    "words",
    [
        ["compile", "small.net", "-o", "small.net"],
        ["compile", "small.net", "-o", "link.net"],
        ["compile", "main.net", "-o", "blocks.net"],
        ["dump", "main.net", "-o", "link.bin"],
        ["compile", "small.net", "--labels", "labels.txt", "-o", "../{here}/labels.txt"],
        ["compile", "small.net", "--weights", "x.npz", "-o", "x.npz"],
        ["compile", "small.net", "--weights", "small.bin"],
        ["convert", "small.prototxt", "-o", "small.prototxt"],
        ["convert", "small.prototxt", "--weights", "x.npz", "-o", "x.net"],
        ["dump", "small.net", "-o", "small.net"],
        ["opt", "small.net", "-o", "small.net"],
        ["explain", "small.net", "--machine", "m.json", "--trace", "m.json"],
        ["draw", "drawn.svg"],
        ["run", "small.bin", "-i", "data=x.npy", "--trace", "small.bin"],
        ["run", "small.bin", "-i", "data=x.npy", "--output", "x.npy"],
        ["run", "small.bin", "-i", "x.png", "--draw", "x.png"],
        ["run", "small.bin", "-i", "x.npy", "--labels", "labels.txt", "-o", "labels.txt"],
    ],
)
def test_an_output_is_no_input(folder: Path, netc: Invoke, words: list[str]) -> None:
    (folder / "small.bin").write_bytes((folder / "small.net").read_bytes())
    (folder / "drawn.svg").write_bytes((folder / "small.net").read_bytes())
    (folder / "m.json").write_text("{}")
    (folder / "link.net").symlink_to("small.net")
    (folder / "blocks.net").write_text("block twice(x) { return x * 2 }")
    (folder / "link.bin").symlink_to("blocks.net")
    (folder / "main.net").write_text('import "blocks.net"\n' + (folder / "small.net").read_text())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = netc(*(word.format(here=folder.name) for word in words), code=2)
    assert "is also an input" in result.output
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ["compile", "small.net", "-o", "nowhere/out.bin"],
        ["dump", "small.net", "-o", "x.npy/out.ir"],
        ["devices", "--probe", "-o", "nowhere/machine.json"],
        ["run", "small.bin", "-i", "x.npy", "--trace", "nowhere/trace.json"],
    ],
)
def test_the_folder_of_an_output_is_looked_for_first(
    netc: Invoke, model: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.setattr("netc.cli.sources.read_source", None)
    monkeypatch.setattr("netc.api.load", None)
    monkeypatch.setattr("netc.cli.probe.measured", None)
    shown = netc(*words, code=2).output
    assert shown.startswith(f"error: cannot write {words[-1]}: No")
    assert len(shown.splitlines()) == 1


def test_an_unwritable_place(netc: Invoke, model: Path) -> None:
    for place in ("nowhere/out.npz", "/proc/out.npz"):
        result = netc("run", model, "-i", "x.npy", "--output", place, code=2)
        assert "error: " in result.output


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("a\0b", "a\0c"), r"no .npz holds an array named 'a\x00b': its name has a NUL"),
        (("a.npy", "a"), "no .npz holds both 'a' and 'a.npy'"),
        (("ü" * 40_000,), "its name is too long"),
    ],
)
def test_names_that_no_archive_holds(
    folder: Path, netc: Invoke, names: tuple[str, ...], why: str
) -> None:
    def described(x: api.f32[2]):
        return {name: api.relu(x) for name in names}

    api.compile(api.net(described)).save("odd.bin")
    np.save("two.npy", np.zeros(2, np.float32))
    said = netc("run", "odd.bin", "-i", "two.npy", "-o", "out.npz", code=2).output
    assert why in said
    assert not (folder / "out.npz").exists()
    netc("run", "odd.bin", "-i", "two.npy")


@pytest.mark.parametrize("command", ["compile", "convert", "draw", "dump"])
@pytest.mark.parametrize("place", ["out.bin/", "out.bin/.", "new/", ".", "..", "./.."])
def test_an_output_is_no_folder(folder: Path, netc: Invoke, command: str, place: str) -> None:
    said = netc(command, "small.net", "-o", place, code=2).output
    assert said == f"error: cannot write {place}: that names a folder\n"
    assert not [*folder.glob("out*"), *folder.glob("new*")]


@pytest.mark.parametrize("command", ["compile", "convert", "draw", "dump", "opt"])
@pytest.mark.parametrize(("name", "why"), [("", "'': that is no name"), ("-", "-: that stands")])
def test_an_output_has_a_name(
    folder: Path, netc: Invoke, command: str, name: str, why: str
) -> None:
    before = [*folder.iterdir()]
    said = netc(command, "small.net", "-o", name, code=2).output
    assert said.startswith(f"error: cannot write {why}")
    assert [*folder.iterdir()] == before


@pytest.mark.parametrize("name", ["a b.net", "a\nb.net", "--x.net", "\u202egnp.net", "ü'\".net"])
def test_odd_names(folder: Path, netc: Invoke, name: str) -> None:
    (folder / name).write_bytes((folder / "small.net").read_bytes())
    text = netc("compile", "-o", "odd.bin", "--", name).output
    assert "\u202e" not in text
    (folder / name).write_text("net x {")
    text = netc("compile", "-o", "odd.bin", "--", name, code=3).output
    assert "\u202e" not in text


def test_a_name_that_is_no_text(folder: Path, shell: Shell) -> None:
    name = b"caf\xe9.net"
    (Path(os.fsdecode(bytes(folder) + b"/" + name))).write_bytes(
        (folder / "small.net").read_bytes()
    )
    result = shell("compile", name, "-o", "x.bin", env={"LC_ALL": "C.UTF-8"})
    assert result.returncode == 0, result.stderr
    result = shell("compile", b"none\xe9.net", env={"LC_ALL": "C.UTF-8"})
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "words", [["inspect", "--ops"], ["inspect"], ["dump"], ["explain"], ["draw", "-o", "drawn.svg"]]
)
def test_names_that_standard_output_cannot_encode(
    folder: Path, shell: Shell, words: list[str]
) -> None:
    text = (folder / "small.net").read_text().replace("prob", "`ß`")
    (folder / "odd.net").write_text(text, encoding="utf-8")
    env = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = shell(*words, "odd.net", env=env)
    assert result.returncode == 0, result.stderr
    assert r"\xdf" in result.stdout or words[0] == "draw"


def test_an_internal_error_is_one_line_and_a_hint(
    netc: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("netc.cli.sources.read_source", broken)
    text = netc("inspect", "small.net", code=70).output
    assert "netc failed: KeyError" in text
    assert "NETC_DEBUG=1" in text
    assert "Traceback" not in text
    monkeypatch.setenv("NETC_DEBUG", "1")
    assert "Traceback" in netc("inspect", "small.net", code=70).output


def test_streams_that_are_closed_or_full(folder: Path, shell: Shell) -> None:
    command = f"{sys.executable} -c 'from netc.cli import main; main()' dump small.net"
    for tail, codes in (
        ("| head -c 1", {0, 1}),
        (">&-", {0}),
        ("2>&- >&-", {0}),
        (">/dev/full", {9}),
    ):
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} {tail}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode in codes, (tail, done)
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr


def test_an_interrupt_is_130(folder: Path) -> None:
    code = "import netc.cli.sources as s, time; s.read_source = lambda *_: time.sleep(30)\n"
    code += "from netc.cli import main; print('ready', flush=True); main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "inspect", "small.net"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.strip() == "interrupted"


def test_a_library_that_does_not_load_is_no_bug(
    netc: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    from netc import compiler

    def broken(*_: object) -> None:
        raise OSError("Could not find/load shared object file")

    monkeypatch.setattr(compiler, "build", broken)
    assert "cannot be loaded" in netc("compile", "small.net", code=9).output
