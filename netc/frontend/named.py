"""The words of the language with what each gives, for type checkers and editors.

At run time `netc.frontend.python` makes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from netc.frontend.python import Tensor
from netc.ir.ops.sources import Initializer

One: TypeAlias = Callable[..., Tensor]
Several: TypeAlias = Callable[..., tuple[Tensor, ...]]
Drawn: TypeAlias = Callable[..., Initializer]

__all__ = [
    "abs",
    "accuracy",
    "accuracy_per_class",
    "add",
    "affine",
    "all_gather",
    "all_reduce",
    "argmax",
    "avg_pool",
    "batch_norm",
    "bias",
    "bilinear",
    "cast",
    "clip",
    "compact",
    "concat",
    "const",
    "constant",
    "conv",
    "conv_transpose",
    "crop",
    "div",
    "dropout",
    "elu",
    "embed",
    "equal",
    "exp",
    "fc",
    "flatten",
    "floor",
    "gather",
    "gaussian",
    "global_avg_pool",
    "global_max_pool",
    "im2col",
    "log",
    "log_softmax",
    "lrn",
    "lstm",
    "max",
    "max_pool",
    "max_pool_index",
    "maximum",
    "min",
    "minimum",
    "msra",
    "mul",
    "pad",
    "param",
    "pick",
    "positive_unitball",
    "pow",
    "prelu",
    "prior_box",
    "random_normal",
    "random_uniform",
    "reduce_max",
    "reduce_mean",
    "reduce_sum",
    "relu",
    "reshape",
    "resize_bilinear",
    "resize_nearest",
    "rnn",
    "scale",
    "sigmoid",
    "slice",
    "softmax",
    "softplus",
    "split",
    "sqrt",
    "stochastic_pool",
    "sub",
    "swish",
    "tanh",
    "threshold",
    "tile",
    "transpose",
    "uniform",
    "unpool",
    "where",
    "xavier",
]

abs: One
accuracy: One
accuracy_per_class: One
add: One
affine: One
all_gather: One
all_reduce: One
argmax: One
avg_pool: One
batch_norm: One
bias: One
bilinear: Drawn
cast: One
clip: One
compact: Several
concat: One
const: One
constant: Drawn
conv: One
conv_transpose: One
crop: One
div: One
dropout: One
elu: One
embed: One
equal: One
exp: One
fc: One
flatten: One
floor: One
gather: One
gaussian: Drawn
global_avg_pool: One
global_max_pool: One
im2col: One
log: One
log_softmax: One
lrn: One
lstm: One
max: One
max_pool: One
max_pool_index: One
maximum: One
min: One
minimum: One
msra: Drawn
mul: One
pad: One
param: One
pick: One
positive_unitball: Drawn
pow: One
prelu: One
prior_box: One
random_normal: One
random_uniform: One
reduce_max: One
reduce_mean: One
reduce_sum: One
relu: One
reshape: One
resize_bilinear: One
resize_nearest: One
rnn: One
scale: One
sigmoid: One
slice: One
softmax: One
softplus: One
split: Several
sqrt: One
stochastic_pool: One
sub: One
swish: One
tanh: One
threshold: One
tile: One
transpose: One
uniform: Drawn
unpool: One
where: One
xavier: Drawn
