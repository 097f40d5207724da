"""One engine of the GPU benchmark in a process of its own, told by lines of JSON what to do.

    python -m benchmarks.gpu_worker ENGINE '{"dry": false, "folder": …, …}'

The engines are netc, eager, compile; reference (torch in float64) and build (netc's compiler).

A line {"do": "load", …} is a call of that method, answered by {"ok": …} or {"error": …}. After an
error that stops the GPU the process ends: nothing of it would run any more.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any

_STOPS = ("CUDA error", "the GPU stopped", "AcceleratorError", "CUDA_ERROR", "cudaError")
_GOES_ON = ("out of memory", "OUT_OF_MEMORY")
_SPARED = 4  # processors
_CLIP, _TRACE = 400, 3000  # characters of an error, and of its trace


def engine(name: str, options: dict[str, Any]) -> Any:
    """The engine by its name."""
    if name == "build":
        _keep_out_of_the_way()
    if name in ("netc", "build"):
        from benchmarks.gpu_netc import NetcEngine

        return NetcEngine(options)
    share = max(2, 2 * len(os.sched_getaffinity(0)) // options["jobs"])
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(share))  # read on import
    from benchmarks.gpu_torch import TorchEngine

    return TorchEngine(options, compiles=name == "compile")


def _keep_out_of_the_way() -> None:
    """Leave some processors to those who ask the GPU for things, and are timed."""
    os.nice(10)
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) > 2 * _SPARED:
        os.sched_setaffinity(0, processors[_SPARED:])


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    made: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            made = made or engine(sys.argv[1], json.loads(sys.argv[2]))
            answer = {"ok": getattr(made, request.pop("do"))(**request)}
        except Exception as error:
            traceback.print_exc()
            text = f"{type(error).__name__}: {error}"
            answer = {"error": text[:_CLIP], "stopped": _stopped(text)}
            answer["trace"] = traceback.format_exc()[-_TRACE:]
        print(json.dumps(answer), file=answers, flush=True)
        if answer.get("stopped"):
            os._exit(1)  # destructors would only meet the same error


def _stopped(text: str) -> bool:
    return any(s in text for s in _STOPS) and not any(s in text for s in _GOES_ON)


if __name__ == "__main__":
    main()
