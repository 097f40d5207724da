"""Which launches must wait for which: by the bytes they read and write."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from netc.runtime.driver import Launch


def dependencies(launches: Sequence[Launch]) -> list[list[int]]:
    """For each launch the earlier ones it must follow, the latest first, no detours.

    One follows another where they touch the same bytes and one of them writes there; launches
    of one group follow each other only for their counters. What follows from other entries is
    left out.
    """
    spans = [(span, i, writes) for i, x in enumerate(launches)
             for writes, of in ((False, x.reads), (True, x.writes)) for span in of]  # fmt: skip
    starts = np.array([start for (start, _), _, _ in spans], np.uint64)
    ends = np.array([end for (_, end), _, _ in spans], np.uint64)
    owners = np.array([i for _, i, _ in spans], np.int64)
    writing = np.array([writes for _, _, writes in spans], np.bool_)
    groups = [launch.group for launch in launches]
    found: list[list[int]] = []
    behind: list[int] = []  # of each launch, those it follows by whatever way, as a set of bits
    holders: dict[int, int] = {}  # of each counter, the last launch that used it
    for i, launch in enumerate(launches):
        before: set[int] = set()
        for spanned, writes in ((launch.reads, False), (launch.writes, True)):
            for start, end in spanned:
                meets = (starts < end) & (ends > start) & (owners < i) & (writing | writes)
                before |= set(owners[meets].tolist())
        if launch.group >= 0:
            before -= {j for j in before if groups[j] == launch.group}
        before |= {holders[counter] for counter in launch.alone if counter in holders}
        holders |= dict.fromkeys(launch.alone, i)
        reached, direct = 0, list[int]()
        for j in sorted(before, reverse=True):
            if not reached >> j & 1:
                direct.append(j)
                reached |= behind[j] | 1 << j
        found.append(direct)
        behind.append(reached)
    return found
