"""A process that compiles Triton kernels; no GPU and no torch are needed.

    python -m netc.codegen.triton.worker FOLDER

Requests come from standard input, answers go to what was standard output; FOLDER is private and
is removed by the parent. The compiler prints whole modules to its descriptors and may abort:
that is why it is not in the user's process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from netc.codegen.triton.job import FUSION, PTX_VERSION, TARGETS, receive, send
from netc.ir.cubin import check_cubin
from netc.ir.gpu_code import ALIGNED, ENTRY, PORTABLE

_WARP = 32  # threads
_KEPT = {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "USER"}
_ABSENT: dict[str, object] = {"num_ctas": 1, "launch_cooperative_grid": False, "launch_pdl": False}
_ABSENT |= {"global_scratch_size": 0, "profile_scratch_size": 0, "tensordesc_meta": []}


class Refused(Exception):
    """A text or a compiled kernel that does not fit the contract of `gpu_code`."""


def main(folder: str) -> None:
    """Answer requests until there are no more."""
    requests, answers = _own_pipes()
    triton = _load_triton(Path(folder))
    send(answers, {"compiler": f"triton {triton.__version__}"})
    while message := receive(requests):
        try:
            head, blob = _compile(triton, Path(folder), message[0])
        except Exception as error:
            send(answers, {"error": describe(error)})
        else:
            send(answers, head, blob)


def _own_pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The pipes of the protocol, on descriptors that no library knows of."""
    requests, answers = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(2, 1)
    os.close(empty)
    return os.fdopen(requests, "rb"), os.fdopen(answers, "wb")


def _load_triton(folder: Path) -> Any:
    """Triton as netc wants it: what it emits depends on the request and on nothing else."""
    for name in set(os.environ) - _KEPT:  # a hundred variables change what Triton does
        del os.environ[name]
    os.environ["TRITON_CACHE_DIR"] = str(folder / "triton")
    tempfile.tempdir = str(folder)
    sys.dont_write_bytecode = True
    triton = import_module("triton")
    knobs: Any = getattr(getattr(triton, "knobs", None), "compilation", None)
    if hasattr(knobs, "disable_line_info"):
        knobs.disable_line_info = True
    return triton


def _compile(triton: Any, folder: Path, job: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The launch facts and the code of one request."""
    fn = _function(folder, job["text"])
    signature, constants = bindings(fn.params, job["params"], dict(job["constants"]))
    arch = job["arch"]
    options = {"num_warps": job["warps"], "num_stages": job["stages"], "enable_fp_fusion": FUSION}
    if arch == PORTABLE:
        options["ptx_version"] = PTX_VERSION
    source = import_module("triton.compiler").ASTSource(
        fn=fn,
        signature=signature,
        constexprs=constants,
        attrs={(place,): [["tt.divisibility", ALIGNED]] for place in job["aligned"]},
    )
    target = import_module("triton.backends.compiler").GPUTarget("cuda", TARGETS[arch], _WARP)
    compiled = triton.compile(source, target=target, options=options)
    head = launch_facts(compiled.metadata)
    cubin = compiled.asm["cubin"]
    needs = check_cubin(cubin, f"sm_{TARGETS[arch]}", head["entry"])
    head |= {"registers": needs.registers, "local": needs.local}
    return head, compiled.asm["ptx"].encode() if arch == PORTABLE else cubin


def _function(folder: Path, text: str) -> Any:
    """The kernel of a text. Triton reads the source again, so it stands in a file."""
    name = "kernel_" + hashlib.sha256(text.encode()).hexdigest()[:32]
    if name not in sys.modules:
        path = folder / f"{name}.py"
        path.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    fn = getattr(sys.modules[name], ENTRY, None)
    if not hasattr(fn, "params"):
        raise Refused(f"the text has no Triton function `{ENTRY}`")
    return fn


def bindings(
    arguments: Sequence[Any], types: Sequence[str], values: Mapping[str, int]
) -> tuple[dict[str, str], dict[str, int]]:
    """Types and constants by name: run-time parameters come first, constants after them."""
    names = [a.name for a in arguments if not a.is_constexpr]
    constants = [a.name for a in arguments if a.is_constexpr]
    if [a.name for a in arguments] != names + constants:
        raise Refused("a run-time parameter stands behind a constant")
    if len(names) != len(types):
        raise Refused(f"the text has {len(names)} run-time parameters, the kernel {len(types)}")
    missing = [name for name in constants if name not in values]
    if missing:
        raise Refused(f"no value for {', '.join(missing)}")
    signature = dict(zip(names, types, strict=True)) | dict.fromkeys(constants, "constexpr")
    return signature, {name: values[name] for name in constants}


def launch_facts(metadata: Any) -> dict[str, Any]:
    """What a launch must know, from the metadata of any Triton; more than that is refused."""
    facts = dict(metadata if isinstance(metadata, Mapping) else metadata._asdict())
    for name, plain in _ABSENT.items():
        if facts.get(name, plain) not in (plain, None):
            raise Refused(f"the compiled kernel needs {name} = {facts[name]}; netc gives {plain}")
    return {"entry": facts["name"], "warps": facts["num_warps"], "shared": facts["shared"]}


def describe(error: BaseException) -> str:
    """The error at the bottom of a chain of calls, with the line of the text it is about."""
    while type(error.__cause__) is type(error):
        error = error.__cause__
    number = getattr(getattr(error, "node", None), "lineno", 0)  # within its function
    message = getattr(error, "error_message", None)
    lines = (getattr(error, "src", None) or "").split("\n")
    if message is None or not 0 < number <= len(lines):
        return f"{error}" or type(error).__name__
    return f"{message}, at `{lines[number - 1].strip()}`"


if __name__ == "__main__":
    main(sys.argv[1])
