"""What a pass is, what it is given, and the one hook between passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

from netc.errors import VerifyError
from netc.ir.graph import Graph, Node, Stage

Hook = Callable[["Pass", Graph, Graph, "Context"], None]


@dataclass(frozen=True)
class Fired:
    """A rule that changed the graph, and the node it changed."""

    pass_name: str
    rule: str
    node: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.rule} at %{self.node}"


@dataclass(frozen=True)
class Refusal:
    """A rewrite that was not done, and why, in words for a user."""

    pass_name: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.reason}"


@dataclass
class Context:
    """What passes share: the level of checks, the seed of undrawn parameters, the journal."""

    check: int = 0
    seed: int = 0
    hooks: tuple[Hook, ...] = ()
    fired: list[Fired] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def refuse(self, pass_name: str, node: Node, reason: str) -> None:
        """Note, once, why something was not done."""
        refusal = Refusal(pass_name, node.name, reason)
        if refusal not in self.refusals:
            self.refusals.append(refusal)


@runtime_checkable
class Pass(Protocol):
    """A function Graph -> Graph whose options are the fields of a frozen dataclass.

    It takes graphs of the stages in `needs` and gives one of stage `gives` (None: the same).
    A pass with nothing to do returns the same object.
    """

    @property
    def name(self) -> str:
        """What users call it: `netc dump --after fold_norms`."""

    @property
    def needs(self) -> tuple[Stage, ...]:
        """The stages it takes."""

    @property
    def gives(self) -> Stage | None:
        """The stage it gives; None when it keeps the stage."""

    def run(self, graph: Graph, ctx: Context) -> Graph:
        """The rewritten graph."""


BEFORE_KERNELS = (Stage.NET, Stage.PLACED)


def run_passes(graph: Graph, passes: Iterable[Pass], ctx: Context | None = None) -> Graph:
    """The graph after every pass in turn; between passes the one hook: times and checks."""
    from netc.passes.checking import checks_for

    ctx = Context() if ctx is None else ctx
    hooks = (*checks_for(ctx.check), *ctx.hooks)
    for each in passes:
        if graph.stage not in each.needs:
            wanted = " or ".join(s.value for s in each.needs)
            raise VerifyError(f"{each.name} needs stage {wanted}, not {graph.stage.value}")
        start = time.perf_counter()
        after = each.run(graph, ctx)
        spent = time.perf_counter() - start
        ctx.seconds[each.name] = ctx.seconds.get(each.name, 0.0) + spent
        if after.stage is not (each.gives or graph.stage):
            raise VerifyError(f"{each.name} gave stage {after.stage.value}")
        for hook in hooks:
            hook(each, graph, after, ctx)
        graph = after
    return graph


def until(passes: Sequence[Pass], name: str) -> tuple[Pass, ...]:
    """The passes up to and including the last one called `name`; VerifyError for none."""
    last = max((i for i, p in enumerate(passes) if p.name == name), default=None)
    if last is None:
        known = ", ".join(dict.fromkeys(p.name for p in passes))
        raise VerifyError(f"no pass {name!r}; there are {known}")
    return tuple(passes[: last + 1])


def at_stage(graph: Graph, stage: Stage) -> Graph:
    """The same graph at another stage."""
    return graph if graph.stage is stage else replace(graph, stage=stage)
