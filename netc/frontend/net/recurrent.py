"""Recurrent words, unrolled over time: x is [time, batch, …], as in Caffe's RNN and LSTM.

`cont` [time, batch] is 0 where a sequence begins and 1 where it goes on; without it, every
sequence goes on. The state is that given, or zero, at the start of every run; with `reverse` the
last step is the first, and the results stay in the order of x. With `states` the last state
follows as further results, which the next run may be given.
"""

from __future__ import annotations

from typing import Any

from netc.errors import GraphError
from netc.frontend.net.maker import Site
from netc.ir.dims import product
from netc.ir.graph import Value
from netc.ir.ops.sources import Initializer

MAX_STEPS = 4096
XAVIER = Initializer("xavier")
ZERO = Initializer("constant", 0.0)


class _Unrolled:
    """The steps of one recurrent word; its nodes are named below it."""

    def __init__(self, site: Site, x: Value, out: int, cont: Value | None, reverse: bool) -> None:
        self.site, self.x, self.out, self.cont_of, self.reverse = site, x, out, cont, reverse
        steps = x.type.shape[0] if x.type.rank >= 3 else None
        if not isinstance(steps, int) or not 1 <= steps <= MAX_STEPS:
            help = f"x is [time, batch, …], its time a number from 1 to {MAX_STEPS}"
            raise GraphError(f"{x.type} cannot be unrolled over time", help=help)
        if out < 1:
            raise GraphError(f"`out` is {out}; at least 1 is needed")
        if cont is not None and cont.type.shape != x.type.shape[:2]:
            raise GraphError(f"cont is {cont.type}, x is {x.type}: both start with time and batch")
        self.steps = steps

    @property
    def order(self) -> range:
        """The steps, in the order in which they are made."""
        return range(self.steps)[:: -1 if self.reverse else 1]

    def start(self, name: str, given: Value | None) -> Value | None:
        """A state that is given, where it is one of this word."""
        shape = (self.x.type.shape[1], self.out)
        if given is not None and given.type.shape != shape:
            wanted = ", ".join(map(str, shape))
            raise GraphError(f"`{name}` is {given.type}; the state is [{wanted}], batch and `out`")
        return given

    def make(self, op: str, *xs: Value, inner: str, **attributes: Any) -> Value:
        """One node below the word."""
        return self.site.make(op, *xs, inner=inner, **attributes)

    def projected(self, gates: int, init: Initializer, bias_init: Initializer) -> Value:
        """w_x · x + b for all steps at once: [time, batch, gates · out]."""
        rows = gates * self.out
        w = self.site.own("w_x", (rows, product(self.x.type.shape[2:])), init)
        return self.make("fc", self.x, w, self.site.own("b", (rows,), bias_init), axis=2, inner="x")

    def at(self, x: Value, t: int) -> Value:
        """Step t of x, as [batch, …]."""
        cut = self.make("slice", x, axis=0, start=t, stop=t + 1, inner="slice")
        return self.make("reshape", cut, shape=x.type.shape[1:], inner="step")

    def kept(self, state: Value, t: int) -> Value:
        """The state with which step t begins: 0 where another sequence ends before it."""
        begins = t + 1 if self.reverse else t
        if self.cont_of is None or begins == self.steps:
            return state
        cut = self.make("slice", self.cont_of, axis=0, start=begins, stop=begins + 1, inner="cut")
        cont = self.make("transpose", cut, perm=(1, 0), inner="cont")
        return self.make("mul", state, cont, inner="kept")

    def stacked(self, xs: list[Value]) -> Value:
        """[batch, out] of every step as [time, batch, out]: the word's own value."""
        ordered = xs[:: -1 if self.reverse else 1]
        rows = [self.make("reshape", x, shape=(1, *x.type.shape), inner="row") for x in ordered]
        return self.site.make("concat", *rows, axis=0)


def rnn(
    site: Site,
    x: Value,
    out: int,
    cont: Value | None = None,
    h: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
    reverse: bool = False,
    states: bool = False,
) -> Value | tuple[Value, ...]:
    """h = tanh(w_h · h + w_x · x + b), out = tanh(w_o · h + b_o), at every step of x.

    `h` [batch, out] is the state before the first step, and with `states` the second result.
    """
    u = _Unrolled(site, x, out, cont, reverse)
    xs = u.projected(1, init, bias_init)
    w_h = site.own("w_hh", (out, out), init)
    w_o = site.own("w_ho", (out, out), init)
    b_o = site.own("b_o", (out,), bias_init)
    h = u.start("h", h)
    outs = []
    for t in u.order:
        y = u.at(xs, t)
        if h is not None:
            y = u.make("add", y, u.make("fc", u.kept(h, t), w_h, inner="h"), inner="sum")
        h = u.make("tanh", y, inner="state")
        outs.append(u.make("tanh", u.make("fc", h, w_o, b_o, inner="o"), inner="out"))
    return _results(u.stacked(outs), h, states=states)


def lstm(
    site: Site,
    x: Value,
    out: int,
    cont: Value | None = None,
    h: Value | None = None,
    c: Value | None = None,
    init: Initializer = XAVIER,
    bias_init: Initializer = ZERO,
    reverse: bool = False,
    states: bool = False,
) -> Value | tuple[Value, ...]:
    """Gates i, f, o, g; c = σ(f) · c + σ(i) · tanh(g), h = σ(o) · tanh(c), at every step of x.

    `h` and `c` [batch, out] are the state before the first step, and with `states` the second and
    third result.
    """
    u = _Unrolled(site, x, out, cont, reverse)
    xs = u.projected(4, init, bias_init)
    w_h = site.own("w_h", (4 * out, out), init)
    h, c = u.start("h", h), u.start("c", c)
    outs = []
    for t in u.order:
        gates = u.at(xs, t)
        if h is not None:
            gates = u.make("add", gates, u.make("fc", u.kept(h, t), w_h, inner="h"), inner="gates")
        c, h = _lstm_step(u, gates, c, t)
        outs.append(h)
    return _results(u.stacked(outs), h, c, states=states)


def _results(y: Value, *last: Value | None, states: bool) -> Value | tuple[Value, ...]:
    return (y, *(v for v in last if v is not None)) if states else y


def _lstm_step(u: _Unrolled, gates: Value, cell: Value | None, t: int) -> tuple[Value, Value]:
    n = u.out
    i, f, o, g = (
        u.make("slice", gates, axis=1, start=k * n, stop=(k + 1) * n, inner="ifog"[k])
        for k in range(4)
    )
    entering = u.make("mul", _sigmoid(u, i), u.make("tanh", g, inner="tanh"), inner="in")
    new = entering
    if cell is not None:
        kept = u.make("mul", _sigmoid(u, f), u.kept(cell, t), inner="forget")
        new = u.make("add", kept, entering, inner="cell")
    return new, u.make("mul", _sigmoid(u, o), u.make("tanh", new, inner="tanh"), inner="hidden")


def _sigmoid(u: _Unrolled, x: Value) -> Value:
    return u.make("sigmoid", x, inner="sigmoid")
