"""Streams of a GPU: copies, points to wait for, and launches as one graph."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from netc.errors import clean
from netc.runtime.conflicts import dependencies
from netc.runtime.cuda_code import Started
from netc.runtime.cuda_errors import asking, told
from netc.runtime.cuda_memory import CudaBlock, Pinned
from netc.runtime.driver import FASTEST, GRAPHS, Block, DeviceLost, Launch
from netc.runtime.tuning import key_of

if TYPE_CHECKING:
    from netc.runtime.cuda import CudaDriver

_CHAIN = 2e-4  # seconds of launches between two events, so that events weigh little
_MOST = 40  # of them
_REPLAYS = 12  # of a graph, to compare two
_HOPELESS = 3.0  # times the best one's time: a launch so slow is not looked at closer
_LATE = 5e-5  # seconds that one launch may seem longer than it is: those the host takes to ask
_MEASURED = 3  # chains whose median is a variant's time


class CudaEvent:
    """A point in a stream."""

    def __init__(self, event: Any) -> None:
        self.event = event

    def wait(self) -> None:
        """Until the stream has come past it."""
        with asking("finish", waits=True):
            self.event.sync()


class CudaQueue:
    """A stream of a GPU."""

    def __init__(self, driver: CudaDriver, device: int) -> None:
        self.driver, self.number = driver, device
        self.ordinal = driver.ordinal(device)
        self.stream = self.device().create_stream()
        self._bounce: Pinned | None = None

    def device(self) -> Any:
        """The GPU, made this thread's current one."""
        return self.driver.use(self.ordinal)

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy bytes."""
        there = self.driver.home(source)
        if there not in (None, self.ordinal) and self.driver.home(target) == self.ordinal:
            assert there is not None
            if (self.ordinal, there) not in self.driver.reach:
                self._copy_by_host(target, source, size, there)
                return
        with asking("copy"):
            self.device()
            make = self.driver.core.Buffer.from_handle
            make(target, size).copy_from(make(source, size), stream=self.stream)

    def _copy_by_host(self, target: int, source: int, size: int, there: int) -> None:
        """Between GPUs that do not reach each other: out on the one, in on the other."""
        if self._bounce is None or len(self._bounce.bytes) < size:
            self.wait()
            if self._bounce is not None:
                self._bounce.close()
            self._bounce = self.driver.staging(size)
        out = self.driver.queue(there, f"out to {self.number}")
        out.after(self.record())
        out.copy(self._bounce.address, source, size)
        self.after(out.record())
        self.copy(target, self._bounce.address, size)

    def fill(self, block: Block, byte: int) -> None:
        """Set every byte of a block."""
        assert isinstance(block, CudaBlock)
        with asking("fill memory"):
            self.device()
            block.buffer.fill(byte, stream=self.stream)

    def record(self) -> CudaEvent:
        """The point after all that was asked for so far."""
        with asking("record an event"):
            self.device()
            return CudaEvent(self.stream.record())

    def after(self, event: Any) -> None:
        """Go on after a point of another stream."""
        with asking("wait for an event"):
            self.device()
            self.stream.wait(event.event)

    def wait(self) -> None:
        """Until all is done."""
        with asking("finish", waits=True):
            self.device()
            self.stream.sync()

    def prepare(self, launches: Sequence[Launch], scratch: Sequence[Block]) -> CudaReplay:
        """A graph of the launches, with the fastest variants."""
        kernels, tuner = self.driver.kernels(self.ordinal), self.driver.tuner(self.ordinal)
        tuner.begin(self.driver.options.tuning)
        clean_scratch = _Once(lambda: self._zero(scratch))
        compiler = self.driver.image.compiler
        variants = []
        with asking("load kernels"):
            self.device()
            for launch in launches:
                text = self.driver.image.kernels[launch.kernel].text
                pairs = zip(text.params, launch.args, strict=True)
                numbers = [v for kind, v in pairs if not kind.startswith("*")]
                key = key_of(text, (*launch.extents, *numbers), compiler)

                def measure(variant: int, best: float, launch: Launch = launch) -> float:
                    clean_scratch()
                    return self.alone(kernels.start_of(launch, variant), _MEASURED, best)

                variants.append(tuner.choose(key, kernels.candidates(launch), measure))
            tuner.keep()
            if self.driver.options.graphs == FASTEST:
                clean_scratch()  # they are run to be compared
            started = [kernels.start_of(x, v) for x, v in zip(launches, variants, strict=True)]
        return CudaReplay(self, started, dependencies(launches), tuple(variants))

    def _zero(self, scratch: Sequence[Block]) -> None:
        """Zeros are valid as numbers and as indices; what lay there before need not be."""
        for block in scratch:
            if isinstance(block, CudaBlock) and block.ordinal == self.ordinal:
                self.fill(block, 0)
        self.wait()

    def alone(self, item: Started, repeat: int, best: float = float("inf")) -> float:
        """The seconds of one launch: the median of chains of it; roughly, far from the best.

        The first chain is not counted: while it runs, the others are asked for.
        """
        first = min(self.timed(self.by_hand([item], [[]]), 3))
        if first > _HOPELESS * best + _LATE:
            return first
        count = max(1, min(_MOST, int(_CHAIN / max(1e-6, first - _LATE))))
        chain = self.runner([item] * count, [[i - 1] if i else [] for i in range(count)])
        return statistics.median(self.timed(chain, repeat + 1)[1:]) / count

    def timed(self, start: Callable[[], None], repeat: int) -> list[float]:
        """The seconds of each of so many calls, on the GPU's clock."""
        with asking("be timed", waits=True):
            self.device()
            pairs = []
            for _ in range(repeat):
                before = self._clock()
                start()
                pairs.append((before, self._clock()))
            self.stream.sync()
            return [float(after - before) * 1e-3 for before, after in pairs]

    def _clock(self) -> Any:
        """An event that notes the time."""
        options = self.driver.core.EventOptions
        try:
            return self.stream.record(options=options(timing_enabled=True))
        except TypeError:  # its name before cuda.core 1.0
            return self.stream.record(options=options(enable_timing=True))

    def runner(
        self, items: Sequence[Started], earlier: Sequence[Sequence[int]]
    ) -> Callable[[], None]:
        """What starts these launches, each after the earlier ones it names."""
        makers = {"nodes": self._by_nodes, "capture": self._by_capture, "launches": self.by_hand}
        with asking("take these launches"):
            self.device()
            for place, how in enumerate(GRAPHS[:-1]):
                if place < self.driver.graphs:
                    continue
                try:
                    return makers[how](items, earlier)
                except Exception as error:
                    if isinstance(told(error, "", False), DeviceLost):
                        raise
                    why = clean(error)
                    if "CUDA_ERROR" not in why:  # this cuda.core has it otherwise: not again
                        self.driver.graphs = place + 1
                    logging.getLogger("netc").warning("no CUDA graph by %s: %s", how, why)
            return self.by_hand(items, earlier)

    def faster(self, first: Callable[[], None], items: Sequence[Started]) -> Callable[[], None]:
        """Either what is given, or a graph of the launches one after the other.

        That one is often faster where nothing runs side by side. (Launches that begin before the
        one before them is done, by programmatic dependent launch, were slower on an H200.)
        """
        try:
            with asking("take these launches"):
                second = self._by_capture(items, [])
            times = [self._typical(run) for run in (first, second)]
        except DeviceLost:
            raise
        except Exception as error:
            logging.getLogger("netc").warning("no graph in order: %s", clean(error))
            return first
        return second if times[1] < times[0] else first

    def _typical(self, run: Callable[[], None]) -> float:
        return statistics.median(self.timed(run, _REPLAYS)[2:])

    def _by_nodes(
        self, items: Sequence[Started], earlier: Sequence[Sequence[int]]
    ) -> Callable[[], None]:
        """A graph of kernel nodes with exactly these dependencies."""
        definition = import_module("cuda.core.graph").GraphDefinition()
        nodes: list[Any] = []
        for item, before in zip(items, earlier, strict=True):
            parent = nodes[before[0]] if before else definition
            node = parent.launch(item.config, item.kernel, *item.args)
            if len(before) > 1:
                node.pred.update([nodes[i] for i in before[1:]])
            nodes.append(node)
        return _Graph(definition.instantiate(), self.stream, (definition, nodes, items))

    def _by_capture(
        self, items: Sequence[Started], earlier: Sequence[Sequence[int]]
    ) -> Callable[[], None]:
        """A graph of the launches in their order."""
        builder = self.device().create_graph_builder()
        builder.begin_building()
        try:
            for item in items:
                self.driver.core.launch(builder, item.config, item.kernel, *item.args)
        finally:
            builder.end_building()
        return _Graph(builder.complete(), self.stream, (builder, items))

    def by_hand(
        self, items: Sequence[Started], earlier: Sequence[Sequence[int]]
    ) -> Callable[[], None]:
        """No graph: one launch after the other."""

        def start() -> None:
            for item in items:
                self.driver.core.launch(self.stream, item.config, item.kernel, *item.args)

        return start


class _Graph:
    """An executable graph, and what must live as long."""

    def __init__(self, graph: Any, stream: Any, held: object) -> None:
        self._graph, self._stream, self._held = graph, stream, held
        graph.upload(stream)

    def __call__(self) -> None:
        self._graph.launch(self._stream)


class _Once:
    """A thing that is done at the first call."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def __call__(self) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


class CudaReplay:
    """Launches as one graph of a stream."""

    def __init__(
        self,
        queue: CudaQueue,
        items: Sequence[Started],
        earlier: Sequence[Sequence[int]],
        variants: tuple[int, ...],
    ) -> None:
        self.variants = variants
        self._queue, self._items = queue, items
        self._run = queue.runner(items, earlier)
        if queue.driver.options.graphs == FASTEST and len(items) > 1:
            self._run = queue.faster(self._run, items)

    def start(self) -> None:
        """Launch the graph."""
        with asking("start the kernels"):
            self._queue.device()
            self._run()

    def times(self, repeat: int) -> list[float]:
        """The GPU's seconds of each of so many replays."""
        return self._queue.timed(self._run, repeat)

    def kernel_times(self, repeat: int) -> list[float]:
        """The GPU's seconds of each launch: the median of so many chains of the same one."""
        return [self._queue.alone(item, repeat) for item in self._items]

    def run_one(self, index: int) -> float:
        """One launch by itself."""
        return self._queue.timed(self._queue.by_hand([self._items[index]], [[]]), 1)[0]
