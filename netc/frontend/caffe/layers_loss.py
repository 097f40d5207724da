"""Losses and metrics in their forward meaning, composed from plain ops.

A normalizer is never a number written into the graph: means and sums over axes give it, so the
batch may vary from run to run.
"""

from __future__ import annotations

import math

from netc.frontend.caffe.boxes import joined
from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import product
from netc.ir.graph import Value

_LOG_FLT_MIN = math.log(1.1754943508222875e-38)  # Caffe takes log(max(p, FLT_MIN))
_LOG_THRESHOLD = 1e-20  # kLOG_THRESHOLD


def _modes(p: Message, default: str) -> str:
    """`normalization`; or the old `normalize`; or the layer's default."""
    if "normalization" in p:
        return p.text("normalization")
    if "normalize" in p:
        return "VALID" if p.flag("normalize") else "BATCH_SIZE"
    return default


def _total(c: Layer, loss: Value, counts: Value | None, mode: str, outer: int) -> Value:
    """The sum of `loss` over what the mode divides by; `counts` is 1 where a label counts.

    The axes before `outer` are the batch.
    """
    axes = tuple(range(loss.type.rank))
    if mode == "VALID" and counts is not None:
        valid = c.b.maximum(c.b.reduce_sum(counts, axes=axes), c.constant(1.0))
        return c.b.div(c.b.reduce_sum(loss, axes=axes), valid)
    if mode == "NONE":
        return c.b.reduce_sum(loss, axes=axes)
    if mode == "BATCH_SIZE":
        summed = c.b.reduce_sum(loss, axes=axes[outer:]) if axes[outer:] else loss
        return c.b.reduce_mean(summed, axes=tuple(range(outer)))
    return c.b.reduce_mean(loss, axes=axes)


def _counted(c: Layer, p: Message, label: Value, loss: Value) -> tuple[Value, Value | None]:
    """`loss` with 0 where the label is the one to ignore, and where labels count.

    As in C, a label is cut towards 0 before it is compared.
    Both have one shape by now: see `_matched`.
    """
    if "ignore_label" not in p:
        return loss, None
    ignore = p.whole("ignore_label")
    size = c.b.abs(label) if ignore == 0 else label
    size = c.b.affine(label, scale=-1.0, shift=0.0) if ignore < 0 else size
    ignored = c.b.equal(c.b.floor(size), c.constant(float(abs(ignore))))
    counts = c.b.affine(ignored, scale=-1.0, shift=1.0)
    return c.b.where(counts, loss, c.constant(0.0)), counts


def _matched(c: Layer, loss: Value, label: Value, axis: int) -> tuple[Value, Value]:
    """Both in one shape: `loss` has an axis of size 1 that labels may lack."""
    if loss.type != label.type and label.type.rank < loss.type.rank:
        loss = c.b.reduce_sum(loss, axes=(axis,))
    return loss, _like(c, label, loss)


def _like(c: Layer, label: Value, x: Value) -> Value:
    return label if label.type == x.type else c.reshape(label, x.type.shape)


def _label_count(c: Layer, x: Value, label: Value, axis: int) -> None:
    places = product(d for i, d in enumerate(x.type.shape) if i != axis)
    given = label.type.count
    c.fits(given == places, f"{given} labels for {places} predictions")


@layer("SoftmaxWithLoss", bottoms=2, tops=(0, 2))
def softmax_loss(c: Layer) -> list[Value]:
    """−log softmax at the label, times the weight of its class where SegNet's fields give one,
    averaged; the softmax itself as second top."""
    p = c.param("loss_param")
    axis = c.axis(c.param("softmax_param").whole("axis"), c.param("softmax_param"))
    x, label = c.xs
    _label_count(c, x, label, axis)
    logs = c.b.log_softmax(x, axis=axis)
    floor = c.constant(_LOG_FLT_MIN)
    picked = c.b.maximum(c.b.pick(logs, label, axis=axis), floor)
    loss, label = _matched(c, c.b.affine(picked, scale=-1.0, shift=0.0), label, axis)
    loss = _by_class(c, p, loss, label, axis)
    loss, counts = _counted(c, p, label, loss)
    total = _total(c, loss, counts, _modes(p, "VALID"), axis)
    return [total, *(c.b.softmax(x, axis=axis) for _ in c.tops[1:])]


def _by_class(c: Layer, p: Message, loss: Value, label: Value, axis: int) -> Value:
    """Losses times the weights of their classes (caffe-segnet's softmax_loss_layer.cpp)."""
    if not p.flag("weight_by_label_freqs"):
        return loss
    weights, classes = p.all("class_weighting"), c.size(axis)
    wrong = f"{len(weights)} class_weighting for {classes} classes"
    c.check(len(weights) == classes, wrong, p, "class_weighting")
    table = joined(c, *(c.constant(w, (1,)) for w in weights), axis=0)
    return c.b.mul(loss, c.b.gather(table, label, axis=0))


@layer("SigmoidCrossEntropyLoss", bottoms=2, tops=(0, 2))
def sigmoid_loss(c: Layer) -> list[Value]:
    """Σ log(1 + eˣ) − x·t over the batch size, unless told otherwise."""
    p = c.param("loss_param")
    x, target = c.xs
    same = x.type.count == target.type.count
    c.fits(same, f"{target.type} targets for {x.type}")
    target = _like(c, target, x)
    loss = c.b.sub(c.b.softplus(x), c.b.mul(x, target))
    loss, counts = _counted(c, p, target, loss)
    total = _total(c, loss, counts, _modes(p, "BATCH_SIZE"), 1)
    return [total, *(c.b.sigmoid(x) for _ in c.tops[1:])]


def _per_item(c: Layer, x: Value) -> Value:
    """Sums over all axes but the first."""
    axes = tuple(range(1, x.type.rank))
    return c.b.reduce_sum(x, axes=axes) if axes else x


def _item_mean(c: Layer, x: Value, scale: float = 1.0) -> Value:
    """Σx / N, times `scale`."""
    mean = c.b.reduce_mean(_per_item(c, x), axes=(0,))
    return mean if scale == 1 else c.b.affine(mean, scale=scale, shift=0.0)


@layer("EuclideanLoss", bottoms=2, tops=(0, 1))
def euclidean_loss(c: Layer) -> Value:
    """Σ(a − b)² / 2N."""
    a, b = c.xs
    c.fits(a.type.count == b.type.count, f"{a.type} and {b.type} differ in size")
    d = c.b.sub(a, _like(c, b, a))
    return _item_mean(c, c.b.mul(d, d), 0.5)


@layer("SmoothL1Loss", bottoms=(2, 4), tops=(0, 1))
def smooth_l1_loss(c: Layer) -> Value:
    """Σ s(w_out · s(w_in · (a − b))) / N: .5(σd)² near 0, |d| − .5/σ² beyond (Fast R-CNN)."""
    p = c.param("smooth_l1_loss_param")
    sigma = p.real("sigma")
    square = sigma * sigma
    c.check(0 < square < math.inf, f"sigma {sigma} must not be 0, nor infinite", p, "sigma")
    d = c.b.sub(c.xs[0], c.xs[1])
    d = c.b.mul(d, c.xs[2]) if len(c.xs) > 2 else d
    far = c.b.affine(c.b.abs(d), scale=1.0, shift=-0.5 / square)
    near = c.b.affine(c.b.mul(d, d), scale=0.5 * square, shift=0.0)
    y = c.b.where(c.b.threshold(far, level=0.5 / square), far, near)
    return _item_mean(c, c.b.mul(y, c.xs[3]) if len(c.xs) > 3 else y)


@layer("HingeLoss", bottoms=2, tops=(0, 1))
def hinge_loss(c: Layer) -> Value:
    """Σ max(0, 1 − δx) over N, or of its square; δ is 1 at the label and −1 elsewhere."""
    x = c.b.flatten(c.x, axis=1) if c.x.type.rank > 2 else c.x
    squared = c.param("hinge_loss_param").text("norm") == "L2"

    def margin(v: Value, sign: float) -> Value:
        y = c.b.relu(c.b.affine(v, scale=sign, shift=1.0))
        return c.b.mul(y, y) if squared else y

    _label_count(c, x, c.xs[1], 1)
    own = c.b.pick(x, c.xs[1], axis=1)
    swap = c.b.sub(margin(own, -1.0), margin(own, 1.0))
    total = c.b.add(c.b.reduce_sum(margin(x, 1.0), axes=(1,), keep=True), swap)
    return _item_mean(c, total)


@layer("ContrastiveLoss", bottoms=3, tops=(0, 1))
def contrastive_loss(c: Layer) -> Value:
    """Σ (similar ? d² : max(0, m − d)²) / 2N; the legacy form has max(0, m − d²)."""
    p = c.param("contrastive_loss_param")
    a, b, similar = c.xs
    c.fits(a.type == b.type, f"{a.type} and {b.type} differ")
    difference = c.b.sub(a, b)
    square = _per_item(c, c.b.mul(difference, difference))
    margin = p.real("margin")
    if p.flag("legacy_version"):
        apart = c.b.relu(c.b.affine(square, scale=-1.0, shift=margin))
    else:
        gap = c.b.relu(c.b.affine(c.b.sqrt(square), scale=-1.0, shift=margin))
        apart = c.b.mul(gap, gap)
    c.fits(similar.type.count == square.type.count, f"{similar.type} labels for {a.type}")
    similar = c.b.floor(c.b.abs(_like(c, similar, square)))  # cut towards 0, as in C
    return _item_mean(c, c.b.where(similar, square, apart), 0.5)


@layer("MultinomialLogisticLoss", bottoms=2, tops=(0, 1))
def multinomial_loss(c: Layer) -> Value:
    """−Σ log max(p, 1e-20) at the label, over N."""
    x = c.b.flatten(c.x, axis=1) if c.x.type.rank > 2 else c.x
    _label_count(c, x, c.xs[1], 1)
    p = c.b.maximum(c.b.pick(x, c.xs[1], axis=1), c.constant(_LOG_THRESHOLD))
    return _item_mean(c, c.b.log(p), -1.0)


@layer("InfogainLoss", bottoms=(2, 3), tops=(0, 2))
def infogain_loss(c: Layer) -> list[Value]:
    """−Σ H[label, l] · log softmax(x)[l], averaged; H is the third bottom."""
    if len(c.xs) < 3:
        raise c.unsupported("its matrix is in a file", "give the matrix as third bottom")
    p, own = c.param("loss_param"), c.param("infogain_loss_param")
    axis = c.axis(own.whole("axis"), own)
    x, label, matrix = c.xs
    _label_count(c, x, label, axis)
    classes = c.size(axis)
    c.fits(matrix.type.count == classes * classes, f"{matrix.type} for {classes} classes")
    prob = c.b.softmax(x, axis=axis)
    logs = c.b.log(c.b.maximum(prob, c.constant(_LOG_THRESHOLD)))
    last = (*(i for i in range(x.type.rank) if i != axis), axis)
    logs = c.b.transpose(logs, perm=last)
    rows = c.b.gather(c.b.reshape(matrix, shape=(classes, classes)), label, axis=0)
    weighted = c.b.mul(_like(c, rows, logs), logs)
    loss = c.b.affine(c.b.reduce_sum(weighted, axes=(-1,)), scale=-1.0, shift=0.0)
    loss, counts = _counted(c, p, _like(c, label, loss), loss)
    total = _total(c, loss, counts, _modes(p, "VALID"), axis)
    return [total, *(prob for _ in c.tops[1:])]


@layer("Accuracy", bottoms=2, tops=(1, 2))
def accuracy(c: Layer) -> list[Value]:
    """The share of labels among the top k; per class as second top."""
    p = c.param("accuracy_param")
    ignore = p.whole("ignore_label") if "ignore_label" in p else None
    axis = c.axis(p.whole("axis"), p)
    rest = {"top_k": p.whole("top_k"), "axis": axis, "ignore": ignore}
    made = [c.b.accuracy(*c.xs, **rest)]
    return made + [c.b.accuracy_per_class(*c.xs, **rest) for _ in c.tops[1:]]


@layer("HDF5Output", bottoms=2, tops=0)
def hdf5_output(c: Layer) -> list[Value]:
    """Caffe writes its bottoms to a file; a compiled net does not."""
    return []
