"""Element-wise layers."""

from __future__ import annotations

import math

from netc.frontend.caffe.layer import Layer, layer
from netc.ir.graph import Value


@layer("ReLU")
def relu(c: Layer) -> Value:
    """max(x, 0) + slope · min(x, 0), or no more than 6 where `relu6` says so (Synopsys)."""
    p = c.param("relu_param")
    slope = p.real("negative_slope")
    for field in ("maximum", "minimum"):
        c.check(p.real(field) == 0, f"netc reads no {field}", p, field)
    if not p.flag("relu6"):
        return c.b.relu(c.x, slope=slope)
    c.check(slope == 0, "netc reads no negative_slope with relu6", p, "negative_slope")
    return c.b.clip(c.x, low=0.0, high=6.0)


@layer("ReLU6")
def relu6(c: Layer) -> Value:
    """min(max(x, 0), 6)."""
    return c.b.clip(c.x, low=0.0, high=6.0)


@layer("CReLU")
def crelu(c: Layer) -> Value:
    """ReLU of x and of −x, one behind the other along `concat_axis` (Shang et al., 2016;
    Cambricon's crelu_layer.cpp)."""
    p = c.param("crelu_param")
    axis = c.axis(p.whole("concat_axis"), p, "concat_axis")
    both = c.b.concat(c.x, c.b.affine(c.x, scale=-1.0), axis=axis)
    return c.b.relu(both, slope=p.real("negative_slope"))


@layer("HardSigmoid")
def hard_sigmoid(c: Layer) -> Value:
    """αx + β held between 0 and 1."""
    name = "hardsigmoid_param" if "hardsigmoid_param" in c.message else "hard_sigmoid_param"
    p = c.param(name)
    return c.b.clip(c.b.affine(c.x, scale=p.real("alpha"), shift=p.real("beta")), low=0.0, high=1.0)


@layer("HSigmoid")
def relu6_sigmoid(c: Layer) -> Value:
    """min(max(x + 3, 0), 6) / 6 (MobileNetV3)."""
    return c.b.hard_sigmoid(c.x)


@layer("HardSwish", "HSwish")
def hard_swish(c: Layer) -> Value:
    """x · min(max(x + 3, 0), 6) / 6 (MobileNetV3)."""
    return c.b.hard_swish(c.x)


@layer("Mish")
def mish(c: Layer) -> Value:
    """x · tanh(log(1 + eˣ)) (YOLOv4)."""
    return c.b.mish(c.x)


@layer("PReLU")
def prelu(c: Layer) -> Value:
    """x above zero, slope · x below, a slope per channel or one for all."""
    p = c.param("prelu_param")
    c.check(c.x.type.rank >= 2, f"PReLU needs at least 2 axes, not {c.x.type}")
    shape = () if p.flag("channel_shared") else c.per_channel(c.size(1))
    return c.b.prelu(c.x, c.weight("slope", shape, p.get("filler"), 0.25))


@layer("ELU")
def elu(c: Layer) -> Value:
    """x above zero, α(eˣ − 1) below."""
    return c.b.elu(c.x, alpha=c.param("elu_param").real("alpha"))


@layer("Sigmoid")
def sigmoid(c: Layer) -> Value:
    """1 / (1 + e⁻ˣ)."""
    return c.b.sigmoid(c.x)


@layer("TanH")
def tanh(c: Layer) -> Value:
    """The hyperbolic tangent."""
    return c.b.tanh(c.x)


@layer("AbsVal")
def absolute(c: Layer) -> Value:
    """|x|."""
    return c.b.abs(c.x)


@layer("BNLL")
def bnll(c: Layer) -> Value:
    """log(1 + eˣ)."""
    return c.b.softplus(c.x)


@layer("Power")
def power(c: Layer) -> Value:
    """(shift + scale · x)^power; shift^power, whatever x is, where power · scale = 0."""
    p = c.param("power_param")
    x, exponent, scale, shift = c.x, p.real("power"), p.real("scale"), p.real("shift")
    if exponent * scale == 0:
        x, scale, shift = c.b.pow(x, exponent=0.0), shift, 0.0
    y = c.b.affine(x, scale=scale, shift=shift)
    return y if exponent == 1 else c.b.pow(y, exponent=exponent)


def _log_base(c: Layer, name: str) -> float:
    """The natural logarithm of `base`, where −1 stands for e."""
    p = c.param(name)
    base = p.real("base")
    c.check(base == -1 or base > 0, f"base {base} must be positive, or -1 for e", p, "base")
    return 1.0 if base == -1 else math.log(base)


@layer("Exp")
def exp(c: Layer) -> Value:
    """base^(shift + scale · x)."""
    p = c.param("exp_param")
    log = _log_base(c, "exp_param")
    inner = c.b.affine(c.x, scale=log * p.real("scale"), shift=log * p.real("shift"))
    return c.b.exp(inner)


@layer("Log")
def log(c: Layer) -> Value:
    """log_base(shift + scale · x)."""
    p = c.param("log_param")
    base = _log_base(c, "log_param")
    c.check(base != 0, "base 1 has no logarithm", p, "base")
    y = c.b.log(c.b.affine(c.x, scale=p.real("scale"), shift=p.real("shift")))
    return y if base == 1 else c.b.affine(y, scale=1 / base, shift=0.0)


@layer("Threshold")
def threshold(c: Layer) -> Value:
    """1 where x > threshold, else 0."""
    return c.b.threshold(c.x, level=c.param("threshold_param").real("threshold"))


@layer("Clip")
def clip(c: Layer) -> Value:
    """x held between min and max, both of which must be given."""
    p = c.param("clip_param")
    for field in ("min", "max"):
        c.check(field in p, f"clip_param needs {field}", p)
    return c.b.clip(c.x, low=p.real("min"), high=p.real("max"))


@layer("Swish")
def swish(c: Layer) -> Value:
    """x · σ(βx)."""
    return c.b.swish(c.x, beta=c.param("swish_param").real("beta"))


@layer("Dropout")
def dropout(c: Layer) -> Value:
    """TEST: x itself. TRAIN, and Bayesian SegNet's `sample_weights_test`: x with a share dropped,
    the rest scaled up."""
    p = c.param("dropout_param")
    ratio = p.real("dropout_ratio")
    c.check(0 <= ratio < 1, f"dropout_ratio {ratio} must lie in 0 to 1", p, "dropout_ratio")
    scaled = p.flag("scale_train")
    if not c.train and not p.flag("sample_weights_test"):
        return c.x if scaled else c.b.affine(c.x, scale=1 - ratio, shift=0.0)
    y = c.b.dropout(c.x, ratio=ratio, seed=c.seed)
    return y if scaled else c.b.affine(y, scale=1 - ratio, shift=0.0)
