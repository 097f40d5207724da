"""The nets that devices are measured with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from netc import api
from netc.ir.graph import Builder, Value
from netc.ir.types import f32
from netc.runtime.session import Executable

Make: TypeAlias = Callable[[Builder, Value], Value]
CHANNELS, SIDE = 128, 56  # of the convolution


def compiled(make: Make, shape: tuple[int, ...], **options: Any) -> Executable:
    """The net that makes something of an input `x`."""
    b = Builder()
    graph = b.graph("probe", {"y": make(b, b.input("x", f32[shape]))})
    return api.compile(graph, **options)


def convolution(b: Builder, x: Value) -> Value:
    """3×3, of as many channels as it gives."""
    return b.conv(x, b.param("w", f32[CHANNELS, CHANNELS, 3, 3]), pad=(1, 1))


def images(count: int) -> tuple[tuple[int, ...], float]:
    """What the convolution takes, and its operations."""
    return (count, CHANNELS, SIDE, SIDE), 2.0 * CHANNELS * CHANNELS * 9 * count * SIDE * SIDE


def chain(count: int) -> Make:
    """Steps one after another."""

    def steps(b: Builder, x: Value) -> Value:
        for _ in range(count):
            x = b.relu(x)
        return x

    return steps
