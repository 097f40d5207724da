"""RNN, LSTM, LSTMUnit and the fork's Lstm, unrolled over time.

The state starts from zero (or from the bottoms `expose_hidden` adds) at every run; Caffe carries
it over from the run before.
"""

from __future__ import annotations

from netc.frontend.caffe.layer import Layer, layer
from netc.frontend.caffe.message import Message
from netc.ir.dims import product
from netc.ir.graph import Value

MAX_STEPS = 4096


class _Steps:
    """Values by time step, and a layer's size."""

    def __init__(self, c: Layer, param: str) -> None:
        self.c, self.p = c, c.param(param)
        self.hidden = self.p.whole("num_output")
        c.check(self.hidden > 0, "num_output must be at least 1", self.p, "num_output")
        self.steps = c.size(0)
        c.check(1 <= self.steps <= MAX_STEPS, f"{self.steps} steps; 1 to {MAX_STEPS} are allowed")

    def filler(self, kind: str) -> Message | None:
        """`weight_filler` or `bias_filler`."""
        found: Message | None = self.p.get(f"{kind}_filler")
        return found

    def at(self, x: Value, t: int) -> Value:
        """Step t of x, as [N, …]."""
        b = self.c.b
        cut = b.slice(x, axis=0, start=t, stop=t + 1) if self.steps > 1 else x
        return self.c.reshape(cut, x.type.shape[1:])

    def stacked(self, xs: list[Value]) -> Value:
        """[N, hidden] of every step as [T, N, hidden]."""
        b = self.c.b
        rows = [self.with_time(x) for x in xs]
        return rows[0] if len(rows) == 1 else b.concat(*rows, axis=0)

    def with_time(self, x: Value) -> Value:
        """[N, hidden] as [1, N, hidden]."""
        return self.c.reshape(x, (1, *x.type.shape))


class _Unrolled(_Steps):
    """What RNN and LSTM share: x and cont by time step, the static input, the start."""

    def __init__(self, c: Layer, states: int) -> None:
        super().__init__(c, "recurrent_param")
        exposed = states if self.p.flag("expose_hidden") else 0
        self.has_static = len(c.xs) - exposed == 3
        extra = f"bottoms for x, cont, an optional static input and {exposed} states"
        c.check(len(c.xs) - exposed in (2, 3), f"{len(c.xs)} {extra}")
        c.check(len(c.tops) == 1 + exposed, f"{1 + exposed} tops are given, not {len(c.tops)}")
        cont = c.xs[1].type
        good = c.x.type.rank >= 2 and cont.shape == c.shape[:2]
        c.check(good, f"cont is {cont}, x is {c.x.type}: both start with time and batch")
        self.start = c.xs[-exposed:] if exposed else []

    def projected(self, gates: int) -> Value:
        """W_x·x + b (+ W_static·static), for all steps at once: [T, N, gates · hidden]."""
        c, rows = self.c, gates * self.hidden
        w = c.weight("w_x", (rows, product(c.shape[2:])), self.filler("weight"))
        y = c.b.fc(c.x, w, c.weight("b", (rows,), self.filler("bias")), axis=2)
        if not self.has_static:
            return y
        static = c.xs[2]
        inner = product(static.type.shape[1:])
        fixed = c.b.fc(static, c.weight("w_static", (rows, inner), self.filler("weight")))
        return c.b.add(y, c.b.reshape(fixed, shape=(1, -1, rows)))

    def cont(self, t: int) -> Value:
        """Whether each sequence goes on at step t, as [N, 1]."""
        b, cont = self.c.b, self.c.xs[1]
        cut = b.slice(cont, axis=0, start=t, stop=t + 1) if self.steps > 1 else cont
        return b.transpose(cut, perm=(1, 0))

    def initial(self, index: int) -> Value | None:
        """The state to start from, as [N, hidden]; None stands for zeros."""
        if not self.start:
            return None
        return self.c.reshape(self.start[index], self.start[index].type.shape[1:])


@layer("RNN", bottoms=(2, 4), tops=(1, 2))
def rnn(c: Layer) -> list[Value]:
    """h = tanh(W_hh·(cont·h) + W_xh·x + b), o = tanh(W_ho·h + b_o)."""
    u = _Unrolled(c, 1)
    b, n = c.b, u.hidden
    xs = u.projected(1)
    w_hh = c.weight("w_hh", (n, n), u.filler("weight"))
    w_ho = c.weight("w_ho", (n, n), u.filler("weight"))
    b_o = c.weight("b_o", (n,), u.filler("bias"))
    h, outs = u.initial(0), []
    for t in range(u.steps):
        y = u.at(xs, t)
        if h is not None:
            y = b.add(y, b.fc(b.mul(h, u.cont(t)), w_hh))
        h = b.tanh(y)
        outs.append(b.tanh(b.fc(h, w_ho, b_o)))
    assert h is not None, "there is at least one step"
    return [u.stacked(outs), *(u.with_time(h) for _ in c.tops[1:])]


@layer("LSTM", bottoms=(2, 5), tops=(1, 3))
def lstm(c: Layer) -> list[Value]:
    """Gates i, f, o, g; c = cont·σ(f)·c + σ(i)·tanh(g); h = σ(o)·tanh(c)."""
    u = _Unrolled(c, 2)
    b, n = c.b, u.hidden
    xs = u.projected(4)
    w_h = c.weight("w_h", (4 * n, n), u.filler("weight"))
    h, cell, outs = u.initial(0), u.initial(1), []
    for t in range(u.steps):
        gates, cont = u.at(xs, t), u.cont(t) if h is not None else None
        if h is not None:
            gates = b.add(gates, b.fc(b.mul(h, cont), w_h))
        cell, h = _lstm_step(c, gates, cell, cont, n)
        outs.append(h)
    assert h, "there is at least one step"
    assert cell, "there is at least one step"
    return [u.stacked(outs), *(u.with_time(v) for v in (h, cell)[: len(c.tops) - 1])]


def _lstm_step(
    c: Layer, gates: Value, cell: Value | None, cont: Value | None, n: int
) -> tuple[Value, Value]:
    """One step on [N, 4n] gates and an [N, n] cell. A cell that is None holds zeros; where cont is
    None, every sequence goes on."""
    b = c.b
    i, f, o, g = (b.slice(gates, axis=1, start=k * n, stop=(k + 1) * n) for k in range(4))
    new = b.mul(b.sigmoid(i), b.tanh(g))
    if cell is not None:
        kept = b.sigmoid(f) if cont is None else b.mul(b.sigmoid(f), cont)
        new = b.add(b.mul(kept, cell), new)
    return new, b.mul(b.sigmoid(o), b.tanh(new))


@layer("Lstm")
def lstm_without_cont(c: Layer) -> Value:
    """The LSTM of one bottom [T, N, …], each sequence of which starts from zero (Junhyuk Oh's
    caffe-lstm, as CTPN has it)."""
    u = _Steps(c, "lstm_param")
    b, n = c.b, u.hidden
    c.check("batch_size" not in u.p, "netc reads no batch_size", u.p, "batch_size")
    c.check(c.x.type.rank == 3, f"Lstm needs 3 axes, time and batch first, not {c.x.type}")
    w_i = c.weight("w_i", (4 * n, c.size(2)), u.filler("weight"))
    w_h = c.weight("w_h", (4 * n, n), u.filler("weight"))
    xs = b.fc(c.x, w_i, c.weight("b", (4 * n,), u.filler("bias")), axis=2)
    cell, h = _lstm_step(c, u.at(xs, 0), None, None, n)
    outs = [h]
    for t in range(1, u.steps):
        gates = b.add(u.at(xs, t), b.fc(h, w_h))
        cell, h = _lstm_step(c, gates, cell, None, n)
        outs.append(h)
    return u.stacked(outs)


@layer("LSTMUnit", bottoms=3, tops=2)
def lstm_unit(c: Layer) -> list[Value]:
    """One LSTM step: cell 1×N×H, gates 1×N×4H and cont 1×N give the next cell and output."""
    b, n = c.b, c.size(2)
    cell, gates = (c.reshape(x, x.type.shape[1:]) for x in c.xs[:2])
    cont = b.transpose(c.xs[2], perm=(1, 0))
    step = _lstm_step(c, gates, cell, cont, n)
    return [c.reshape(v, (1, *v.type.shape)) for v in step]
