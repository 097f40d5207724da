"""Layers of FlowNet 2 (lmb-freiburg/flownet2), which estimates how images move."""

from __future__ import annotations

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.sampling import Between, bilinear, extent
from netc.ir.graph import Value

_MANY = 16  # displacements in a row from which matrix products outrun sums of shifted products
_MOST = 4096  # displacements of a correlation: the graph has ops for each


@layer("Correlation", bottoms=2)
def correlation(c: Layer) -> Value:
    """How alike each patch of the first image is to those around it in the second: the mean over
    the channels and the patch of x · y, or of |x − y| (correlation_layer.cu, Dosovitskiy et al.,
    2015).

    Channel (i, j) of the result is for a displacement of stride_2 · (i, j) pixels, each at most
    max_displacement up or down, left or right. Around both images lie zeros. As there, `do_abs` has
    no effect.
    """
    p, far = _correlated(c)
    pad, step = p.whole("pad"), p.whole("stride_2")
    x, y = (c.b.pad(v, before=(0, 0, pad, pad), after=(0, 0, pad, pad)) for v in c.xs)
    moves = range(far - far // step * step, 2 * far + 1, step)
    height, width = (d - 2 * far for d in x.type.shape[2:])
    x = c.b.slice(x, axis=2, start=far, stop=far + height)
    x = c.b.slice(x, axis=3, start=far, stop=far + width)
    rows = [c.b.slice(y, axis=2, start=i, stop=i + height) for i in moves]
    return _of_patches(c, p, _products(c, p, x, rows, moves))


@layer("Correlation1D", bottoms=2)
def correlation_1d(c: Layer) -> Value:
    """Correlation with displacements to the left and right alone, or, where `single_direction` is
    1, to the right alone (correlation_layer1d.cu, Mayer et al., 2016). Zeros lie at both sides."""
    p, far = _correlated(c)
    pad, step, way = p.whole("pad"), p.whole("stride_2"), p.whole("single_direction")
    if way not in (0, 1):  # the fork reads one displacement beyond the blob there
        raise c.unsupported(f"single_direction {way}; 0 and 1 are")
    x, y = (c.b.pad(v, before=(0, 0, 0, pad), after=(0, 0, 0, pad)) for v in c.xs)
    start = far if way else far - far // step * step
    width = x.type.shape[3] - 2 * far
    x = c.b.slice(x, axis=3, start=far, stop=far + width)
    return _of_patches(c, p, _products(c, p, x, [y], range(start, 2 * far + 1, step)))


def _correlated(c: Layer) -> tuple[Message, int]:
    """The fields of a correlation, and how far it looks."""
    p = c.param("correlation_param")
    a, b = (x.type for x in c.xs)
    c.check(a.rank == 4, f"{c.type} needs 4 axes, not {a}")
    c.fits(a == b, f"bottom 0 is {a}, bottom 1 is {b}; they must be alike")
    for field in ("kernel_size", "max_displacement"):
        c.check(field in p, f"{field} is missing", p)
    c.check(p.whole("kernel_size") % 2 == 1, "kernel_size must be odd", p, "kernel_size")
    for field in ("stride_1", "stride_2"):
        c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
    far, room = p.whole("max_displacement"), 2 * p.whole("pad") - p.whole("kernel_size") + 1
    for side in a.shape[2:] if c.type == "Correlation" else a.shape[3:]:
        fits = not isinstance(side, int) or side + room - 2 * far >= 1
        c.fits(fits, f"max_displacement {far} and the kernel do not fit {a} and its padding")
    count = (2 * (far // p.whole("stride_2")) + 1) ** (2 if c.type == "Correlation" else 1)
    if count > _MOST:
        raise c.unsupported(f"it has {count:,} displacements, at most {_MOST:,} are")
    return p, far


def _products(c: Layer, p: Message, x: Value, rows: list[Value], moves: range) -> Value:
    """For each of `rows`, which are x's partners, and each move to the right in it: the mean over
    the channels of x · row, or of |x − row|."""
    subtract = p.text("correlation_type") == "SUBTRACT"
    if not subtract and len(moves) >= _MANY:
        return _bands(c, x, rows, moves)
    body = "abs(x0 - x1)" if subtract else "x0 * x1"
    width = x.type.shape[3]
    means: list[Value] = []
    for row in rows:
        for i in moves:
            near = c.b.slice(row, axis=3, start=i, stop=i + width)
            each = c.b.formula(x, near, body=body)
            means.append(c.b.reduce_mean(each, axes=(1,), keep=True))
    return c.b.concat(*means, axis=1) if len(means) > 1 else means[0]


def _bands(c: Layer, x: Value, rows: list[Value], moves: range) -> Value:
    """The products as bands of matrices, each of a row of x and its partner, pixel by pixel.

    Read as if its rows were one number longer, a matrix has its diagonals as columns.
    """
    items, channels, height, width = x.type.shape
    step, count = moves.step, len(moves)
    stop = moves.start + width + count * step - 1
    x = c.b.transpose(x, perm=(0, 2, 3, 1))
    bands: list[Value] = []
    for row in rows:
        near = c.b.pad(row, after=(0, 0, 0, step - 1), before=(0, 0, 0, 0))
        near = c.b.slice(near, axis=3, start=moves.start, stop=stop)
        near = c.b.matmul(x, c.b.transpose(near, perm=(0, 2, 1, 3)))
        long = near.type.shape[3]
        near = c.b.pad(near, before=(0, 0, 0, 0), after=(0, 0, 1, 0))
        near = c.reshape(near, (items, height, (width + 1) * long))
        near = c.b.slice(near, axis=2, stop=width * (long + 1))
        near = c.reshape(near, (items, height, width, long + 1))
        near = c.b.slice(near, axis=3, stop=count * step)
        near = c.reshape(near, (items, height, width, count, step))
        near = c.b.slice(near, axis=4, stop=1)
        bands.append(c.reshape(near, (items, height, width, count)))
    every = c.b.concat(*bands, axis=3) if len(bands) > 1 else bands[0]
    assert isinstance(channels, int)
    return c.b.affine(c.b.transpose(every, perm=(0, 3, 1, 2)), scale=1 / channels)


def _of_patches(c: Layer, p: Message, each: Value) -> Value:
    """The mean over patches of what is of single pixels, a patch every stride_1 pixels."""
    side, step = p.whole("kernel_size"), p.whole("stride_1")
    if (side, step) == (1, 1):
        return each
    return c.b.avg_pool(each, kernel=(side, side), stride=(step, step))


@layer("FlowWarp", bottoms=2)
def flow_warp(c: Layer) -> Value:
    """The first bottom at where each pixel of the second points, (x + flow₀, y + flow₁), between
    pixels bilinear; the fill value where that is not in the image (flow_warp_layer.cpp)."""
    image, flow = (x.type for x in c.xs)
    c.check(image.rank == 4, f"FlowWarp needs 4 axes, not {image}")
    c.fits(
        flow.shape == (image.shape[0], 2, *image.shape[2:]),
        f"bottom 0 is {image}, bottom 1 is {flow}; two numbers for each pixel are needed",
    )
    sides = [extent(c, d) for d in image.shape[2:]]
    y, x = (_moved(c, axis) for axis in (2, 3))
    body = "select(x0 >= 0, select(x1 >= 0, select(x0 < x2, select(x1 < x3, 1, 0), 0), 0), 0)"
    inside = c.b.formula(y, x, *sides, body=body)
    rows, columns = (_within(c, inside, *each) for each in zip((y, x), sides, strict=True))
    found = bilinear(c, c.x, rows, columns)
    if c.param("flow_warp_param").text("fill_value") == "ZERO":
        return c.b.where(inside, found, c.constant(0.0))
    return c.b.formula(found, inside, body="x0 * (x1 / x1)")  # 0 / 0 is NaN


def _moved(c: Layer, axis: int) -> Value:
    """Where each pixel's flow leads along an axis of the image, [n, 1, h, w]."""
    part = 3 - axis  # x stands before y
    flow = c.b.slice(c.xs[1], axis=1, start=part, stop=part + 1)
    return c.b.add(c.b.iota(flow, axis=axis), flow)


def _within(c: Layer, inside: Value, place: Value, size: Value) -> Between:
    """The pixels around a place that lies inside; beyond the last, the last one."""
    place = c.b.where(inside, place, c.constant(0.0))
    near = c.b.formula(place, body="floor(x0)")
    far = c.b.formula(near, size, body="min(x0 + 1, x1 - 1)")
    share = c.b.sub(place, near)
    return Between(near, far, c.b.affine(share, scale=-1.0, shift=1.0), share)


@layer("ChannelNorm")
def channel_norm(c: Layer) -> Value:
    """√Σx² over the channels (channel_norm_layer.cpp)."""
    c.check(c.x.type.rank == 4, f"ChannelNorm needs 4 axes, not {c.x.type}")
    return c.b.sqrt(c.b.reduce_sum(c.b.mul(c.x, c.x), axes=(1,), keep=True))
