"""Convolutions, pooling, LRN, Im2col, SPP and Crop."""

from __future__ import annotations

import math
from typing import Any

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.windows import (
    SIDES,
    conv_window,
    flat_batch,
    no_sides,
    outgrown,
    plain,
    pool_window,
    sides,
)
from netc.ir.dims import product
from netc.ir.graph import Value
from netc.ir.ops.windows import Ints


@layer(
    "Convolution", "DepthwiseConvolution", "ConvolutionDepthwise", bottoms=(1, None), tops=(1, None)
)
def convolution(c: Layer) -> list[Value]:
    """Each bottom convolved with the same weights."""
    c.check(len(c.xs) == len(c.tops), f"{len(c.xs)} bottoms and {len(c.tops)} tops")
    p = c.param("convolution_param")
    axis = c.axis(p.whole("axis"), p)
    channels, groups = c.size(axis), _groups(c, p, axis)
    kernel, rest = conv_window(c, p, c.x.type.rank - axis - 1)
    w = c.weight("w", (_outputs(c, p), channels // groups, *kernel), p.get("weight_filler"))
    more = _bias(c, p)

    def convolved(x: Value) -> Value:
        return c.b.conv(outgrown(c, p, x), w, *more, groups=groups, **rest)

    return [flat_batch(c, x, axis, convolved) for x in c.xs]


@layer("Deconvolution", bottoms=(1, None), tops=(1, None))
def deconvolution(c: Layer) -> list[Value]:
    """The transpose of a convolution; its weights are (C_in, num_output / group, k…)."""
    c.check(len(c.xs) == len(c.tops), f"{len(c.xs)} bottoms and {len(c.tops)} tops")
    p = c.param("convolution_param")
    no_sides(c, p)
    axis = c.axis(p.whole("axis"), p)
    channels, groups = c.size(axis), _groups(c, p, axis)
    kernel, rest = conv_window(c, p, c.x.type.rank - axis - 1)
    w = c.weight("w", (channels, _outputs(c, p) // groups, *kernel), p.get("weight_filler"))
    more = _bias(c, p)
    return [
        flat_batch(c, x, axis, lambda y: c.b.conv_transpose(y, w, *more, groups=groups, **rest))
        for x in c.xs
    ]


@layer("Convolution3D")
def convolution_3d(c: Layer) -> Value:
    """C3D's convolution: depth apart from height and width."""
    p = _param_3d(c, "convolution")
    channels, groups = c.size(1), _groups(c, p, 1)
    kernel, stride, pad = _with_depth(c, p)
    w = c.weight("w", (_outputs(c, p), channels // groups, *kernel), p.get("weight_filler"))
    rest = {"stride": plain(stride, "stride"), "pad": plain(pad, "pad")}
    return c.b.conv(c.x, w, *_bias(c, p), groups=groups, **rest)


def _param_3d(c: Layer, name: str) -> Message:
    """C3D's own message, or in its first version the one of two dimensions."""
    own = f"{name}3d_param"
    return c.param(own if own in c.message else f"{name}_param")


def _outputs(c: Layer, p: Message) -> int:
    count = p.whole("num_output")
    c.check(count > 0, "num_output must be at least 1", p, "num_output")
    c.check(count < 1 << 31, f"num_output {count} is too large", p, "num_output")
    return count


def _groups(c: Layer, p: Message, axis: int) -> int:
    """`group`, or every channel for itself in the forks' depthwise layers."""
    channels = c.size(axis)
    depthwise = c.type != "Convolution" and "epthwise" in c.type and "group" not in p
    groups = channels if depthwise else p.whole("group")
    c.check(groups > 0, "group must be at least 1", p, "group")
    c.check(
        channels % groups == 0, f"group {groups} does not divide {channels} channels", p, "group"
    )
    outputs = _outputs(c, p)
    c.check(
        outputs % groups == 0, f"group {groups} does not divide num_output {outputs}", p, "group"
    )
    return groups


def _bias(c: Layer, p: Message) -> tuple[Value, ...]:
    if not p.flag("bias_term"):
        return ()
    return (c.weight("b", (_outputs(c, p),), p.get("bias_filler")),)


def _with_depth(c: Layer, p: Message) -> tuple[Ints, Ints, Ints]:
    """Kernel, stride and pad over depth, height and width, from C3D's fields."""
    no_sides(c, p)
    k, s, pad = (_last(p, name) for name in ("kernel_size", "stride", "pad"))
    c.check(k > 0, "kernel_size must be at least 1", p, "kernel_size")
    c.check("stride" not in p or s > 0, "stride must be at least 1", p, "stride")
    depth = p.whole("kernel_depth") or 1
    s = s or 1
    return (depth, k, k), (p.whole("temporal_stride"), s, s), (p.whole("temporal_pad"), pad, pad)


def _last(p: Message, name: str) -> int:
    return int(p.all(name)[-1]) if name in p else 0


@layer("Pooling", tops=(1, 2))
def pooling(c: Layer) -> list[Value]:
    """MAX (with the place of each maximum as second top), AVE, STOCHASTIC, or Synopsys'
    AVE_EXC_PAD: the mean of what is inside the image."""
    p = c.param("pooling_param")
    kind = p.text("pool")
    c.check(len(c.tops) == 1 or kind == "MAX", "only MAX pooling has a second top")
    c.check(c.x.type.rank == 4, f"pooling needs 4 axes, not {c.x.type}")
    if p.flag("global_pooling"):
        return [_global(c, p, kind)]
    window = pool_window(c, p)
    differ = len({*sides(p)}) == 2
    if differ:
        _can_differ(c, p, kind, window)
    if kind == "STOCHASTIC":
        return [c.b.stochastic_pool(c.x, **window, train=c.train, seed=c.seed)]
    if kind == "MAX":
        made = [c.b.max_pool(outgrown(c, p, c.x, -math.inf), **window)]
        return made + [c.b.max_pool_index(c.x, **window) for _ in c.tops[1:]]
    mean = c.b.avg_pool(outgrown(c, p, c.x), **window)
    if kind == "AVE" or not (differ or window["pad"]):
        return [mean]
    inside = outgrown(c, p, c.constant(1.0, (1, 1, *c.shape[2:])))
    return [c.b.div(mean, c.b.avg_pool(inside, **window))]


def _can_differ(c: Layer, p: Message, kind: str, window: dict[str, Any]) -> None:
    """Refuse sides that differ where windows could lie outside, or places would be others."""
    first = next(field for field in SIDES if p.whole(field))
    what = f"{', '.join(SIDES[:3])} and {SIDES[3]} differ"
    c.check(kind != "STOCHASTIC", f"{what}: STOCHASTIC pooling has no padding", p, first)
    c.check(len(c.tops) == 1, f"{what}: netc gives no places then", p, first)
    c.check(not window["ceil"], f"{what}: this needs ceil_mode: false", p, first)
    for field, kernel in zip(SIDES, window["kernel"] * 2, strict=True):
        pad = p.whole(field)
        c.check(pad < kernel, f"{field} {pad} must be smaller than {kernel}", p, field)


def _global(c: Layer, p: Message, kind: str) -> Value:
    for field in ("kernel_size", "kernel_h", "kernel_w"):
        c.check(field not in p, f"global_pooling leaves no room for {field}", p, field)
    no_sides(c, p)
    odd = p.whole("pad") or p.whole("pad_h") or p.whole("pad_w") or p.whole("stride") != 1
    c.check(not odd, "global_pooling needs pad 0 and stride 1", p, "global_pooling")
    c.check(kind != "STOCHASTIC", "global_pooling is MAX or AVE", p, "pool")
    c.check(len(c.tops) == 1, "global_pooling has one top")
    return c.b.global_max_pool(c.x) if kind == "MAX" else c.b.global_avg_pool(c.x)


@layer("Pooling3D")
def pooling_3d(c: Layer) -> Value:
    """C3D's pooling over depth, height and width."""
    p = _param_3d(c, "pooling")
    kernel, stride, pad = _with_depth(c, p)
    c.check(p.text("pool") in ("MAX", "AVE"), "pooling over depth is MAX or AVE", p, "pool")
    pool = c.b.max_pool if p.text("pool") == "MAX" else c.b.avg_pool
    rest = {"stride": plain(stride, "stride"), "pad": plain(pad, "pad")}
    return pool(c.x, kernel=kernel, ceil=True, **rest)


@layer("LRN")
def lrn(c: Layer) -> Value:
    """ACROSS: x·(k + α/n Σx²)^−β over channels; WITHIN: x·(1 + α·mean x²)^−β over a window."""
    p = c.param("lrn_param")
    size, alpha, beta = p.whole("local_size"), p.real("alpha"), p.real("beta")
    c.check(size % 2 == 1, f"local_size {size} must be odd", p, "local_size")
    if p.text("norm_region") == "ACROSS_CHANNELS":
        return c.b.lrn(c.x, size=size, alpha=alpha, beta=beta, k=p.real("k"))
    half = (size - 1) // 2
    square = c.b.mul(c.x, c.x)
    mean = c.b.avg_pool(square, kernel=(size, size), pad=(half, half), ceil=True)
    return c.b.mul(c.x, c.b.pow(c.b.affine(mean, scale=alpha, shift=1.0), exponent=-beta))


@layer("Im2col", bottoms=1)
def im2col(c: Layer) -> Value:
    """The windows a convolution would see, as columns."""
    p = c.param("convolution_param")
    no_sides(c, p)
    axis = c.axis(p.whole("axis"), p)
    kernel, rest = conv_window(c, p, c.x.type.rank - axis - 1)
    return flat_batch(c, c.x, axis, lambda y: c.b.im2col(y, kernel=kernel, **rest))


@layer("SPP")
def spp(c: Layer) -> Value:
    """Pooling to 1, 4, 16, … bins, flattened and joined (He et al., 2014)."""
    p = c.param("spp_param")
    height = p.whole("pyramid_height")
    c.check(height >= 1, "pyramid_height must be at least 1", p, "pyramid_height")
    c.check(height <= 16, f"pyramid_height {height} is too large", p, "pyramid_height")
    c.check(p.text("pool") != "STOCHASTIC", "netc pools MAX or AVE here", p, "pool")
    levels = [_pyramid_level(c, p, 2**level) for level in range(height)]
    if height == 1:
        return levels[0]
    return c.b.concat(*(c.b.flatten(v) for v in levels), axis=1)


def _pyramid_level(c: Layer, p: Message, bins: int) -> Value:
    sizes = (c.size(2), c.size(3))
    kernel = tuple(-(-n // bins) for n in sizes)
    pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, sizes, strict=True))
    pool = c.b.max_pool if p.text("pool") == "MAX" else c.b.avg_pool
    rest = {"stride": plain(kernel, "stride"), "pad": plain(pad, "pad")}
    return pool(c.x, kernel=kernel, ceil=True, **rest)


@layer("Crop", bottoms=2)
def crop(c: Layer) -> Value:
    """The first bottom cut to the sizes of the second, from `axis` on."""
    p = c.param("crop_param")
    axis, offsets = c.axis(p.whole("axis"), p), tuple(p.all("offset"))
    rank = c.x.type.rank
    c.check(
        len(offsets) in (0, 1, rank - axis),
        f"{len(offsets)} offsets for {rank - axis} axes",
        p,
        "offset",
    )
    return c.b.crop(c.x, c.xs[1], axis=axis, offset=offsets)


@layer("InnerProduct")
def inner_product(c: Layer) -> Value:
    """W·x + b over the axes from `axis` on."""
    p = c.param("inner_product_param")
    axis, outputs = c.axis(p.whole("axis"), p), _outputs(c, p)
    inner = product(c.shape[axis:])
    filler = p.get("weight_filler")
    if p.flag("transpose"):
        w = c.b.transpose(c.weight("w", (inner, outputs), filler), perm=(1, 0))
    else:
        w = c.weight("w", (outputs, inner), filler)
    return c.b.fc(c.x, w, *_bias(c, p), axis=axis)


@layer("Embed")
def embed(c: Layer) -> Value:
    """Row x of W, plus b."""
    p = c.param("embed_param")
    rows, outputs = p.whole("input_dim"), _outputs(c, p)
    c.check(rows > 0, "input_dim must be at least 1", p, "input_dim")
    row = c.b.gather(c.weight("w", (rows, outputs), p.get("weight_filler")), c.x, axis=0)
    if not p.flag("bias_term"):
        return row
    return c.b.add(row, c.weight("b", (outputs,), p.get("bias_filler")))
