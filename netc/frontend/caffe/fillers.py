"""Caffe's fillers as initializers."""

from __future__ import annotations

from netc.errors import GraphError, clean
from netc.frontend.caffe.message import Message
from netc.ir.ops.sources import KINDS, Initializer

_FANS = {"FAN_IN": "fan_in", "FAN_OUT": "fan_out", "AVERAGE": "average"}


def initializer(filler: Message | None, default: float = 0.0) -> Initializer:
    """The initializer a FillerParameter stands for; without one, the constant `default`."""
    if filler is None or not filler.fields:
        return Initializer("constant", default)
    kind = filler.text("type")
    if kind not in KINDS:
        raise GraphError(
            f"there is no filler {clean(kind)!r}",
            filler.span("type"),
            f"there are {', '.join(KINDS)}",
        )
    try:
        return _made(kind, filler)
    except GraphError as e:
        raise GraphError(e.diagnostics[0].message, filler.span("type")) from None


def _made(kind: str, filler: Message) -> Initializer:
    match kind:
        case "constant":
            return Initializer(kind, filler.real("value"))
        case "uniform":
            return Initializer(kind, filler.real("min"), filler.real("max"))
        case "gaussian":
            mean, std = filler.real("mean"), filler.real("std")
            return Initializer(kind, mean, std, sparse=filler.whole("sparse"))
    return Initializer(kind, fan=_FANS[filler.text("variance_norm")])
