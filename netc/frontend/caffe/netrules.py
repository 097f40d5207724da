"""Which layers a net has: phases, levels, stages, and nets held by a solver's file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netc.errors import ParseError, UsageError, clean
from netc.frontend.caffe.message import Message

PHASES = ("test", "train")


@dataclass(frozen=True)
class State:
    """Caffe's NetState: what `include` and `exclude` rules are held against."""

    phase: str = "TEST"
    level: int = 0
    stages: frozenset[str] = frozenset()


def state_of(phase: str, level: int, stages: Iterable[str]) -> State:
    """The state a user asks for; raises UsageError for a phase that does not exist."""
    if not isinstance(phase, str) or phase.lower() not in PHASES:
        raise UsageError(f"there is no phase {clean(phase)!r}", help='"test" or "train"')
    if type(level) is not int:
        raise UsageError(f"a level is a whole number, not {clean(repr(level))}")
    names = (stages,) if isinstance(stages, str) else stages
    return State(phase.upper(), level, frozenset(map(str, names)))


def net_of(root: Message, state: State) -> tuple[Message, State]:
    """The net in a file, and its state: stages the file gives are added to the user's.

    In a solver's file the net is the one it would train, or test.
    """
    assert root.type, "a file is read as a known message"
    if root.type.name == "NetParameter":
        return root, _merged(state, root)
    train = state.phase == "TRAIN"
    own = "train_net_param" if train else "test_net_param"
    for name in (own, "net_param", *(() if train else ("train_net_param",))):
        if name in root:
            net = root.messages(name)[0]
            state = _merged(state, net)
            return net, _with(state, root, "train_state" if train else "test_state")
    raise ParseError(
        "this is a solver's file and the net is in another file",
        root.span(),
        _elsewhere(root),
    )


def _elsewhere(root: Message) -> str:
    for name in ("net", "train_net", "test_net"):
        if name in root:
            return f"give that file instead: {clean(root.all(name)[0])}"
    return ""


def _merged(state: State, net: Message) -> State:
    return _with(state, net, "state")


def _with(state: State, owner: Message, name: str) -> State:
    """Stages add up; a level that the file states holds where the user asked for none."""
    if name not in owner:
        return state
    rule = owner.messages(name)[0]
    level = state.level or rule.whole("level")
    return State(state.phase, level, state.stages | frozenset(rule.all("stage")))


def kept(layers: list[Message], state: State) -> list[Message]:
    """The layers that belong to the net in this state, each with the phase it runs in."""
    return [layer for layer in layers if belongs(layer, state)]


def belongs(layer: Message, state: State) -> bool:
    """Caffe's rule: in when any include rule holds, out when any exclude rule holds."""
    include, exclude = layer.messages("include"), layer.messages("exclude")
    if include and exclude:
        raise ParseError(
            "a layer has include rules or exclude rules, not both", layer.span("exclude")
        )
    if include:
        return any(holds(rule, state) for rule in include)
    return not any(holds(rule, state) for rule in exclude)


def holds(rule: Message, state: State) -> bool:
    """Whether a NetStateRule holds: every condition it states."""
    if "phase" in rule and rule.text("phase") != state.phase:
        return False
    if "min_level" in rule and state.level < rule.whole("min_level"):
        return False
    if "max_level" in rule and state.level > rule.whole("max_level"):
        return False
    wanted, unwanted = rule.all("stage"), rule.all("not_stage")
    return state.stages.issuperset(wanted) and state.stages.isdisjoint(unwanted)


def left_out(layers: list[Message], blob: str, state: State) -> str:
    """A hint for a blob that only layers outside this state make; empty when there is none."""
    makers = [m for m in layers if blob in m.all("top") and not belongs(m, state)]
    if not makers:
        return ""
    rules = [_shown(r) for m in makers for r in m.messages("include")] or ["other states"]
    lines = ", ".join(str(m.span().line) for m in makers)
    layer = f"the layer on line {lines} makes" if len(makers) == 1 else f"lines {lines} make"
    return f"{layer} it, but only in: {' or '.join(dict.fromkeys(rules))}"


def _shown(rule: Message) -> str:
    parts = [rule.text("phase")] if "phase" in rule else []
    parts += [f"stage {clean(s)}" for s in rule.all("stage")]
    parts += [f"not stage {clean(s)}" for s in rule.all("not_stage")]
    parts += [f"{name} {rule.whole(name)}" for name in ("min_level", "max_level") if name in rule]
    return ", ".join(parts) or "any state"
