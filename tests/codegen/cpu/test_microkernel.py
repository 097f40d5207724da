"""Convolutions and inner products against NumPy, at every level this machine runs."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import numpy as np
import pytest
from gemm_harness import CANARY, Code, Conv, compile_epilogue

from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import PAIRS, QUADS, SINGLES, Form, GemmFamily
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.microkernel import microkernels
from netc.codegen.cpu.target import LEVELS, Target, assembly, native, runnable

RUNNABLE = [t for t in runnable() if not t.quads]
PAIRED = native(pairs=True)
FORMS = [
    (t.name, form)
    for t in LEVELS.values()
    for form in (SINGLES, *[QUADS] * t.quads, *[PAIRS] * t.pairs)
]
needs_pairs = pytest.mark.skipif(not PAIRED.pairs, reason="no products of bfloat16 here")

CASES = {
    "3x3": Conv(1, 16, (9, 9), 32, (3, 3), pad=(1, 1)),
    "one of everything": Conv(1, 1, (1, 1), 1, (1, 1)),
    "odd channels": Conv(2, 5, (6, 7), 17, (3, 3), pad=(1, 1)),
    "seven": Conv(1, 7, (5, 5), 7, (2, 3), pad=(0, 1)),
    "tail of k": Conv(1, 21, (8, 8), 24, (3, 3), pad=(1, 1)),
    "stride": Conv(1, 16, (13, 11), 40, (3, 3), (2, 3), (1, 1)),
    "dilation": Conv(1, 16, (11, 12), 16, (3, 3), (1, 1), (2, 2), (2, 3)),
    "groups": Conv(2, 32, (6, 6), 48, (3, 3), pad=(1, 1), groups=2),
    "groups of eight": Conv(1, 32, (5, 5), 32, (3, 3), pad=(1, 1), groups=4),
    "planar": Conv(2, 3, (19, 17), 24, (7, 7), (2, 2), (3, 3), planar=True),
    "planar 11x11": Conv(1, 3, (35, 35), 96, (11, 11), (4, 4), planar=True),
    "planar groups": Conv(1, 6, (9, 9), 16, (3, 3), pad=(1, 1), groups=2, planar=True),
    "wide": Conv(1, 24, (7, 7), 208, (1, 1)),
    "residual": Conv(2, 16, (6, 5), 24, (3, 3), pad=(1, 1), residual=True),
    "residual, odd": Conv(1, 16, (6, 5), 19, (1, 1), residual=True),
    "batch tiled": Conv(5, 16, (3, 3), 33, (3, 3), together=5, rows=True),
    "batch in twos": Conv(5, 16, (7, 7), 32, (3, 3), pad=(1, 1), together=2),
    "rows, partial": Conv(3, 37, (1, 1), 10, (1, 1), together=3, rows=True),
    "rows, one": Conv(1, 12, (4, 4), 1, (4, 4), rows=True),
    "many pixels": Conv(1, 8, (40, 41), 16, (1, 1)),
    "deep": Conv(1, 520, (3, 3), 64, (3, 3), pad=(1, 1)),
}


OF_PAIRS = {
    "3x3": Conv(1, 16, (9, 9), 32, (3, 3), pad=(1, 1), form=PAIRS),
    "stride": Conv(2, 24, (13, 11), 40, (3, 3), (2, 3), (1, 1), form=PAIRS),
    "groups": Conv(2, 32, (6, 6), 48, (3, 3), pad=(1, 1), groups=2, form=PAIRS),
    "wide, residual": Conv(2, 48, (7, 7), 208, (1, 1), residual=True, form=PAIRS),
    "odd outputs": Conv(1, 16, (6, 5), 19, (1, 1), residual=True, form=PAIRS),
    "batch tiled": Conv(5, 16, (3, 3), 33, (3, 3), together=5, rows=True, form=PAIRS),
    "rows, one": Conv(1, 16, (4, 4), 1, (4, 4), rows=True, form=PAIRS),
    "deep": Conv(1, 520, (3, 3), 64, (3, 3), pad=(1, 1), form=PAIRS),
}


@functools.cache
def code_for(target: Target, form: Form, padded: bool, rows: bool, residual: bool) -> Code:
    """One compilation for all cases that share an epilogue."""
    case = Conv(1, 8, (1, 1), 1 if padded else 8, (1, 1), rows=rows, residual=residual)
    return compile_epilogue(target, case.epilogue(), form)


def code_of(target: Target, case: Conv) -> Code:
    return code_for(target, case.form, case.epilogue().padded, case.rows, case.residual)


def bound(case: Conv) -> np.ndarray:
    """8 · 2⁻²⁴ · Σ|a||b|, the stated bound of a reduction, plus one rounding a later addition."""
    magnitude = Conv(**{k: getattr(case, k) for k in case.__dataclass_fields__ if k != "keep"})
    magnitude.x, magnitude.w = abs(case.x), abs(case.w)
    magnitude.bias = abs(case.bias)
    magnitude.residual = False
    extra = abs(case.residual_value()) if case.residual else 0
    return 8 * 2.0**-24 * (magnitude.expected() + extra) + 1e-30


@pytest.mark.parametrize("target", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_numpy(name: str, target: Target) -> None:
    agrees(CASES[name], target)


@needs_pairs
@pytest.mark.parametrize("name", OF_PAIRS)
def test_pairs_agree_with_numpy(name: str) -> None:
    agrees(OF_PAIRS[name], PAIRED)


def agrees(case: Conv, target: Target) -> None:
    args = case.bind(target)
    code_of(target, case)(args)
    assert (abs(case.result() - case.expected()) <= bound(case)).all()
    assert all((guard == CANARY).all() for guard in case.guards)
    if not case.rows and case.groups == 1 and case.o % 8:
        assert (case.out[:, -1, ..., case.o % 8 :] == 0).all()


@pytest.mark.parametrize("target", RUNNABLE, ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["3x3", "groups", "batch in twos", "batch tiled", "deep"])
def test_threads_and_blocking_change_no_bit(name: str, target: Target) -> None:
    changes_no_bit(CASES[name], target)


@needs_pairs
@pytest.mark.parametrize("name", ["groups", "batch tiled", "deep"])
def test_nor_of_pairs(name: str) -> None:
    changes_no_bit(OF_PAIRS[name], PAIRED)


def changes_no_bit(case: Conv, target: Target) -> None:
    code = code_of(target, case)
    code(case.bind(target))
    wanted = case.out.copy()
    for threads in (2, 3, 4):
        for blocking in ({}, {"PIXEL_BLOCK": 7}, {"CHANNELS_OUTER": 1}):
            args = case.bind(target, **blocking)
            for tid in range(threads):
                code(args, tid, threads)
            np.testing.assert_array_equal(case.out, wanted)


def test_a_pixel_is_the_same_alone_and_in_a_batch() -> None:
    target = RUNNABLE[-1]
    batch = Conv(5, 64, (3, 3), 48, (3, 3), together=5, rows=True)
    code = code_of(target, batch)
    code(batch.bind(target))
    many = batch.result().copy()
    for i in range(5):
        one = Conv(1, 64, (3, 3), 48, (3, 3), rows=True)
        one.x, one.w, one.bias = batch.x[i : i + 1], batch.w, batch.bias
        code(one.bind(target))
        np.testing.assert_array_equal(one.result()[0], many[i])


def test_nan_and_infinity_stay() -> None:
    target = RUNNABLE[-1]
    case = Conv(1, 16, (4, 4), 16, (1, 1))
    case.x[0, 3, 1, 2], case.x[0, 5, 2, 2] = np.nan, np.inf
    code_of(target, case)(case.bind(target))
    y = case.result()[0]
    assert np.isnan(y[:, 1, 2]).all()
    assert np.isin(y[:, 2, 2], [np.inf, 0.0]).all()
    assert np.isfinite(np.delete(y.reshape(16, 16), [6, 10], axis=1)).all()


@pytest.mark.parametrize(("level", "form"), FORMS)
def test_the_main_loops_hold_their_sums_in_registers(level: str, form: Form) -> None:
    module = Module(LEVELS[level])
    module.functions.append(user_of(module, microkernels(module, form)))
    text = assembly(module.text(), LEVELS[level])
    moved = r"(v?mov[au]p[sd].*[xyz]mm.*\(%rsp\))|((ldr|str|ldp|stp)\s+q.*\[sp)"
    spills = [line for line in text.splitlines() if re.search(moved, line)]
    assert spills == []
    assert bool(re.search("vdpbf16ps|bfdot", text)) == (form is PAIRS)
    assert bool(re.search("vpdpbusd|sdot", text)) == (form is QUADS)


def user_of(module: Module, table) -> object:
    """A function that keeps the family alive; it is appended by the caller."""
    f = module.kernel()
    module.functions.pop()
    f.store(f.cast("ptrtoint", table, "i64"), f.args[0], 8)
    f.ret()
    return f


@pytest.mark.parametrize(("level", "form"), FORMS)
def test_every_level_links(level: str, form: Form) -> None:
    module = Module(LEVELS[level])
    epilogue = replace(CASES["residual, odd"].epilogue(), scaled=form is QUADS)
    kernel = GemmFamily(module).kernel(epilogue, form)
    image = build_image(module)
    assert kernel.name in image.symbols


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("panels", range(1, 14))
def test_tiles_cover_all_panels_once(panels: int, groups: int) -> None:
    target = RUNNABLE[-1]
    case = Conv(1, 8 * groups, (5, 5), 16 * panels * groups, (1, 1), groups=groups)
    code = code_of(target, case)
    for threads in (1, 3):
        args = case.bind(target)
        for tid in range(threads):
            code(args, tid, threads)
        assert (abs(case.result() - case.expected()) <= bound(case)).all()
        assert all((guard == CANARY).all() for guard in case.guards)
