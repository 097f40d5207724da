"""Boxes that a net finds, as `netc run` lists and draws them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from netc.cli.detections import draw, is_found, listed

Invoke = Callable[..., Result]

SSD = """\
name: "one box in the middle of each quarter"
input: "data" input_shape { dim: 1 dim: 3 dim: 40 dim: 80 }
layer { name: "p" type: "Pooling" bottom: "data" top: "p"
  pooling_param { pool: AVE kernel_h: 20 kernel_w: 40 stride_h: 20 stride_w: 40 } }
layer { name: "loc" type: "Convolution" bottom: "p" top: "loc"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "constant" } } }
layer { name: "conf" type: "Convolution" bottom: "p" top: "conf"
  convolution_param { num_output: 2 kernel_size: 1
    weight_filler { type: "constant" value: 0.01 } } }
layer { name: "likely" type: "Sigmoid" bottom: "conf" top: "likely" }
layer { name: "lo" type: "Permute" bottom: "loc" top: "lo"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "li" type: "Permute" bottom: "likely" top: "li"
  permute_param { order: 0 order: 2 order: 3 order: 1 } }
layer { name: "l" type: "Flatten" bottom: "lo" top: "l" }
layer { name: "c" type: "Flatten" bottom: "li" top: "c" }
layer { name: "prior" type: "PriorBox" bottom: "p" bottom: "data" top: "prior"
  prior_box_param { min_size: 10 variance: 0.1 } }
layer { name: "found" type: "DetectionOutput" bottom: "l" bottom: "c" bottom: "prior" top: "found"
  detection_output_param { num_classes: 2 keep_top_k: 4 confidence_threshold: 0.4
    code_type: CENTER_SIZE nms_param { nms_threshold: 0.5 top_k: 4 } } }
"""


@pytest.fixture
def detector(folder: Path, netc: Invoke) -> Path:
    (folder / "ssd.prototxt").write_text(SSD)
    (folder / "names.txt").write_text("background\nred thing\n")
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:20, 40:] = 255, 0, 0
    Image.fromarray(pixels).save(folder / "street.png")
    netc("compile", "ssd.prototxt", "--labels", "names.txt", "-o", "ssd.bin")
    return folder


def test_boxes_are_listed_and_drawn(detector: Path, netc: Invoke) -> None:
    said = netc("run", "ssd.bin", "--input", "data=street.png", "--draw", "found.png").output
    lines = said.splitlines()
    assert lines[0] == "found  float32[1, 1, 4, 7]"
    assert lines[1].split() == ["red", "thing", "0.9276", "0.688", "0.125", "0.812", "0.375"]
    assert [line.split()[2] for line in lines[2:5]] == ["0.5000"] * 3
    assert lines[5] == "found.png: 4 boxes with a score of at least 0.5"
    before, after = (np.asarray(Image.open(detector / n)) for n in ("street.png", "found.png"))
    assert after.shape == (40, 80, 3)
    changed = (before != after).any(2)
    assert changed[5, 60]  # the upper side of the best box
    assert not changed[:5].any()
    assert not changed[:, :15].any()


def test_what_cannot_be_drawn(detector: Path, netc: Invoke) -> None:
    words = ("--input", "data=street.png", "--draw", "found.png")
    said = netc("run", "ssd.bin", *words[:3], "found.txt", code=2).output
    assert "a picture is .png or .jpg" in said
    two = ("--input", "data=street.png", *words)
    assert "onto one image, and 2 are given" in netc("run", "ssd.bin", *two, code=2).output
    netc("compile", "ssd.prototxt", "--resize", "60x90", "--crop", "40x80", "-o", "cut.bin")
    assert "the middle of the image: 40×80 pixels" in netc("run", "cut.bin", *words, code=2).output
    assert "sees the middle of the image: 40×80" in netc("inspect", "cut.bin").output
    netc("compile", "small.net", "-o", "small.bin")
    none = ("run", "small.bin", "--input", "data=x.png", "--draw", "found.png")
    assert "no outputs have boxes" in netc(*none, code=2).output
    assert not (detector / "found.png").exists()


def test_lists() -> None:
    rows = np.full((1, 1, 14, 7), -1, np.float32)
    assert is_found(rows)
    assert listed(rows, []) == ["  nothing is found"]
    rows[0, 0, :12] = [[i % 2, i, i / 16, 0.1, 0.2, 0.3, 0.4] for i in range(12)]
    lines = listed(rows, ["none", "cat"])
    assert len(lines) == 11
    assert lines[0] == "  [1] class 11  0.6875   0.100  0.200   0.300  0.400"
    assert lines[-1] == "  … and 2 more"
    assert not is_found(rows[..., :6])
    assert not is_found(rows + 0.25)
    mask = np.arange(14 * 7, dtype=np.float32).reshape(1, 1, 14, 7)
    assert not is_found(mask)
    assert not is_found(mask.astype(np.int32))


def test_a_box_that_is_nowhere_is_not_drawn(detector: Path) -> None:
    rows = np.full((1, 1, 2, 7), -1, np.float32)
    rows[0, 0, 0] = [0, 1, 0.75, np.nan, 0, 1, 1]
    assert draw(detector / "street.png", {"y": rows}, [], detector / "found.png") == 0
    rows[0, 0, 0, 3:] = [-np.inf, -np.inf, np.inf, np.inf]
    assert draw(detector / "street.png", {"y": rows}, [], detector / "found.png") == 1
