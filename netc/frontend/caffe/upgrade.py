"""Old ways of writing a net, brought to one list of `layer` messages (Caffe's V2).

V0 (`layers { layer { type: "conv" … } }`) and V1 (`layers { type: CONVOLUTION … }`) layers,
`input` fields, preprocessing fields within data layers: `upgraded` knows them all, in the order
of Caffe's upgrade_proto.cpp. Places in the file are kept throughout.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from netc.errors import ParseError
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.schema import message_type
from netc.frontend.caffe.upgrade_v0 import fold_padding, from_v0

V1_TYPES: Mapping[str, str] = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}

_DATA_PARAM = {
    "Data": "data_param",
    "ImageData": "image_data_param",
    "WindowData": "window_data_param",
    "VideoData": "image_data_param",
}
_TRANSFORM = ("scale", "mean_file", "crop_size", "mirror")


def upgraded(net: Message, known: Sequence[str] = ()) -> list[Message]:
    """The net's layers as V2 messages, inputs first. `known` are the types beyond V1's list."""
    new, old = net.messages("layer"), net.messages("layers")
    if new and old:
        later = max(new[0], old[0], key=lambda layer: layer.at)
        raise ParseError(
            "the file mixes layer { } and layers { }",
            later.span(),
            "write every layer in one of the two ways",
        )
    layers = new or [_from_old(layer, known) for layer in fold_padding(old)]
    for layer in layers:
        if old:
            _move_transform(layer)
        _freeze_batch_norm(layer)
    first = _inputs(net, {top for layer in layers for top in layer.all("top")})
    return [first, *layers] if first else layers


def _from_old(layer: Message, known: Sequence[str]) -> Message:
    return from_v0(layer) if "layer" in layer else _from_v1(layer, known)


_SAME_IN_V2 = message_type("LayerParameter").fields.keys()


def _from_v1(old: Message, known: Sequence[str]) -> Message:
    layer = Message(message_type("LayerParameter"), old.document, old.at)
    for name, found in old.fields.items():
        if name in _SAME_IN_V2 and name not in ("type", "param"):
            layer.fields[name] = list(found)
    if "type" in old:
        layer.put("type", _v2_type(old.text("type"), known), old.fields["type"][0][1])
    _params(layer, old)
    return layer


def _v2_type(name: str, known: Sequence[str]) -> str:
    """CONVOLUTION to Convolution; a fork's enumerator to the type it spells, if netc has it."""
    if name in V1_TYPES:
        return V1_TYPES[name]
    plain = name.replace("_", "").lower()
    return next((k for k in known if k.lower() == plain), name)


_PARAM_FIELDS = (
    ("param", "name"),
    ("blob_share_mode", "share_mode"),
    ("blobs_lr", "lr_mult"),
    ("weight_decay", "decay_mult"),
)


def _params(layer: Message, old: Message) -> None:
    """`blobs_lr`, `weight_decay`, `param` and `blob_share_mode` become `param { }` messages."""
    count = max(len(old.all(name)) for name, _ in _PARAM_FIELDS)
    for i in range(count):
        spec = Message(message_type("ParamSpec"), old.document, old.at)
        for name, new_name in _PARAM_FIELDS:
            entries = old.fields.get(name, [])
            if i < len(entries):
                spec.put(new_name, *entries[i])
        layer.add("param", spec, old.at)


def _move_transform(layer: Message) -> None:
    """Until V2, scale, mean, crop and mirror were kept in the data layers' own parameters."""
    own = _DATA_PARAM.get(layer.text("type"), "")
    param = layer.get(own) if own in layer else None
    if not isinstance(param, Message) or not any(name in param for name in _TRANSFORM):
        return
    transform = layer.sub("transform_param").copy()
    for name in _TRANSFORM:
        if name in param:
            transform.put(name, *param.fields[name][0])
    layer.put("transform_param", transform, transform.at)


def _freeze_batch_norm(layer: Message) -> None:
    """BatchNorm's three blobs are statistics: they are not learned, whatever the file says."""
    if layer.text("type") != "BatchNorm":
        return
    for spec in layer.messages("param"):
        spec.put("lr_mult", 0.0, spec.at)
        spec.put("decay_mult", 0.0, spec.at)


def _inputs(net: Message, made: Collection[str]) -> Message | None:
    """`input` with `input_shape` or four `input_dim` each, as one Input layer named "input".

    Without a shape it says nothing of a blob that a layer makes.
    """
    has_shapes = "input_shape" in net or "input_dim" in net
    inputs = [e for e in net.fields.get("input", []) if has_shapes or e[0] not in made]
    if not inputs:
        return None
    layer = Message(message_type("LayerParameter"), net.document, inputs[0][1])
    layer.put("name", "input")
    layer.put("type", "Input")
    layer.fields["top"] = inputs
    param = Message(message_type("InputParameter"), net.document, layer.at)
    for shape in _input_shapes(net, len(inputs)):
        param.add("shape", shape, shape.at)
    layer.put("input_param", param, layer.at)
    return layer


def _input_shapes(net: Message, count: int) -> list[Message]:
    shapes, dims = net.messages("input_shape"), net.fields.get("input_dim", [])
    if shapes and dims:
        raise ParseError("the file has both input_shape and input_dim", net.span("input_dim"))
    if shapes and len(shapes) != count:
        what = f"{count} inputs but {len(shapes)} input_shape"
        raise ParseError(what, net.span("input_shape"), "give one input_shape for each input")
    if dims and len(dims) != 4 * count:
        what = f"{count} inputs need {4 * count} input_dim, four each; the file has {len(dims)}"
        raise ParseError(what, net.span("input_dim"))
    for i in range(len(dims) // 4):
        shape = Message(message_type("BlobShape"), net.document, dims[4 * i][1])
        shape.fields["dim"] = dims[4 * i : 4 * i + 4]
        shapes = [*shapes, shape]
    return shapes
