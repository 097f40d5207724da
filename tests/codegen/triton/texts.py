"""Small kernels for the tests of what compiles them."""

from __future__ import annotations

from collections.abc import Sequence

from netc.codegen.triton.job import Compiled, Failed, Job
from netc.codegen.triton.pool import Compilers
from netc.ir.gpu_code import KernelText, Variant

ARCHS = ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
HEAD = "import triton\nimport triton.language as tl\n\n\n"
SCALE = """@triton.jit
def kernel(n, x, y, B: tl.constexpr):
    at = tl.program_id(0) * B + tl.arange(0, B)
    tl.store(y + at, tl.load(x + at, mask=at < n) * 2, mask=at < n)
"""
MATMUL = """@triton.jit
def kernel(n, x, y, z, B: tl.constexpr):
    row = tl.program_id(0) * B + tl.arange(0, B)
    at = tl.arange(0, B)
    total = tl.zeros((B, B), tl.float32)
    for k in range(0, n, B):
        a = tl.load(x + row[:, None] * n + k + at[None, :])
        b = tl.load(y + (k + at)[:, None] * n + at[None, :])
        total += tl.dot(a, b, input_precision="tf32")
    tl.store(z + row[:, None] * n + at[None, :], total)
"""


def scale(*blocks: int, body: str = SCALE, head: str = HEAD) -> KernelText:
    """y = 2·x, a variant per size of block."""
    variants = tuple(Variant((b,), (("B", b),)) for b in blocks or (128,))
    return KernelText(head + body, ("i32", "*fp32", "*fp32"), (1, 2), 1, variants)


def matmul(*blocks: int, warps: int = 4, stages: int = 2) -> KernelText:
    """z = x·y, a variant per size of tile."""
    variants = tuple(Variant((b,), (("B", b),), 1, warps, stages) for b in blocks)
    return KernelText(HEAD + MATMUL, ("i32", "*fp32", "*fp32", "*fp32"), (0, 1, 2, 3), 1, variants)


def job(text: KernelText, arch: str = "sm_80") -> Job:
    """The first variant as a job."""
    first = text.variants[0]
    constants, warps, stages = first.constants, first.warps, first.stages
    return Job(text.text, text.params, text.aligned, constants, warps, stages, arch)


def answers(jobs: Sequence[Job], seconds: float = 120.0) -> dict[Job, Compiled | Failed]:
    """What two workers answer."""
    with Compilers(2, seconds) as compilers:
        return dict(compilers.answers(jobs))


def compile_all(jobs: Sequence[Job]) -> dict[Job, Compiled]:
    """The same where all must be compiled."""
    got = answers(jobs)
    assert [a for a in got.values() if isinstance(a, Failed)] == []
    return {asked: answer for asked, answer in got.items() if isinstance(answer, Compiled)}
