"""The logical devices of this process, and what of a plan can run on them."""

from __future__ import annotations

import os

from netc.errors import GraphError, UnsupportedError, UsageError, clean
from netc.ir.device import Device
from netc.ir.plan import Plan
from netc.ir.queues import devices_of, homes_of

RUNS = ("cpu", "cuda", "sim")  # kinds; sim runs on the processor, its time is computed


def named_devices() -> tuple[str, ...]:
    """The devices that NETC_DEVICES names, each once; none where it is not set."""
    text = os.environ.get("NETC_DEVICES", "")
    try:
        found = tuple(str(Device.parse(name.strip())) for name in text.split(",") if text)
    except GraphError as error:
        wrong = error.diagnostics[0]
        raise UsageError(f"NETC_DEVICES: {wrong.message}", help=wrong.help) from None
    if len(set(found)) < len(found):
        raise UsageError(f"NETC_DEVICES names one twice: {', '.join(found)}")
    return found


def check_runnable(plan: Plan) -> tuple[str, ...]:
    """The plan's devices, when each can run here; else UnsupportedError says what fits."""
    devices, given = devices_of(plan), named_devices()
    for name in devices:
        device = Device.parse(name)
        if device.host:
            fits = "compile the net again: it is cut into parts, which each host's worker runs"
            raise UnsupportedError(f"{clean(name)} is on another host", help=fits)
        if device.kind not in RUNS:
            fits = f"this version runs on {', '.join(RUNS)}"
            raise UnsupportedError(f"nothing here runs {clean(name)}", help=fits)
        if given and len(devices) > 1 and name not in given:
            fits = f"NETC_DEVICES names {', '.join(given)}"
            raise UsageError(f"the net runs on {clean(name)}, which is not there", help=fits)
    return devices


def on_gpu(plan: Plan) -> bool:
    """Whether a plan has steps, or only buffers, on cuda devices."""
    return any(Device.parse(name).kind == "cuda" for name in homes_of(plan))
