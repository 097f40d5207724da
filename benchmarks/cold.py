"""Cold figures: compiling, loading, importing, and the memory of a run, each in a new process.

python -m benchmarks.cold [--net googlenet] [--times 5] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.load import Watch

ROOT = Path(__file__).resolve().parent.parent
COMPILE_S, LOAD_MS, IMPORT_MS, EXTRA_MB = 3.0, 50.0, 100.0, 40.0

_LOAD = """
import json, sys, time
import numpy as np
x = np.load(sys.argv[2])
t0 = time.perf_counter()
import netc
t1 = time.perf_counter()
exe = netc.load(sys.argv[1])
t2 = time.perf_counter()
exe({sys.argv[3]: x})
t3 = time.perf_counter()
print(json.dumps({"import": t1 - t0, "load": t2 - t1, "first": t3 - t2}))
"""

_IMPORT = """
import json, time
t0 = time.perf_counter()
import netc
netc.load
print(json.dumps({"import": time.perf_counter() - t0}))
"""

_MEMORY = """
import json, sys
import numpy as np
import netc
from netc.runtime.layout import plan_layout
def memory(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return int(line.split()[1]) * 1024
before = memory("VmHWM")
exe = netc.load(sys.argv[1])
x = np.load(sys.argv[2])
for _ in range(5):
    exe({sys.argv[3]: x})
arena = plan_layout(exe.plan, {"N": x.shape[0]}).arena
print(json.dumps({"peak": memory("VmHWM"), "before": before, "arena": arena,
                  "weights": len(exe.model.weights) + exe.plan.made_size}))
"""


def environment() -> dict[str, str]:
    """Ours, with Python free to keep its own compiled files, as it does for users."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def fresh(code: str, *words: str) -> dict[str, float]:
    """What a program printed in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def compile_cold(source: Path, weights: Path, out: Path) -> dict[str, float]:
    """`netc compile` on the clock."""
    start = time.perf_counter()
    words = ["compile", str(source), "--weights", str(weights), "-o", str(out)]
    command = [sys.executable, "-c", "from netc.cli import main; main()", *words]
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return {"compile": time.perf_counter() - start}


def repeat(times: int, call: Callable[[], dict[str, float]]) -> dict[str, list[float]]:
    """The figures of several calls, after one that fills the system's caches of files."""
    call()
    runs = [call() for _ in range(times)]
    return {key: [run[key] for run in runs] for key in runs[0]}


def measure(name: str, times: int, folder: Path) -> dict[str, Any]:
    """All cold figures of one net."""
    net = zoo.read(name)
    weights, model, data = folder / "w.npz", folder / "net.bin", folder / "x.npy"
    np.savez(weights, **net.graph.weights)  # type: ignore[arg-type]
    ((port, x),) = net.feed.items()
    np.save(data, x)
    watch = Watch()
    compiled = repeat(times, lambda: compile_cold(zoo.path_of(name), weights, model))
    words = (str(model), str(data), port)
    loaded = repeat(times, lambda: fresh(_LOAD, *words))
    imported = repeat(times, lambda: fresh("import numpy\n" + _IMPORT))
    memory = fresh(_MEMORY, *words)
    first = [a + b for a, b in zip(loaded["load"], loaded["first"], strict=True)]
    return {
        "net": name,
        "compile_s": compiled["compile"],
        "load_to_first_ms": [1e3 * t for t in first],
        "load_ms": [1e3 * t for t in loaded["load"]],
        "import_ms": [1e3 * t for t in imported["import"]],
        "memory": memory,
        "foreign": watch.foreign(),
    }


def lines(figures: dict[str, Any]) -> list[str]:
    """The figures against what is asked."""
    memory = figures["memory"]
    allowed = memory["weights"] + memory["arena"] + EXTRA_MB * 1e6
    rows = [
        ("netc compile, cold process", figures["compile_s"], "s", COMPILE_S),
        ("netc.load to first result", figures["load_to_first_ms"], "ms", LOAD_MS),
        ("import netc, for running", figures["import_ms"], "ms", IMPORT_MS),
        ("peak memory of a run", [memory["peak"] / 1e6], "MB", allowed / 1e6),
    ]
    out = [f"{figures['net']}: median (best) of new processes; other load {figures['foreign']:.2f}"]
    for what, values, unit, limit in rows:
        median = statistics.median(values)
        verdict = "ok" if median <= limit else "OVER"
        out.append(
            f"  {what:<28}{median:>9.4g} {unit:<3}({min(values):.4g})"
            f"   limit {limit:.4g}  {verdict}"
        )
    load = statistics.median(figures["load_ms"])
    out.append(f"  of load to first result, {load:.3g} ms are the load; the rest is the first run")
    out.append(
        f"  weights {memory['weights'] / 1e6:.1f} MB, arena {memory['arena'] / 1e6:.1f} MB, "
        f"the process before loading {memory['before'] / 1e6:.1f} MB"
    )
    return out


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(prog="benchmarks.cold", description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="googlenet")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        figures = measure(given.net, given.times, Path(temporary))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))
    print("\n".join(lines(figures)))


if __name__ == "__main__":
    main()
