"""Non-maximum suppression by hand, and boxes to try it on."""

from __future__ import annotations

import numpy as np

from netc.ir.op import Array

NAN, INF = float("nan"), float("inf")
A, B = (0, 0, 2, 2), (2, 0, 4, 2)  # they touch

# Boxes, attributes, and what is kept.
CORNERS: tuple[tuple[list[tuple[float, ...]], dict[str, float], list[int]], ...] = (
    ([A, A, A], {"overlap": 0.5}, [1, 0, 0]),
    ([A, A, A], {"overlap": 1.0}, [1, 1, 1]),  # 1 is not above 1
    ([A, (1, 1, 3, 3)], {"overlap": 0.0}, [1, 0]),
    ([A, B], {"overlap": 0.0}, [1, 1]),
    ([A, B], {"overlap": 0.0, "border": 1.0}, [1, 0]),  # 3 / (9 + 9 − 3)
    ([A, B], {"overlap": 0.25, "border": 1.0}, [1, 1]),
    ([A, (0, 0, 2, 1.5), (0, 0.75, 2, 1.5)], {"overlap": 0.4}, [1, 0, 1]),  # the last by the second
    ([A, (2, 2, 0, 0), A], {"overlap": 0.0}, [1, 1, 0]),
    ([A, (2, 2, 0, 0)], {"overlap": 0.0, "border": 3.0}, [1, 0]),  # 1 / (25 + 0 − 1)
    ([(2, 2, 0, 0), A], {"overlap": 0.0, "border": 3.0}, [1, 0]),
    ([(1, 1, 1, 1)] * 2, {"overlap": 0.0}, [1, 1]),
    ([(1, 1, 1, 1)] * 2, {"overlap": 0.5, "border": 1.0}, [1, 0]),
    *(
        ([A, (*A[:i], NAN, *A[i + 1 :]), A, (1, 0, 3, 2)], {"overlap": 0.3}, [1, 1, 0, 0])
        for i in range(4)
    ),
    ([(NAN,) * 4, A, (NAN,) * 4], {"overlap": 0.0, "border": 9.0}, [1, 1, 1]),
    ([(0, 0, INF, 2)] * 2, {"overlap": 0.0}, [1, 1]),  # ∞ / (∞ + ∞ − ∞)
    ([(-INF, -INF, INF, INF), A, A], {"overlap": 0.0}, [1, 1, 0]),
    ([(INF, 0, INF, 2)] * 2, {"overlap": 0.0}, [1, 1]),  # ∞ − ∞ wide
    ([(0, 0, 1e-30, 1e-30)] * 2, {"overlap": 0.0}, [1, 1]),  # 0 in float32
    # 0.8 and 0.4 of the first: the threshold is 0.9, then 0.45, and stays
    ([(0, 0, 5, 2), (0, 0, 4, 2), (0, 0, 2, 2)], {"overlap": 0.9}, [1, 1, 1]),
    ([(0, 0, 5, 2), (0, 0, 4, 2), (0, 0, 2, 2)], {"overlap": 0.9, "eta": 0.5}, [1, 0, 1]),
    ([(0, 0, 5, 2), (0, 0, 4, 2), (0, 0, 3, 2)], {"overlap": 0.9, "eta": 0.8}, [1, 0, 1]),
    ([(9, 9, 10, 10), (0, 0, 5, 2), (0, 0, 3, 2)], {"overlap": 0.9, "eta": 0.8}, [1, 1, 0]),
)


@np.errstate(all="ignore")
def kept_by_hand(boxes: Array, overlap: float, border: float = 0.0, eta: float = 1.0) -> list[int]:
    """1 for each box of a group that is kept, in float32."""
    one = np.float32
    threshold = one(overlap)
    out: list[int] = []
    for i, a in enumerate(boxes):
        before = [b for b, there in zip(boxes[:i], out, strict=True) if there]
        out.append(int(not any(_overlap(a, b, one(border)) > threshold for b in before)))
        if out[-1] and threshold > 0.5:
            threshold = threshold * one(eta)
    return out


def _overlap(a: Array, b: Array, border: np.float32) -> np.float32:
    if np.isnan([a, b]).any():
        return np.float32(0)
    width = min(a[2], b[2]) - max(a[0], b[0]) + border
    height = min(a[3], b[3]) - max(a[1], b[1]) + border
    if not (width > 0 and height > 0 and width * height > 0):
        return np.float32(0)
    inter = width * height
    return inter / (_size(a, border) + _size(b, border) - inter)


def _size(a: Array, border: np.float32) -> np.float32:
    if a[2] < a[0] or a[3] < a[1]:
        return np.float32(0)
    return (a[2] - a[0] + border) * (a[3] - a[1] + border)
