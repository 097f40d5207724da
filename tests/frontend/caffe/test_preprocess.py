"""Preprocessing at the head of a net: the same pixels as by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import UsageError, WeightsError
from netc.frontend.labels import read_labels
from netc.ir.interpret import interpret

from .files import legacy, packed, read, refused

IMAGE = np.random.default_rng(0).integers(0, 256, (2, 3, 12, 10), dtype=np.uint8)
MEAN = np.arange(3 * 8 * 8, dtype=np.float32).reshape(3, 8, 8)


def net(size: int = 6, planes: int = 3) -> str:
    return f"""
    layer {{ name: "in" type: "Input" top: "data"
      input_param {{ shape {{ dim: 1 dim: {planes} dim: {size} dim: {size} }} }} }}
    layer {{ name: "y" type: "Power" bottom: "data" top: "y" power_param {{ shift: 0 }} }}
    """


def run(image: np.ndarray[Any, Any], size: int = 6, **options: Any) -> Any:
    graph = read(net(size), **options)
    return interpret(graph, {"data": image}, np.float32)["y"]


def half_pixel(image: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Bilinear resizing as OpenCV's INTER_LINEAR does it, written out."""
    out = image.astype(np.float64)
    for axis in (2, 3):
        n = out.shape[axis]
        at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        shape = [1, 1, 1, 1]
        shape[axis] = size
        part = (at - low).reshape(shape)
        high = np.minimum(low + 1, n - 1)
        out = out.take(low, axis) * (1 - part) + out.take(high, axis) * part
    return out


def test_bytes_go_in_and_the_size_is_the_nets() -> None:
    graph = read(net(), scale=0.5)
    assert [str(n.types[0]) for n in graph.inputs] == ["u8[N,3,H,W]"]
    np.testing.assert_array_equal(run(IMAGE, scale=0.5), IMAGE * np.float32(0.5))


def test_everything_at_once() -> None:
    y = run(IMAGE, resize=8, crop=6, mean=(104, 117, 123), scale=0.25, channels="BGR")
    wanted = half_pixel(IMAGE[:, ::-1], 8)[:, :, 1:7, 1:7]
    wanted = (wanted - np.array([104, 117, 123]).reshape(3, 1, 1)) * 0.25
    np.testing.assert_allclose(y, wanted, atol=1e-4)


def test_any_size_goes_in_where_images_are_resized() -> None:
    graph = read(net(), resize=(6, 6))
    assert [str(n.types[0]) for n in graph.inputs] == ["u8[N,3,H,W]"]
    assert str(graph.outputs["y"].type) == "f32[N,3,6,6]"


def test_a_mean_image_is_taken_off_before_the_cut(tmp_path: Path) -> None:
    wanted = half_pixel(IMAGE, 8) - MEAN
    proto, array = tmp_path / "m.binaryproto", tmp_path / "m.npy"
    proto.write_bytes(legacy(MEAN.shape) + packed(MEAN))
    np.save(array, MEAN)
    for mean in (MEAN, proto, str(array)):
        y = run(IMAGE, resize=8, crop=6, mean=mean)
        np.testing.assert_allclose(y, wanted[:, :, 1:7, 1:7], atol=1e-4)


def test_a_mean_image_of_the_size_of_the_cut_is_taken_off_after_it() -> None:
    y = run(IMAGE, resize=8, crop=6, mean=MEAN[:, :6, :6])
    np.testing.assert_allclose(y, half_pixel(IMAGE, 8)[:, :, 1:7, 1:7] - MEAN[:, :6, :6], atol=1e-4)


def test_a_mean_image_tells_the_size_to_cut_from() -> None:
    graph = read(net(), mean=MEAN, crop=6)
    assert [str(n.types[0]) for n in graph.inputs] == ["u8[N,3,8,8]"]


def test_other_layouts_and_types() -> None:
    hwc = IMAGE.transpose(0, 2, 3, 1)
    same = run(IMAGE, resize=6, channels="BGR")
    np.testing.assert_array_equal(run(hwc, resize=6, channels="BGR", layout="HWC"), same)
    y = run(
        IMAGE.astype(np.float32), preprocessing={"resize": 6, "channels": "BGR", "dtype": "f32"}
    )
    np.testing.assert_array_equal(y, same)


def test_the_net_takes_the_size_that_images_are_brought_to() -> None:
    assert run(IMAGE, size=12, resize=9).shape == (2, 3, 9, 9)


WRONG = [
    ({"crop": 4}, "a crop needs the size of the image it is cut from"),
    ({"resize": 5, "crop": 6}, "a crop of 6 does not fit an image of f32[1,3,5,5]"),
    ({"mean": (1, 2)}, "a mean of 2×1×1 does not fit an image of f32[1,3,6,6]"),
    ({"mean": MEAN}, "a mean of 3×8×8 does not fit an image of f32[1,3,6,6]"),
    ({"channels": "BGR", "planes": 1}, "BGR needs 3 channels; the net has 1"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_what_does_not_fit(options: dict[str, Any], message: str) -> None:
    planes = options.get("planes", 3)
    given = {k: v for k, v in options.items() if k != "planes"}
    (found,) = refused(read, net(planes=planes), **given).diagnostics
    assert found.message == f"input 'data': {message}"
    assert found.span.line == 2


def test_what_is_no_option() -> None:
    for options in ({"resize": 0}, {"resize": (1, 2, 3)}, {"crop": "a"}, {"scale": "x"},
                    {"mean": "no/such/file"}, {"mean": []}, {"mean": (float("nan"),)},
                    {"channels": "RBG"}, {"layout": "NHWC"}, {"dtype": "f64"}):  # fmt: skip
        error = refused(read, net(), **options)
        assert isinstance(error, UsageError | WeightsError), options


def test_labels_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("n01440764 tench, Tinca tinca\ngoldfish\n\nn1 shark\n\n")
    wanted = ("tench, Tinca tinca", "goldfish", "", "n1 shark")
    assert read(net(), labels=path).labels == read_labels(str(path)) == wanted
    assert read(net(), labels=["a", "b"]).labels == ("a", "b")
