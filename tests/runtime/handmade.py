"""A tiny net whose plan, code and weights are written by hand: no compiler above the emitter.

    hidden[n, i] = data[n, i] · scale + shift        (weights: scale, shift)
    last[n, i]   = hidden[n, W − 1 − i] + extra[n, i]      (by an offset table)
    out = last · scale + shift,  size = the rows of out

`sleepy` steps stand between, so that a run can be made as long as a test wants.
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np

from netc.codegen.cpu.emit import Function, Module
from netc.codegen.cpu.image import link
from netc.codegen.cpu.native import emit_run_loop
from netc.codegen.cpu.target import Target, compile_module, native, required_features
from netc.ir.dims import Dim, sym
from netc.ir.plan import (
    Affine,
    Buffer,
    BufferArg,
    Condition,
    IntArg,
    MadeArg,
    Plan,
    Port,
    Space,
    Step,
    TableArg,
    WeightArg,
)
from netc.ir.types import f32, u8
from netc.runtime.artifact import Artifact, Level
from netc.runtime.session import Executable, executable

WIDTH = 24
SCALE, SHIFT = 2.0, -0.5
TEXT = "graph @handmade(input %data: f32[N,24], input %extra: f32[N,24]) { … }"


def mine(f: Function, count: object) -> tuple[object, object]:
    """This thread's share of `count`."""
    _, tid, nthreads = f.args
    return f.sdiv(f.mul(count, tid), nthreads), f.sdiv(f.mul(count, f.add(tid, 1)), nthreads)


def emit_affine(f: Function) -> None:
    """out[i] = x[i] · w[0] + w[1]."""
    out, x, w = (f.slot(f.args[0], i, "ptr") for i in range(3))
    with f.loop(*mine(f, f.slot(f.args[0], 3))) as turn:
        a = f.load("float", f.gep(x, turn.index, 4))
        y = f.fadd(f.fmul(a, f.load("float", w)), f.load("float", f.gep(w, 4)))
        f.store(y, f.gep(out, turn.index, 4))
    f.ret()


def emit_gather(f: Function) -> None:
    """out[i] = x[table[i]] + extra[i]."""
    out, x, extra, table = (f.slot(f.args[0], i, "ptr") for i in range(4))
    with f.loop(*mine(f, f.slot(f.args[0], 4))) as turn:
        index = f.sext(f.load("i32", f.gep(table, turn.index, 4)))
        a = f.load("float", f.gep(x, index, 4))
        y = f.fadd(a, f.load("float", f.gep(extra, turn.index, 4)))
        f.store(y, f.gep(out, turn.index, 4))
    f.ret()


def emit_sleepy(f: Function) -> None:
    """Turn in vain as often as the slot says."""
    with f.loop(0, f.slot(f.args[0], 0)):
        f.emit('call void asm sideeffect "", ""()')
    f.ret()


def emit_count(f: Function) -> None:
    """*count = n."""
    f.store(f.slot(f.args[0], 1), f.slot(f.args[0], 0, "ptr"), 8)
    f.ret()


def emit_stray(f: Function) -> None:
    """Write one float just before a buffer: a bug."""
    f.store(f.f32(1.0), f.gep(f.slot(f.args[0], 0, "ptr"), -4))
    f.ret()


EMIT = {
    "affine": emit_affine,
    "gather": emit_gather,
    "sleepy": emit_sleepy,
    "count": emit_count,
    "stray": emit_stray,
}


@functools.cache
def compiled(target: Target) -> tuple[bytes, dict[str, int]]:
    """The image of all kernels and the run loop; symbols by the names above."""
    module = Module(target)
    names = {}
    for name, emit in EMIT.items():
        f = module.kernel()
        names[f.name] = name
        emit(f)
    emit_run_loop(module)
    image = link(compile_module(module.text(), target))
    return image.code, {names.get(s, s): at for s, at in image.symbols.items()}


def affine(step: str, source: int, target: int, count: Dim) -> Step:
    args = (BufferArg(target), BufferArg(source), WeightArg(0), IntArg(count))
    return Step("affine", args, step, "affine", (source,), (target,), 2 * count, 8 * count)


def make_plan(sleep: int = 0, steps: int = 3, rows: Dim | None = None) -> Plan:
    """The plan of the net above; `rows` fixes N."""
    n = sym("N") if rows is None else rows
    count, size = n * WIDTH, n * WIDTH * 4
    shape = f32[n, WIDTH]
    table = TableArg((Affine((n, WIDTH), (WIDTH, -1), WIDTH - 1),))
    gather = (BufferArg(3), BufferArg(2), BufferArg(1), table, IntArg(count))
    vain = [Step("sleepy", (IntArg(sleep),), "vain", "sleepy", (), ())] * steps * (sleep > 0)
    end = 3 + len(vain)
    body = (
        affine("hidden", 0, 2, count),
        Step("gather", gather, "last", "gather", (1, 2), (3,), count, 16 * count),
        *vain,
        affine("out", 3, 4, count),
        Step("count", (BufferArg(5), IntArg(n)), "size", "count", (), (5,)),
    )
    return Plan(
        inputs=(Port("data", shape, 0), Port("extra", shape, 1)),
        outputs=(Port("out", shape, 4),),
        buffers=(
            Buffer(Space.INPUT, size, 0, 0),
            Buffer(Space.INPUT, size, 1, 1),
            Buffer(Space.ARENA, size, 0, 1),
            Buffer(Space.ARENA, size, 1, end - 1),
            Buffer(Space.OUTPUT, size, end - 1, end - 1),
            Buffer(Space.ARENA, 8, end, end),
        ),
        steps=body,
        conditions=(Condition(n, 0, "the batch"),),
    )


def made_plan() -> Plan:
    """The same plan with its scale and shift made at load: the file's, scaled and shifted."""
    args = (BufferArg(0), WeightArg(0), WeightArg(0), IntArg(2))
    step = Step("affine", args, "weights", "affine", (), (0,), 4, 16)
    buffer, port = Buffer(Space.OUTPUT, 64), Port("weights", f32[16], 0)
    plan = make_plan()
    steps = [
        replace(s, args=tuple(MadeArg(0) if a == WeightArg(0) else a for a in s.args))
        for s in plan.steps
    ]
    return replace(plan, steps=tuple(steps), setup=Plan((), (port,), (buffer,), (step,)))


def make_level(plan: Plan, target: Target | None = None, features: object = None) -> Level:
    target = target or native()
    code, symbols = compiled(target)
    wanted = required_features(target.name) if features is None else features
    return Level(
        name=target.name,
        features=frozenset(wanted),  # type: ignore[call-overload]
        plan=plan,
        code=code,
        symbols=symbols,
    )


def make_artifact(plan: Plan | None = None, **more: object) -> Artifact:
    """The net as an artifact for this machine."""
    weights = np.zeros(16, np.float32)
    weights[:2] = SCALE, SHIFT
    levels = [make_level(plan or make_plan())]
    made = Artifact(ir=TEXT, weights=weights.tobytes(), levels=levels, compiler="test")
    return replace(made, **more)  # type: ignore[arg-type]


def make_executable(plan: Plan | None = None, threads: int = 1) -> Executable:
    return executable(make_artifact(plan), threads)


def reference(data: np.ndarray, extra: np.ndarray, made: bool = False) -> np.ndarray:
    """What the net means, in the same arithmetic; with weights that are `made` at load."""
    scale, shift = np.float32(SCALE), np.float32(SHIFT)
    if made:
        scale, shift = scale * scale + shift, shift * scale + shift
    hidden = data * scale + shift
    return (hidden[:, ::-1] + extra) * scale + shift


def feed(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((n, WIDTH)).astype(np.float32) for name in ("data", "extra")}


def byte_plan() -> Plan:
    """An input of bytes, to test element types: the plan is never run."""
    n = sym("N")
    plan = make_plan()
    inputs = (Port("data", u8[n, WIDTH], 0), *plan.inputs[1:])
    return replace(plan, inputs=inputs)
