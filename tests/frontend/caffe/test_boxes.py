"""DetectionOutput and proposals against plain loops, as SSD and Faster R-CNN describe them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import netc
from netc.errors import NetcError, UnsupportedError
from netc.ir.graph import Graph
from netc.ir.interpret import interpret

from .files import read
from .test_layers import inputs

Array = np.ndarray[Any, Any]
Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box, border: float) -> float:
    """The shared part of two boxes over what they cover together."""
    wide = min(a[2], b[2]) - max(a[0], b[0]) + border
    tall = min(a[3], b[3]) - max(a[1], b[1]) + border
    if wide <= 0 or tall <= 0:
        return 0.0
    sizes = [(x[2] - x[0] + border) * (x[3] - x[1] + border) for x in (a, b)]
    return wide * tall / (sum(sizes) - wide * tall)


def best_apart(boxes: list[Box], order: list[int], limit: float, border: float) -> list[int]:
    """Of boxes in this order those that no kept one before overlaps by more than the limit."""
    kept: list[int] = []
    for i in order:
        if all(overlap(boxes[i], boxes[j], border) <= limit for j in kept):
            kept.append(i)
    return kept


# ---- SSD ----------------------------------------------------------------------------------------


class Ssd:
    """A DetectionOutput of small sizes, its inputs, and what it must give."""

    def __init__(self, seed: int, items: int = 1, classes: int = 4, priors: int = 40) -> None:
        self.items, self.classes, self.priors = items, classes, priors
        self.shared, self.encoded, self.code, self.background = True, False, "CENTER_SIZE", 0
        self.limit, self.least, self.top, self.keep = 0.45, 0.3, 10, 12
        rng = np.random.default_rng(seed)
        middle, side = rng.uniform(0.2, 0.8, (priors, 2)), rng.uniform(0.1, 0.3, (priors, 2))
        self.prior = np.concatenate([middle - side / 2, middle + side / 2], 1)
        self.variance = np.tile([0.1, 0.1, 0.2, 0.2], (priors, 1))
        self.rng = rng

    def draw(self) -> dict[str, Array]:
        """The three bottoms."""
        own = 1 if self.shared else self.classes
        self.loc = self.rng.normal(0, 0.5, (self.items, self.priors, own, 4))
        self.conf = self.rng.permutation(self.items * self.priors * self.classes).reshape(
            self.items, self.priors, self.classes
        ) / (self.items * self.priors * self.classes)
        both = np.stack([self.prior, self.variance]).reshape(1, 2, -1)
        feed = {"loc": self.loc.reshape(self.items, -1), "prior": both}
        feed["conf"] = self.conf.reshape(self.items, -1)
        return {k: v.astype(np.float32) for k, v in feed.items()}

    def text(self) -> str:
        """The prototxt."""
        own = 1 if self.shared else self.classes
        fields = (
            f"num_classes: {self.classes} background_label_id: {self.background} "
            f"share_location: {str(self.shared).lower()} code_type: {self.code} "
            f"variance_encoded_in_target: {str(self.encoded).lower()} keep_top_k: {self.keep} "
            f"confidence_threshold: {self.least} "
            f"nms_param {{ nms_threshold: {self.limit} top_k: {self.top} }}"
        )
        return (
            inputs("loc", self.items, self.priors * own * 4)
            + inputs("conf", self.items, self.priors * self.classes)
            + inputs("prior", 1, 2, self.priors * 4)
            + 'layer { name: "found" type: "DetectionOutput" bottom: "loc" bottom: "conf" '
            f'bottom: "prior" top: "found" detection_output_param {{ {fields} }} }}\n'
        )

    def box(self, item: int, class_: int, i: int) -> Box:
        """The box of default box i."""
        x0, y0, x1, y1 = self.prior[i]
        wide, tall = x1 - x0, y1 - y0
        a, b, c, d = self.loc[item, i, 0 if self.shared else class_] * (
            1 if self.encoded else self.variance[i]
        )
        if self.code == "CORNER":
            return x0 + a, y0 + b, x1 + c, y1 + d
        if self.code == "CORNER_SIZE":
            return x0 + a * wide, y0 + b * tall, x1 + c * wide, y1 + d * tall
        x, y = (x0 + x1) / 2 + a * wide, (y0 + y1) / 2 + b * tall
        wide, tall = wide * math.exp(c), tall * math.exp(d)
        return x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2

    def wanted(self) -> list[list[float]]:
        """The rows, image by image."""
        rows: list[list[float]] = []
        for item in range(self.items):
            found: list[tuple[float, int, Box]] = []
            for label in range(self.classes):
                if label == self.background:
                    continue
                score = self.conf[item, :, label]
                good = [i for i in range(self.priors) if score[i] > self.least]
                order = sorted(good, key=lambda i: -score[i])
                boxes = [self.box(item, label, i) for i in range(self.priors)]
                order = order if self.top < 0 else order[: self.top]
                kept = best_apart(boxes, order, self.limit, 0.0)
                found += [(score[i], label, boxes[i]) for i in kept]
            if self.keep >= 0:
                found = sorted(found, key=lambda f: -f[0])[: self.keep]
            found.sort(key=lambda f: (f[1], -f[0]))
            rows += [[item, label, score, *box] for score, label, box in found]
        return rows


def variants() -> list[tuple[str, dict[str, Any]]]:
    return [
        ("plain", {}),
        ("corner", {"code": "CORNER"}),
        ("corner and size", {"code": "CORNER_SIZE"}),
        ("own boxes", {"shared": False}),
        ("encoded", {"encoded": True}),
        ("all classes", {"background": -1}),
        ("middle background", {"background": 2}),
        ("last background", {"background": 3, "keep": 5}),
        ("all kept", {"keep": -1}),
        ("no limits", {"keep": -1, "top": -1}),
        ("few", {"top": 3, "keep": 4}),
        ("one", {"keep": 1}),
        ("none", {"least": 2.0}),
    ]


def same_rows(got: Array, wanted: list[list[float]], room: int) -> None:
    """The rows in front, and −1 behind them."""
    assert got.shape == (1, 1, room, 7)
    rows = got[0, 0]
    np.testing.assert_allclose(rows[: len(wanted)], np.reshape(wanted, (-1, 7)), 1e-4, 1e-5)
    assert (rows[len(wanted) :] == -1).all()


@pytest.mark.parametrize("items", [1, 3])
@pytest.mark.parametrize("each", [v for _, v in variants()], ids=[n for n, _ in variants()])
def test_detection_output(each: dict[str, Any], items: int) -> None:
    ssd = Ssd(7, items)
    vars(ssd).update(each)
    feed = ssd.draw()
    classes = ssd.classes - (0 <= ssd.background < ssd.classes)
    room = classes * (ssd.priors if ssd.top < 0 else ssd.top)
    room = items * (room if ssd.keep < 0 else ssd.keep)
    got = interpret(read(ssd.text()), feed)["found"]
    same_rows(got, ssd.wanted(), room)


def test_detection_output_compiled_for_any_batch() -> None:
    ssd = Ssd(3)
    exe = netc.compile(read(ssd.text(), shapes={"loc": ("N", 160), "conf": ("N", 160)}))
    for items in (1, 2, 5):
        ssd = Ssd(items, items)
        same_rows(exe(**ssd.draw())["found"], ssd.wanted(), items * ssd.keep)


def test_other_forks_are_not_supported() -> None:
    text = Ssd(0).text()
    more = 'bottom: "prior" bottom: "loc" bottom: "loc" top'
    with pytest.raises(UnsupportedError, match="it has 5 bottoms") as e:
        read(text.replace('bottom: "prior" top', more))
    assert "SSD's, of 3 or 4 bottoms, is" in str(e.value)
    read(text.replace('bottom: "prior" top', 'bottom: "prior" bottom: "loc" top'))


def test_scores_that_are_no_numbers_are_passed_over() -> None:
    ssd = Ssd(2)
    feed = ssd.draw()
    odd = ssd.rng.random(ssd.conf.shape) < 0.2
    ssd.conf[odd] = np.nan
    feed["conf"][odd.reshape(1, -1)] = np.nan
    same_rows(interpret(read(ssd.text()), feed)["found"], ssd.wanted(), ssd.keep)
    same_rows(netc.compile(read(ssd.text()))(**feed)["found"], ssd.wanted(), ssd.keep)


def test_no_more_scores_than_float32_counts() -> None:
    ssd = Ssd(0, classes=300, priors=60000)
    vars(ssd).update(top=-1)
    with pytest.raises(UnsupportedError, match="among 17,940,000 scores"):
        read(ssd.text())


def test_equal_scores_go_by_the_order_of_the_default_boxes() -> None:
    ssd = Ssd(0, priors=6, classes=2)
    vars(ssd).update(limit=1.0, top=4, keep=4)
    feed = ssd.draw()
    ssd.conf = np.full_like(ssd.conf, 0.5)
    feed["conf"] = np.full_like(feed["conf"], 0.5)
    same_rows(interpret(read(ssd.text()), feed)["found"], ssd.wanted(), 4)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_classes: 4", "", "num_classes is missing"),
        ("num_classes: 4", "num_classes: 5", "bottom 1 is f32[1,160]; 40 default boxes have 200"),
        ("keep_top_k: 12", "keep_top_k: 0", "keep_top_k must be at least 1"),
        ("nms_threshold: 0.45", "nms_threshold: -1", "between 0 and 1"),
        ("top_k: 10 }", "top_k: 10 eta: 2 }", "eta must be above 0"),
        ("dim: 2 dim: 160", "dim: 3 dim: 160", "default boxes of known number"),
        ("dim: 1 dim: 160 } } }\n", "dim: 1 dim: 16 } } }\n", "bottom 0 is f32[1,16]"),
    ],
)
def test_mistakes(old: str, new: str, message: str) -> None:
    text = Ssd(0).text()
    assert old in text
    with pytest.raises(NetcError, match="found") as e:
        read(text.replace(old, new, 1))
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("normalized: false", "normalized: false"),
        ("input_width: 992 input_height: 544 normalized: false", "normalized: false"),
        ("clip_before_nms: true", "clip_before_nms: true"),
        ("clip_after_nms: true", "clip_after_nms: true"),
        ("decrease_label_id: true", "decrease_label_id: true"),
        ("use_polygon: true", "use_polygon: true"),
        ("do_state_prediction: true", "do_state_prediction: true"),
        ("clip_after_nms: false normalized: true input_width: 992 input_height: 544", ""),
    ],
)
def test_fields_of_forks_that_make_other_boxes(field: str, message: str) -> None:
    text = Ssd(0).text().replace("num_classes", f"{field} num_classes")
    if not message:
        assert read(text).outputs
        return
    with pytest.raises(UnsupportedError, match=f"found.*{message}"):
        read(text)


# ---- Faster R-CNN -------------------------------------------------------------------------------


def region_net(
    items: int, anchors: int, param: str, tops: str = 'top: "rois"', **options: Any
) -> Graph:
    """A net of one ProposalLayer over 5×7 cells."""
    return read(
        inputs("scores", items, 2 * anchors, 5, 7)
        + inputs("moves", items, 4 * anchors, 5, 7)
        + inputs("info", items, 3)
        + 'layer { name: "p" type: "Python" bottom: "scores" bottom: "moves" bottom: "info" '
        f"{tops} python_param {{ module: 'rpn.proposal_layer' layer: 'ProposalLayer' "
        f'param_str: "{param}" }} }}\n',
        **options,
    )


def regions(feed: dict[str, Array], item: int, scales: list[float]) -> list[list[float]]:
    """(x0, y0, x1, y1, score) of every region, as py-faster-rcnn finds it."""
    shapes = [(w * s, h * s) for w, h in ((23.0, 12.0), (16.0, 16.0), (11.0, 22.0)) for s in scales]
    high, wide, scale = feed["info"][item]
    found: list[tuple[float, Box]] = []
    rows, columns = feed["scores"].shape[2:]
    for y in range(rows):
        for x in range(columns):
            for a, (w, h) in enumerate(shapes):
                dx, dy, dw, dh = feed["moves"][item, 4 * a : 4 * a + 4, y, x]
                cx, cy = 16 * x + 8 + dx * w, 16 * y + 8 + dy * h
                w, h = w * math.exp(dw), h * math.exp(dh)
                x0, x1 = (min(max(v, 0), wide - 1) for v in (cx - w / 2, cx + w / 2))
                y0, y1 = (min(max(v, 0), high - 1) for v in (cy - h / 2, cy + h / 2))
                if x1 - x0 + 1 >= 16 * scale and y1 - y0 + 1 >= 16 * scale:
                    score = feed["scores"][item, len(shapes) + a, y, x]
                    found.append((score, (x0, y0, x1, y1)))
    found.sort(key=lambda f: -f[0])
    boxes = [box for _, box in found]
    kept = best_apart(boxes, list(range(len(boxes)))[:6000], 0.7, 1.0)[:300]
    return [[*boxes[i], found[i][0]] for i in kept]


@pytest.mark.parametrize("items", [1, 2])
@pytest.mark.parametrize(
    ("param", "scales"),
    [
        ("'feat_stride': 16", [8.0, 16.0, 32.0]),
        ("{'feat_stride': 16, 'scales': [2, 4]}", [2.0, 4.0]),
        ("'feat_stride': 16 # pixels\\n'scales': !!python/tuple [1, 3]", [1.0, 3.0]),
    ],
)
def test_proposals(param: str, scales: list[float], items: int) -> None:
    rng = np.random.default_rng(items)
    anchors = 3 * len(scales)
    count = items * 2 * anchors * 35
    feed = {
        "scores": rng.permutation(count).reshape(items, -1, 5, 7) / count,
        "moves": rng.normal(0, 0.3, (items, 4 * anchors, 5, 7)),
        "info": np.array([[80, 112, 1.5], [70, 100, 0.5]])[:items],
    }
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    graph = region_net(items, anchors, param, 'top: "rois" top: "probs"')
    room = 300
    for out in (interpret(graph, feed), netc.compile(graph)(**feed)):
        assert out["rois"].shape == (items * room, 5)
        assert out["probs"].shape == (items * room, 1)
        for item in range(items):
            wanted = np.array(regions(feed, item, scales))
            rows = out["rois"][item * room : (item + 1) * room]
            probs = out["probs"][item * room : (item + 1) * room, 0]
            assert (rows[: len(wanted), 0] == item).all()
            np.testing.assert_allclose(rows[: len(wanted), 1:], wanted[:, :4], 1e-4, 1e-3)
            np.testing.assert_allclose(probs[: len(wanted)], wanted[:, 4], 1e-5)
            assert (rows[len(wanted) :] == [-1, 0, 0, 0, 0]).all()


@pytest.mark.parametrize("items", [1, 2])
def test_proposals_read_the_first_three_of_six_numbers(items: int) -> None:
    rng = np.random.default_rng(7)
    count = items * 18 * 35
    info = rng.uniform(1, 9, (items, 6))
    info[:, :3] = np.array([[80, 112, 1.5], [70, 100, 0.5]])[:items]
    feed = {
        "scores": rng.permutation(count).reshape(items, 18, 5, 7) / count,
        "moves": rng.normal(0, 0.3, (items, 36, 5, 7)),
        "info": info,
    }
    feed = {k: v.astype(np.float32) for k, v in feed.items()}
    graph = region_net(items, 9, "'feat_stride': 16", shapes={"info": (items, 6)})
    first = {**feed, "info": feed["info"][:, :3]}
    for out in (interpret(graph, feed), netc.compile(graph)(**feed)):
        for item in range(items):
            wanted = np.array(regions(first, item, [8.0, 16.0, 32.0]))
            rows = out["rois"][item * 300 : item * 300 + len(wanted)]
            np.testing.assert_allclose(rows[:, 1:], wanted[:, :4], 1e-4, 1e-3)


def test_proposals_of_images_of_any_size() -> None:
    graph = region_net(
        1, 9, "'feat_stride': 16", shapes={"scores": (1, 18, "H", "W"), "moves": (1, 36, "H", "W")}
    )
    exe = netc.compile(graph)
    rng = np.random.default_rng(5)
    for high, wide in ((5, 7), (2, 3), (9, 4)):
        count = 18 * high * wide
        feed = {
            "scores": rng.permutation(count).reshape(1, 18, high, wide) / count,
            "moves": rng.normal(0, 0.3, (1, 36, high, wide)),
            "info": np.array([[16 * high, 16 * wide, 1.0]]),
        }
        feed = {k: v.astype(np.float32) for k, v in feed.items()}
        wanted = np.array(regions(feed, 0, [8.0, 16.0, 32.0]))
        for out in (interpret(graph, feed), exe(**feed)):
            rows = out["rois"]
            assert rows.shape == (300, 5)
            np.testing.assert_allclose(rows[: len(wanted), 1:], wanted[:, :4], 1e-4, 1e-3)
            assert (rows[len(wanted) :] == [-1, 0, 0, 0, 0]).all()


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("'feat_stride': 16, 'use_clip': 0", "its param_str has 'use_clip'"),
        ("'feat_stride': sixteen", "no list of names and numbers"),
        ("'feat_stride': [__import__('os')]", "no list of names and numbers"),
        ("'feat_stride': ['a']", "'feat_stride' is no number"),
        ("'feat_stride': True", "'feat_stride' is no number"),
        (f"'feat_stride': 1{'0' * 400}", "'feat_stride' is no number"),
        ("'scales': [8, 16, 32]", "param_str needs 'feat_stride'"),
        ("'feat_stride': 0", "numbers above 0"),
        ("'feat_stride': 16, 'scales': [8]", "bottom 0 is f32[1,18,5,7]; 3 anchors need 6"),
    ],
)
def test_wrong_parameters(param: str, message: str) -> None:
    with pytest.raises(NetcError, match="layer p") as e:
        region_net(1, 9, param)
    assert message in str(e.value)


# ---- YOLO ---------------------------------------------------------------------------------------

SIDES = [10.0, 14.0, 23.0, 27.0, 37.0, 58.0, 81.0, 82.0]  # of four boxes


def yolo(items: int = 1, **fields: str) -> str:
    """A net of one Yolov3DetectionOutput: maps of 3×3 and 5×5 cells, 2 boxes each, 3 classes."""
    given = {
        "num_classes": "3",
        "num_box": "2",
        "confidence_threshold": "0.3",
        "nms_threshold": "0.45",
        "biases": str(SIDES),
        "anchors_scale": "[32, 16]",
        "mask": "[2, 3, 0, 1]",
        "mask_group_num": "2",
    } | fields
    said = " ".join(f"{name}: {value}" for name, value in given.items())
    return (
        inputs("a", items, 16, 3, 3)
        + inputs("b", items, 16, 5, 5)
        + 'layer { name: "y" type: "Yolov3DetectionOutput" bottom: "a" bottom: "b" top: "found" '
        f"yolov3_detection_output_param {{ {said} }} }}\n"
    )


def likely(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def yolo_rows(feed: dict[str, Array], item: int) -> list[list[float]]:
    """What the layer gives for an image."""
    found: list[tuple[float, int, Box]] = []
    for x, scale, mask in ((feed["a"], 32, (2, 3)), (feed["b"], 16, (0, 1))):
        side = x.shape[3]
        maps = x[item].reshape(2, 8, side, side)
        for row, column in np.ndindex(side, side):
            for box, anchor in enumerate(mask):
                dx, dy, dw, dh, is_one, *classes = maps[box, :, row, column]
                cx, cy = (column + likely(dx)) / side, (row + likely(dy)) / side
                w = math.exp(dw) * SIDES[2 * anchor] / (side * scale) / 2
                h = math.exp(dh) * SIDES[2 * anchor + 1] / (side * scale) / 2
                for label, of_class in enumerate(classes, 1):
                    score = likely(is_one) * likely(of_class)
                    if score > 0.3:
                        found.append((score, label, (cx - w, cy - h, cx + w, cy + h)))
    found.sort(key=lambda f: -f[0])
    kept = best_apart([box for *_, box in found], list(range(len(found))), 0.45, 0.0)
    return [[item, found[i][1], found[i][0], *found[i][2]] for i in kept]


@pytest.mark.parametrize("items", [1, 3])
def test_yolo(items: int) -> None:
    rng = np.random.default_rng(items)
    shapes = {"a": (items, 16, 3, 3), "b": (items, 16, 5, 5)}
    feed = {k: rng.normal(0, 1, s).astype(np.float32) for k, s in shapes.items()}
    graph = read(yolo())
    wanted = [row for item in range(items) for row in yolo_rows(feed, item)]
    assert len(wanted) > 8 * items
    room = items * (9 + 25) * 2 * 3
    same_rows(interpret(graph, feed)["found"], wanted, room)
    same_rows(netc.compile(graph)(**feed)["found"], wanted, room)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_classes", "4", "bottom 0 is f32[1,16,3,3]; 2 boxes of 4 classes need 18 channels"),
        ("mask", "[0, 1, 2]", "3 mask for 2 bottoms of 2 boxes each"),
        ("mask", "[0, 1, 2, 4]", "biases are two numbers above 0 for each of 5 boxes"),
        ("anchors_scale", "32", "1 anchors_scale for 2 bottoms"),
        ("mask_group_num", "3", "3 groups for 2 bottoms"),
        ("nms_threshold", "1.5", "nms_threshold must be between 0 and 1"),
    ],
)
def test_wrong_yolo(field: str, value: str, message: str) -> None:
    with pytest.raises(NetcError, match="layer y") as e:
        read(yolo(**{field: value}))
    assert message in str(e.value)
