"""As the net says: what is not annotated follows its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.passes.partition.placement import Placement, result
from netc.passes.partition.problem import Problem


def annotated(problem: Problem) -> Placement:
    """Unannotated items go where their largest placed operand is, else where they are read first.

    What has no placed neighbour is on the first device.
    """
    n = len(problem.items)
    number = {d: i for i, d in enumerate(problem.devices)}
    given = [item.device for item in problem.items]
    where = [-1 if d is None else number[d] for d in given]
    why = [""] * n
    for i in range(n):
        _follow(problem, where, why, i, [(m.size, m.source) for m in problem.read[i]], "reads")
    for i in reversed(range(n)):
        readers = [(-j, j) for m in problem.made[i] for j in m.readers]
        _follow(problem, where, why, i, readers, "is read by")
    for i in range(n):
        _follow(problem, where, why, i, [(m.size, m.source) for m in problem.read[i]], "reads")
        if where[i] < 0:
            where[i], why[i] = int(np.isfinite(problem.seconds[i]).argmax()), "the first device"
    return result(problem, where, "annotated", why)


def _follow(
    problem: Problem,
    where: list[int],
    why: list[str],
    i: int,
    beside: Sequence[tuple[int, int]],
    verb: str,
) -> None:
    """Put item i on the device of the neighbour that counts most, if it has none yet."""
    known = [(w, -j) for w, j in beside if where[j] >= 0]
    if where[i] >= 0 or not known:
        return
    j = -max(known)[1]
    if np.isfinite(problem.seconds[i, where[j]]):
        where[i], why[i] = where[j], f"{verb} %{problem.items[j].name}"
