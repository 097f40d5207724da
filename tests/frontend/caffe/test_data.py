"""Data layers of forks, which become inputs: the shapes that their fields tell."""

from __future__ import annotations

from typing import Any

import pytest

from .files import read, refused


def fed(kind: str, rest: str, *tops: str, **options: Any) -> list[str]:
    """The types of the inputs that a data layer becomes, all of whose sizes but the batch are
    fixed by what reads them."""
    names = " ".join(f'top: "{top}"' for top in tops)
    text = f'layer {{ name: "d" type: "{kind}" {names} {rest} }}\n'
    for top in tops:
        fixed = 'type: "InnerProduct" inner_product_param { num_output: 1 }'
        kind = 'type: "Power"' if top == "label" else fixed
        text += f'layer {{ name: "r_{top}" {kind} bottom: "{top}" top: "r_{top}" }}\n'
    return [str(n.types[0]) for n in read(text, **options).inputs]


@pytest.mark.parametrize(
    ("fields", "channels"),
    [
        ("modality: FLOW new_length: 5 num_segments: 3", 30),
        ("new_length: 5 num_segments: 3", 30),
        ("modality: RGB num_segments: 7", 21),
        ("modality: RGB num_segments: 7 new_length: 2 grayscale: true", 14),
        ("modality: FLOW grayscale: true", 2),
        ('name_pattern: "flow_%c_%04d.jpg" new_length: 10', 20),
    ],
)
def test_segments_of_videos(fields: str, channels: int) -> None:
    param = f'video_data_param {{ source: "x" batch_size: 4 shuffle: true {fields}'
    for more in ("} transform_param { crop_size: 24 }", "new_height: 24 new_width: 24 }"):
        types = fed("VideoData", f"{param} {more}", "data", "label")
        assert types == [f"f32[N,{channels},24,24]", "f32[N]"]


def test_segments_of_a_modality_that_is_not_known_need_a_shape() -> None:
    fields = "video_data_param { batch_size: 4 modality: SOUND } transform_param { crop_size: 24 }"
    assert "input 'data' has no shape in the file" in str(refused(fed, "VideoData", fields, "data"))


def test_clips_of_c3d() -> None:
    fields = "video_data_param { batch_size: 4 new_length: 16 use_image: true }"
    fields += " transform_param { crop_size: 112 }"
    assert fed("VideoData", fields, "data", "label") == ["f32[N,3,16,112,112]", "f32[N]"]


DATA = """layer { name: "d" type: "Data" top: "data" top: "label"
  data_param { source: "x" batch_size: 64 backend: LMDB } transform_param { crop_size: 6 } }
layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"
  inner_product_param { num_output: 5 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "f" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize(
    ("shapes", "types"),
    [
        ({"data": (1, 3, 6, 6)}, ["f32[N,3,6,6]", "f32[N]"]),
        ({"data": (7, 3, 6, 6)}, ["f32[N,3,6,6]", "f32[N]"]),
        ({"data": (64, 3, 6, 6)}, ["f32[N,3,6,6]", "f32[N]"]),
        ({"data": (2, 3, 6, 6), "label": (2, 1, 1, 1)}, ["f32[N,3,6,6]", "f32[N,1,1,1]"]),
        ({"data": ("B", 3, 6, 6)}, ["f32[B,3,6,6]", "f32[B]"]),
    ],
)
def test_the_tops_of_a_data_layer_share_the_batch_that_is_given(
    shapes: dict[str, tuple[Any, ...]], types: list[str]
) -> None:
    graph = read(DATA, shapes=shapes)
    assert [str(n.types[0]) for n in graph.inputs] == types


def test_the_image_has_the_batch_that_is_given_for_the_label() -> None:
    text = DATA.replace("crop_size: 6", "crop_size: 6 force_color: true")
    graph = read(text, shapes={"label": (3,)})
    assert [str(n.types[0]) for n in graph.inputs] == ["f32[N,3,6,6]", "f32[N]"]


def test_the_tops_of_an_input_layer_have_sizes_of_their_own() -> None:
    text = """layer { name: "d" type: "Input" top: "a" top: "b" input_param {
      shape { dim: 4 dim: 3 } shape { dim: 4 dim: 5 } } }
    layer { name: "c" type: "Concat" bottom: "a" bottom: "b" top: "y" }"""
    error = refused(read, text, shapes={"a": (2, 3)})
    assert "f32[4,5]" in str(error)


@pytest.mark.parametrize(
    ("kind", "param", "fields", "transform", "image"),
    [
        ("DenseImageData", "dense_image_data_param", "new_height: 4 new_width: 6", "", "3,4,6"),
        ("DenseImageData", "dense_image_data_param",
         "new_height: 9 new_width: 9 crop_height: 4 crop_width: 6 is_color: false", "", "1,4,6"),
        ("DenseImageData", "dense_image_data_param", "crop_height: 4 crop_width: 6",
         "crop_size: 5", "3,5,5"),
        ("ImageSegData", "image_data_param", "label_type: PIXEL", "crop_size: 5", "3,5,5"),
        ("ImageSegData", "image_data_param", "new_height: 9 new_width: 9 is_color: false",
         "crop_height: 4 crop_width: 6", "1,4,6"),
        ("ImageLabelmapData", "image_data_param", "new_height: 4 new_width: 6", "", "3,4,6"),
        ("ImageLabelmapData", "image_data_param", "shuffle: true", "crop_size: 5", "3,5,5"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 2, 3])
def test_pixels_with_labels(
    kind: str, param: str, fields: str, transform: str, image: str, count: int
) -> None:
    rest = f'{param} {{ source: "x" batch_size: 3 {fields} }} transform_param {{ {transform} }}'
    sizes = image.partition(",")[2]
    types = [f"f32[N,{image}]", f"f32[N,1,{sizes}]", "f32[N,1,1,2]"][:count]
    assert fed(kind, rest, *("data", "labels", "data_dim")[:count]) == types


@pytest.mark.parametrize("kind", ["DenseImageData", "ImageSegData", "ImageLabelmapData"])
def test_labels_of_pixels_have_the_size_that_is_given_for_the_image(kind: str) -> None:
    param = "dense_image_data_param" if kind == "DenseImageData" else "image_data_param"
    rest = f'{param} {{ source: "x" batch_size: 3 }}'
    types = fed(kind, rest, "data", "labels", shapes={"data": (2, 3, 4, 6)})
    assert types == ["f32[N,3,4,6]", "f32[N,1,4,6]"]
    assert "'data' has no shape in the file" in str(refused(fed, kind, rest, "data", "labels"))


def test_a_layer_of_labelled_pixels_without_tops_is_nothing() -> None:
    text = 'layer { name: "d" type: "ImageSegData" }\n' + DATA
    graph = read(text, shapes={"data": (2, 3, 6, 6)})
    assert len(graph.inputs) == 2
