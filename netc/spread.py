"""Work on several threads, for what lets others run meanwhile: NumPy's copies, hashing."""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import Thread

MOST = 8  # threads: more of them only wait for memory


def spread(work: Callable[[int], None], count: int, threads: int = MOST) -> None:
    """Do `work` of 0, 1, … `count` - 1, on as many threads as this one has processors, at most.

    Where the system gives no threads, this one does it all. The first error is raised once all
    threads have stopped.
    """
    numbers = iter(range(count))  # one `next` is one bytecode: threads never get the same number
    errors: list[BaseException] = []

    def turns() -> None:
        try:
            for i in numbers:
                work(i)
        except BaseException as e:
            errors.append(e)
            list(numbers)  # nobody goes on

    helpers = []
    for _ in range(min(threads, count, len(os.sched_getaffinity(0))) - 1):
        helper = Thread(target=turns, name="netc-spread", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            break
        helpers.append(helper)
    turns()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]
