"""One piece of code for every size: kernels of symbolic batch, height and width."""

import numpy as np
import pytest

from netc.ir.graph import Builder
from netc.ir.types import f32
from tests.codegen.cpu.harness import LEVELS_HERE, Bench, Where, close, expected

X = f32["N", 20, "H", "W"]
PARAM = Where(param=True)
NETS = {
    "chain": lambda b, x: b.relu(b.add(b.mul(x, b.input("s", f32[20, 1, 1])), x)),
    "max_pool": lambda b, x: b.max_pool(x, kernel=(3, 3), stride=(2, 2), ceil=True),
    "avg_pool": lambda b, x: b.avg_pool(x, kernel=(3, 3), pad=(1, 1)),
    "max beyond": lambda b, x: b.max_pool(x, kernel=(8, 7), stride=(4, 5), ceil=True),
    "mean beyond": lambda b, x: b.avg_pool(x, kernel=(9, 8), stride=(4, 6), pad=(1, 0), ceil=True),
    "small max beyond": lambda b, x: b.max_pool(x, kernel=(1, 7), stride=(1, 4), ceil=True),
    "small mean beyond": lambda b, x: b.avg_pool(x, kernel=(1, 7), stride=(1, 4), ceil=True),
    "global": lambda b, x: b.global_avg_pool(x),
    "lrn": lambda b, x: b.lrn(x, size=5),
    "to_plain": lambda b, x: b.relu(b.to_plain(x)),
    "resize": lambda b, x: b.resize_bilinear(x, scale=(2, 2)),
    "depthwise": lambda b, x: b.conv(x, b.input("w", f32[20, 1, 3, 3]), groups=20, pad=(1, 1)),
}
PLAIN = {
    "to_blocked": lambda b, x: b.to_blocked(x),
    "softmax": lambda b, x: b.softmax(x, axis=1),
    "mean": lambda b, x: b.reduce_mean(x, axes=(2, 3)),
    "transpose": lambda b, x: b.transpose(x, perm=(0, 2, 3, 1)),
    "conv_transpose": lambda b, x: b.conv_transpose(x, b.input("w", f32[20, 5, 2, 2])),
    "concat": lambda b, x: b.concat(x, b.relu(b.input("z", X)).node.inputs[0], axis=2),
}


@pytest.mark.parametrize("level", LEVELS_HERE)
@pytest.mark.parametrize("sizes", [(1, 7, 7), (3, 16, 33), (2, 5, 4)])
@pytest.mark.parametrize("name", [*NETS, *PLAIN])
def test_sizes(level, sizes, name):
    known = dict(zip("NHW", sizes, strict=True))
    b = Builder()
    x = b.input("x", X.blocked() if name in NETS else X)
    out = {**NETS, **PLAIN}[name](b, x)
    body = b.graph("g", {"out": out})
    rng = np.random.default_rng(0)
    feed = {
        n.name: rng.normal(size=n.types[0].sizes(known)).astype(np.float32) for n in body.inputs
    }
    where = {"x": Where((1, 1) if name in NETS else (0, 0)), "s": PARAM, "w": PARAM}
    (got,) = Bench(body, feed, where, known).run(level)
    (want,) = expected(body, feed)
    close(got, want, 4, 2e-6 * np.abs(want).max())
