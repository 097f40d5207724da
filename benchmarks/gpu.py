"""netc against torch, eager and compiled, on a GPU: whole nets, one CUDA graph a run.

    python -m benchmarks.gpu [--nets a,b] [--batches 1,16] [--precisions high,medium,low]
        [--peers eager,compile] [--seconds 540] [--check] [--kernels] [--dry] [-o out.json]
        [--compiled FOLDER] [--compile-only]

Every engine has a process of its own; they take turns, and one that hangs or stops the GPU costs
its own figures only. First come netc and eager on everything, then compile as long as there is
time, in turns with the other two again; the other way round with --compile-first. What compile
makes and measures stays in the folder --compiled: a later run goes on from there, and
--compile-only fills it, beside anything else. Inputs are on the GPU, outputs stay there; what is
timed is the replay of a graph, on the GPU's clock. Outputs are compared with torch in float64.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import zoo
from benchmarks.gpu_compiled import Compiled, Config
from benchmarks.gpu_fleet import LOAD, Clock, Failed, TimeIsUp, Worker
from benchmarks.gpu_kernels import print_kernels
from benchmarks.gpu_tables import HEAD, PEERS, line, print_summary, verdict

BIND, TURN, KERNELS = 90.0, 30.0, 90.0  # seconds a request may take
PRECISIONS = ("exact", "high", "medium", "low", "fp16")


@dataclass
class Bench:
    """A run: its processes and what they found."""

    given: argparse.Namespace
    folder: Path
    clock: Clock
    facts: dict[str, Any] = field(default_factory=dict)
    rows: dict[Config, dict[str, Any]] = field(default_factory=dict)
    kernels: dict[Config, dict[str, Any]] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)

    def worker(self, engine: str, number: int = 0) -> Worker:
        """The process of an engine."""
        name = f"{engine}{number or ''}"
        if name not in self.workers:
            options = {"dry": self.given.dry, "folder": str(self.folder), "arch": self.given.arch}
            options |= {"cache": str(self.given.cache) if self.given.cache else ""}
            options["jobs"] = self.given.compile_jobs
            options["kept"] = str(self.given.compiled) if self.given.compiled else ""
            options |= {"tuning": self.given.tuning, "tuned": str(self.given.tuned or self.folder)}
            self.workers[name] = Worker(engine, options, self.clock)
        return self.workers[name]

    # ---- making ready ---------------------------------------------------------------------

    def configs(self) -> list[Config]:
        """Everything asked for: all nets at the first precision, then at the next."""
        order = product(self.given.precisions, self.given.nets, self.given.batches)
        return [(net, precision, batch) for precision, net, batch in order]

    def build_ahead(self) -> Iterator[None]:
        """A process that compiles ahead of the others; each step waits for the next net."""
        builder = self.worker("build")
        wanted = list(product(self.given.precisions, self.given.nets))
        for precision, net in wanted:
            builder.send(LOAD, "build", net=net, precision=precision)
        for precision, net in wanted:
            try:
                made = builder.receive() if builder.process else {}
                say(f"built {net} {precision}: {made}")
            except Failed as failed:
                say(f"built ahead: not {net} {precision}: {failed}")
            yield

    def ready(self, engine: str, config: Config, number: int = 0) -> float | None:
        """An engine with a configuration loaded and run once; its error against float64."""
        net, precision, batch = config
        worker = self.worker(engine, number)
        if worker.loaded != (net, precision):
            worker.ask(LOAD, "load", net=net, precision=precision)
            worker.loaded = (net, precision)
        limit = self.given.compile_limit if engine == "compile" else BIND
        worker.ask(limit, "bind", batch=batch, out=f"{engine}{number or ''}.npz")
        return self.error(engine, config, number)

    def error(self, engine: str, config: Config, number: int = 0) -> float | None:
        """The largest error of an engine's outputs, of the largest output."""
        reference = self.reference(config)
        if reference is None:
            return None
        worst = 0.0
        with (
            np.load(self.folder / f"{engine}{number or ''}.npz") as got,
            np.load(reference) as want,
        ):
            for name in want.files:
                difference = np.abs(got[name] - want[name]).max(initial=0.0)
                largest = np.abs(want[name]).max(initial=0.0) + 1e-30
                share = float(difference / largest)
                worst = share if not share <= worst else worst  # NaN stays
        return worst

    def reference(self, config: Config) -> Path | None:
        """The file of the outputs in float64; None where there are none."""
        net, _, batch = config
        path = self.folder / f"float64.{net}.{batch}.npz"
        if not path.exists():
            try:
                self.worker("reference").ask(BIND, "reference", net=net, batch=batch, out=path.name)
            except Failed as failed:
                say(f"    reference: {failed}")
        return path if path.exists() else None

    # ---- measuring ------------------------------------------------------------------------

    def measure(self, config: Config, engines: dict[str, int]) -> None:
        """Engines (with the numbers of their processes) in turns on a configuration."""
        net, precision, batch = config
        row: dict[str, Any] = {"net": net, "batch": batch, "precision": precision}
        row |= {"engines": {}, "errors": {}}
        for engine, number in engines.items():
            try:
                if number == 0:
                    row["errors"][engine] = self.ready(engine, config)
                else:
                    row["errors"][engine] = self.error(engine, config, number)
            except (Failed, OSError, ValueError, KeyError) as failed:
                row["engines"][engine] = {"error": str(failed)}
        times: dict[str, list[Any]] = {e: [] for e in engines if e not in row["engines"]}
        for turn in range(0 if self.given.check else self.given.rounds):
            names = [e for e in times if e not in row["engines"]]
            for engine in names[turn % len(names) :] + names[: turn % len(names)] if names else ():
                try:
                    worker = self.worker(engine, engines[engine])
                    times[engine].append(worker.ask(TURN, "time", seconds=self.given.turn))
                except Failed as failed:
                    row["engines"][engine] = {"error": str(failed)}
        for engine, turns in times.items():
            if turns:
                row["engines"].setdefault(engine, _figures(turns))
        self.keep(config, row)

    def keep(self, config: Config, row: dict[str, Any]) -> None:
        """Note a row, in memory, on the terminal and in the file."""
        before = self.rows.get(config)
        if before:  # a second measurement stands where all of its engines ran
            failed = [f for f in row["engines"].values() if "error" in f]
            if failed:
                before["engines"] |= {e: f for e, f in row["engines"].items() if e == "compile"}
                row = before
        self.rows[config] = row
        say(line(row))
        for engine, figures in row["engines"].items():
            if "error" in figures:
                say(f"    {engine}: {figures['error']}")
        self.write()

    def table_of_kernels(self, config: Config) -> None:
        """Every kernel of netc's, timed alone, once."""
        net, precision, batch = config
        if config in self.kernels or "error" in self.rows[config]["engines"].get(
            "netc", {"error": ""}
        ):
            return
        try:
            made = self.worker("netc").ask(KERNELS, "kernels", repeat=5)
        except Failed as failed:
            say(f"    kernels: {failed}")
            return
        self.kernels[config] = {"net": net, "batch": batch, "precision": precision, **made}
        self.write()

    def write(self) -> None:
        """All figures so far, as JSON."""
        if self.given.output is None:
            return
        whole = {
            "facts": self.facts,
            "results": [*self.rows.values()],
            "kernels": [*self.kernels.values()],
        }
        whole["traces"] = {name: w.traces for name, w in self.workers.items() if w.traces}
        part = self.given.output.with_suffix(".part")
        part.write_text(json.dumps(whole))
        part.replace(self.given.output)

    # ---- the run --------------------------------------------------------------------------

    def run(self) -> None:
        """Everything in order of use; raises TimeIsUp."""
        if self.given.compile_only:
            self.run_compiled({})
            return
        with suppress(Failed):
            self.facts = self.worker("reference").ask(BIND, "facts")
        say(f"{self.facts}\n{HEAD}")
        engines = {"netc": 0} | ({"eager": 0} if "eager" in self.given.peers else {})
        ahead = self.build_ahead() if self.given.ahead else iter(())
        built: set[tuple[str, str]] = set()
        compiles = "compile" in self.given.peers and not self.given.check
        if compiles and self.given.compile_first:
            self.run_compiled(engines)
        for config in self.configs():
            if config[:2] not in built:
                built.add(config[:2])
                next(ahead, None)
            if config in self.rows:
                continue
            self.measure(config, engines)
            if self.given.kernels:
                self.table_of_kernels(config)
        if compiles and not self.given.compile_first:
            self.run_compiled(engines)

    def run_compiled(self, engines: dict[str, int]) -> None:
        """torch.compile on as much as there is time for, a few nets at once.

        Whatever still compiles is halted while anything is timed.
        """
        given = self.given
        nets = given.compile_nets or sorted(given.nets, key=zoo.convolutions)
        batches = given.compile_batches or given.batches
        order = [(n, p, b) for p, b, n in product(given.precisions, batches, nets)]
        limits = given.compile_jobs, given.compile_limit, given.compile_seconds
        compiled = Compiled(order, *limits)
        for number, config, why in compiled.answers(partial(self.worker, "compile"), self.clock):
            say(f"    torch.compile of {config[0]} b{config[2]} {config[1]}: {why or 'ready'}")
            if not why and not given.compile_only:
                self.measure(config, engines | {"compile": number})
                if given.kernels:
                    self.table_of_kernels(config)
            elif config in self.rows:
                self.rows[config]["engines"]["compile"] = {"error": why}

    def close(self) -> None:
        """End every process."""
        for worker in self.workers.values():
            worker.end()


def _figures(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "median": statistics.median(t["median"] for t in turns),
        "best": min(t["best"] for t in turns),
        "count": sum(t["count"] for t in turns),
        "turns": [t["median"] for t in turns],
    }


def say(text: str) -> None:
    """A line at once."""
    print(text, flush=True)


@contextmanager
def until_stopped() -> Iterator[None]:
    """An end by a signal, or of the time, is a normal one: the tables are still printed."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except TimeIsUp:
        say("the time is up")
    except KeyboardInterrupt:
        say("stopped")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def build_only(bench: Bench) -> None:
    """Fill the cache with compiled kernels; needs no GPU."""
    for net, precision in product(bench.given.nets, bench.given.precisions):
        try:
            made = bench.worker("build").ask(3600.0, "build", net=net, precision=precision)
            say(f"{net} {precision}: {made}")
        except Failed as failed:
            say(f"{net} {precision}: {failed}")


def words(known: Sequence[str] = ()) -> Callable[[str], list[str]]:
    """A reader of names with commas between them."""

    def read(text: str) -> list[str]:
        found = [w for w in text.split(",") if w]
        wrong = [w for w in found if known and w not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"no {wrong[0]}; there are {', '.join(known)}")
        return found

    return read


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(w) for w in text.split(",") if w]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    add = parser.add_argument
    nets, precisions = words(zoo.NAMES), words(PRECISIONS)
    add("--nets", type=nets, default=list(zoo.NAMES))
    add("--batches", type=numbers, default=[1, 16, 128])
    add("--precisions", type=precisions, default=["medium", "low", "high"])
    add("--peers", type=words(PEERS), default=list(PEERS), help="eager,compile")
    add("--seconds", type=float, default=540.0, help="for the whole run")
    add("--rounds", type=int, default=4, help="turns of every engine")
    add("--turn", type=float, default=0.1, help="seconds an engine runs when it is its turn")
    add("--check", action="store_true", help="compare results only")
    add("--kernels", action="store_true", help="time every kernel, and every variant of it")
    add("--compile-nets", type=nets, help="for torch.compile; else all")
    add("--compile-batches", type=numbers, help="for torch.compile; else all")
    add("--compile-only", action="store_true", help="only fill the folder --compiled")
    add("--compile-first", action="store_true", help="begin with torch.compile")
    add("--compile-seconds", type=float, default=3600.0, help="for torch.compile in all")
    add("--compile-limit", type=float, default=150.0, help="seconds for one net")
    add("--compiled", type=Path, help="a folder for what torch.compile makes and measures")
    add("--compile-jobs", type=int, default=4, help="nets torch compiles at once")
    add("--tuning", type=float, default=10.0, help="seconds one binding may measure variants")
    add("--tuned", type=Path, help="a folder for what was measured")
    add("--arch", default="sm_90")
    add("--cache", type=Path, help="a folder for compiled kernels")
    add("--no-ahead", dest="ahead", action="store_false", help="compile nothing ahead")
    add("--build", action="store_true", help="fill the cache only; needs no GPU")
    add("--dry", action="store_true", help="no GPU: the interpreter and torch's CPU, on lenet")
    add("-o", "--output", type=Path, help="write all figures here")
    given = parser.parse_args()
    if given.dry:
        given.nets, given.batches, given.rounds, given.turn = ["lenet"], [1, 2], 2, 0.01
    given.ahead = given.ahead and given.cache is not None and not given.dry
    return given


def main() -> None:
    """Measure, and print what there is, whatever happens."""
    given = arguments()
    with tempfile.TemporaryDirectory(prefix="netc-gpu-") as temporary:
        bench = Bench(given, Path(temporary), Clock(time.monotonic() + given.seconds))
        try:
            with until_stopped():
                build_only(bench) if given.build else bench.run()
        finally:
            bench.close()
            print_kernels([*bench.kernels.values()], bench.facts.get("rates", {}), sys.stdout)
            if not (given.build or given.compile_only):
                print_summary([*bench.rows.values()], bench.facts, sys.stdout)
            bench.write()
    if any(verdict(row) == "WRONG" for row in bench.rows.values()):
        raise SystemExit("some results are wrong")


if __name__ == "__main__":
    main()
