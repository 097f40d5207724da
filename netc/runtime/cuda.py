"""The driver of NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from netc.errors import UnsupportedError
from netc.ir.gpu_code import GpuImage
from netc.runtime.cuda_probe import require_gpu
from netc.runtime.driver import GpuOptions


class CudaDriver:
    """Memory, queues and kernels of GPUs."""

    def __init__(self, image: GpuImage, devices: Sequence[int], options: GpuOptions) -> None:
        require_gpu()
        raise UnsupportedError("this version does not run on GPUs")
