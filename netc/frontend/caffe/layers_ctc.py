"""CTCGreedyDecoder: the labels that the likeliest class of each step spells."""

from __future__ import annotations

from netc.frontend.caffe.boxes import MOST, rising
from netc.frontend.caffe.layer import Layer, layer
from netc.ir.dims import product
from netc.ir.graph import Value


@layer("CTCGreedyDecoder", bottoms=(2, 3), tops=(1, 2))
def ctc_greedy_decoder(c: Layer) -> list[Value]:
    """Labels [n, t, 1, 1], −1 behind the last, and the sum of what their steps lack, [n, 1, 1, 1],
    from scores [t, n, classes] and indicators [t, n] (ctc_decoder_layer.cpp).

    A sequence ends before the first indicator but the first that is 0. Of its steps' best classes
    blanks are left out, and, unless `ctc_merge_repeated` is false, those equal to the one before.
    The sum is −Σ of the best scores. A third bottom, the labels that are right, is not read.
    """
    if len(c.xs) == 3 and len(c.tops) == 2:
        raise c.unsupported("its second top is an accuracy, of which forks have two kinds")
    c.check(c.x.type.rank == 3, f"bottom 0 is {c.x.type}; [t, n, classes] is needed")
    (steps, items, classes), indicators = (c.size(0), c.shape[1], c.size(2)), _indicators(c)
    c.check(0 < steps < MOST and classes > 0, f"bottom 0 is {c.x.type}: it holds no scores")
    p = c.param("ctc_decoder_param")
    blank = p.whole("blank_index")
    c.check(blank < classes, f"blank_index {blank} is none of {classes} classes", p, "blank_index")
    blank = classes - 1 if blank < 0 else blank
    best = c.reshape(c.b.argmax(c.x, axis=2, first=True), (steps, items))
    place = c.b.iota(best, axis=0)
    body = f"select(x0 == 0, select(x1 > 0, -x1, {-steps}), {-steps})"
    end = c.b.reduce_max(c.b.formula(indicators, place, body=body), axes=(0,), keep=True)
    read = c.b.formula(place, end, body="select(x0 + x1 < 0, 1, 0)")  # end: minus a place
    said = c.b.formula(best, read, body=f"select(x0 == {blank}, 0, x1)")
    if p.flag("ctc_merge_repeated"):
        said = c.b.formula(best, _before(c, best), said, body="select(x0 == x1, 0, x2)")
    labels = _in_front(c, best, said)
    if len(c.tops) == 1:
        return [labels]
    score = c.reshape(c.b.argmax(c.x, axis=2, values=True), (steps, items))
    lack = c.b.affine(c.b.where(read, score, c.constant(0.0)), scale=-1.0)
    return [labels, c.reshape(c.b.reduce_sum(lack, axes=(0,)), (items, 1, 1, 1))]


def _indicators(c: Layer) -> Value:
    """The second bottom as [t, n]: Caffe's [t, n, 1, 1] too."""
    given = c.xs[1].type
    fits = given.rank >= 2 and given.shape[:2] == c.shape[:2] and product(given.shape[2:]) == 1
    c.fits(fits, f"bottom 0 is {c.x.type}, bottom 1 is {given}; one indicator a step is needed")
    return c.reshape(c.xs[1], c.shape[:2])


def _before(c: Layer, x: Value) -> Value:
    """The number of the step before, −1 for the first."""
    steps, items = x.type.shape
    first = c.constant(-1.0, (1, items))
    if steps == 1:
        return first
    return c.b.concat(first, c.b.slice(x, axis=0, start=0, stop=steps - 1), axis=0)


def _in_front(c: Layer, best: Value, said: Value) -> Value:
    """The labels that are said, of each item one behind the other, and −1."""
    best, said = (c.b.transpose(x, perm=(1, 0)) for x in (best, said))
    items, steps = best.type.shape
    assert isinstance(steps, int)
    place = c.b.where(said, c.b.iota(said, axis=1), c.constant(float(steps)))
    place = rising(c, place, steps)
    real = c.b.formula(place, body=f"select(x0 < {steps}, 1, 0)")
    labels = c.b.where(real, c.b.gather(best, place, axis=1, batch=1), c.constant(-1.0))
    return c.reshape(labels, (items, steps, 1, 1))
