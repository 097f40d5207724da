"""How busy the machine is with other work while something is measured."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

TICK = os.sysconf("SC_CLK_TCK")
QUIET = 0.25  # cores; more than this of other work spoils a sample


def busy_seconds() -> float:
    """Processor time all of the machine has spent at work since it started."""
    with open("/proc/stat", encoding="ascii") as stream:
        words = [int(w) for w in stream.readline().split()[1:]]
    user, nice, system, _idle, _wait, irq, softirq, steal = words[:8]
    return (user + nice + system + irq + softirq + steal) / TICK


@dataclass
class Watch:
    """Counts other processes' work, in cores, from its making to `foreign`."""

    began: float = field(default_factory=time.perf_counter)
    busy: float = field(default_factory=busy_seconds)
    own: float = field(default_factory=lambda: sum(os.times()[:4]))

    def foreign(self) -> float:
        """Cores' worth of work that was not this process's."""
        spent = time.perf_counter() - self.began
        own = sum(os.times()[:4]) - self.own
        return max(0.0, (busy_seconds() - self.busy - own) / max(spent, 1e-9))
