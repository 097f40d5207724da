"""Nets that `tests.on_gpu.make` compiled, run on the GPU that is here.

    python -m tests.on_gpu.run FOLDER [--seconds 100] [--turns 3]

Each run takes another variant of every kernel, so that not only the fastest is seen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netc.runtime import cuda, tuning
from netc.runtime.driver import GpuOptions
from netc.runtime.session import load


class Turns(tuning.Tuner):
    """Takes variants in turns instead of measuring them."""

    turn = 0

    def choose(self, key: str, candidates: Sequence[int], measure: tuning.Measure) -> int:
        """Another one each turn."""
        return candidates[self.turn % len(candidates)]


def run(folder: Path, seconds: float, turns: int) -> list[str]:
    """What differs, and what fails; a case a line."""
    cuda.Tuner = Turns  # type: ignore[attr-defined]
    end = time.monotonic() + seconds
    wrong: list[str] = []
    paths = sorted(folder.glob("*.bin"), key=lambda p: hashlib.sha256(p.name.encode()).digest())
    for done, path in enumerate(paths):
        if time.monotonic() > end:
            print(f"the time was up after {done} of {len(paths)}")
            break
        why = check(path, turns)
        if why:
            wrong.append(f"{path.stem}: {why}")
            print(wrong[-1], flush=True)
    else:
        print(f"all {len(paths)} ran")
    return wrong


def check(path: Path, turns: int) -> str:
    """One case, several times: an error, or an empty string."""
    with np.load(path.with_suffix(".npz")) as arrays:
        feed = {k[3:]: arrays[k] for k in arrays if k.startswith("in|")}
        want = {k[4:]: arrays[k] for k in arrays if k.startswith("out|")}
    bounds = json.loads(path.with_suffix(".json").read_text())
    for turn in range(turns):
        Turns.turn = turn
        try:
            with tempfile.TemporaryDirectory() as empty:
                exe = load(path, 1, trust=True, gpu=GpuOptions("cuda", cache=Path(empty)))
                exe.poison()
                runs = [exe(feed) for _ in range(2)]
        except Exception as error:
            traceback.print_exc()
            return f"turn {turn}: {type(error).__name__}: {error}"
        for name, y in want.items():
            why = _differs(runs[0][name], y, bounds[name])
            if why or not np.array_equal(runs[0][name], runs[1][name], equal_nan=True):
                return f"turn {turn}: {name}: {why or 'a second run differs'}"
    return ""


def _differs(got: Any, want: Any, bound: float) -> str:
    if got.shape != want.shape:
        return f"shape {got.shape} instead of {want.shape}"
    finite = np.isfinite(want)
    if not np.array_equal(np.isfinite(got), finite):
        return "infinite or NaN where none is wanted, or the other way round"
    error = float(np.abs(got[finite].astype(np.float64) - want[finite]).max(initial=0.0))
    return f"off by {error:.3g}; {bound:.3g} is allowed" if error > bound else ""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--turns", type=int, default=3, help="runs of each net")
    told = parser.parse_args()
    wrong = run(told.folder, told.seconds, told.turns)
    print("\n".join(wrong) or "nothing is wrong")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
