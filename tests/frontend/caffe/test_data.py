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
