"""What part of a net the blobs that a user asks for need, and where a net may be cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count

from netc.errors import NOWHERE, Diagnostic, GraphError, Span, clean
from netc.frontend.caffe.layer import RULES
from netc.frontend.caffe.layers_data import DATA
from netc.frontend.caffe.message import Message
from netc.frontend.caffe.netrules import State, left_out

AUTOMATIC = "(automatic)"  # what Caffe calls a top that the file does not name
_LISTED = 10  # blobs in one help


@dataclass(frozen=True)
class Part:
    """The layers of a net that are built, the blobs in them that matter, and the other layers."""

    layers: list[Message]
    blobs: Collection[str] | None = None  # None: all
    rest: tuple[Message, ...] = ()

    @property
    def is_whole(self) -> bool:
        """Whether nothing of the net is left out."""
        return self.blobs is None

    def has(self, blob: str) -> bool:
        """Whether a blob is read in this part, or asked for."""
        return self.blobs is None or blob in self.blobs

    @property
    def others(self) -> set[str]:
        """The blobs of the net that this part does not have."""
        if self.blobs is None:
            return set()
        every = {b for m in (*self.layers, *self.rest) for b in (*gives(m), *m.all("bottom"))}
        return every.difference(self.blobs)


def needed(
    layers: list[Message],
    asked: Collection[str],
    shapes: Collection[str],
    every: list[Message],
    state: State,
) -> Part:
    """What the blobs `asked` need of a net's layers; with them the layers whose parameters they
    share. A name of a step within a layer asks for that layer.

    `shapes` are the blobs whose shapes are given; `every` has the layers of other states too.
    Raises GraphError for a name that nothing gives.
    """
    if not asked:
        raise GraphError("no output is named")
    wanted = {b for name in asked for b in _blobs(name, layers, every, state)}
    owners: set[str] = set()
    part: list[Message] = []
    for message in reversed(layers):
        own = _owners(message)
        if wanted.isdisjoint(gives(message)) and owners.isdisjoint(own):
            continue
        part.append(message)
        owners.update(own)
        wanted.update(() if is_given(message, shapes) else message.all("bottom"))
    chosen = {*part}
    return Part(part[::-1], wanted, tuple(m for m in layers if m not in chosen))


def with_tops(layers: list[Message]) -> list[Message]:
    """The layers, those of losses without a top with one. It is called as the layer, or as Caffe
    calls it where a blob is called so.
    """
    taken = {top for m in layers for top in m.all("top")}
    out = []
    for message in layers:
        if _lacks_top(message):
            names = (f"{AUTOMATIC}_{i}" if i else AUTOMATIC for i in count())
            own = message.text("name")
            top = own if own not in {"", *taken} else next(n for n in names if n not in taken)
            taken.add(top)
            message = message.copy()
            message.put("top", top)
        out.append(message)
    return out


def _lacks_top(message: Message) -> bool:
    """Whether a layer gives something under no name."""
    known = RULES.get(message.text("type"))
    may_lack = known is not None and known.tops[0] == 0 and known.tops[1] != 0
    return may_lack and bool(message.all("bottom")) and not message.all("top")


def replaceable(message: Message) -> bool:
    """Whether inputs may stand for a layer: netc does not know what it does."""
    kind = message.text("type")
    return kind == "Python" or (kind not in RULES and kind not in DATA)


def is_given(message: Message, shapes: Collection[str]) -> bool:
    """Whether the user gave the shapes of all that such a layer makes: inputs stand for it."""
    tops = message.all("top")
    return replaceable(message) and bool(tops) and all(top in shapes for top in tops)


def gives(message: Message) -> list[str]:
    """The blobs a layer makes; one that netc does not know may be a loss without a top."""
    return message.all("top") or [message.text("name")]


def _owners(message: Message) -> set[str]:
    """Names under which a layer holds parameters that another may use."""
    shared = {f"param {spec.text('name')}" for spec in message.messages("param") if "name" in spec}
    return shared | ({f"layer {message.text('name')}"} if "name" in message else set())


def _blobs(name: str, layers: list[Message], every: list[Message], state: State) -> list[str]:
    made = [b for m in layers for b in gives(m)]
    if name in made:
        return [name]
    within = [b for m in layers for b in gives(m) if _is_within(name, m)]
    if within:
        return within
    near = get_close_matches(name, dict.fromkeys(made), 3)
    fits = f"did you mean {', '.join(map(clean, near))}?" if near else _ends(layers)
    help = left_out(every, name, state) or fits
    place = Span(every[0].document.name) if every else NOWHERE
    raise GraphError(Diagnostic(f"the net gives no {clean(name)!r}", place, help))


def _ends(layers: list[Message]) -> str:
    """What the net gives where nothing is asked for, as a help."""
    read = {b for m in layers for b in m.all("bottom") if b not in m.all("top")}
    ends = [b for b in dict.fromkeys(b for m in layers for b in gives(m)) if b not in read]
    more = ", …" if len(ends) > _LISTED else ""
    listed = ", ".join(map(clean, ends[:_LISTED]))
    return f"it ends in {listed}{more}; any blob may be asked for" if ends else ""


def _is_within(name: str, message: Message) -> bool:
    """Whether a name is of a step, a parameter or a further result of a layer."""
    roots = (message.text("name"), *message.all("top"))
    return any(name.startswith(f"{root}{mark}") for root in roots if root for mark in "/.#")


def computable(
    layers: list[Message], refused: Collection[Message], shapes: Collection[str]
) -> set[str]:
    """The blobs that layers make of others with nothing on the way that netc does not do."""
    made: set[str] = set()
    blocked: set[str] = set()
    for message in layers:
        if is_given(message, shapes) or message.text("type") in DATA:
            continue
        stops = message in refused or replaceable(message)
        wall = stops or not blocked.isdisjoint(message.all("bottom"))
        (blocked if wall else made).update(message.all("top"))
    return made - blocked


def ways_around(message: Message, layers: list[Message], made: Collection[str]) -> str:
    """How a net runs without a layer that netc does not do; `made` are the blobs that do not
    need such a layer. One that works in place has none: a blob's name is of its last value.
    """
    tops, bottoms = message.all("top"), message.all("bottom")
    if tops and not bottoms:
        rest = "".join(f" --shape {clean(top)}=…" for top in tops[1:])
        what = "its shape" if not rest else "the shapes of all it gives"
        return f"if it only reads data, give {what}: --shape {clean(tops[0])}=N,C,H,W{rest}"
    read = [b for b in dict.fromkeys(bottoms) if b in made]
    ways = [f"{_repeated('--output', read)} gives what it reads"] if read else []
    read_on = any(top in m.all("bottom") for m in layers for top in tops)
    if replaceable(message) and read_on and not set(tops) & set(bottoms):
        shapes = _repeated("--shape", [f"{top}=…" for top in tops])
        ways.append(f"{shapes} makes an input of what it gives")
    return "; ".join(ways)


def _repeated(option: str, values: Iterable[str]) -> str:
    return " ".join(f"{option} {clean(value)}" for value in values)
