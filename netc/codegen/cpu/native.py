"""The run loop and the worker's life, as code: barriers of some fifty nanoseconds, no RMW.

Threads meet after every step. Up to four threads watch each other's flags; more meet at
thread 0, which opens the next step with one word. Flags count barriers since the pool was made
and never go back, so a late reader can only see a barrier passed that was passed. A worker waits
for work on a row of its own, spinning a while, then asleep on a futex; the caller writes to
the rows of the job's threads only, and returns when all of them have left the job.
"""

from __future__ import annotations

from netc.codegen.cpu.emit import Function, Module, Val
from netc.ir.native_abi import NO_BARRIER, STEP_BYTES, Job, Pool, Row

_FACING = 4  # threads at most that watch one another directly
_SYSCALLS = {
    "x86_64": {"futex": 202, "yield": 24, "clock": 228},
    "aarch64": {"futex": 98, "yield": 124, "clock": 113},
}
_FUTEX_WAIT, _FUTEX_WAKE = 128, 129  # with FUTEX_PRIVATE_FLAG


def emit_run_loop(module: Module) -> None:
    """Add `netc_run`, `netc_each`, `netc_worker` and `netc_quit` to a module."""
    wait = _wait_for(module)
    steps = _steps(module, wait)
    run = _run(module, wait, steps)
    _each(module, run)
    _worker(module, steps)
    _quit(module)


def _word(f: Function, base: Val, offset: int) -> Val:
    return f.load("i64", f.gep(base, offset), 8)


def _address(f: Function, base: Val, offset: int) -> Val:
    return f.load("ptr", f.gep(base, offset), 8)


def _row(f: Function, pool: Val, tid: Val | int) -> Val:
    return f.gep(f.gep(pool, Pool.ROWS), tid, Row.SIZE)


def pause(f: Function) -> None:
    """Let a sibling thread have the core for a moment."""
    if f.target.is_x86:
        name = f.module.declare("llvm.x86.sse2.pause", "void", [])
        f.emit(f"call void @{name}()")
        return
    name = f.module.declare("llvm.aarch64.hint", "void", ["i32"])
    f.emit(f"call void @{name}(i32 1)")


def syscall(f: Function, pool: Val, name: str, *args: Val) -> None:
    """Call the system through the address that a pool or team begins with."""
    number = f.const(_SYSCALLS[f.target.arch][name])
    padding = [f.const(0)] * (4 - len(args))
    f.call(_address(f, pool, Pool.SYSCALL), number, *args, *padding, ret="i64")


def _wait_for(module: Module) -> Function:
    """Return once *word >= wanted; yield the processor after many turns in vain."""
    f = module.function("wait_for", ("ptr", "ptr", "i64"), internal=True)
    pool, word, wanted = f.args
    spins = _word(f, pool, Pool.SPINS)
    turn, idle, again, done = (f.new_label() for _ in range(4))
    f.emit(f"br label %{turn}")
    f.label(turn)
    count = f.value("i64", f"phi i64 [0, %entry], [%next, %{again}]")
    there = f.icmp("sge", f.atomic_load("i64", word), wanted)
    f.emit(f"br {there}, label %{done}, label %{idle}")
    f.label(idle)
    pause(f)
    f.emit(f"%next = add i64 {count.name}, 1")
    with f.if_(f.icmp("sge", Val("i64", "%next"), spins)):
        syscall(f, pool, "yield")
    f.emit(f"br label %{again}")
    f.label(again)
    f.emit(f"br label %{turn}")
    f.label(done)
    f.ret()
    return f


def _arrive(f: Function, pool: Val, tid: Val | int, sequence: Val) -> None:
    f.atomic_store(sequence, f.gep(_row(f, pool, tid), Row.ARRIVED))


def _meet(f: Function, wait: Function, pool: Val, tid: Val, nthreads: Val, sequence: Val) -> None:
    """Arrive, then wait for everyone (a few threads) or for thread 0 (many)."""
    _arrive(f, pool, tid, sequence)
    facing = f.icmp("sle", nthreads, _FACING)
    first = f.icmp("eq", tid, 0)
    with f.if_(f.or_(facing, first)) as side:
        with f.loop(0, nthreads) as other:
            f.call(wait, pool, f.gep(_row(f, pool, other.index), Row.ARRIVED), sequence)
        with f.if_(first):
            f.atomic_store(sequence, f.gep(pool, Pool.GO))
        side.otherwise()
        f.call(wait, pool, f.gep(pool, Pool.GO), sequence)


def _stamp(f: Function, times: Val, tid: Val, step: Val) -> None:
    """times[step] = the cycle counter, on thread 0 and where times are wanted."""
    wanted = f.and_(f.icmp("ne", times, Val("ptr", "null")), f.icmp("eq", tid, 0))
    with f.if_(wanted):
        name = f.module.declare("llvm.readcyclecounter", "i64", [])
        now = f.value("i64", f"call i64 @{name}()")
        f.store(now, f.gep(times, step, 8), 8)


def _steps(module: Module, wait: Function) -> Function:
    """(job, pool, tid, nthreads, base) -> steps done: one thread's part of a job.

    Thread 0 decides about cancelling before it arrives at a barrier, naming that barrier; so
    all threads leave after the same step.
    """
    f = module.function("steps", ("ptr", "ptr", "i64", "i64", "i64"), "i64", internal=True)
    job, _, tid, nthreads, _ = f.args
    steps, nsteps = _address(f, job, Job.STEPS), _word(f, job, Job.NSTEPS)
    times = _address(f, job, Job.TIMES)
    alone, first = f.icmp("eq", nthreads, 1), f.icmp("eq", tid, 0)
    last = f.sub(nsteps, 1)
    with f.loop(0, nsteps, carry=[f.const(0)]) as turn:
        over = f.icmp("ne", turn.values[0], 0)
        with f.if_(over) as skip:
            skip.give([turn.values[0]])
            skip.otherwise()
            _stamp(f, times, tid, turn.index)
            step = f.gep(steps, turn.index, STEP_BYTES)
            kernel = _word(f, step, 0)
            code = f.cast("inttoptr", f.and_(kernel, ~NO_BARRIER), "ptr")
            f.call(code, _address(f, step, 8), tid, nthreads)
            done = f.add(turn.index, 1)
            with f.if_(first) as asked:
                flag = f.atomic_load("i64", f.gep(job, Job.CANCEL), "monotonic")
                asked.give([f.icmp("ne", flag, 0)])
                asked.otherwise()
                asked.give([Val("i1", "false")])
            cancel = f.select(asked.results[0], done, f.const(0))
            with f.if_(alone) as kind:
                kind.give([cancel])
                kind.otherwise()
                open_end = f.icmp("eq", f.and_(kernel, NO_BARRIER), 0)
                meets = f.and_(f.icmp("slt", turn.index, last), open_end)
                kind.give([_together(f, wait, cancel, turn.index, meets)])
            skip.give(kind.results)
        turn.next(skip.results)
    ended = turn.results[0]
    done = f.select(f.icmp("ne", ended, 0), ended, nsteps)
    _stamp(f, times, tid, done)
    f.ret(done)
    return f


def _together(f: Function, wait: Function, cancel: Val, index: Val, meets: Val) -> Val:
    """Meet after a step where the threads do; the steps done if the job ends here, else 0."""
    _, pool, tid, nthreads, base = f.args
    done = f.add(index, 1)
    sequence = f.add(base, done)
    stop = f.gep(pool, Pool.STOP)
    with f.if_(f.and_(meets, f.icmp("ne", cancel, 0))):
        f.atomic_store(sequence, stop, "monotonic")
    with f.if_(meets) as inner:
        _meet(f, wait, pool, tid, nthreads, sequence)
        named = f.icmp("eq", f.atomic_load("i64", stop, "monotonic"), sequence)
        inner.give([f.select(named, done, f.const(0))])
        inner.otherwise()
        inner.give([f.const(0)])
    return inner.results[0]


def _each(module: Module, run: Function) -> None:
    """netc_each([how many, jobs…], tid, n): run every n-th job, from the tid-th on."""
    f = module.function("netc_each")
    args, tid, n = f.args
    with f.loop(tid, f.slot(args, 0), n) as turn:
        f.call(run, f.load("ptr", f.gep(f.gep(args, 8), turn.index, 8), 8))
    f.ret()


def _run(module: Module, wait: Function, steps: Function) -> Function:
    """netc_run(job) -> steps done."""
    f = module.function("netc_run", ("ptr",), "i64")
    job = f.args[0]
    nthreads, pool = _word(f, job, Job.NTHREADS), _address(f, job, Job.POOL)
    with f.if_(f.icmp("sle", nthreads, 1)) as many:
        zero, one = f.const(0), f.const(1)
        many.give([f.call(steps, job, pool, zero, one, zero)])
        many.otherwise()
        base = _word(f, pool, Pool.SEQUENCE)
        with f.loop(1, nthreads) as turn:
            _post(f, pool, _row(f, pool, turn.index), job, base)
        done = f.call(steps, job, pool, f.const(0), nthreads, base)
        final = f.add(f.add(base, _word(f, job, Job.NSTEPS)), 1)
        _arrive(f, pool, 0, final)
        with f.loop(1, nthreads) as turn:
            f.call(wait, pool, f.gep(_row(f, pool, turn.index), Row.ARRIVED), final)
        f.store(final, f.gep(pool, Pool.SEQUENCE), 8)
        many.give([done])
    f.ret(many.results[0])
    return f


def _post(f: Function, pool: Val, row: Val, job: Val, base: Val) -> None:
    """Hand a job to a worker that is between jobs; wake it if it sleeps.

    Posting and looking at ASLEEP are sequentially consistent, as are the worker's lying down
    and looking at POSTED: one of the two sees the other.
    """
    f.store(job, f.gep(row, Row.JOB), 8)
    f.store(base, f.gep(row, Row.BASE), 8)
    posted = f.gep(row, Row.POSTED)
    f.atomic_store(f.add(f.atomic_load("i64", posted, "monotonic"), 1), posted, "seq_cst")
    asleep = f.gep(row, Row.ASLEEP)
    flag = f.atomic_load("i32", asleep, "seq_cst")
    with f.if_(f.icmp("ne", flag, 0)):
        f.atomic_store(f.const(0, "i32"), asleep, "seq_cst")
        word = f.cast("ptrtoint", asleep, "i64")
        syscall(f, pool, "futex", word, f.const(_FUTEX_WAKE), f.const(1))


def _worker(module: Module, steps: Function) -> None:
    """netc_worker(pool, tid): wait, work, wait … until a null job is posted."""
    f = module.function("netc_worker", ("ptr", "i64"))
    pool, tid = f.args
    row = _row(f, pool, tid)
    rest = _rest(module)
    turn, work, leave = (f.new_label() for _ in range(3))
    f.emit(f"br label %{turn}")
    f.label(turn)
    seen = f.value("i64", f"phi i64 [0, %entry], [%posted, %{work}]")
    f.emit(f"%posted = call i64 @{rest.name}({pool}, {row}, {seen})")
    job = _address(f, row, Row.JOB)
    f.emit(f"br {f.icmp('ne', job, Val('ptr', 'null'))}, label %{work}, label %{leave}")
    f.label(work)
    base, nthreads = _word(f, row, Row.BASE), _word(f, job, Job.NTHREADS)
    final = f.add(f.add(base, _word(f, job, Job.NSTEPS)), 1)
    f.call(steps, job, pool, tid, nthreads, base)
    _arrive(f, pool, tid, final)
    f.emit(f"br label %{turn}")
    f.label(leave)
    f.ret()


def _quit(module: Module) -> None:
    """netc_quit(pool, tid): tell an idle worker to leave."""
    f = module.function("netc_quit", ("ptr", "i64"))
    pool, tid = f.args
    _post(f, pool, _row(f, pool, tid), Val("ptr", "null"), f.const(0))
    f.ret()


def _rest(module: Module) -> Function:
    """(pool, row, seen) -> POSTED once it differs from what was seen; asleep after SPINS turns."""
    f = module.function("rest", ("ptr", "ptr", "i64"), "i64", internal=True)
    pool, row, seen = f.args
    posted, asleep = f.gep(row, Row.POSTED), f.gep(row, Row.ASLEEP)
    spins = _word(f, pool, Pool.SPINS)
    turn, idle, spin, lie, done = (f.new_label() for _ in range(5))
    f.emit(f"br label %{turn}")
    f.label(turn)
    count = f.value("i64", f"phi i64 [0, %entry], [%next, %{spin}], [0, %woken]")
    now = f.atomic_load("i64", posted)
    f.emit(f"br {f.icmp('ne', now, seen)}, label %{done}, label %{idle}")
    f.label(idle)
    f.emit(f"%next = add i64 {count.name}, 1")
    f.emit(f"br {f.icmp('slt', count, spins)}, label %{spin}, label %{lie}")
    f.label(spin)
    pause(f)
    f.emit(f"br label %{turn}")
    f.label(lie)
    f.atomic_store(f.const(1, "i32"), asleep, "seq_cst")
    with f.if_(f.icmp("eq", f.atomic_load("i64", posted, "seq_cst"), seen)):
        word = f.cast("ptrtoint", asleep, "i64")
        syscall(f, pool, "futex", word, f.const(_FUTEX_WAIT), f.const(1))
    f.atomic_store(f.const(0, "i32"), asleep, "seq_cst")
    f.emit("br label %woken")
    f.label("woken")
    f.emit(f"br label %{turn}")
    f.label(done)
    f.ret(now)
    return f
