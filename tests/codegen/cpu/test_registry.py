"""No op without a kernel: every sample of every op, at every level, against its reference."""

import numpy as np
import pytest

from netc.codegen.cpu.anchors import lower
from netc.codegen.cpu.emit import Module
from netc.codegen.cpu.gemm import GemmFamily
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.lowering import RULES, Lowering
from netc.codegen.cpu.target import LEVELS
from netc.ir.op import REGISTRY
from netc.ir.ops.convolution import Conv, Fc
from netc.ir.ops.devices import AllGather, AllReduce
from netc.ir.ops.fused import Fused
from netc.ir.ops.sources import Const, Input, Param
from netc.ir.scalar import Elementwise
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, body_of, close, drawn, expected

WITHOUT = (Input, Param, Const, Fused, AllGather, AllReduce)  # ops that are no kernels
TESTED_ELSEWHERE = (Conv, Fc)
EXACT = {
    "gather", "pick", "im2col", "compact", "argmax", "max_pool", "max_pool_index", "unpool",
    "concat", "slice", "crop", "pad", "tile", "transpose", "reshape", "flatten", "to_blocked",
    "to_plain", "resize_nearest", "cast", "global_max_pool", "reduce_max", "relu", "abs",
    "equal", "greater", "less", "maximum", "minimum", "clip", "floor", "threshold", "where", "iota",
    "non_max_suppression", "roi_pool",
}  # fmt: skip


def test_every_op_has_a_kernel():
    missing = [
        name
        for name, op in REGISTRY.items()
        if not issubclass(op, (Elementwise, *WITHOUT)) and op not in RULES
    ]
    assert not missing


NAMES = [n for n, op in REGISTRY.items() if not issubclass(op, (*WITHOUT, *TESTED_ELSEWHERE))]


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", NAMES)
def test_samples(level, name):
    cls = REGISTRY[name]
    for case in cls.samples:
        if case.error:
            continue
        op = cls(**case.attributes)
        body = body_of(op, case.inputs)
        feed = {f"x{i}": a for i, a in enumerate(drawn(case))}
        params = range(1, 3) if name == "conv_transpose" else ()
        where = {f"x{i}": Where(param=True) for i in params}
        found = Bench(body, feed, where).run(level)
        with np.errstate(all="ignore"):
            wanted = expected(body, feed)
        for got, want in zip(found, wanted, strict=True):
            if name in EXACT:
                np.testing.assert_array_equal(got, want.astype(got.dtype))
            else:
                most = np.nanmax(np.abs(want), initial=1.0)
                close(got, want, 4, 4e-6 * most)


TAILED = ("gather", "pick", "im2col", "argmax", "unpool", "max_pool_index", "stochastic_pool",
          "resize_bilinear", "random_uniform", "dropout", "prior_box", "accuracy_per_class",
          "resize_nearest", "tile", "crop", "slice", "iota",
          "non_max_suppression", "roi_pool", "ps_roi_pool")  # fmt: skip


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", TAILED)
def test_tails(level, name):
    """Every anchor takes element-wise work behind it."""
    cls = REGISTRY[name]
    for case in cls.samples[:3]:
        op = cls(**case.attributes)
        body = body_of(op, case.inputs, lambda b, y: (b.affine(y, scale=2.0, shift=1.0), y))
        feed = {f"x{i}": a for i, a in enumerate(drawn(case))}
        for got, want in zip(Bench(body, feed, {}).run(level), expected(body, feed), strict=True):
            close(got, want, 4, 1e-5)


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("name", ["resize_bilinear", "resize_nearest", "roi_pool"])
def test_blocked(level, name):
    """Channel blocks of an image that lies within another with a halo, into another halo."""
    cls = REGISTRY[name]
    for case in cls.samples:
        if case.error:
            continue
        body = body_of(cls(**case.attributes), [case.inputs[0].blocked(), *case.inputs[1:]])
        feed = {f"x{i}": a for i, a in enumerate(drawn(case))}
        (got,) = Bench(body, feed, {"x0": Where((1, 1)), "out0": Where((1, 2))}).run(level)
        close(got, expected(body, feed)[0], 4, 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_aarch64(name):
    """Code for a machine that is not here: it compiles, and links without outside symbols."""
    target = LEVELS["aarch64"]
    cls = REGISTRY[name]
    for case in [case for case in cls.samples if not case.error][:2]:
        body = body_of(cls(**case.attributes), case.inputs)
        feed = {f"x{i}": a for i, a in enumerate(drawn(case))}
        params = range(1, 3) if name == "conv_transpose" else ()
        bench = Bench(body, feed, {f"x{i}": Where(param=True) for i in params})
        module = Module(target)
        lower(Lowering(target, module, GemmFamily(module)), bench.kernel)
        assert build_image(module).symbols
