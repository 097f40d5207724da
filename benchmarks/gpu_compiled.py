"""torch.compile in processes side by side, each handed out alone once its net is ready."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from benchmarks.gpu_fleet import LOAD, Clock, Failed, Worker

Config: TypeAlias = tuple[str, str, int]  # net, precision, batch
_POLL = 0.1  # seconds
_REQUESTS = 2  # load, bind
LARGE, LARGE_JOBS = 64, 2  # batches that take much memory to try out, and how many at once


def at_once(jobs: int, batch: int) -> int:
    """How many nets of a batch size may be compiled at once, where `jobs` may be of small ones."""
    return min(jobs, LARGE_JOBS) if batch >= LARGE else jobs


@dataclass
class Going:
    """A net that is compiled, since when, and how many requests are answered."""

    config: Config
    since: float
    answers: int = 0


@dataclass
class Compiled:
    """So many configurations at once, fewer of large batches, each with so many seconds, and all
    of them together."""

    waiting: list[Config]
    jobs: int
    limit: float
    whole: float
    going: dict[int, Going] = field(default_factory=dict)

    def answers(
        self, worker: Callable[[int], Worker], clock: Clock
    ) -> Iterator[tuple[int, Config, str]]:
        """The number of a process whose net is ready, the net, and why it is not where it is not.

        Until the next is asked for all other processes are halted.
        """
        end = time.monotonic() + self.whole
        while self.waiting or self.going:
            clock.left(1.0)
            while self.waiting and len(self.going) < at_once(self.jobs, self.waiting[0][2]):
                self._start(worker)
            for number, one in list(self.going.items()):
                why = self._state(worker(number), one, end)
                if why is None:
                    continue
                del self.going[number]
                self._halt(worker, signal.SIGSTOP)
                yield number, one.config, why
                worker(number).end()
                self._halt(worker, signal.SIGCONT)
            time.sleep(_POLL)

    def _start(self, worker: Callable[[int], Worker]) -> None:
        """The next configuration, in the first process that is free."""
        number = next(n for n in range(1, self.jobs + 1) if n not in self.going)
        net, precision, batch = config = self.waiting.pop(0)
        worker(number).send(LOAD, "load", net=net, precision=precision)
        worker(number).send(self.limit, "bind", batch=batch, out=f"compile{number}.npz")
        self.going[number] = Going(config, time.monotonic())

    def _state(self, worker: Worker, one: Going, end: float) -> str | None:
        """None as long as it compiles, nothing once it is ready, and otherwise what went wrong."""
        now = time.monotonic()
        try:
            if worker.answered():
                worker.receive()
                one.answers += 1
                return "" if one.answers == _REQUESTS else None
        except Failed as failed:
            return str(failed)
        if now - one.since > self.limit or now > end:
            self.waiting = self.waiting if now <= end else []
            return f"not finished in {now - one.since:.0f} s"
        return None

    def _halt(self, worker: Callable[[int], Worker], number: signal.Signals) -> None:
        for other in self.going:
            worker(other).halt(number)
