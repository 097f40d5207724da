"""What runs between devices: signals, waits, and the step that starts each device's job.

An event is a word that holds the number of the last run it was signalled in; so no run clears
any. Whoever waits spins a while, then yields, and leaves when the run is cancelled or the time
for one wait is over, which cancels the run.
"""

from __future__ import annotations

from netc.codegen.cpu.emit import Function, Module, Val
from netc.codegen.cpu.native import pause, syscall
from netc.ir.native_abi import LATE, Job, Team

_CLOCK_MONOTONIC = 1
_SELDOM = 63  # of this many yields one looks at the clock


def emit_events(module: Module) -> None:
    """Add `netc_signal`, `netc_await` and `netc_lead` to a module."""
    _signal(module)
    _await(module)
    _lead(module)


def _signal(module: Module) -> None:
    """netc_signal([team, event], tid, n): the event has happened in this run."""
    f = module.function("netc_signal", ("ptr", "i64", "i64"))
    args, tid, _ = f.args
    with f.if_(f.icmp("eq", tid, 0)):
        team, event = f.slot(args, 0, "ptr"), f.slot(args, 1, "ptr")
        f.atomic_store(_word(f, team, Team.RUN), event)
    f.ret()


def _await(module: Module) -> None:
    """netc_await([team, event, job], tid, n): return once the event has happened in this run."""
    f = module.function("netc_await", ("ptr", "i64", "i64"))
    team, event, job = (f.slot(f.args[0], i, "ptr") for i in range(3))
    clock = f.alloca(24)  # seconds, nanoseconds, when waiting began
    start = f.gep(clock, 16)
    f.store(f.const(0), start, 8)
    run, spins = _word(f, team, Team.RUN), _word(f, team, Team.SPINS)
    turn, asked, idle, left, again, done = (f.new_label() for _ in range(6))
    f.emit(f"br label %{turn}")
    f.label(turn)
    count = f.value("i64", f"phi i64 [0, %entry], [%next, %{again}]")
    f.emit(f"br {f.icmp('sge', f.atomic_load('i64', event), run)}, label %{done}, label %{asked}")
    f.label(asked)
    over = f.icmp("ne", f.atomic_load("i64", f.gep(team, Team.CANCEL), "monotonic"), 0)
    f.emit(f"br {over}, label %{left}, label %{idle}")
    f.label(idle)
    pause(f)
    f.emit(f"%next = add i64 {count.name}, 1")
    with f.if_(f.icmp("sge", count, spins)):
        syscall(f, team, "yield")
        with f.if_(f.icmp("eq", f.and_(count, _SELDOM), 0)):
            _look_at_clock(f, team, clock, start)
    f.emit(f"br label %{again}")
    f.label(again)
    f.emit(f"br label %{turn}")
    f.label(left)
    f.atomic_store(f.const(1), f.gep(job, Job.CANCEL), "monotonic")
    f.emit(f"br label %{done}")
    f.label(done)
    f.ret()


def _look_at_clock(f: Function, team: Val, clock: Val, start: Val) -> None:
    """Note when waiting began; cancel the run when that is too long ago."""
    address = f.cast("ptrtoint", clock, "i64")
    syscall(f, team, "clock", f.const(_CLOCK_MONOTONIC), address)
    now = f.add(f.mul(_word(f, clock, 0), 1_000_000_000), _word(f, clock, 8))
    began = f.load("i64", start, 8)
    fresh = f.icmp("eq", began, 0)
    f.store(f.select(fresh, now, began), start, 8)
    late = f.icmp("sgt", f.sub(now, f.select(fresh, now, began)), _word(f, team, Team.LIMIT))
    with f.if_(late):
        f.atomic_store(f.const(LATE), f.gep(team, Team.CANCEL), "monotonic")


def _lead(module: Module) -> None:
    """netc_lead(jobs, tid, n): run the tid-th job; the one step of the job of all devices."""
    f = module.function("netc_lead", ("ptr", "i64", "i64"))
    jobs, tid, _ = f.args
    job = f.load("ptr", f.gep(jobs, tid, 8), 8)
    run = module.declare("netc_run", "i64", ["ptr"])
    f.emit(f"call i64 @{run}({job})")
    f.ret()


def _word(f: Function, base: Val, offset: int) -> Val:
    return f.load("i64", f.gep(base, offset), 8)
