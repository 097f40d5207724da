"""Tiny nets on GPUs, their plans and kernels written by hand.

add:     out = (data + extra) + w                      on cuda:0
product: out[n, j] = Σ data[n, k] · w[k, j]            on cuda:0, with two variants
mixed:   hidden = data · scale + shift on cpu:0, copied to cuda:0, there added to itself,
         copied to cuda:1, added to itself, copied back, · scale + shift on cpu:0
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from netc.ir.dims import Dim, sym
from netc.ir.gpu_code import GpuImage, GpuKernel, KernelText, Variant
from netc.ir.plan import Arg, Buffer, BufferArg, IntArg, Plan, Port, Space, Step, WeightArg
from netc.ir.queues import with_lifetimes, with_waits
from netc.ir.types import f32
from netc.runtime.artifact import ON_GPU, Artifact, Level

from .handmade import SCALE, SHIFT, TEXT, WIDTH, make_level

HEAD = "import triton\nimport triton.language as tl\n\n\n@triton.jit\n"
ADD = f"""{HEAD}def kernel(c, a, b, n, B: tl.constexpr):
    i = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(c + i, tl.load(a + i, mask=i < n) + tl.load(b + i, mask=i < n), mask=i < n)
"""
PRODUCT = f"""{HEAD}def kernel(c, a, b, M, N, K, P: tl.constexpr, Q: tl.constexpr, R: tl.constexpr):
    across = tl.cdiv(N, Q)
    m = (tl.program_id(0) // across) * P + tl.arange(0, P)
    n = (tl.program_id(0) % across) * Q + tl.arange(0, Q)
    sum = tl.zeros((P, Q), dtype=tl.float32)
    for k in range(0, K, R):
        r = k + tl.arange(0, R)
        inside = (m[:, None] < M) & (r[None, :] < K)
        x = tl.load(a + m[:, None] * K + r[None, :], mask=inside, other=0.0)
        inside = (r[:, None] < K) & (n[None, :] < N)
        y = tl.load(b + r[:, None] * N + n[None, :], mask=inside, other=0.0)
        sum = tl.dot(x, y, sum, input_precision="ieee")
    tl.store(c + m[:, None] * N + n[None, :], sum, mask=(m[:, None] < M) & (n[None, :] < N))
"""
ADD_TEXT = KernelText(
    ADD,
    ("*fp32", "*fp32", "*fp32", "i32"),
    (0, 1, 2),
    1,
    (Variant((256,), (("B", 256),)), Variant((1024,), (("B", 1024),))),
)
PRODUCT_TEXT = KernelText(
    PRODUCT,
    ("*fp32", "*fp32", "*fp32", "i32", "i32", "i32"),
    (0, 1, 2),
    2,
    (
        Variant((16, 16), (("P", 16), ("Q", 16), ("R", 16))),
        Variant((32, 32), (("P", 32), ("Q", 32), ("R", 16)), warps=2),
    ),
)
INNER, ACROSS = 20, 24


def bare(**texts: KernelText) -> GpuImage:
    """Kernels without code, which only the interpreter can run."""
    kernels = {name: GpuKernel(text, ({},) * len(text.variants)) for name, text in texts.items()}
    return GpuImage(kernels, {}, "none")


def launch(kernel: str, name: str, out: int, a: Arg, b: Arg, count: Dim, device: str) -> Step:
    """out = a + b."""
    reads = tuple(arg.buffer for arg in (a, b) if isinstance(arg, BufferArg))
    args = (IntArg(count), BufferArg(out), a, b, IntArg(count))
    return Step(kernel, args, name, "add", reads, (out,), count, 12 * count, device)


def memcpy(name: str, target: int, source: int, size: Dim, device: str) -> Step:
    """Bytes from one device to another."""
    args = (BufferArg(target), BufferArg(source), IntArg(size))
    return Step("memcpy", args, name, "copy", (source,), (target,), 0, 2 * size, device,
                stream="copy")  # fmt: skip


def placed(space: Space, size: Dim, device: str = "cuda:0") -> Buffer:
    return Buffer(space, size, 0, 0, device)


def finished(inputs: tuple[Port, ...], outputs: tuple[Port, ...], buffers: tuple[Buffer, ...],
             steps: tuple[Step, ...]) -> Plan:  # fmt: skip
    """A plan with its waits and lifetimes."""
    steps = with_waits(steps)
    return Plan(inputs, outputs, with_lifetimes(buffers, steps), steps)


def add_plan(rows: Dim | None = None) -> Plan:
    """The net `add`; weights have WIDTH floats a row, so N is at most 8."""
    n = sym("N") if rows is None else rows
    count, size, shape = n * WIDTH, n * WIDTH * 4, f32[n, WIDTH]
    return finished(
        (Port("data", shape, 0), Port("extra", shape, 1)),
        (Port("out", shape, 3),),
        (
            placed(Space.INPUT, size),
            placed(Space.INPUT, size),
            placed(Space.ARENA, size),
            placed(Space.OUTPUT, size),
        ),
        (
            launch("g0", "first", 2, BufferArg(0), BufferArg(1), count, "cuda:0"),
            launch("g0", "second", 3, BufferArg(2), WeightArg(0), count, "cuda:0"),
        ),
    )


def product_plan() -> Plan:
    """The net `product`."""
    n = sym("N")
    args = (IntArg(n), IntArg(ACROSS), BufferArg(1), BufferArg(0), WeightArg(0))
    numbers = (IntArg(n), IntArg(ACROSS), IntArg(INNER))
    step = Step("g1", (*args, *numbers), "fc", "fc", (0,), (1,), 2 * n * ACROSS * INNER, 0,
                "cuda:0")  # fmt: skip
    return finished(
        (Port("data", f32[n, INNER], 0),),
        (Port("out", f32[n, ACROSS], 1),),
        (placed(Space.INPUT, n * INNER * 4), placed(Space.OUTPUT, n * ACROSS * 4)),
        (step,),
    )


def wide_plan(chains: int = 16, length: int = 3, rows: int | None = None) -> Plan:
    """Chains side by side, chain i doubling data + i · data; their ends are added up one by one."""
    n = sym("N") if rows is None else rows
    count, size, shape = n * WIDTH, n * WIDTH * 4, f32[n, WIDTH]
    buffers = [placed(Space.INPUT, size)]
    steps: list[Step] = []

    def step(a: int, b: int, last: bool = False) -> int:
        buffers.append(placed(Space.OUTPUT if last else Space.ARENA, size))
        out, name = len(buffers) - 1, f"s{len(steps)}"
        steps.append(launch("g0", name, out, BufferArg(a), BufferArg(b), count, "cuda:0"))
        return out

    heads = [step(0, 0)]
    while len(heads) < chains:
        heads.append(step(heads[-1], 0))
    for _ in range(length):
        heads = [step(head, head) for head in heads]
    total = heads[0]
    for i, head in enumerate(heads[1:]):
        total = step(total, head, last=i == chains - 2)
    ports = (Port("data", shape, 0),), (Port("out", shape, total),)
    return finished(*ports, tuple(buffers), tuple(steps))


def affine(step: str, source: int, target: int, count: Dim) -> Step:
    """One of the host's kernels: out = x · scale + shift."""
    args = (BufferArg(target), BufferArg(source), WeightArg(0), IntArg(count))
    return Step("affine", args, step, "affine", (source,), (target,), 2 * count, 8 * count)


def mixed_plan(second: str = "cuda:1") -> Plan:
    """The net `mixed`; the second GPU may be the first again."""
    n = sym("N")
    count, size, shape = n * WIDTH, n * WIDTH * 4, f32[n, WIDTH]
    homes = ["cpu:0", "cpu:0", "cuda:0", "cuda:0", second, second, "cpu:0", "cpu:0"]
    spaces = [Space.INPUT, *[Space.ARENA] * 6, Space.OUTPUT]
    return finished(
        (Port("data", shape, 0),),
        (Port("out", shape, 7),),
        tuple(placed(space, size, home) for space, home in zip(spaces, homes, strict=True)),
        (
            affine("hidden", 0, 1, count),
            memcpy("there", 2, 1, size, "cuda:0"),
            launch("g0", "twice", 3, BufferArg(2), BufferArg(2), count, "cuda:0"),
            memcpy("across", 4, 3, size, second),
            launch("g0", "again", 5, BufferArg(4), BufferArg(4), count, second),
            memcpy("back", 6, 5, size, "cpu:0"),
            affine("out", 6, 7, count),
        ),
    )


def bounce_plan() -> Plan:
    """Doubled on one GPU and again on another, by way of the host, which has no steps."""
    n = sym("N")
    count, size, shape = n * WIDTH, n * WIDTH * 4, f32[n, WIDTH]
    homes = ["cpu:0", "cuda:0", "cuda:0", "cpu:0", "cuda:1", "cuda:1"]
    spaces = [Space.INPUT, *[Space.ARENA] * 4, Space.OUTPUT]
    return finished(
        (Port("data", shape, 0),),
        (Port("out", shape, 5),),
        tuple(placed(space, size, home) for space, home in zip(spaces, homes, strict=True)),
        (
            memcpy("in", 1, 0, size, "cuda:0"),
            launch("g0", "twice", 2, BufferArg(1), BufferArg(1), count, "cuda:0"),
            memcpy("back", 3, 2, size, "cpu:0"),
            memcpy("there", 4, 3, size, "cuda:1"),
            launch("g0", "again", 5, BufferArg(4), BufferArg(4), count, "cuda:1"),
        ),
    )


def add_weights() -> np.ndarray:
    return np.linspace(-1, 1, 8 * WIDTH, dtype=np.float32)


def product_weights() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((INNER, ACROSS)).astype(np.float32)


def gpu_level(plan: Plan) -> Level:
    return Level(name=ON_GPU, features=frozenset(), plan=plan, code=b"", symbols={})


def add_artifact(plan: Plan | None = None, **more: object) -> Artifact:
    made = Artifact(
        ir=TEXT,
        weights=add_weights().tobytes(),
        levels=[gpu_level(plan or add_plan())],
        compiler="test",
        gpu=bare(g0=ADD_TEXT),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def product_artifact(text: KernelText = PRODUCT_TEXT) -> Artifact:
    return Artifact(
        ir=TEXT,
        weights=product_weights().tobytes(),
        levels=[gpu_level(product_plan())],
        gpu=bare(g1=text),
    )


def mixed_artifact(second: str = "cuda:1") -> Artifact:
    weights = np.zeros(16, np.float32)
    weights[:2] = SCALE, SHIFT
    level = make_level(mixed_plan(second))
    return Artifact(ir=TEXT, weights=weights.tobytes(), levels=[level], gpu=bare(g0=ADD_TEXT))


def wide_artifact(**more: object) -> Artifact:
    """The net `wide`; sums of small whole numbers are exact in any order."""
    gpu = more.pop("gpu", bare(g0=ADD_TEXT))
    return add_artifact(wide_plan(**more), gpu=gpu)  # type: ignore[arg-type]


def wide_reference(data: np.ndarray, chains: int = 16, length: int = 3) -> np.ndarray:
    return data * sum((i + 2) << length for i in range(chains))


def add_reference(data: np.ndarray, extra: np.ndarray) -> np.ndarray:
    return data + extra + add_weights()[: data.size].reshape(data.shape)


def mixed_reference(data: np.ndarray) -> np.ndarray:
    scale, shift = np.float32(SCALE), np.float32(SHIFT)
    hidden = data * scale + shift
    return (hidden + hidden + (hidden + hidden)) * scale + shift
