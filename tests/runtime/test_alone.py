"""A saved model runs where the compiler and its libraries cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from netc.runtime.session import save_artifact

from .handmade import feed, make_artifact, reference

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = (
    "llvmlite lark networkx triton protobuf google scipy click rich PIL msgspec platformdirs h5py "
    "lmdb netc.codegen netc.passes netc.frontend netc.ir.op netc.ir.graph netc.ir.ops "
    "netc.compiler"
)
if not np.__version__.startswith("1."):  # that one imports it itself
    BLOCKED += " numpy.ma"

ALONE = """
import sys
BLOCKED = {blocked!r}.split()

class Block:
    def find_spec(self, name, path=None, target=None):
        if any(name == b or name.startswith(b + ".") for b in BLOCKED):
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np
from {module} import load
x = dict(np.load(sys.argv[2]))
wanted = x.pop("wanted")
for threads in (1, 2):
    exe = load(sys.argv[1], threads)
    assert np.array_equal(exe(x)["out"], wanted)
assert not [m for m in sys.modules if m.partition(".")[0] in BLOCKED or m in BLOCKED]
"""


def run_alone(tmp_path: Path, module: str) -> None:
    save_artifact(make_artifact(), tmp_path / "m")
    x = feed(3)
    np.savez(tmp_path / "x.npz", wanted=reference(**x), **x)
    code = ALONE.format(blocked=BLOCKED, module=module)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "m"), str(tmp_path / "x.npz")]
    subprocess.run(command, env=env, check=True, cwd=tmp_path)


def test_the_runtime_needs_nothing_but_numpy(tmp_path: Path) -> None:
    run_alone(tmp_path, "netc.runtime.session")


def test_netc_load_needs_nothing_but_numpy(tmp_path: Path) -> None:
    run_alone(tmp_path, "netc")
