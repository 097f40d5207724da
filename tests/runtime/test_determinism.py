"""Equal inputs give equal bytes, and equal runs give equal bits, wherever and whenever."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import netc
from netc.cli.rebuild import SAME, compared, nets_in, rebuild
from netc.compiler import Options, build
from netc.ir.interpret import initial_weights
from netc.runtime.artifact import open_artifact

ROOT = Path(__file__).resolve().parents[2]
NET = """
net tiny(data: f32[N, 3, 32, 32]) -> prob {
  x = data |> conv(24, 5, stride=2, pad=2) |> relu |> max_pool(3, stride=2)
  y = concat(x |> conv(16, 1) |> relu, x |> conv(24, 3, pad=1) |> relu)
  prob = y |> global_avg_pool |> fc(10) |> softmax
}
"""
BUILD = """
import sys, netc
exe = netc.compile(netc.parse(sys.argv[1], "tiny.net"), cpu=("x86-64-v2", "x86-64-v3", "native"))
exe.save(sys.argv[2])
"""
TWO = """net two(x: f32[6, 4]) -> y, z {
  y = x |> fc(3, name="c")
  z = x |> fc(4, name="d")
}"""
SHARDED = """net sharded(x: f32[6, 5, 6, 6]) -> r {
  replicate over cpu:3, cpu:1 { p = x |> conv(8, 1, name="p") }
  split channels over cpu:0, cpu:3 by input { r = p |> conv(2, 3, pad=1, name="r") |> relu }
}"""
CAFFE = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 6 dim: 4 } } }
layer { name: "c" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }
layer { name: "d" type: "InnerProduct" bottom: "x" top: "z" inner_product_param { num_output: 4 } }
"""
GIVEN = {  # a text, and what it is compiled for
    "net": (TWO, ["cpu"]),
    "caffe": (CAFFE, ["cpu"]),
    "sharded": (SHARDED, ["cpu"]),
    "hosts": (TWO.replace('"d"', '"d") @ cpu:0@a |> fc(5, name="e"'), ["cpu"]),
    "cuda": (TWO, ["cuda"]),
    "cpu and cuda": (TWO, ["cpu", "cuda"]),
}
BUILD_GIVEN = """
import json, sys, netc
from netc.compiler import Options, build
from netc.ir.interpret import initial_weights
for name, (text, targets) in json.loads(sys.argv[1]).items():
    read = netc.from_caffe if "layer {" in text else netc.parse
    weights = initial_weights(read(text))
    graph = read(text, weights=weights)
    build(graph, Options(targets=tuple(targets), archs=())).save(f"{name}.bin")
"""
RUN = """
import sys, hashlib, numpy as np, netc
x = np.random.default_rng(0).standard_normal((7, 3, 32, 32)).astype(np.float32)
for threads in map(int, sys.argv[2:]):
    exe = netc.load(sys.argv[1], threads)
    for _ in range(5):
        out = exe(data=x)["prob"]
        alone = np.concatenate([exe(data=x[i : i + 1])["prob"] for i in range(7)])
        print(*(hashlib.sha256(y.tobytes()).hexdigest() for y in (out, alone)))
"""


def python(code: str, *words: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built five times, each in a process, folder, time zone and locale of its own."""
    folder = tmp_path_factory.mktemp("built")
    places = [("0", "UTC", "C"), ("1", "Asia/Tokyo", "de_DE.UTF-8"), ("2", "UTC", "tr_TR.UTF-8")]
    places += [("random", "America/Lima", "C.UTF-8"), ("12345", "UTC", "POSIX")]
    for i, (seed, zone, locale) in enumerate(places):
        here = folder / f"a folder of its own {i}"
        here.mkdir()
        user = {"USER": f"user{i}", "HOME": str(here), "PYTHONHASHSEED": seed}
        python(BUILD, NET, str(folder / f"{i}.bin"), cwd=here, TZ=zone, LC_ALL=locale, **user)
    return folder


def test_builds_are_equal(built: Path) -> None:
    files = [path.read_bytes() for path in sorted(built.glob("*.bin"))]
    assert len(files) == 5
    assert len(set(files)) == 1


def test_nothing_of_the_place_is_in_the_file(built: Path) -> None:
    data = (built / "0.bin").read_bytes()
    node = os.uname().nodename
    for word in (str(built), str(ROOT), "user0", *([node] if len(node) > 4 else [])):
        assert word.encode() not in data


def test_runs_are_equal(built: Path, tmp_path: Path) -> None:
    """Over runs, threads, processes and hash seeds; a row of a batch is as when alone."""
    hashes = set()
    for seed in ("0", "1"):
        threads = ("1", "2", "3", "4")
        out = python(RUN, str(built / "0.bin"), *threads, cwd=tmp_path, PYTHONHASHSEED=seed)
        hashes |= set(out.split())
    assert len(hashes) == 1
    assert len(hashes.pop()) == len(hashlib.sha256().hexdigest())


@pytest.fixture(scope="module")
def given_weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders of nets with weights, each compiled in a process with hashes of its own."""
    folders = [tmp_path_factory.mktemp(f"seed{seed}") for seed in range(4)]
    for seed, folder in enumerate(folders):
        python(BUILD_GIVEN, json.dumps(GIVEN), cwd=folder, PYTHONHASHSEED=str(seed))
    return folders


@pytest.mark.parametrize("name", GIVEN)
def test_weights_lie_in_one_order(given_weights: list[Path], name: str) -> None:
    """Whatever order sets of names have."""
    assert len({(folder / f"{name}.bin").read_bytes() for folder in given_weights}) == 1


@pytest.mark.parametrize("name", GIVEN)
def test_a_file_made_again_is_the_same(given_weights: list[Path], name: str) -> None:
    """Though its weights come in another order."""
    for _, file in nets_in(open_artifact(given_weights[-1] / f"{name}.bin")):
        rows = compared(file, rebuild(file, False, lambda *_: None), "")
        assert {said for _, _, said in rows} == {SAME}


def test_weights_may_come_in_any_order() -> None:
    graph = netc.parse(TWO, warn=lambda _: None)
    weights = initial_weights(graph)
    turned = [dict(weights), dict(reversed(weights.items()))]
    made = [build(replace(graph, weights=each), Options()).pieces() for each in turned]
    assert b"".join(made[0]) == b"".join(made[1])
