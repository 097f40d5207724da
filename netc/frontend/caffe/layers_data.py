"""Data layers: what they would read becomes inputs of the net, after their own preprocessing.

Shapes come from the user (`shapes`), from the layer, or not at all, which is an error that says
what to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from netc.frontend.caffe.layer import Layer, Result, layer
from netc.frontend.caffe.layers_loss import euclidean_loss
from netc.frontend.caffe.layers_rcnn import proposals
from netc.frontend.caffe.message import Message
from netc.frontend.generalize import Shape
from netc.ir.graph import Value

Shapes = Sequence[Shape | None]
DATA: dict[str, Callable[[Message], Shapes]] = {}

# The layers whose second top labels each pixel of the first.
_PIXEL_LABELS = ("DenseImageData", "ImageSegData", "ImageLabelmapData")

# The fields of TSN's VideoData that C3D's does not have.
_OF_SEGMENTS = frozenset({"num_segments", "modality", "name_pattern", "grayscale", "encoded"})


def data(*names: str) -> Callable[[Callable[[Message], Shapes]], Callable[[Message], Shapes]]:
    """Enter a function that tells what shapes a data layer's tops have, None where unknown."""

    def enter(shapes: Callable[[Message], Shapes]) -> Callable[[Message], Shapes]:
        DATA.update(dict.fromkeys(names, shapes))
        return shapes

    return enter


def told(m: Message, given: Mapping[str, Shape]) -> Sequence[Shape | None]:
    """The shapes of an input layer's tops as its file has them, None where unknown; where the user
    gives one top's shape, the others share its batch, but for those of an Input, and labels of
    pixels the image's size."""
    tops, kind = m.all("top"), m.text("type")
    if kind not in DATA:
        return [None] * len(tops)
    shapes = DATA[kind](m)
    if kind in _PIXEL_LABELS and tops and tops[0] in given:
        return _beside(m, given[tops[0]])
    batches = [given[top][0] for top in tops if given.get(top)]
    if kind == "Input" or not batches:
        return shapes
    return [(batches[0], *shape[1:]) if shape else None for shape in shapes]


@data("Input")
def input_shapes(m: Message) -> Shapes:
    """One shape for all tops, or one each."""
    shapes = [tuple(s.all("dim")) for s in m.sub("input_param").messages("shape")]
    return _spread(shapes, len(m.all("top")))


def _spread(shapes: list[tuple[int, ...]], count: int) -> Shapes:
    if len(shapes) == 1:
        return [*shapes] * count
    return [*shapes[:count], *[None] * (count - len(shapes))]


def _with_labels(m: Message, image: tuple[int, ...] | None, batch: int) -> Shapes:
    labels: list[Shape | None] = [(batch,) if batch else None] * (len(m.all("top")) - 1)
    return [image, *labels]


def _cropped(
    m: Message, batch: int, channels: int, size: tuple[int, int]
) -> tuple[int, ...] | None:
    """The shape of a batch, when all of it is known: 0 stands for unknown."""
    crop = m.sub("transform_param").whole("crop_size")
    shape = (batch, channels, crop or size[0], crop or size[1])
    return shape if all(shape) else None


@data("Data", "AnnotatedData")
def data_shapes(m: Message) -> Shapes:
    """The crop gives height and width, one mean per channel the channels; else unknown."""
    transform, batch = m.sub("transform_param"), m.sub("data_param").whole("batch_size")
    means = len(transform.all("mean_value"))
    colour = 3 if transform.flag("force_color") else 1 if transform.flag("force_gray") else 0
    sizes = {(r.whole("height"), r.whole("width")) for r in transform.messages("resize_param")}
    size = sizes.pop() if len(sizes) == 1 else (0, 0)  # one of several is drawn in training
    return _with_labels(m, _cropped(m, batch, colour or (means if means > 1 else 0), size), batch)


@data("ImageData")
def image_shapes(m: Message) -> Shapes:
    """The size images are brought to, three channels unless grey."""
    p = m.sub("image_data_param")
    batch, channels = p.whole("batch_size"), 3 if p.flag("is_color") else 1
    image = _cropped(m, batch, channels, (p.whole("new_height"), p.whole("new_width")))
    return _with_labels(m, image, batch)


@data(*_PIXEL_LABELS)
def labelled_pixel_shapes(m: Message) -> Shapes:
    """Images as of an ImageData layer, and what `_beside` tells of the other tops
    (dense_image_data_layer.cpp of SegNet, image_seg_data_layer.cpp of DeepLab,
    image_labelmap_data_layer.cpp of HED)."""
    is_dense = m.text("type") == "DenseImageData"
    p = m.sub("dense_image_data_param" if is_dense else "image_data_param")
    batch, channels = p.whole("batch_size"), 3 if p.flag("is_color") else 1
    crop = p if is_dense else m.sub("transform_param")
    sizes = ((at.whole(f"{of}_height"), at.whole(f"{of}_width"))
             for at, of in ((crop, "crop"), (p, "new")))  # fmt: skip
    size = next((size for size in sizes if all(size)), (0, 0))
    return _beside(m, _cropped(m, batch, channels, size))


def _beside(m: Message, image: Shape | None) -> Shapes:
    """The shapes of the tops of a layer that labels pixels: of the image, of a label for each of
    its pixels, and of each image's height and width."""
    if not image or len(image) != 4:
        return [image, *(None for _ in m.all("top")[1:])]
    batch, _, *size = image
    return [image, (batch, 1, *size), (batch, 1, 1, 2)][: len(m.all("top"))]


@data("WindowData")
def window_shapes(m: Message) -> Shapes:
    """Windows of three channels, brought to the crop size."""
    batch = m.sub("window_data_param").whole("batch_size")
    return _with_labels(m, _cropped(m, batch, 3, (0, 0)), batch)


@data("MemoryData")
def memory_shapes(m: Message) -> Shapes:
    """All four sizes are in the layer."""
    p = m.sub("memory_data_param")
    batch = p.whole("batch_size")
    image = (batch, *(p.whole(f) for f in ("channels", "height", "width")))
    return _with_labels(m, image if all(image) else None, batch)


@data("VideoData")
def video_shapes(m: Message) -> Shapes:
    """C3D's clips: batch, 3 channels, frames, height, width; TSN's segments, whose frames lie
    along the channels."""
    p = m.sub("video_data_param" if "video_data_param" in m else "image_data_param")
    batch, frames = p.whole("batch_size"), p.whole("new_length")
    size = (p.whole("new_height"), p.whole("new_width"))
    if not _OF_SEGMENTS.isdisjoint(p.fields):
        count = p.whole("num_segments") * frames * _frame_channels(p)
        return _with_labels(m, _cropped(m, batch, count, size), batch)
    image = _cropped(m, batch, 3, size)
    clip = (batch, 3, frames, *image[2:]) if image and frames else None
    return _with_labels(m, clip, batch)


def _frame_channels(p: Message) -> int:
    """The channels of a frame of TSN: x and y of a flow, three colours, or grey; 0 if unknown
    (yjxiong/caffe's video_data_layer.cpp)."""
    colours = 1 if p.flag("grayscale") else 3
    return {"FLOW": 2, "RGB": colours}.get(p.text("modality"), 0)


@data("HDF5Data")
def hdf5_shapes(m: Message) -> Shapes:
    """Only the file's own datasets tell."""
    return [None] * len(m.all("top"))


@layer("DummyData", bottoms=0, tops=(1, None))
def dummy_data(c: Layer) -> list[Value]:
    """Constants, or random numbers drawn anew at each run from the seed."""
    p = c.param("dummy_data_param")
    shapes, count = _dummy_shapes(c, p), len(c.tops)
    fillers = p.messages("data_filler")
    c.check(
        len(fillers) in (0, 1, count),
        f"{len(fillers)} data_filler for {count} tops",
        p,
        "data_filler",
    )
    many = fillers if len(fillers) == count else fillers * count
    return [
        _drawn(c, shape, many[i] if many else None, c.seed + i) for i, shape in enumerate(shapes)
    ]


def _dummy_shapes(c: Layer, p: Message) -> list[tuple[int, ...]]:
    count = len(c.tops)
    shapes = [tuple(s.all("dim")) for s in p.messages("shape")]
    if not shapes:
        sides = [p.all(f) for f in ("num", "channels", "height", "width")]
        c.check(all(sides), "give a shape, or num, channels, height and width", p)
        good = all(len(s) in (1, count) for s in sides)
        c.check(good, f"give 1 num, channels, height and width each, or {count}", p)
        shapes = list(zip(*(s * count if len(s) == 1 else s for s in sides), strict=True))
    c.check(len(shapes) in (1, count), f"{len(shapes)} shapes for {count} tops", p, "shape")
    return shapes if len(shapes) == count else shapes * count


def _drawn(c: Layer, shape: tuple[int, ...], filler: Message | None, seed: int) -> Value:
    kind = filler.text("type") if filler is not None else "constant"
    base = c.constant(filler.real("value") if filler is not None else 0.0, shape)
    if filler is None or kind == "constant":
        return base
    if kind == "uniform":
        return c.b.random_uniform(base, low=filler.real("min"), high=filler.real("max"), seed=seed)
    if kind == "gaussian":
        mean, std = filler.real("mean"), filler.real("std")
        return c.b.random_normal(base, mean=mean, std=std, seed=seed)
    raise c.unsupported(f"data drawn by the filler {kind}", "constant, uniform and gaussian are")


@layer("Python", bottoms=(0, None), tops=(0, None))
def python(c: Layer) -> Result:
    """Code in another file, which is never run; a few known layers are built in."""
    p = c.param("python_param")
    module, name = p.text("module"), p.text("layer")
    if module == "pyloss" and name == "EuclideanLossLayer" and len(c.xs) == 2:
        return euclidean_loss(c)
    if (module, name) == ("rpn.proposal_layer", "ProposalLayer"):
        return proposals(c)
    what = f"it runs {module}.{name}, and netc runs no code that a net names"
    raise c.unsupported(what)
