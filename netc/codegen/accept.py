"""What back ends can do in one kernel, and which layouts they take, by the device of a node."""

from __future__ import annotations

from collections.abc import Callable

from netc.codegen.cpu import accept as cpu
from netc.codegen.triton import accept as gpu
from netc.ir.device import Device
from netc.ir.graph import Graph, Node


def why_not(body: Graph, params: frozenset[str]) -> str | None:
    """Why a body cannot be one kernel on its device; None when it can."""
    kinds = [n.device.kind for n in body.nodes if n.device is not None]
    return gpu.why_not(body, params) if "cuda" in kinds else cpu.why_not(body, params)


def no_kernel(node: Node, device: Device) -> str | None:
    """Why a device's back end has no kernel for a node of a net; None where it has one."""
    return None if device.kind == "cuda" else cpu.no_kernel(node)


def row_major(default: Device) -> Callable[[Node], str | None]:
    """Which nodes must not be channel-blocked, and why; unplaced ones run on `default`."""

    def refuses(node: Node) -> str | None:
        device = node.device or default
        return "" if device.kind == "cuda" else cpu.row_major(node)

    return refuses
