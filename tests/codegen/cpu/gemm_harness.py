"""Convolutions as arrays and argument blocks: what tests and measurements of the driver share."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from netc.codegen.cpu.emit import Function, Module, Val
from netc.codegen.cpu.gemm import SINGLES, Epilogue, Form, GemmFamily
from netc.codegen.cpu.library import build_image
from netc.codegen.cpu.microkernel import tile_pixels
from netc.codegen.cpu.packing import IN_PAIRS, pack, pack_channels, packed_count
from netc.codegen.cpu.target import Target
from netc.codegen.rounding import rounded
from netc.ir.gemm_plan import BLOCK, PANEL, Slot, plan_gemm
from netc.runtime.code import CodeMapping, load_image

CANARY = np.float32(12345.0)
KERNEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def bias_relu(f: Function, acc: Val, channels: Sequence[Val], pixels: Sequence[Val]) -> Val:
    """max(sums + bias + any residual, 0), NaN kept."""
    y = f.fadd(acc, channels[0])
    for residual in pixels:
        y = f.fadd(y, residual)
    return relu(f, y)


def relu(f: Function, y: Val) -> Val:
    """max(y, 0); NaN stays."""
    zero = f.f32(0.0, y.lanes)
    return f.select(f.fcmp("ogt", zero, y), zero, y)


def aligned(shape: tuple[int, ...], fill: float = 0.0) -> np.ndarray:
    """A float32 array on a 64-byte boundary."""
    size = int(np.prod(shape))
    raw = np.empty(size + 16, np.float32)
    start = -(raw.ctypes.data // 4) % 16
    out = raw[start : start + size].reshape(shape)
    out[...] = fill
    return out


def nearest(x: np.ndarray) -> np.ndarray:
    """Each number as the nearest bfloat16, in float32."""
    return (rounded(x, "bf16").astype(np.uint32) << 16).view(np.float32)


def to_blocked(x: np.ndarray, halo: tuple[int, int]) -> np.ndarray:
    """NCHW -> [N, ⌈C/8⌉, H + 2·halo, W + 2·halo, 8], zero around and beyond."""
    n, c, h, w = x.shape
    out = aligned((n, -(-c // BLOCK), h + 2 * halo[0], w + 2 * halo[1], BLOCK))
    for i in range(c):
        out[:, i // 8, halo[0] : halo[0] + h, halo[1] : halo[1] + w, i % 8] = x[:, i]
    return out


def to_planar(x: np.ndarray, halo: tuple[int, int]) -> np.ndarray:
    """NCHW with a zero border."""
    n, c, h, w = x.shape
    out = aligned((n, c, h + 2 * halo[0], w + 2 * halo[1]))
    out[:, :, halo[0] : halo[0] + h, halo[1] : halo[1] + w] = x
    return out


def from_blocked(y: np.ndarray, channels: int) -> np.ndarray:
    """[N, C/8, H, W, 8] -> NCHW."""
    n, c, h, w, _ = y.shape
    return y.transpose(0, 1, 4, 2, 3).reshape(n, c * 8, h, w)[:, :channels]


def conv_reference(
    x: np.ndarray,
    w: np.ndarray,
    stride: tuple[int, int],
    pad: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> np.ndarray:
    """Cross-correlation in float64, tap by tap."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad[0],) * 2, (pad[1],) * 2))
    o, cg, kh, kw = w.shape
    oh = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((x.shape[0], o, oh, ow))
    og = o // groups
    for i in range(kh):
        for j in range(kw):
            y0, x0 = i * dilation[0], j * dilation[1]
            ys = slice(y0, y0 + stride[0] * (oh - 1) + 1, stride[0])
            xs = slice(x0, x0 + stride[1] * (ow - 1) + 1, stride[1])
            window = x[:, :, ys, xs]
            for g in range(groups):
                part = np.einsum(
                    "nchw,oc->nohw",
                    window[:, g * cg : (g + 1) * cg],
                    w[g * og : (g + 1) * og, :, i, j].astype(np.float64),
                    optimize=True,
                )
                y[:, g * og : (g + 1) * og] += part
    return y


@dataclass
class Code:
    """One compiled epilogue on the driver, callable."""

    target: Target
    epilogue: Epilogue
    mapping: CodeMapping
    address: int

    def __call__(self, args: np.ndarray, tid: int = 0, nthreads: int = 1) -> None:
        KERNEL(self.address)(args.ctypes.data, tid, nthreads)


def compile_epilogue(target: Target, epilogue: Epilogue, form: Form = SINGLES) -> Code:
    """Emit, compile, link and map."""
    module = Module(target)
    kernel = GemmFamily(module).kernel(epilogue, form)
    image = build_image(module)
    mapping = load_image(image.code)
    return Code(target, epilogue, mapping, mapping.entry(image.symbols[kernel.name]))


@dataclass
class Conv:
    """One convolution bound to arrays."""

    n: int
    c: int
    size: tuple[int, int]
    o: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    planar: bool = False
    together: int = 1
    residual: bool = False
    rows: bool = False
    form: Form = SINGLES
    keep: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(7)
        self.x = rng.standard_normal((self.n, self.c, *self.size)).astype(np.float32)
        shape = (self.o, self.c // self.groups, *self.kernel)
        self.w = (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        if self.form is not SINGLES:  # what is multiplied, so that sums alone are compared
            self.x, self.w = nearest(self.x), nearest(self.w)
        self.bias = rng.standard_normal(self.o).astype(np.float32)
        self.out_size = tuple(
            (self.size[i] + 2 * self.pad[i] - self.dilation[i] * (self.kernel[i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        )

    @property
    def flops(self) -> int:
        """Two a multiply-add."""
        return 2 * self.w.size * self.n * self.out_size[0] * self.out_size[1]

    def epilogue(self) -> Epilogue:
        """Bias, perhaps a residual, ReLU."""
        odd = (self.o // self.groups) % BLOCK != 0
        return Epilogue(bias_relu, 1, ("",) * self.residual, padded=odd, rows=self.rows)

    def bind(self, target: Target, **override: int) -> np.ndarray:
        """The argument block; arrays stay referenced from here."""
        laid = (to_planar if self.planar else to_blocked)(self.x, self.pad)
        h, w = laid.shape[2], laid.shape[3]
        column = 1 if self.planar else BLOCK
        row, plane, image = w * column, h * w * column, laid[0].size
        cg, og = self.c // self.groups, self.o // self.groups
        taps = conv_taps(cg, self.kernel, self.dilation, row, plane, blocked=not self.planar)
        out_pixels = self.out_size[0] * self.out_size[1]
        pixels = pixel_offsets(
            self.together, image, self.out_size, self.stride[0] * row, self.stride[1] * column
        )
        how: tuple[str | int, ...] = ("conv", self.groups)
        if self.form is not SINGLES:
            how, laid = (IN_PAIRS, *how), rounded(laid, "bf16")
        weights = aligned((packed_count(how, self.w.shape),))
        pack(self.w, how, weights)
        panels, depth = -(-og // PANEL), self.w[0].size
        widest = max(tile_pixels(target))
        item = self.form.item
        plan = plan_gemm(panels, -(-depth // 8), widest, item * self.together * image, item)
        self.out, out_image, out_row, out_plane = self._output()
        outs = pixel_offsets(self.together, out_image, self.out_size, out_row, self._column)
        bias = pack_channels(self.bias, self.groups)
        self.keep = [laid, taps.offsets, pixels, weights, outs, bias]
        args = np.zeros(self.epilogue().slots(), np.int64)
        values = {
            Slot.INPUT: laid.ctypes.data,
            Slot.PIXELS: pixels.ctypes.data,
            Slot.TAPS: taps.offsets.ctypes.data,
            Slot.N8: taps.n8,
            Slot.N1: taps.n1,
            Slot.WEIGHTS: weights.ctypes.data,
            Slot.IMAGES: self.n,
            Slot.TOGETHER: self.together,
            Slot.PER_IMAGE: out_pixels,
            Slot.IMAGE_STRIDE: image,
            Slot.GROUPS: self.groups,
            Slot.GROUP_STRIDE: cg // (1 if self.planar else BLOCK) * plane,
            Slot.PANELS: panels,
            Slot.PIXEL_BLOCK: plan.pixel_block,
            Slot.CHUNK: plan.chunk,
            Slot.CHANNELS_OUTER: plan.channels_outer,
            Slot.OUTPUT: self.start,
            Slot.OUT_PIXELS: outs.ctypes.data,
            Slot.OUT_IMAGE_STRIDE: out_image,
            Slot.OUT_PLANE: out_plane,
            Slot.OUT_GROUP: og // BLOCK * out_plane,
            Slot.OUT_CHANNELS: og,
            Slot.OPERANDS: bias.ctypes.data,
        }
        for slot, value in values.items():
            args[slot] = value
        for name, value in override.items():
            args[Slot[name]] = value
        if self.residual:
            r = to_blocked(self.residual_value(), (0, 0))
            self.keep.append(r)
            strides = out_image, out_plane, args[Slot.OUT_GROUP]
            args[Slot.OPERANDS + 1 :] = (r.ctypes.data, outs.ctypes.data, *strides)
        return args

    def residual_value(self) -> np.ndarray:
        """A second operand of the output's shape."""
        rng = np.random.default_rng(8)
        return rng.standard_normal((self.n, self.o, *self.out_size)).astype(np.float32)

    def _output(self) -> tuple[np.ndarray, int, int, int]:
        oh, ow = self.out_size
        self._column = self.o if self.rows else BLOCK
        channels = self.o if self.rows else -(-self.o // BLOCK) * BLOCK
        image = oh * ow * channels
        raw = aligned((self.n * image + 64,), CANARY)
        self.guards = (raw[:32], raw[32 + self.n * image :])
        inner = raw[32 : 32 + self.n * image]
        self.start = inner.ctypes.data
        if self.rows:
            return inner.reshape(self.n, oh, ow, self.o), image, ow * self.o, BLOCK
        shape = (self.n, channels // 8, oh, ow, 8)
        return inner.reshape(shape), image, ow * BLOCK, oh * ow * BLOCK

    def result(self) -> np.ndarray:
        """The output as NCHW."""
        if self.rows:
            return self.out.transpose(0, 3, 1, 2)
        return from_blocked(self.out, self.o)

    def expected(self) -> np.ndarray:
        """The reference's output, float64."""
        y = conv_reference(self.x, self.w, self.stride, self.pad, self.dilation, self.groups)
        y = y + self.bias[:, None, None]
        if self.residual:
            y = y + self.residual_value()
        return np.maximum(y, 0)


@dataclass(frozen=True)
class Taps:
    """Where one pixel's inputs lie, in the order of the packed weights."""

    offsets: np.ndarray
    n8: int
    n1: int


def conv_taps(
    channels: int,
    kernel: tuple[int, int],
    dilation: tuple[int, int],
    row: int,
    plane: int,
    *,
    blocked: bool,
) -> Taps:
    """Taps of one group of channels.

    Blocked: (eight channels, kh, kw), planar: (eight channels, kh, kw, channel); then
    (kh, kw, channel) for those beyond a multiple of eight. An inner product is a convolution whose
    kernel is its image; over plain rows it is one of `channels` by 1×1 with planes of eight.
    """
    column = BLOCK if blocked else 1
    down = np.arange(kernel[0]) * dilation[0] * row
    across = np.arange(kernel[1]) * dilation[1] * column
    window = down[:, None] + across
    full, rest = divmod(channels, BLOCK)
    if not blocked:
        lanes = window[:, :, None] + np.arange(BLOCK) * plane
        eights = np.arange(full)[:, None, None, None] * BLOCK * plane + lanes
        ones = full * BLOCK * plane + window[:, :, None] + np.arange(rest) * plane
        both = np.concatenate([eights.reshape(-1), ones.reshape(-1)])
        return Taps(both.astype(np.int32), 0, both.size)
    eights = np.arange(full)[:, None, None] * plane + window
    ones = full * plane + window[:, :, None] + np.arange(rest)
    both = np.concatenate([eights.reshape(-1), ones.reshape(-1)])
    return Taps(both.astype(np.int32), eights.size, ones.size)


def pixel_offsets(
    images: int, image: int, size: tuple[int, int], row: int, column: int
) -> np.ndarray:
    """Offsets of every pixel of `images` images, row by row; strides are in floats."""
    n, y, x = np.ogrid[:images, : size[0], : size[1]]
    return np.ravel(n * image + y * row + x * column).astype(np.int32)
