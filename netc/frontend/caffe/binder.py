"""Parameters of the imported net: made once, shared by name, filled from the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from netc.errors import Diagnostic, WeightsError, clean
from netc.frontend.binding import fitted
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.params import Arrays
from netc.frontend.caffe.weights import Blobs, blob_arrays
from netc.ir.graph import Builder, Value, frozen
from netc.ir.op import Array
from netc.ir.ops.sources import Initializer
from netc.ir.types import DType, TensorType

if TYPE_CHECKING:
    from netc.frontend.caffe.layer import Layer

Warn = Callable[[Diagnostic], None]


class Binder:
    """Makes a layer's parameters and gives them their arrays, by the layer's name.

    The blobs of a layer that stands twice go to the first. A layer for which the weights have none
    keeps those that the net holds, as in Caffe. What does not fit is kept in
    `problems`, what stays without values in `unfilled`.
    """

    def __init__(self, b: Builder, blobs: Blobs | None) -> None:
        self.b, self.blobs = b, blobs
        self.shared: dict[str, tuple[Value, Layer]] = {}
        self.held: dict[Message, Arrays] = {}  # what layers of the net hold themselves
        self.owner: dict[str, Layer] = {}  # layer name -> the layer its blobs go to
        self.unfilled: dict[str, list[str]] = {}  # layer name -> its parameters without values
        self.problems: list[Diagnostic] = []

    def stored(self, layer: Layer) -> Arrays:
        """The blobs the weights file has for this layer, or those the net itself holds."""
        own = self.blobs is not None and self.owner.setdefault(layer.name, layer) is layer
        if self.blobs and own and layer.name in self.blobs:
            return self.blobs[layer.name]
        if layer.message not in self.held:
            blobs = layer.message.messages("blobs")
            self.held[layer.message] = blob_arrays(layer.name, blobs)
        return self.held[layer.message]

    def param(
        self, layer: Layer, index: int, name: str, shape: tuple[int, ...], init: Initializer
    ) -> Value:
        """Parameter `index` of a layer, or the one it shares by the name in `param { name }`."""
        stored = self.stored(layer)
        array = stored[index] if index < len(stored) else None
        specs = layer.specs()
        common = specs[index].text("name") if index < len(specs) else ""
        return self.derived(layer, index, common, name, shape, init, array)

    def derived(
        self,
        layer: Layer,
        index: int,
        common: str,
        name: str,
        shape: tuple[int, ...],
        init: Initializer,
        array: Array | None,
    ) -> Value:
        """A parameter whose values are computed from blobs; `common` is the name it shares."""
        if common in self.shared:
            return self._sharing(layer, index, common, shape, array)
        value = self._make(layer, name, shape, init, array)
        if common:
            self.shared[common] = (value, layer)
        return value

    def finish(self, layer: Layer) -> None:
        """Hold the number of blobs in the weights against those the layer has."""
        stored = len(self.stored(layer))
        names = [spec.text("name") for spec in layer.specs()]
        borrows = any(n in self.shared and self.shared[n][1] is not layer for n in names)
        fewer = borrows and stored < layer.count  # what is shared may be stored with its owner
        if stored and stored != layer.count and not fewer:
            what = f"layer {clean(layer.name)} has {layer.count} blobs, the weights have {stored}"
            self.problems.append(Diagnostic(what, layer.message.span()))

    def _make(
        self,
        layer: Layer,
        name: str,
        shape: tuple[int, ...],
        init: Initializer,
        array: Array | None,
    ) -> Value:
        full = f"{layer.name}.{name}"
        value = self.b.param(full, TensorType(DType.F32, shape), init, None)
        self._fill(value, layer, array)
        return value

    def _fill(self, value: Value, layer: Layer, array: Array | None) -> None:
        if array is None:
            self.unfilled.setdefault(layer.name, []).append(value.name)
            return
        try:
            shape = value.type.sizes({})
            self.b.weights[value.node.name] = frozen(fitted(array, shape, value.name))
        except WeightsError as e:
            d = e.diagnostics[0]
            self.problems.append(Diagnostic(d.message, layer.message.span()))

    def _sharing(
        self, layer: Layer, index: int, common: str, shape: tuple[int, ...], array: Array | None
    ) -> Value:
        value, owner = self.shared[common]
        own = value.type.sizes({})
        loose = layer.specs()[index].text("share_mode") == "PERMISSIVE"
        if own != shape and not (loose and math.prod(own) == math.prod(shape)):
            what = f"shares {clean(common)!r} with {clean(owner.name)}, but its shape is "
            what += f"{list(shape)}, not {list(own)}"
            raise layer.fail(what, layer.specs()[index], "name")
        missing = self.unfilled.get(owner.name, [])
        if array is not None and value.name in missing:
            missing.remove(value.name)
            self._fill(value, owner, array)
        return value if own == shape else self.b.make("reshape", value, shape=shape)
