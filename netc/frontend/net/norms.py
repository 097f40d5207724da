"""Words that bring x to a mean of 0 and a variance of 1 by statistics of its own.

Each is two passes over x that give a few numbers, and one that makes the result of them: an
element-wise formula over x as it is, which joins with what follows it.
"""

from __future__ import annotations

from netc.errors import GraphError
from netc.frontend.net.channels import grouped, per_channel
from netc.frontend.net.maker import Site
from netc.ir.dims import Dim
from netc.ir.formula import parse, show
from netc.ir.graph import Value
from netc.ir.ops.sources import Initializer
from netc.ir.ops.windows import axis_of, not_negative

ZERO = Initializer("constant", 0.0)
ONE = Initializer("constant", 1.0)


def layer_norm(
    site: Site,
    x: Value,
    axis: int = -1,
    eps: float = 1e-5,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = ONE,
    bias_init: Initializer = ZERO,
) -> Value:
    """w · (x − mean) / √(variance + eps) + b over the axes from `axis` on (Ba et al., 2016)."""
    eps, first = not_negative(float(eps), "eps"), axis_of(axis, x.type.rank)
    said, shape = "the sizes from `axis` on are", x.type.shape[first:]
    factor, shift = (
        _own(site, "w", shape, init, w, said),
        _own(site, "b", shape, bias_init, b, said),
    )
    centre, spread = _statistics(site, x, tuple(range(first, x.type.rank)))
    return _standard(site, x, centre, spread, eps, factor, shift)


def group_norm(
    site: Site,
    x: Value,
    groups: int,
    eps: float = 1e-5,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = ONE,
    bias_init: Initializer = ZERO,
) -> Value:
    """w · (x − mean) / √(variance + eps) + b over the channels of a group and all axes behind them.

    Each image has statistics of its own; w and b have one number per channel (Wu and He, 2018).
    """
    eps, channels = not_negative(float(eps), "eps"), x.type.shape[axis_of(1, x.type.rank)]
    if not isinstance(channels, int):
        raise GraphError(f"group_norm needs a known number of channels; x is {x.type}")
    size = grouped(channels, groups)
    factor, shift = _own_per_channel(site, x, w, b, init, bias_init)
    rows = site.make("reshape", x, shape=(0, groups, -1), inner="groups")
    ends = _statistics(site, rows, (2,))
    shape = (0, channels, *per_channel(x)[1:])
    centre, spread = (_spread(site, v, size, shape) for v in ends)
    return _standard(site, x, centre, spread, eps, factor, shift)


def instance_norm(
    site: Site,
    x: Value,
    eps: float = 1e-5,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = ONE,
    bias_init: Initializer = ZERO,
) -> Value:
    """w · (x − mean) / √(variance + eps) + b over the axes behind the channels.

    Each channel of each image has statistics of its own (Ulyanov et al., 2016).
    """
    eps = not_negative(float(eps), "eps")
    if x.type.rank < 3:
        raise GraphError(f"x is {x.type}; instance_norm needs an axis behind the channels")
    factor, shift = _own_per_channel(site, x, w, b, init, bias_init)
    centre, spread = _statistics(site, x, tuple(range(2, x.type.rank)))
    return _standard(site, x, centre, spread, eps, factor, shift)


def rms_norm(
    site: Site,
    x: Value,
    axis: int = -1,
    eps: float = 1e-6,
    w: Value | None = None,
    init: Initializer = ONE,
) -> Value:
    """w · x / √(mean of x² + eps) over the axes from `axis` on (Zhang and Sennrich, 2019)."""
    eps, first = not_negative(float(eps), "eps"), axis_of(axis, x.type.rank)
    factor = _own(site, "w", x.type.shape[first:], init, w, "the sizes from `axis` on are")
    square = site.make("pow", x, exponent=2.0, inner="square")
    axes = tuple(range(first, x.type.rank))
    mean = site.make("reduce_mean", square, axes=axes, keep=True, inner="mean")
    body = show(parse(f"x0 / sqrt(x1 + {eps!r})"))
    return site.make("mul", site.make("formula", x, mean, body=body, inner="standard"), factor)


def _own(
    site: Site,
    part: str,
    shape: tuple[Dim, ...],
    init: Initializer,
    given: Value | None,
    said: str,
) -> Value:
    """A parameter of exactly this shape, which is `said` to be what."""
    own = site.own(part, shape, init, given)
    if own.type.shape != shape:
        raise GraphError(f"`{part}` is {own.type}; {said} [{', '.join(map(str, shape))}]")
    return own


def _own_per_channel(
    site: Site,
    x: Value,
    w: Value | None,
    b: Value | None,
    init: Initializer,
    bias_init: Initializer,
) -> tuple[Value, Value]:
    shape, said = per_channel(x), "one number per channel is"
    return _own(site, "w", shape, init, w, said), _own(site, "b", shape, bias_init, b, said)


def _statistics(site: Site, x: Value, axes: tuple[int, ...]) -> tuple[Value, Value]:
    """Mean and variance over axes, which are kept with a size of 1."""
    centre = site.make("reduce_mean", x, axes=axes, keep=True, inner="mean")
    square = site.make("formula", x, centre, body="(x0 - x1) * (x0 - x1)", inner="square")
    return centre, site.make("reduce_mean", square, axes=axes, keep=True, inner="variance")


def _spread(site: Site, groups: Value, size: Dim, shape: tuple[Dim, ...]) -> Value:
    """One number a group [n, groups, 1] as one a channel, `size` of them alike."""
    every = site.make("tile", groups, axis=2, times=size, inner="channels")
    return site.make("reshape", every, shape=shape, inner="spread")


def _standard(
    site: Site, x: Value, centre: Value, spread: Value, eps: float, w: Value, b: Value
) -> Value:
    """w · (x − centre) / √(spread + eps) + b: the word's own value."""
    body = show(parse(f"(x0 - x1) / sqrt(x2 + {eps!r})"))
    y = site.make("formula", x, centre, spread, body=body, inner="standard")
    return site.make("add", site.make("mul", y, w, inner="mul"), b)
