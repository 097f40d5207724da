"""Batch normalization of Caffe and of the forks, MVN, SSD's Normalize, GRN, GroupNorm."""

from __future__ import annotations

import math

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.params import Arrays, is_scaled, statistics
from netc.ir.dims import Dim
from netc.ir.graph import Value
from netc.ir.op import Array


@layer("BatchNorm")
def batch_norm(c: Layer) -> Value:
    """(x − mean) / √(variance + eps); NVIDIA's `scale_bias` adds a scale and a bias.

    The statistics are the stored sums over their factor, or those of the batch.
    """
    p = c.param("batch_norm_param")
    stored = c.stored()
    stored_scale = len(stored) == 5 or p.flag("scale_bias")
    shape = _channels(c)
    uses_stored = p.flag("use_global_stats") if "use_global_stats" in p else not c.train
    if uses_stored:
        y = _with_stored(c, shape, stored, _eps(c, p))
    else:
        y = with_batch_statistics(c, c.x, _eps(c, p))
    c.count = 3
    if not stored_scale:
        return y
    y = c.b.mul(y, c.weight("w", shape, p.get("scale_filler"), 1.0))
    return c.b.add(y, c.weight("b", shape, p.get("bias_filler")))


def _eps(c: Layer, p: Message, field: str = "eps") -> float:
    """What keeps a divisor from being 0."""
    eps = p.real(field)
    c.check(0 <= eps < math.inf, f"{field} {eps:g} must be 0 or more", p, field)
    return eps


def _channels(c: Layer) -> tuple[Dim, ...]:
    """The shape of a statistic, laid along axis 1; one number where there is no axis 1."""
    return c.per_channel(c.size(1)) if c.x.type.rank > 1 else (1,)


def _with_stored(c: Layer, shape: tuple[Dim, ...], stored: Arrays, eps: float) -> Value:
    known: list[Array | None] = [None, None]
    if is_scaled(stored):
        known = [*statistics(stored)]
    elif stored:
        c.unfit("the weights are no mean, variance and factor")
    mean = c.scaled(0, "mean", shape, known[0], 0.0)
    return c.b.batch_norm(c.x, mean, c.scaled(1, "variance", shape, known[1], 1.0), eps=eps)


def with_batch_statistics(c: Layer, x: Value, eps: float) -> Value:
    """(x − mean) / √(variance + eps), with the batch's own biased statistics."""
    axes = (0, *range(2, x.type.rank))
    centred = c.b.sub(x, c.b.reduce_mean(x, axes=axes, keep=True))
    variance = c.b.reduce_mean(c.b.mul(centred, centred), axes=axes, keep=True)
    return c.b.div(centred, c.b.sqrt(c.b.affine(variance, scale=1.0, shift=eps)))


@layer("BN")
def bn(c: Layer) -> Value:
    """Three forks' layer of one name: SegNet's (scale, shift), PSPNet's (+ mean, variance), and
    caffe-windows', which has the fields of the one and the blobs of the other.

    SegNet's LEARN mode takes the batch's statistics in TEST too.
    """
    p = c.param("bn_param")
    if not {"moving_average", "var_eps", "decay"}.isdisjoint(p.fields):
        return _caffe_windows(c, p)
    segnet = {"bn_mode", "scale_filler", "shift_filler"}
    if segnet & p.fields.keys() or len(c.stored()) == 2:
        return _segnet(c, p)
    shape = c.per_channel(c.size(1))
    w = c.weight("w", shape, p.get("slope_filler"), 1.0)
    b = c.weight("b", shape, p.get("bias_filler"))
    mean, variance = c.weight("mean", shape), c.weight("variance", shape, None, 1.0)
    if c.train and not p.flag("frozen"):
        y = with_batch_statistics(c, c.x, _eps(c, p))
    else:
        y = c.b.batch_norm(c.x, mean, variance, eps=_eps(c, p))
    return c.b.add(c.b.mul(y, w), b)


def _segnet(c: Layer, p: Message) -> Value:
    shape = c.per_channel(c.size(1))
    w = c.weight("w", shape, p.get("scale_filler"), 1.0)
    b = c.weight("b", shape, p.get("shift_filler"))
    x = c.x if p.text("bn_mode") == "INFERENCE" else with_batch_statistics(c, c.x, 1e-9)
    return c.b.add(c.b.mul(x, w), b)


def _caffe_windows(c: Layer, p: Message) -> Value:
    """ChenglongChen/caffe-windows: the stored statistics in TEST, where `moving_average` is set,
    else the batch's (bn_layer.cpp)."""
    shape, eps = c.per_channel(c.size(1)), _eps(c, p, "var_eps")
    w = c.weight("w", shape, p.get("scale_filler"), 1.0)
    b = c.weight("b", shape, p.get("shift_filler"))
    if p.flag("moving_average") and not c.train:
        mean, variance = c.weight("mean", shape), c.weight("variance", shape, None, 1.0)
        y = c.b.batch_norm(c.x, mean, variance, eps=eps)
    else:
        y = with_batch_statistics(c, c.x, eps)
    c.count = 4
    return c.b.add(c.b.mul(y, w), b)


@layer("MVN")
def mvn(c: Layer) -> Value:
    """(x − mean) / (√variance + eps) per item and channel, or per item: eps outside the root."""
    p = c.param("mvn_param")
    c.check(c.x.type.rank == 4, f"MVN needs 4 axes, not {c.x.type}")
    axes = (1, 2, 3) if p.flag("across_channels") else (2, 3)
    y = c.b.sub(c.x, c.b.reduce_mean(c.x, axes=axes, keep=True))
    if not p.flag("normalize_variance"):
        return y
    variance = c.b.reduce_mean(c.b.mul(y, y), axes=axes, keep=True)
    return c.b.div(y, c.b.affine(c.b.sqrt(variance), scale=1.0, shift=_eps(c, p)))


@layer("Normalize", tops=(1, 2))
def normalize(c: Layer) -> list[Value]:
    """Two forks' layer of one name: SSD's scales, caffe-windows' gives the norm as a second top."""
    if "normalize_param" in c.message or len(c.tops) == 2:
        c.check("norm_param" not in c.message, "norm_param is for a Normalize of SSD, of one top")
        return _divided_by_norm(c, c.param("normalize_param"))
    return [_scaled_by_norm(c, c.param("norm_param"))]


def _divided_by_norm(c: Layer, p: Message) -> list[Value]:
    """x / √(Σx² + 10⁻⁶), or x / (Σ|x| + 10⁻⁶), over the channels, and what x is divided by; both
    have 4 axes (normalize_layer.cpp of happynear/caffe-windows)."""
    kind, rank = p.text("normalize_type"), c.x.type.rank
    c.check(kind in ("L1", "L2"), "normalize_type must be L1 or L2", p, "normalize_type")
    c.check(2 <= rank <= 4, f"Normalize needs 2 to 4 axes, not {c.x.type}")
    x = c.reshape(c.x, (*c.shape, *(1 for _ in range(4 - rank))))
    parts = c.b.abs(x) if kind == "L1" else c.b.mul(x, x)
    total = c.b.affine(c.b.reduce_sum(parts, axes=(1,), keep=True), scale=1.0, shift=1e-6)
    norm = total if kind == "L1" else c.b.sqrt(total)
    return [c.b.div(x, norm), norm]


def _scaled_by_norm(c: Layer, p: Message) -> Value:
    """scale · x / √(Σx² + eps) over the channels, or over channels, height and width (SSD)."""
    axes = (1, 2, 3) if p.flag("across_spatial") else (1,)
    total = c.b.reduce_sum(c.b.mul(c.x, c.x), axes=axes, keep=True)
    y = c.b.div(c.x, c.b.sqrt(c.b.affine(total, scale=1.0, shift=_eps(c, p))))
    shape = () if p.flag("channel_shared") else c.per_channel(c.size(1))
    return c.b.mul(y, c.weight("w", shape, p.get("scale_filler"), 1.0))


@layer("GRN")
def grn(c: Layer) -> Value:
    """x / √(Σx² + bias) over the channels (openvinotoolkit/training_toolbox_caffe)."""
    p = c.param("grn_param")
    bias = p.real("bias")
    c.check(c.x.type.rank == 4, f"GRN needs 4 axes, not {c.x.type}")
    c.check(0 <= bias < math.inf, f"bias {bias:g} must be 0 or more", p, "bias")
    total = c.b.reduce_sum(c.b.mul(c.x, c.x), axes=(1,), keep=True)
    return c.b.div(c.x, c.b.sqrt(c.b.affine(total, scale=1.0, shift=bias)))


@layer("GroupNorm")
def group_norm(c: Layer) -> Value:
    """(x − mean) / √(variance + eps) over each of `group_num` groups of channels, of each item
    (group_norm_layer.cu, Wu & He, 2018). Another fork calls their number `group_ratio`."""
    p = c.param("group_norm_param")
    field = next((name for name in ("group_num", "group_ratio") if name in p), "")
    if not field:
        raise c.unsupported("without group_num or group_ratio, forks differ", "give group_num")
    if field == "group_ratio" and "eps" not in p:
        raise c.unsupported("group_ratio without eps", "give its eps")
    groups, (items, channels, *rest) = p.whole(field), (c.shape[0], c.size(1), *c.shape[2:])
    good = groups > 0 and channels % groups == 0
    c.check(good, f"{field} {groups} does not divide {channels} channels", p, field)
    x = c.reshape(c.x, (items, groups, channels // groups, *rest))
    axes = tuple(range(2, x.type.rank))
    x = c.b.sub(x, c.b.reduce_mean(x, axes=axes, keep=True))
    variance = c.b.reduce_mean(c.b.mul(x, x), axes=axes, keep=True)
    x = c.b.div(x, c.b.sqrt(c.b.affine(variance, scale=1.0, shift=_eps(c, p))))
    return c.reshape(x, (items, channels, *rest))
