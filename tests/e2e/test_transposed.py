"""Nets with transposed convolutions: right, the same bits for any threads, and from their files."""

from __future__ import annotations

from pathlib import Path

import pytest

import netc
from netc.runtime.session import executable
from tests.strategies import agree, feeds, wanted

NETS = {
    "up and beside": """net n(x: f32[N, 3, H, W]) -> y {
        a = x |> conv_transpose(12, 2, stride=2) |> relu
        b = x |> conv(24, 3, pad=1) |> batch_norm |> scale |> relu
        c = b |> conv_transpose(16, 2, stride=2) |> batch_norm |> scale |> relu
        d = concat(c, a) |> conv(8, 3, pad=1)
        y = d |> conv_transpose(5, 3, stride=2, pad=1) |> softmax
    }""",
    "generator": """net n(x: f32[N, 20, 1, 1]) -> y {
        a = x |> conv_transpose(40, 4, bias=false) |> batch_norm |> scale |> relu
        b = a |> conv_transpose(24, 4, stride=2, pad=1, bias=false) |> batch_norm |> scale |> relu
        y = b |> conv_transpose(3, 4, stride=2, pad=1) |> tanh
    }""",
    "residual and groups": """net n(x: f32[2, 16, 5, 6]) -> y, z {
        a = x |> conv_transpose(16, 3, pad=1, groups=2)
        b = a + x |> relu
        c = b |> conv_transpose(16, 1, stride=3)
        y = c |> conv_transpose(16, 4, stride=2, pad=1, groups=16) |> sigmoid
        z = concat(b, a) |> conv_transpose(7, 5, stride=4)
    }""",
    "with windows apart": """net n(x: f32[1, 9, H, W]) -> y {
        y = x |> conv_transpose(17, 3, stride=2, dilation=2) |> relu |> conv_transpose(8, 2, pad=1)
    }""",
}


@pytest.mark.parametrize("sizes", [{"N": 1, "H": 8, "W": 10}, {"N": 3, "H": 2, "W": 6}])
@pytest.mark.parametrize("name", NETS)
def test_runs_and_files_agree(name: str, sizes: dict[str, int], tmp_path: Path) -> None:
    graph = netc.parse(NETS[name])
    made = netc.compile(graph, threads=1)
    feed = feeds(graph, 0, sizes)
    made.poison()
    want = made(feed)
    assert not (why := agree(want, wanted(graph, feed), graph)), why
    made.save(tmp_path / "net.bin")
    runs = [executable(made.model, 2), netc.load(tmp_path / "net.bin", trust=False)]
    for exe in runs:
        exe.poison()
        got = exe(feed)
        assert {k: v.tobytes() for k, v in got.items()} == {k: v.tobytes() for k, v in want.items()}
