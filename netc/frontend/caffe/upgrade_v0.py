"""V0 layers: `layers { layer { name type: "conv" num_output … } bottom top }`."""

from __future__ import annotations

from collections.abc import Mapping

from netc.errors import Diagnostic, ParseError, clean
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.schema import message_type

_TYPES: Mapping[str, str] = {
    "accuracy": "Accuracy",
    "bnll": "BNLL",
    "concat": "Concat",
    "conv": "Convolution",
    "data": "Data",
    "dropout": "Dropout",
    "euclidean_loss": "EuclideanLoss",
    "flatten": "Flatten",
    "hdf5_data": "HDF5Data",
    "hdf5_output": "HDF5Output",
    "im2col": "Im2col",
    "images": "ImageData",
    "infogain_loss": "InfogainLoss",
    "innerproduct": "InnerProduct",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MultinomialLogisticLoss",
    "pool": "Pooling",
    "relu": "ReLU",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "softmax_loss": "SoftmaxWithLoss",
    "split": "Split",
    "tanh": "TanH",
    "window_data": "WindowData",
}
_CONV, _POOL, _IP = "convolution_param", "pooling_param", "inner_product_param"
_DATA, _IMAGE, _WINDOW, _H5 = (
    "data_param",
    "image_data_param",
    "window_data_param",
    "hdf5_data_param",
)
_PARAM = {
    "conv": _CONV,
    "im2col": _CONV,
    "pool": _POOL,
    "innerproduct": _IP,
    "lrn": "lrn_param",
    "dropout": "dropout_param",
    "data": _DATA,
    "images": _IMAGE,
    "window_data": _WINDOW,
    "hdf5_data": _H5,
    "infogain_loss": "infogain_loss_param",
    "concat": "concat_param",
}
# V0 field -> the field it is called within its layer's own parameters.
_RENAMED = {
    "biasterm": "bias_term",
    "kernelsize": "kernel_size",
    "batchsize": "batch_size",
    "det_fg_threshold": "fg_threshold",
    "det_bg_threshold": "bg_threshold",
    "det_fg_fraction": "fg_fraction",
    "det_context_pad": "context_pad",
    "det_crop_mode": "crop_mode",
    "shuffle_images": "shuffle",
}
_TO_TRANSFORM = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}
_SHARED = ("name", "blobs", "hdf5_output_param")


def fold_padding(layers: list[Message]) -> list[Message]:
    """V0 `padding` layers become the pad of the convolution or pooling that reads them."""
    inner = [layer.sub("layer") if "layer" in layer else None for layer in layers]
    padding = {
        layer.all("top")[0]: (layer, v0)
        for layer, v0 in zip(layers, inner, strict=True)
        if v0 is not None and v0.text("type") == "padding" and layer.all("top")
    }
    if not padding:
        return layers
    kept = []
    for layer, v0 in zip(layers, inner, strict=True):
        if v0 is None or v0.text("type") != "padding":
            kept.append(_with_pad(layer, v0, padding))
    return kept


def _with_pad(
    layer: Message, v0: Message | None, padding: Mapping[str, tuple[Message, Message]]
) -> Message:
    bottoms = layer.all("bottom")
    source = next((padding[b] for b in bottoms if b in padding), None)
    if source is None:
        return layer
    if v0 is None or v0.text("type") not in ("conv", "pool") or len(bottoms) != 1:
        what = f"{clean(bottoms[0])} is padding, which only a conv or pool layer can read"
        raise ParseError(what, layer.span())
    pad_layer, pad = source
    layer, v0 = layer.copy(), v0.copy()
    layer.fields["bottom"] = list(pad_layer.fields.get("bottom", []))
    v0.put("pad", pad.whole("pad"), pad.at)
    layer.put("layer", v0, v0.at)
    return layer


def from_v0(old: Message) -> Message:
    """One V0 layer as V2."""
    v0 = old.sub("layer")
    kind = v0.text("type")
    layer = Message(message_type("LayerParameter"), old.document, old.at)
    for name in ("bottom", "top"):
        if name in old:
            layer.fields[name] = list(old.fields[name])
    layer.put("type", _TYPES.get(kind, kind), v0.fields["type"][0][1] if "type" in v0 else v0.at)
    for name, value, at in v0.entries():
        if name not in ("type", "blobs_lr", "weight_decay"):
            _set(layer, kind, name, value, at)
    rates, decays = v0.fields.get("blobs_lr", []), v0.fields.get("weight_decay", [])
    for i in range(max(len(rates), len(decays))):
        spec = Message(message_type("ParamSpec"), old.document, old.at)
        for name, entries in (("lr_mult", rates), ("decay_mult", decays)):
            if i < len(entries):
                spec.put(name, *entries[i])
        layer.add("param", spec, old.at)
    return layer


def _set(layer: Message, kind: str, name: str, value: object, at: int) -> None:
    if name in _SHARED:
        layer.add(name, value, at)
        return
    if name in _TO_TRANSFORM and kind in ("data", "images", "window_data"):
        _inner(layer, "transform_param").put(_TO_TRANSFORM[name], value, at)
        return
    owner = _PARAM.get(kind)
    if owner:
        param = _inner(layer, owner)
        field = _RENAMED.get(name, name)
        assert param.type, "every parameter message is known"
        if field in param.type.fields:
            param.put(field, value, at)
            return
    what = f"a V0 layer of type {clean(kind)} has no {name}; ignored"
    document = layer.document
    document.warnings.append(Diagnostic(what, document.span(at), severity="warning"))


def _inner(layer: Message, name: str) -> Message:
    if name not in layer:
        layer.put(name, layer.sub(name), layer.at)
    found: Message = layer.get(name)
    return found
