"""netc against other engines on whole nets, batch 1 or more, in one interleaved run.

    python -m benchmarks.nets [--nets lenet,googlenet] [--engines netc,openvino] [--threads 1,2]
    python -m benchmarks.nets --precision low
    python -m benchmarks.nets --precision int8

In int8 the other engines get a model that ONNX Runtime's tool has calibrated, by the very input
that is timed: by tensor for values, by output channel for weights.
Every engine lives in a process of its own and they take turns, so that a busy moment hits all of
them; samples with much foreign work are dropped where others are left. Outputs are compared
before anything is timed: an engine that computes something else is not timed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import zoo
from benchmarks.engines import ENGINES
from benchmarks.load import QUIET

# Of ‖outputs‖: engines use Winograd, or bfloat16; netc's own tests are stricter. In eight bits
# others are up to 90 % off on nets with drawn weights, so errors are printed only.
TOLERANCES = {"high": 2e-3, "low": 5e-2, "int8": float("inf")}
Outputs = list[NDArray[Any]]
TURN = 0.25  # seconds an engine runs when it is its turn
_MODULES = {"opencv": "cv2"}


@dataclass
class Worker:
    """One engine's process."""

    engine: str
    process: subprocess.Popen[str]
    outputs: Path
    log: Path
    times: list[float] = field(default_factory=list)  # median of each turn
    foreign: list[float] = field(default_factory=list)
    best: float = float("inf")
    why_not: str = ""
    error: float = float("nan")  # of its outputs, against exact ones

    def read(self) -> dict[str, Any] | None:
        """The next answer; None when the engine has died."""
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            self.why_not = (lines[-1] if lines else "it ended without a word")[:200]
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self, seconds: float) -> None:
        """Let the engine run for a while."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        if answer:
            self.times.append(statistics.median(answer["times"]))
            self.best = min(self.best, *answer["times"])
            self.foreign.append(answer["foreign"])

    def close(self) -> None:
        """End the process."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(30)

    @property
    def quiet(self) -> list[float]:
        """The turns without much foreign work, or all where there are none."""
        calm = [t for t, f in zip(self.times, self.foreign, strict=True) if f <= QUIET]
        return calm or self.times


def start(
    engine: str, files: dict[str, Path], threads: int, precision: str, folder: Path
) -> Worker:
    """Start an engine's process and wait until it has run once."""
    model = files["netc"] if engine == "netc" else files["onnx"]
    outputs, log = folder / f"{engine}.npz", folder / f"{engine}.log"
    command = [sys.executable, "-m", "benchmarks.engines", engine, str(model), str(files["feed"])]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, str(threads), precision, str(outputs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
            cwd=Path(__file__).resolve().parent.parent,
        )
    worker = Worker(engine, process, outputs, log)
    worker.read()
    return worker


def write_models(net: zoo.Net, precision: str, folder: Path) -> dict[str, Path]:
    """The net for every engine, its input, and its outputs with all digits of float32."""
    import netc
    from benchmarks.to_onnx import to_onnx

    files = {name: folder / f"net.{name}" for name in ("onnx", "netc")}
    files |= {name: folder / f"{name}.npz" for name in ("feed", "exact")}
    files["onnx"].write_bytes(to_onnx(net.graph, net.graph.weights, net.sizes))
    if precision == "int8":
        files["onnx"] = calibrated(files["onnx"], net.feed)
    netc.compile(net.graph, precision=precision).save(files["netc"])
    np.savez(files["feed"], **net.feed)  # type: ignore[arg-type]
    np.savez(files["exact"], *netc.compile(net.graph, precision="exact")(**net.feed).values())
    return files


def calibrated(model: Path, feed: Mapping[str, NDArray[Any]]) -> Path:
    """The same model in eight bits, by ONNX Runtime's own tool."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Once(CalibrationDataReader):  # type: ignore[misc]
        given = iter([feed])

        def get_next(self) -> Mapping[str, NDArray[Any]] | None:
            return next(self.given, None)

    ready, made = model.with_suffix(".ready.onnx"), model.with_suffix(".int8.onnx")
    quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(ready), str(made), Once(), per_channel=True, **kinds)
    return made


def disagreements(workers: list[Worker], exact: Path, tolerance: float) -> None:
    """Set `why_not` of the engines that compute something else than most do, and all errors."""
    alive = [w for w in workers if not w.why_not]
    got = {w.engine: _outputs(w.outputs) for w in alive}
    for worker in alive:
        mine = got[worker.engine]
        worker.error = _error(mine, _outputs(exact))
        errors = sorted(_error(mine, got[w.engine]) for w in alive if w is not worker)
        if errors and not statistics.median_low(errors) <= tolerance:
            worker.why_not = f"its outputs differ by {errors[0]:.1e}"


def _outputs(path: Path) -> Outputs:
    with np.load(path) as stored:
        return [stored[name].ravel() for name in stored.files]


def _error(got: Outputs, wanted: Outputs) -> float:
    """‖got − wanted‖ / ‖wanted‖, of the worst output."""
    norm = np.linalg.norm
    pairs = zip(got, wanted, strict=True)
    return max(float(norm(x - y) / (norm(y) + 1e-30)) for x, y in pairs)


def measure(
    name: str, engines: list[str], threads: int, batch: int, rounds: int, precision: str
) -> dict[str, Any]:
    """All engines on one net, in turns."""
    net = zoo.read(name, batch)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = write_models(net, precision, folder)
        workers = [start(engine, files, threads, precision, folder) for engine in engines]
        disagreements(workers, files["exact"], TOLERANCES[precision])
        for turn in range(rounds):
            shifted = workers[turn % len(workers) :] + workers[: turn % len(workers)]
            for worker in shifted:
                if not worker.why_not:
                    worker.turn(TURN)
        for worker in workers:
            worker.close()
    return {
        "net": name,
        "batch": batch,
        "threads": threads,
        "gflop": net.flops / 1e9,
        "engines": {w.engine: _figures(w) for w in workers},
    }


def _figures(worker: Worker) -> dict[str, Any]:
    if worker.why_not or not worker.times:
        return {"why_not": worker.why_not or "no turn"}
    return {
        "ms": statistics.median(worker.quiet) * 1e3,
        "best_ms": worker.best * 1e3,
        "error": worker.error,
        "turns": len(worker.quiet),
        "dropped": len(worker.times) - len(worker.quiet),
        "foreign": statistics.median(worker.foreign),
    }


def print_tables(results: list[dict[str, Any]], engines: list[str]) -> None:
    """Milliseconds, then ratios: netc's time over each engine's, and over the best one's."""
    head = f"{'net':<12}{'batch':>6}{'threads':>8}{'GFLOP':>8}"
    print(head + "".join(f"{e:>13}" for e in engines) + f"{'other load':>12}")
    for r in results:
        cells = [r["engines"][e].get("ms") for e in engines]
        load = max((r["engines"][e].get("foreign", 0.0) for e in engines), default=0.0)
        row = f"{r['net']:<12}{r['batch']:>6}{r['threads']:>8}{r['gflop']:>8.3g}"
        print(row + "".join(f"{c:>13.3f}" if c else f"{'–':>13}" for c in cells) + f"{load:>12.2f}")
    print("median milliseconds a run; other load in cores\n")
    for r in results:
        errors = [r["engines"][e].get("error") for e in engines]
        row = f"{r['net']:<12}{r['batch']:>6}{r['threads']:>8}{'':>8}"
        print(row + "".join(f"{e:>13.1e}" if e is not None else f"{'–':>13}" for e in errors))
    print("‖outputs − exact outputs‖ / ‖exact outputs‖")
    for r in results:
        for engine, figures in r["engines"].items():
            if "why_not" in figures:
                print(f"not timed: {engine} on {r['net']}: {figures['why_not']}")
    print_ratios(results, engines, "ms", "medians")
    print_ratios(results, engines, "best_ms", "best runs: less honest, less disturbed")


def print_ratios(results: list[dict[str, Any]], engines: list[str], figure: str, what: str) -> None:
    """netc's time over each engine's, and over the best one's."""
    others = [e for e in engines if e != "netc"]
    print(f"\n{'netc ÷':<12}{'batch':>6}{'threads':>8}", end="")
    print("".join(f"{e:>13}" for e in others) + f"{'best':>13}   ({what})")
    for r in results:
        mine = r["engines"].get("netc", {}).get(figure)
        times = [r["engines"][e].get(figure) for e in others]
        ratios = [mine / t if mine and t else None for t in times]
        known = [x for x in ratios if x]
        cells = [*ratios, max(known) if known else None]
        row = f"{r['net']:<12}{r['batch']:>6}{r['threads']:>8}"
        print(row + "".join(f"{c:>13.2f}" if c else f"{'–':>13}" for c in cells))


def _words(text: str) -> list[str]:
    return [w for w in text.split(",") if w]


def main() -> None:
    """Parse the command line, measure, print."""
    available = [e for e in ENGINES if find_spec(_MODULES.get(e, e))]
    parser = argparse.ArgumentParser(prog="benchmarks.nets", description=__doc__.splitlines()[0])
    parser.add_argument("--nets", type=_words, default=list(zoo.QUICK), help="or: all")
    parser.add_argument("--engines", type=_words, default=available)
    parser.add_argument("--threads", type=_words, default=["2"])
    parser.add_argument("--batch", type=_words, default=["1"])
    parser.add_argument("--precision", choices=TOLERANCES, default="high", help="of those that can")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    nets = list(zoo.NAMES) if given.nets == ["all"] else given.nets
    results = []
    for name in nets:
        for batch in map(int, given.batch):
            for threads in map(int, given.threads):
                print(f"{name}, batch {batch}, {threads} threads …", file=sys.stderr, flush=True)
                how = threads, batch, given.rounds, given.precision
                results.append(measure(name, given.engines, *how))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))
    print_tables(results, given.engines)


if __name__ == "__main__":
    main()
