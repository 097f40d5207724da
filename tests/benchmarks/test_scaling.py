"""Predicted speed-ups: bounds, where the time goes, and a picture that is one."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import scaling
from benchmarks.scaling_limits import critical_path
from netc.ir.machine import eight_gpus

MACHINE = eight_gpus()
EPS = 1e-9
SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("way", scaling.WAYS)
def test_two_gpus_are_at_most_twice_as_fast(way: str) -> None:
    graph = scaling.fixed("lenet", 64)
    alone = scaling.run(graph, way, 1, MACHINE)
    both = scaling.run(graph, way, 2, MACHINE)
    one = scaling.point("lenet", way, alone, alone, MACHINE)
    two = scaling.point("lenet", way, both, alone, MACHINE)
    assert one.speedup == 1
    assert one.copied == 0
    assert 0 < two.speedup <= 2 + EPS
    assert two.copied > 0
    assert sum(two.found.shares.values()) == pytest.approx(1)
    assert two.found.shares["useful"] == pytest.approx(two.speedup / 2)
    assert "of the GPUs' time" in two.limit
    path = list(critical_path(both.plan, both.line))
    assert sum(e.seconds for e in path) == pytest.approx(both.line.seconds)


def test_what_has_too_few_groups_stays_whole() -> None:
    graph = scaling.zoo.graph_of("alexnet")
    assert "conv2" in scaling.shareable(graph, 2)
    assert not {"conv2", "conv4", "conv5"} & set(scaling.shareable(graph, 4))
    assert {"conv1", "conv3", "fc6"} <= set(scaling.shareable(graph, 4))


def test_the_picture_has_a_panel_of_curves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scaling.svg"
    scaling.main(["--nets", "lenet", "--gpus", "1", "2", "--batch", "8", "-o", str(out)])
    table = capsys.readouterr().out
    root = ElementTree.fromstring(out.read_text(encoding="utf-8"))
    words = " ".join(t.text or "" for t in root.iter(f"{SVG}text"))
    assert root.tag == f"{SVG}svg"
    for said in ("lenet", "GPUs", "speed-up", "ideal", *scaling.WAYS):
        assert said in words
    assert all(f"| lenet, {way} |" in table for way in scaling.WAYS)
