"""Kernels read no byte beside the caller's arrays: inputs stand between pages of no access."""

from __future__ import annotations

import ctypes
import mmap
import os

import numpy as np
import pytest

import netc
from netc.runtime.session import Executable
from tests.ops.test_regions import CORNERS

PAGE = mmap.PAGESIZE
NETS = {
    "small": """
net small(data: f32[N, 3, 33, 31]) -> prob {
  x = data |> conv(24, 5, stride=2, pad=2) |> relu |> max_pool(3, stride=2)
  y = concat(x |> conv(16, 1) |> relu, x |> conv(24, 3, pad=1) |> relu)
  prob = y |> global_avg_pool |> fc(10) |> softmax
}
""",
    "element-wise": """
net chain(data: f32[N, 5, 7, 9]) -> out {
  out = relu(data) + 2 * data
}
""",
    "inner product": """
net inner(data: f32[N, 101]) -> out {
  out = data |> fc(17) |> sigmoid
}
""",
    "planar": """
net planar(data: f32[N, 3, 13, 11]) -> out {
  out = data |> max_pool(3, stride=2) |> softmax
}
""",
}


def guarded(array: np.ndarray, at_end: bool) -> np.ndarray:
    """A copy whose end, or start, touches a page that nobody may read."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    inside = -(-array.nbytes // PAGE) * PAGE
    area = mmap.mmap(-1, inside + 2 * PAGE)
    whole = np.frombuffer(area, np.uint8)
    for page in (whole.ctypes.data, whole.ctypes.data + PAGE + inside):
        assert libc.mprotect(page, PAGE, 0) == 0
    first = PAGE + (inside - array.nbytes if at_end else 0)
    copy = whole[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def runs_alike(exe: Executable, arrays: list[np.ndarray], at_end: bool) -> bool:
    """The run on guarded copies, in a child: a read too far ends the child only."""
    wanted = exe.run(arrays)
    pid = os.fork()
    if pid == 0:
        got = exe.run([guarded(array, at_end) for array in arrays])
        same = all(np.array_equal(got[name], wanted[name]) for name in wanted)
        os._exit(0 if same else 1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("name", NETS)
def test_reads_stay_inside(name: str, level: str) -> None:
    try:
        exe = netc.compile(netc.parse(NETS[name]), cpu=level, threads=1)
    except netc.errors.UnsupportedCPU:
        pytest.skip(f"this processor is not {level}")
    for n in (1, 3):
        shape = [n if isinstance(d, str) else d for d in exe.inputs["data"].shape]
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        for at_end in (True, False):
            assert runs_alike(exe, [x], at_end)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "pool", ["roi_pool(rois, size=(3, 2))", "ps_roi_pool(rois, channels=2, group=2)"]
)
def test_regions_of_any_numbers_stay_inside(pool: str) -> None:
    text = f"net n(x: f32[N, 8, 5, 7], rois: f32[R, 5]) -> y {{ y = x |> {pool} }}"
    exe = netc.compile(netc.parse(text), threads=1)
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 7)).astype(np.float32)
    for at_end in (True, False):
        assert runs_alike(exe, [x, np.array(CORNERS, np.float32)], at_end)
