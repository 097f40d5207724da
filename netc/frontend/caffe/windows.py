"""Kernel, stride, pad and dilation from the many fields Caffe keeps them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netc.frontend.caffe.layer import Layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import product
from netc.ir.graph import Value
from netc.ir.ops.windows import Ints

MAX_SIZE = 1 << 20  # of a kernel, stride, pad or dilation
SIDES = ("pad_t", "pad_l", "pad_b", "pad_r")  # Synopsys: each side of height and width for itself


def conv_window(c: Layer, p: Message, axes: int) -> tuple[Ints, dict[str, Ints]]:
    """The kernel, and `stride`, `pad`, `dilation`, one number per spatial axis each."""
    kernel = _per_axis(c, p, "kernel", "kernel_size", axes, None)
    rest = {
        "stride": _per_axis(c, p, "stride", "stride", axes, 1),
        "pad": _pad(c, p, axes, alone=True),
        "dilation": _list(c, p, "dilation", axes, 1),
    }
    for field, sizes in (("kernel_size", kernel), *rest.items()):
        _positive(c, p, field, sizes, 0 if field == "pad" else 1)
    return kernel, {field: plain(sizes, field) for field, sizes in rest.items()}


def plain(sizes: Ints, field: str) -> Ints:
    """Sizes as ops have them: () where all are the default."""
    default = 0 if field == "pad" else 1
    return () if all(n == default for n in sizes) else sizes


def pool_window(c: Layer, p: Message) -> dict[str, Any]:
    """The attributes of a pooling op over height and width."""
    kernel = _per_axis(c, p, "kernel", "kernel_size", 2, None)
    stride = _per_axis(c, p, "stride", "stride", 2, 1)
    pad = _pad(c, p, 2)
    _positive(c, p, "kernel_size", kernel, 1)
    _positive(c, p, "stride", stride, 1)
    _positive(c, p, "pad", pad, 0)
    up = p.flag("ceil_mode") if "ceil_mode" in p else p.text("round_mode") == "CEIL"
    stride, pad = plain(stride, "stride"), plain(pad, "pad")
    return {"kernel": kernel, "stride": stride, "pad": pad, "ceil": up}


def no_sides(c: Layer, p: Message) -> None:
    """Refuse padding by sides where a layer has none."""
    for field in ("pad_type", *SIDES):
        c.check(not p.whole(field), f"netc reads no {field} of {c.type}", p, field)


def sides(p: Message) -> tuple[Ints, Ints]:
    """The padding by sides before height and width, and behind them."""
    top, left, bottom, right = (p.whole(field) for field in SIDES)
    return (top, left), (bottom, right)


def outgrown(c: Layer, p: Message, x: Value, value: float = 0.0) -> Value:
    """x with what a window's `pad` cannot say around it: sides that differ."""
    before, after = sides(p)
    if before == after:
        return x
    return c.b.pad(x, before=(0, 0, *before), after=(0, 0, *after), value=value)


def _pad(c: Layer, p: Message, axes: int, alone: bool = False) -> Ints:
    """From `pad`, `pad_h` and `pad_w`, or from sides; 0 where these differ."""
    c.check(p.whole("pad_type") == 0, "netc reads no pad_type: give each side", p, "pad_type")
    given = [field for field in SIDES if p.whole(field)]
    if not given:
        return _per_axis(c, p, "pad", "pad", axes, 0, alone)
    for field in ("pad", "pad_h", "pad_w"):
        c.check(field not in p, f"give {field} or {given[0]}, not both", p, field)
    c.check(axes == 2, f"{given[0]} is for two spatial axes; here are {axes}", p, given[0])
    for field in given:
        c.check(p.whole(field) <= MAX_SIZE, f"{field} {p.whole(field)} is too large", p, field)
    before, after = sides(p)
    return before if before == after else (0, 0)


def _per_axis(
    c: Layer,
    p: Message,
    name: str,
    field: str,
    axes: int,
    default: int | None,
    alone: bool = False,
) -> Ints:
    """From `field`, or from `name`_h and `name`_w, which are for two axes.

    They come together, unless one may stand `alone`: the other is then 0, as in Caffe.
    """
    tall, wide = f"{name}_h", f"{name}_w"
    given = [f for f in (tall, wide) if f in p]
    if not given:
        return _list(c, p, field, axes, default)
    c.check(field not in p, f"give {field}, or {tall} and {wide}, not both", p, given[0])
    c.check(axes == 2, f"{given[0]} is for two spatial axes; here are {axes}", p, given[0])
    other = tall if given[0] == wide else wide
    c.check(
        alone or len(given) == 2,
        f"{given[0]} is given without {other}",
        p,
        given[0],
        f"add {other}; Caffe would take 0",
    )
    return (p.whole(tall), p.whole(wide))


def _list(c: Layer, p: Message, field: str, axes: int, default: int | None) -> Ints:
    """None, one, or one per axis."""
    found = p.all(field)
    if not found:
        c.check(default is not None or axes == 0, f"{field} is missing", p)
        return (default or 0,) * axes
    if len(found) == 1:
        return (found[0],) * axes
    c.check(len(found) == axes, f"{len(found)} {field} for {axes} spatial axes", p, field)
    return tuple(found)


def _positive(c: Layer, p: Message, field: str, sizes: Ints, least: int) -> None:
    shown = field if field in p else field.split("_")[0] + "_h"
    for n in sizes:
        c.check(n >= least, f"{field} {n} must be at least {least}", p, shown)
        c.check(n <= MAX_SIZE, f"{field} {n} is too large", p, shown)


def flat_batch(c: Layer, x: Value, axis: int, rule: Callable[[Value], Value]) -> Value:
    """`rule` over x with the axes before `axis` as one batch axis, and put back after."""
    if axis == 1:
        return rule(x)
    shape = x.type.shape
    y = rule(c.reshape(x, (product(shape[:axis]), *shape[axis:])))
    return c.reshape(y, (*shape[:axis], *y.type.shape[1:]))
