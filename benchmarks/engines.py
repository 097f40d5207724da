"""One engine in a process of its own, told by lines of JSON when to run.

    python -m benchmarks.engines ENGINE MODEL FEED.npz THREADS PRECISION OUTPUT.npz

It writes its outputs, says it is ready, and then answers {"seconds": s} with the times of the
runs it made in that time and the other work the machine did meanwhile.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.load import Watch

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
WARM_UP = 3


def netc_engine(model: str, threads: int, precision: str) -> Run:
    """netc, from a file compiled for a precision."""
    import netc

    return netc.load(model, threads=threads, trust=True)


def onnxruntime_engine(model: str, threads: int, precision: str) -> Run:
    """ONNX Runtime on its CPU provider, in float32, or as a calibrated model says."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return lambda feed: dict(zip(names, session.run(names, feed), strict=True))


def openvino_engine(model: str, threads: int, precision: str) -> Run:
    """OpenVINO on the CPU, tuned for latency; beside a calibrated model's bytes, bfloat16."""
    import openvino as ov

    core = ov.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32" if precision == "high" else "bf16",
        "NUM_STREAMS": 1,
    }
    compiled = core.compile_model(model, "CPU", options)
    request = compiled.create_infer_request()
    names = [o.any_name for o in compiled.outputs]

    def run(feed: Arrays) -> Arrays:
        got = request.infer(feed, share_inputs=True, share_outputs=False)
        return {name: got[i] for i, name in enumerate(names)}

    return run


def opencv_engine(model: str, threads: int, precision: str) -> Run:
    """OpenCV's dnn module, in float32 always."""
    import cv2

    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(model)
    net.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
    names = list(net.getUnconnectedOutLayersNames())

    def run(feed: Arrays) -> Arrays:
        for name, array in feed.items():
            net.setInput(array, name)
        return dict(zip(names, net.forward(names), strict=True))

    return run


ENGINES: dict[str, Callable[[str, int, str], Run]] = {
    "netc": netc_engine,
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "opencv": opencv_engine,
}


def sample(run: Run, feed: Arrays, seconds: float) -> dict[str, Any]:
    """Run for this long, at least once."""
    watch = Watch()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run(feed)
        times.append(time.perf_counter() - start)
    return {"times": times, "foreign": watch.foreign()}


def main() -> None:
    """Serve one engine until standard input ends."""
    engine, model, feed_path, threads, precision, out_path = sys.argv[1:]
    with np.load(feed_path) as stored:
        feed = {name: stored[name] for name in stored.files}
    run = ENGINES[engine](model, int(threads), precision)
    got = run(feed)
    np.savez(out_path, *got.values())
    for _ in range(WARM_UP):
        run(feed)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps(sample(run, feed, json.loads(line)["seconds"])), flush=True)


if __name__ == "__main__":
    main()
