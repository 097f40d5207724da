"""FlowNet 2's layers that prepare images: means taken off, and what is left of augmentation when
a net is used."""

from __future__ import annotations

from collections.abc import Sequence

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.schema_layers import AUGMENTATIONS
from netc.ir.graph import Value
from netc.ir.ops.sources import Initializer


@layer("Mean", bottoms=(1, None), tops=(1, None))
def mean(c: Layer) -> list[Value]:
    """output_scale · (input_scale · x ± mean_scale · value), a value for each channel, from the
    first again after the last (mean_layer.cpp)."""
    p = c.param("mean_param")
    c.check(len(c.tops) == len(c.xs), f"{len(c.xs)} bottoms need as many tops")
    c.check("operation" in p, "operation is missing", p)
    if "file" in p:
        raise c.unsupported("its mean is in a file", "values are, and --mean for images")
    values = p.all("value")
    c.check(len(values) > 0, "value is missing", p)
    sign = 1.0 if p.text("operation") == "ADD" else -1.0
    scales = (p.real("input_scale"), sign * p.real("mean_scale"), p.real("output_scale"))
    body = "({!r} * x0 + {!r} * x1) * {!r}".format(*scales)
    return [c.b.formula(x, _per_channel(c, x, values), body=body) for x in c.xs]


def _per_channel(c: Layer, x: Value, values: Sequence[float]) -> Value:
    """[channels, 1, 1]: the values, over and over."""
    c.check(x.type.rank == 4, f"{c.type} needs 4 axes, not {x.type}")
    channels = x.type.shape[1]
    if len(values) == 1:
        return c.constant(values[0])
    fits = isinstance(channels, int) and channels % len(values) == 0
    c.fits(fits, f"{len(values)} values do not divide the channels of {x.type}")
    assert isinstance(channels, int)
    each = c.b.concat(*(c.constant(v, (1, 1, 1)) for v in values), axis=0)
    return c.b.tile(each, axis=0, times=channels // len(values))


@layer("DataAugmentation", bottoms=(1, 2), tops=(1, 2))
def data_augmentation(c: Layer) -> Value:
    """The middle of an image less its mean: what is left of data_augmentation_layer.cu where
    nothing is drawn, as in TEST.

    The mean is one of each pixel or one of each channel that training found, or is given. A mean
    of pixels of another size stands for that of its channels.
    """
    p = c.param("augmentation_param")
    c.check(c.x.type.rank == 4, f"DataAugmentation needs 4 axes, not {c.x.type}")
    if len(c.xs) == 2 or len(c.tops) == 2:
        raise c.unsupported("it takes or gives what augments images; one bottom and one top are")
    is_cut = "crop_height" in p and "crop_width" in p
    if is_cut and (c.train or p.flag("augment_during_test")):
        drawn = [field for field in AUGMENTATIONS if field in p]
        if drawn:
            raise c.unsupported(f"{drawn[0]} draws numbers; without augment_during_test, TEST is")
    x = c.x
    if is_cut:
        for axis, field in ((2, "crop_height"), (3, "crop_width")):
            x = _middle(c, p, x, axis, field)
    if p.whole("recompute_mean") > 0:
        return c.b.sub(x, _found_mean(c, p, x))
    c.count = 1  # the number of runs, which is stored alone
    if len(p.all("mean")) != 3 or p.flag("mean_per_pixel"):
        return x
    c.check(c.size(1) == 3, f"mean is of 3 channels, not {c.x.type}", p, "mean")
    return c.b.sub(x, _per_channel(c, x, p.all("mean")))


def _middle(c: Layer, p: Message, x: Value, axis: int, field: str) -> Value:
    """The middle along an axis, between pixels where it does not come out even.

    As the fork reads no place beyond size − 1.05, the last pixel of an axis that keeps its size is
    mixed with the one before.
    """
    old, new = c.size(axis), p.whole(field)
    c.check(1 <= new <= old, f"{field} {new} is not between 1 and {old}", p, field)
    if new == old:
        if old == 1:
            return x
        first = c.b.slice(x, axis=axis, stop=old - 1)
        ends = [c.b.slice(x, axis=axis, start=i, stop=i + 1) for i in (old - 2, old - 1)]
        last = c.b.formula(*ends, body="0.05 * x0 + 0.95 * x1")
        return c.b.concat(first, last, axis=axis)
    start = (old - new) // 2
    near = c.b.slice(x, axis=axis, start=start, stop=start + new)
    if (old - new) % 2 == 0:
        return near
    far = c.b.slice(x, axis=axis, start=start + 1, stop=start + 1 + new)
    return c.b.formula(near, far, body="0.5 * x0 + 0.5 * x1")


def _found_mean(c: Layer, p: Message, x: Value) -> Value:
    """The mean that training found. The blobs: a number of runs, a mean image, one by channel."""
    stored, (_, channels, *size) = c.stored(), x.type.shape
    runs = stored[0] if len(stored) == 3 else None
    if runs is not None and runs.size == 1 and runs.item() < p.whole("recompute_mean"):
        raise c.unsupported(f"after {runs.item():g} runs its mean changes from run to run")
    c.count = 3
    by_channel = (channels, 1, 1)
    image = stored[1] if len(stored) == 3 else None
    found = stored[2] if len(stored) == 3 else None
    zeros = Initializer("constant", 0.0)
    if not p.flag("mean_per_pixel"):
        return c.binder.derived(c, 2, "", "mean", c.sizes(by_channel), zeros, found)
    shape = c.sizes((channels, *size))
    if image is not None and image.ndim == 4 and image.shape[2:] != shape[1:]:
        found = image.mean((2, 3))
        return c.binder.derived(c, 2, "", "mean", c.sizes(by_channel), zeros, found)
    return c.binder.derived(c, 1, "", "mean_image", shape, zeros, image)
