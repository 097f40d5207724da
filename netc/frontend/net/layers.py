"""Words that own parameters, or stand for several nodes.

Each is a function: its signature is its arguments, `Value` parameters without a default are the
tensors in front, and those with one may be given as keywords to share parameters by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from netc.errors import GraphError
from netc.frontend.net.attention import attention
from netc.frontend.net.channels import grouped, per_channel
from netc.frontend.net.maker import Site
from netc.frontend.net.norms import ONE, ZERO, group_norm, instance_norm, layer_norm, rms_norm
from netc.frontend.net.pieces import slice_, split
from netc.frontend.net.recurrent import lstm, rnn
from netc.ir.dims import product
from netc.ir.graph import Value
from netc.ir.ops.sources import Initializer
from netc.ir.ops.windows import Ints, axis_of
from netc.ir.types import DType, TensorType

XAVIER = Initializer("xavier")
QUARTER = Initializer("constant", 0.25)  # PReLU's slope at the start (He et al., 2015)


def _weights_shape(
    x: Value, out: int | None, kernel: Ints | int | None, w: Value | None
) -> tuple[int, Ints]:
    """Output channels and kernel, given or read from given weights."""
    if w is not None:
        return 0, ()
    if out is None:
        raise GraphError("`out`, the number of output channels, is not given")
    if kernel is None:
        raise GraphError("`kernel` is not given")
    if out < 1:
        raise GraphError(f"`out` is {out}; at least 1 channel is needed")
    if x.type.rank < 3:
        raise GraphError(f"x is {x.type}; a convolution needs an axis behind the channels")
    axes = x.type.rank - 2
    return out, (kernel,) * axes if isinstance(kernel, int) else kernel


def conv(
    site: Site,
    x: Value,
    out: int | None = None,
    kernel: Ints | None = None,
    stride: Ints = (),
    pad: Ints = (),
    dilation: Ints = (),
    groups: int = 1,
    bias: bool = True,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
) -> Value:
    """Convolution with weights of its own: w[out, channels/groups, kernel…] and b[out]."""
    out_, kernel_ = _weights_shape(x, out, kernel, w)
    shape = (out_, grouped(x.type.shape[1], groups), *kernel_) if w is None else w.type.shape
    weights = [site.own("w", shape, init, w)]
    if bias or b is not None:
        weights.append(site.own("b", shape[:1], bias_init, b))
    return site.make("conv", x, *weights, stride=stride, pad=pad, dilation=dilation, groups=groups)


def conv_transpose(
    site: Site,
    x: Value,
    out: int | None = None,
    kernel: Ints | None = None,
    stride: Ints = (),
    pad: Ints = (),
    dilation: Ints = (),
    groups: int = 1,
    bias: bool = True,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
) -> Value:
    """Transposed convolution with weights of its own: w[channels, out/groups, kernel…], b[out]."""
    out_, kernel_ = _weights_shape(x, out, kernel, w)
    shape = (x.type.shape[1], grouped(out_, groups), *kernel_) if w is None else w.type.shape
    weights = [site.own("w", shape, init, w)]
    if bias or b is not None:
        weights.append(site.own("b", (shape[1] * groups,), bias_init, b))
    return site.make(
        "conv_transpose", x, *weights, stride=stride, pad=pad, dilation=dilation, groups=groups
    )


def fc(
    site: Site,
    x: Value,
    out: int | None = None,
    axis: int = 1,
    bias: bool = True,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
) -> Value:
    """Inner product with weights of its own: x from `axis` on times w[out, inner], plus b[out].

    1 is all axes behind the batch, as in Caffe; `axis=-1` is the last alone, at every place before
    it, as in a transformer's [N, T, C].
    """
    if w is None and out is None:
        raise GraphError("`out`, the number of outputs, is not given")
    inner = product(x.type.shape[axis_of(axis, x.type.rank) :])
    if w is None and not isinstance(inner, int):
        help = _known_inputs(x)
        raise GraphError(f"fc needs a known number of inputs; x is {x.type}", help=help)
    shape = (out or 0, inner) if w is None else w.type.shape
    weights = [site.own("w", shape, init, w)]
    if bias or b is not None:
        weights.append(site.own("b", shape[:1], bias_init, b))
    return site.make("fc", x, *weights, axis=axis)


def _known_inputs(x: Value) -> str:
    """What to do where an inner product would take sizes with symbols as inputs."""
    shape = x.type.shape
    first = max(i for i, d in enumerate(shape) if not isinstance(d, int)) + 1
    if first == len(shape):
        return "fix the image size, or use a convolution or `global_avg_pool`"
    inputs = product(shape[first:])
    return f"`axis={first}` fits: it takes {inputs} inputs at every place of the axes before it"


def prelu(
    site: Site,
    x: Value,
    shared: bool = False,
    slope: Value | None = None,
    init: Initializer = QUARTER,
) -> Value:
    """x above zero, slope · x below; one learned slope per channel, or one for all if `shared`."""
    own = site.own("slope", () if shared else per_channel(x), init, slope)
    return site.make("prelu", x, own)


def batch_norm(
    site: Site,
    x: Value,
    eps: float = 1e-5,
    mean: Value | None = None,
    variance: Value | None = None,
) -> Value:
    """(x − mean) / √(variance + eps) per channel; `scale` after it gives the affine part.

    A tensor of one axis is one channel, as in Caffe.
    """
    shape = per_channel(x) if x.type.rank > 1 else (1,)
    centre = site.own("mean", shape, ZERO, mean)
    spread = site.own("variance", shape, ONE, variance)
    return site.make("batch_norm", x, centre, spread, eps=eps)


def scale(
    site: Site,
    x: Value,
    bias: bool = True,
    axis: int = 1,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = ONE,
    bias_init: Initializer = ZERO,
) -> Value:
    """w · x + b with one learned w and b per channel."""
    shape = per_channel(x, axis)
    factor = site.own("w", shape, init, w)
    if not bias and b is None:
        return site.make("mul", x, factor)
    y = site.make("mul", x, factor, inner="mul")
    return site.make("add", y, site.own("b", shape, bias_init, b))


def bias(
    site: Site, x: Value, axis: int = 1, b: Value | None = None, init: Initializer = ZERO
) -> Value:
    """x + b with one learned b per channel."""
    return site.make("add", x, site.own("b", per_channel(x, axis), init, b))


def embed(
    site: Site,
    x: Value,
    count: int,
    out: int,
    bias: bool = True,
    w: Value | None = None,
    b: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
) -> Value:
    """Row x of a learned table w[count, out], + b."""
    table = site.own("w", (count, out), init, w)
    if not bias and b is None:
        return site.make("gather", table, x)
    y = site.make("gather", table, x, inner="gather")
    return site.make("add", y, site.own("b", (out,), bias_init, b))


def dropout(site: Site, x: Value, ratio: float = 0.5, seed: int = 0, always: bool = False) -> Value:
    """In training, or `always`, drops elements and scales the rest; otherwise x itself."""
    if not 0 <= ratio < 1:
        raise GraphError(f"ratio {ratio} must be at least 0 and below 1")
    if site.phase == "test" and not always:
        return x
    return site.make("dropout", x, ratio=ratio, seed=seed)


def param(site: Site, type: TensorType, init: Initializer = XAVIER) -> Value:
    """A parameter by itself, to share between words: `conv(x, w=weights)`."""
    return site.maker.param(site.name, type, init)


def tensor(site: Site, values: Any, type: DType | None = None) -> Value:
    """Numbers in lists within lists, or an array of NumPy, as a constant tensor; lists are f32."""
    return site.constant(values, type, part="")


LAYERS: tuple[Callable[..., Any], ...] = (
    conv,
    conv_transpose,
    fc,
    prelu,
    batch_norm,
    layer_norm,
    group_norm,
    instance_norm,
    rms_norm,
    scale,
    bias,
    embed,
    attention,
    dropout,
    slice_,
    split,
    param,
    tensor,
    rnn,
    lstm,
)
