"""Layers of Caffe's forks: SSD, PSPNet, SegNet, SENet, ShuffleNet, YOLO, CTPN, waifu2x."""

from __future__ import annotations

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.sampling import size_of
from netc.ir.dims import Dim
from netc.ir.graph import Value


@layer("Permute")
def permute(c: Layer) -> Value:
    """Axes in the order given; the rest follow as they are."""
    p = c.param("permute_param")
    rank, order = c.x.type.rank, p.all("order")
    good = len(set(order)) == len(order) and all(i < rank for i in order)
    c.check(good, f"order {order} does not order {rank} axes", p, "order")
    return c.b.transpose(c.x, perm=(*order, *(i for i in range(rank) if i not in order)))


@layer("Axpy", bottoms=3)
def axpy(c: Layer) -> Value:
    """a · x + y, a number per item and channel (SENet)."""
    a, x, y = c.xs
    c.check(x.type == y.type, f"x is {x.type}, y is {y.type}")
    c.check(a.type.shape[:2] == x.type.shape[:2], f"a is {a.type}, x is {x.type}")
    if a.type.rank == 2:
        a = c.b.reshape(a, shape=(0, 0, 1, 1))
    return c.b.add(c.b.mul(x, a), y)


@layer("ShuffleChannel")
def shuffle_channel(c: Layer) -> Value:
    """Channels as a (group, C/group) table, read by columns."""
    p = c.param("shuffle_channel_param")
    groups, channels = p.whole("group"), c.size(1)
    c.check(
        groups > 0 and channels % groups == 0,
        f"group {groups} does not divide {channels} channels",
        p,
        "group",
    )
    rest = c.shape[2:]
    y = c.reshape(c.x, (c.shape[0], groups, channels // groups, *rest))
    y = c.b.transpose(y, perm=(0, 2, 1, *range(3, 3 + len(rest))))
    return c.reshape(y, (c.shape[0], channels, *rest))


@layer("Transpose")
def transpose(c: Layer) -> Value:
    """All axes in the order given (CTPN)."""
    p = c.param("transpose_param")
    order = tuple(p.all("dim"))
    good = sorted(order) == list(range(c.x.type.rank))
    c.check(good, f"dim {list(order)} does not order the axes of {c.x.type}", p, "dim")
    return c.b.transpose(c.x, perm=order)


@layer("Reverse")
def reverse(c: Layer) -> Value:
    """Backwards along every axis given (CTPN, TextBoxes++, Synopsys)."""
    p = c.param("reverse_param")
    axes = [c.axis(axis, p) for axis in p.all("axis")]
    c.check(len(axes) > 0, "axis is missing", p)
    c.check(len(set(axes)) == len(axes), "an axis is given twice", p, "axis")
    y = c.x
    for axis in axes:
        last = c.size(axis) - 1
        place = c.b.iota(c.constant(0.0, (last + 1,)))
        y = c.b.gather(y, c.b.affine(place, scale=-1.0, shift=float(last)), axis=axis)
    return y


@layer("PixelShuffle")
def pixel_shuffle(c: Layer) -> Value:
    """Channel (c·r + y)·r + x becomes pixel (y, x) of the r × r that each pixel of channel c grows
    to (Shi et al., 2016)."""
    name = "pixelshuffle_param" if "pixelshuffle_param" in c.message else "pixel_shuffle_param"
    p = c.param(name)
    r, channels = _blocks(c, p, "upscale_factor")
    items, _, height, width = c.shape
    y = c.reshape(c.x, (items, channels, r, r, height, width))
    y = c.b.transpose(y, perm=(0, 1, 4, 2, 5, 3))
    return c.reshape(y, (items, channels, height * r, width * r))


@layer("Reorg")
def reorg(c: Layer) -> Value:
    """Pixels as channels, mixed as in YOLOv2 (darknet's reorg_cpu).

    With `reverse`, channel (y·s + x)·C' + c becomes pixel (y, x) of the s × s that each pixel of
    channel c grows to, C' = C / s². Without, the numbers are read as a blob of that result's shape,
    taken back, and read as s² times the channels.
    """
    p = c.param("reorg_param")
    c.check(not p.flag("flatten"), "netc reads no flatten", p, "flatten")
    s, channels = _blocks(c, p, "stride")
    items, _, height, width = c.shape
    if p.flag("reverse"):
        y = c.reshape(c.x, (items, s, s, channels, height, width))
        y = c.b.transpose(y, perm=(0, 3, 4, 1, 5, 2))
        return c.reshape(y, (items, channels, height * s, width * s))
    sides = (c.size(2), c.size(3))
    c.check(not any(d % s for d in sides), f"stride {s} does not divide {c.x.type}", p, "stride")
    y = c.reshape(c.x, (items, channels, height, s, width, s))
    y = c.b.transpose(y, perm=(0, 3, 5, 1, 2, 4))
    return c.reshape(y, (items, channels * s**4, *(d // s for d in sides)))


def _blocks(c: Layer, p: Message, field: str) -> tuple[int, int]:
    """The side of a block of pixels, and for how many of them there are channels."""
    c.check(c.x.type.rank == 4, f"{c.type} needs 4 axes, not {c.x.type}")
    side, channels = p.whole(field), c.size(1)
    c.check(side >= 1, f"{field} must be at least 1", p, field)
    c.check(
        channels % side**2 == 0,
        f"{channels} channels do not divide by {field} {side} squared",
        p,
        field,
    )
    return side, channels // side**2


@layer("ContinuationIndicator", bottoms=(0, 1))
def continuation_indicator(c: Layer) -> Value:
    """0 for the first step and 1 for the others, of each item of a batch: the second bottom of an
    LSTM (CRNN). A bottom gives the batch its size."""
    p = c.param("continuation_indicator_param")
    steps, items = p.whole("time_step"), c.shape[0] if c.xs else p.whole("batch_size")
    c.check(steps >= 1, "time_step must be at least 1", p, "time_step")
    c.check(items != 0, "batch_size must be at least 1", p, "batch_size")
    first = c.constant(0.0, (1, items))
    return c.b.concat(first, c.constant(1.0, (steps - 1, items)), axis=0) if steps > 1 else first


@layer("Interp", bottoms=(1, 2))
def interp(c: Layer) -> Value:
    """Bilinear resizing, corner to corner (DeepLab, PSPNet); by `use_blob_size` to the size of the
    second bottom (soeaver's nets)."""
    p = c.param("interp_param")
    c.check(c.x.type.rank == 4, f"Interp needs 4 axes, not {c.x.type}")
    before, after = -p.whole("pad_beg"), -p.whole("pad_end")
    c.check(
        before >= 0 and after >= 0,
        "pad_beg and pad_end crop: they must be 0 or less",
        p,
        "pad_beg" if before < 0 else "pad_end",
    )
    x = _cropped(c, c.x, before, after)
    size: tuple[int, ...]
    if len(c.xs) == 2:
        c.check(p.flag("use_blob_size"), "a second bottom needs use_blob_size: true", p)
        size = size_of(c, c.xs[1])
    else:
        c.check(not p.flag("use_blob_size"), "use_blob_size needs a second bottom", p)
        size = tuple(_interp_size(c, p, i, x.type.shape[2 + i]) for i in range(2))
    return c.b.resize_bilinear(x, size=size, align_corners=True)


def _cropped(c: Layer, x: Value, before: int, after: int) -> Value:
    if not before and not after:
        return x
    for axis in (2, 3):
        x = c.b.slice(x, axis=axis, start=before, stop=c.size(axis) - after)
    return x


def _interp_size(c: Layer, p: Message, i: int, d: Dim) -> int:
    field = ("height", "width")[i]
    if field in p:
        c.check(p.whole(field) > 0, f"{field} must be at least 1", p, field)
        return p.whole(field)
    shrink, zoom = p.whole("shrink_factor"), p.whole("zoom_factor")
    for name, factor in (("shrink_factor", shrink), ("zoom_factor", zoom)):
        c.check(factor >= 1, f"{name} must be at least 1", p, name)
    c.check("shrink_factor" in p or "zoom_factor" in p, f"{field} is missing", p)
    if not isinstance(d, int):
        raise c.fail(f"its size {d} varies between runs")
    d = (d - 1) // shrink + 1
    return d + (d - 1) * (zoom - 1)


@layer("Upsample", bottoms=(1, 2))
def upsample(c: Layer) -> Value:
    """Two forks' layer of one name: YOLO's repeats pixels, SegNet's puts them where a Pooling
    layer found them (its second bottom)."""
    p = c.param("upsample_param")
    if len(c.xs) == 1:
        return c.b.resize_nearest(c.x, scale=_repeated(c, p))
    for field in ("stride", "stride_h", "stride_w"):
        c.check(field not in p, f"{field} is for an Upsample without a mask", p, field)
    return c.b.unpool(*c.xs, size=_unpooled(c, p))


def _repeated(c: Layer, p: Message) -> tuple[int, int]:
    """How often YOLO's pixels are repeated: `scale`, or the strides, where `scale` is what numbers
    are multiplied with (darknet)."""
    for field in ("scale_h", "scale_w", "upsample_h", "upsample_w", "pad_out_h", "pad_out_w"):
        c.check(field not in p, f"{field} is for an Upsample with a mask", p, field)
    given = [f for f in ("stride", "stride_h", "stride_w") if f in p]
    if not given:
        c.check("scale" in p, "scale is missing", p)
        c.check(p.whole("scale") >= 1, "scale must be at least 1", p, "scale")
        return (p.whole("scale"),) * 2
    c.check(
        given in (["stride"], ["stride_h", "stride_w"]),
        "give stride, or stride_h and stride_w",
        p,
        given[0],
    )
    c.check("scale" not in p or p.whole("scale") == 1, "netc repeats with scale 1", p, "scale")
    for field in given:
        c.check(p.whole(field) >= 1, f"{field} must be at least 1", p, field)
    return (p.whole(given[0]), p.whole(given[-1]))


def _unpooled(c: Layer, p: Message) -> tuple[int, ...]:
    """SegNet's size: given, or scaled and less one where `pad_out` says so."""
    if "upsample_h" in p or "upsample_w" in p:
        c.check("upsample_h" in p and "upsample_w" in p, "give upsample_h and upsample_w", p)
        return (p.whole("upsample_h"), p.whole("upsample_w"))
    out: list[int] = []
    for i, side in enumerate("hw"):
        field = f"scale_{side}"
        scale = p.whole(field) if field in p else p.whole("scale")
        c.check(scale >= 1, f"{field} must be at least 1", p, field)
        out.append(c.size(2 + i) * scale - int(p.flag(f"pad_out_{side}")))
    return tuple(out)


@layer("CropCenter")
def crop_center(c: Layer) -> Value:
    """What is left of every axis when `crop_size` of it is cut off at both ends (waifu2x)."""
    p = c.param("crop_center_param")
    margins, x = p.all("crop_size"), c.x
    wanted = f"crop_size needs {x.type.rank} numbers for {x.type}, not {len(margins)}"
    c.check(len(margins) == x.type.rank, wanted, p, "crop_size")
    for axis, margin in enumerate(margins):
        if margin:
            left = c.shape[axis] - 2 * margin
            too_much = f"crop_size {margin} leaves nothing of axis {axis} of {c.x.type}"
            c.fits(not isinstance(left, int) or left >= 1, too_much)
            x = c.b.slice(x, axis=axis, start=margin, stop=margin + left)
    return x
