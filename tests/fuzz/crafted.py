"""Files that are wrong in one way each, with right digests and the user's own signature."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from runtime.handmade import made_plan, make_artifact

from netc.codegen.cpu.target import native
from netc.runtime.artifact import read_artifact
from netc.runtime.container import Payload, canonical, seal
from netc.runtime.keys import make_key, tag_of
from netc.runtime.plan_json import plan_to_json

Change: TypeAlias = Callable[[dict[str, bytes], dict[str, Any]], None]

LEVEL = native().name
N, EIGHT, MORE = 0, 2, 11  # places among the plan's sizes: the batch, a number, the first unused
PLAN, CODE = f"plan.{LEVEL}", f"code.{LEVEL}"


def forged(change: Change, signed: bool = True) -> bytes:
    """The good file with some sections or the header's meta changed, sealed again."""
    file = read_artifact(b"".join(make_artifact(labels=("a",)).pieces()), "it")
    sections = {name: bytes(file.container.view(name)) for name in file.container.sections}
    meta = json.loads(json.dumps(file.container.meta))
    change(sections, meta)
    payloads = [
        Payload(name, [data], 64 if name == "weights" or name.startswith("code.") else 1)
        for name, data in sections.items()
    ]
    key = make_key()
    return b"".join(seal(payloads, meta, (lambda s: tag_of(key, s)) if signed else None))


def section(name: str, data: bytes) -> Change:
    return lambda sections, meta: sections.update({name: data})


def missing(name: str) -> Change:
    def change(sections: dict[str, bytes], meta: dict[str, Any]) -> None:
        del sections[name]

    return change


def meta(**values: Any) -> Change:
    return lambda sections, header: header.update(values)


def level(**values: Any) -> Change:
    return lambda sections, header: header["levels"][LEVEL].update(values)


def in_plan(edit: Callable[[Any], None]) -> Change:
    """`edit` gets {"plan": {…}, "symbols": {…}}."""

    def change(sections: dict[str, bytes], header: dict[str, Any]) -> None:
        value = json.loads(sections[PLAN])
        edit(value)
        sections[PLAN] = canonical(value)

    return change


def put(value: Any, *path: Any) -> Change:
    """The plan with `value` at this place."""

    def edit(whole: Any) -> None:
        at = whole["plan"]
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return in_plan(edit)


def size(value: Any, *users: Any, before: list[Any] | None = None) -> Change:
    """The plan with this among its sizes, as the size of buffer 2 or where `users` says.

    Those `before` it have places from MORE on.
    """

    def edit(whole: Any) -> None:
        at = whole["plan"]
        assert len(at["sizes"]) == MORE
        at["sizes"] += before or []
        place = len(at["sizes"])
        at["sizes"].append(value)
        path = users or ("buffers", 2, 1)
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = place

    return in_plan(edit)


def table(value: Any) -> Change:
    """The plan with these numbers as the dims, strides and base of its one table."""

    def edit(whole: Any) -> None:
        sizes = whole["plan"]["sizes"]

        def place(number: Any) -> int:
            sizes.append(number)
            return len(sizes) - 1

        dims, strides, base = value
        part = [list(map(place, dims)), list(map(place, strides)), place(base)]
        whole["plan"]["tables"] = [[part]]

    return in_plan(edit)


def setup(value: Any, *path: Any) -> Change:
    """The plan with one that makes weights, which has `value` at this place."""

    def edit(whole: Any) -> None:
        made = plan_to_json(made_plan().setup)  # type: ignore[arg-type]
        at = whole["plan"]["setup"] = json.loads(canonical(made))
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return in_plan(edit)


def nested(depth: int) -> list[Any]:
    """Sizes: ⌊N / 8⌋, and of each before the square plus 1 by 8, and so on."""
    rows: list[Any] = [["floordiv", N, EIGHT]]
    for _ in range(depth):
        last = MORE + len(rows) - 1
        rows += [[[1, last, last], [1]], ["floordiv", last + 1, EIGHT]]
    return rows


def doubled(times: int) -> list[Any]:
    """Sizes: 2^62 · N, then each before times itself."""
    return [[[1 << 62, N]], *([[1, MORE + i, MORE + i]] for i in range(times))]


DEEP = b"[" * 50_000 + b"]" * 50_000
KERNELS, COUNTS, FLOPS, BYTES, BARRIERS, NAMES, OPS, DEVICES, READS, WRITES = range(10)
STEPS, MANY = "steps", [1] * 100
CRAFTED: dict[str, Change] = {
    "no ir": missing("ir"),
    "no weights": missing("weights"),
    "no labels": missing("labels"),
    "no plan": missing(PLAN),
    "no code": missing(CODE),
    "no params": missing("params"),
    "code of a level the header lacks": section("code.aarch64x"[:12], b"x")
    if not LEVEL.startswith("aarch64")
    else missing("ir"),
    "header without levels": lambda s, m: m.pop("levels"),
    "header with more": meta(trust=True),
    "levels a list": meta(levels=[]),
    "levels empty, sections there": meta(levels={}),
    "level unknown": meta(levels={"x86-64-v9": {"abi": 1, "features": [], "tuning": ""}}),
    "level null": meta(levels={LEVEL: None}),
    "compiler a number": meta(compiler=1),
    "features text": level(features="avx2"),
    "features numbers": level(features=[1, 2]),
    "features many": level(features=["x"] * 1000),
    "features nested": level(features=[["avx2"]]),
    "abi text": level(abi="1"),
    "abi true": level(abi=True),
    "abi huge": level(abi=1 << 70),
    "tuning null": level(tuning=None),
    "level with more": level(verify=False),
    "plan not JSON": section(PLAN, b"plan"),
    "plan empty": section(PLAN, b""),
    "plan deep": section(PLAN, DEEP),
    "plan a list": section(PLAN, b"[]"),
    "plan not canonical": lambda s, m: s.update({PLAN: s[PLAN] + b"\n"}),
    "plan with a key twice": lambda s, m: s.update({PLAN: b'{"plan":1,' + s[PLAN][1:]}),
    "plan without symbols": in_plan(lambda v: v.pop("symbols")),
    "plan with more": in_plan(lambda v: v.update(trust=True)),
    "symbols a list": in_plan(lambda v: v.update(symbols=[])),
    "symbols gone": in_plan(lambda v: v.update(symbols={})),
    "symbol beyond the code": in_plan(lambda v: v["symbols"].update(netc_run=1 << 30)),
    "symbol before the code": in_plan(lambda v: v["symbols"].update(netc_run=-1)),
    "symbol 2^64": in_plan(lambda v: v["symbols"].update(netc_run=1 << 64)),
    "symbol a float": in_plan(lambda v: v["symbols"].update(netc_run=0.5)),
    "symbol true": in_plan(lambda v: v["symbols"].update(netc_run=True)),
    "plan of null": in_plan(lambda v: v.update(plan=None)),
    "plan of a list": in_plan(lambda v: v.update(plan=list(v["plan"].values()))),
    "plan without steps": in_plan(lambda v: v["plan"].pop("steps")),
    "plan with a column more": put([], "more"),
    "inputs null": put(None, "inputs"),
    "inputs none": put([], "inputs"),
    "input of too few parts": put(["data"], "inputs", 0),
    "input of another element type": put("f64", "inputs", 0, 1),
    "input of no type": put(None, "inputs", 0, 1),
    "input of a list as type": put(["f32"], "inputs", 0, 1),
    "input of rank 33": put([0] * 33, "inputs", 0, 3),
    "layout unknown": put("nhwc", "inputs", 0, 2),
    "dims of 2^31": size(1 << 31, "inputs", 0, 3, 1),
    "dims of -1": size(-1, "inputs", 0, 3, 1),
    "dims of no size": put([99999], "inputs", 0, 3),
    "dims of a name": put(["N"], "inputs", 0, 3),
    "input's buffer 99": put(99, "inputs", 0, 4),
    "input's buffer -1": put(-1, "inputs", 0, 4),
    "input's buffer text": put("0", "inputs", 0, 4),
    "input's name a number": put(7, "inputs", 0, 0),
    "outputs none": put([], "outputs"),
    "output is an input": put(0, "outputs", 0, 4),
    "count of no buffer": put(99, "outputs", 0, 5),
    "count in an input": put(0, "outputs", 0, 5),
    "sizes null": put(None, "sizes"),
    "sizes gone": put([], "sizes"),
    "size a float": size(4.0),
    "size null": size(None),
    "size true": size(True),
    "size 2^64": size(1 << 64),
    "size negative": size(-8),
    "size 2^62": size(1 << 62),
    "size of 2^64 + 4": size([[1 << 62, N], [1 << 62, N], [4]]),
    "size of an unknown symbol": size("Q"),
    "size that divides by zero": size(["floordiv", N, MORE], before=[0]),
    "size that divides by less": size(["floordiv", N, MORE], before=[-2]),
    "size that divides by a name": size(["floordiv", EIGHT, MORE], before=["Q"]),
    "size that divides by what is zero": size(
        ["floordiv", N, MORE + 1], before=[-1, [[1, N], [3, MORE]]]
    ),
    "size that calls": size(["__import__", N, N]),
    "size of a name that is code": size("N if 1 else 2"),
    "size of a long name": size("N" * 10_000),
    "size of a power": size([[1, *[N] * 3000]]),
    "size of many terms": size([[1, N]] * 10_000),
    "size of no terms": size([]),
    "size of an empty term": size([[]]),
    "size of itself": size([[1, MORE]]),
    "size of a later one": size([[1, MORE + 1]]),
    "size of a call of itself": size(["min", MORE, N]),
    "size of one before the first": size([[1, -1]]),
    "size of a name in a term": size([[1, "N"]]),
    "size of a term that is no list": size([1, N]),
    "size of a coefficient of 2^64": size([[1 << 64, N]]),
    "size of min of one": size(["min", N]),
    "size of min of a float": size(["min", N, 0.0]),
    "size nested": size([[1, MORE + 400]], before=nested(200)),
    "size of 2^(2^100)": size([[1, MORE + 40]], before=doubled(40)),
    "size of a power of a sum": size(
        [[1, *[MORE + 2] * 30]], before=[[[1, N], [7]], [[3, N]], ["min", MORE, MORE + 1]]
    ),
    "place of a size as text": put("0", "buffers", 2, 1),
    "buffers none": put([], "buffers"),
    "buffers null": put(None, "buffers"),
    "space unknown": put("gpu", "buffers", 0, 0),
    "space null": put(None, "buffers", 0, 0),
    "lives backwards": put(0, "buffers", 3, 3),
    "lives before the start": put(-1, "buffers", 2, 2),
    "lives beyond the end": put(1 << 40, "buffers", 2, 3),
    "steps null": put(None, STEPS),
    "steps of too few columns": put([], STEPS),
    "kernels null": put(None, STEPS, KERNELS),
    "kernel of no symbol": put(99, STEPS, KERNELS, 0),
    "kernel -1": put(-1, STEPS, KERNELS, 0),
    "kernel an address": put(4198400, STEPS, KERNELS, 0),
    "kernel a float": put(0.0, STEPS, KERNELS, 0),
    "more kernels than steps": put([0] * 100, STEPS, KERNELS),
    "counts too many": put(MANY, STEPS, COUNTS),
    "counts too large": put(99, STEPS, COUNTS, 0),
    "counts negative": put(-1, STEPS, COUNTS, 0),
    "counts that do not add up": put(0, STEPS, COUNTS, 0),
    "barrier of 2": put(2, STEPS, BARRIERS, 0),
    "flops of no size": put(99999, STEPS, FLOPS, 0),
    "names of numbers": put(5, STEPS, NAMES, 0),
    "names too few": put([], STEPS, NAMES),
    "reads of no buffer": put([99], STEPS, READS, 0),
    "writes of no list": put(0, STEPS, WRITES, 0),
    "symbols null": put(None, "symbols"),
    "symbol of the system": put("execve", "symbols", 0),
    "symbol a number": put(0, "symbols", 0),
    "bases null": put(None, "bases"),
    "base beyond the end": put(999, "bases", 0),
    "base -1": put(-1, "bases", 0),
    "base text": put("1", "bases", 0),
    "base true": put(True, "bases", 0),
    "bases too few": put([1], "bases"),
    "offsets too few": put([1], "offsets"),
    "offset of no size": put(99999, "offsets", 0),
    "weights beyond the end": size(1 << 30, "offsets", 2),
    "weights before the start": size(-64, "offsets", 2),
    "weights at a place that varies": size([[4, N]], "offsets", 2),
    "number beyond 64 bits at run time": size([[1 << 62, N], [1 << 62, N]], "offsets", 3),
    "tables null": put(None, "tables"),
    "table of no size": put([[[[99999], [0], 0]]], "tables"),
    "table of a negative size": table([[-5], [1], 0]),
    "table of 2^50": table([[1 << 50], [1], 0]),
    "table of 2^62": table([[1 << 31, 1 << 31], [1, 1], 0]),
    "table beyond 32 bits": table([[2, 24], [1 << 40, 1], 0]),
    "table of unequal ranks": table([[2, 24], [1], 0]),
    "table of rank 100": table([[1] * 100, [1] * 100, 0]),
    "conditions null": put(None, "conditions"),
    "condition never met": put([[0, 1 << 40, "why"]], "conditions"),
    "condition of no size": put([[99999, 1, "why"]], "conditions"),
    "setup null": put(None, "setup"),
    "setup a list": put([], "setup"),
    "setup of a setup": setup({}, "setup"),
    "setup with an input": setup([["x", "f32", "plain", [], 0, None]], "inputs"),
    "setup without an output": setup([], "outputs"),
    "setup of bytes": setup("u8", "outputs", 0, 1),
    "setup with a symbol": setup("N", "sizes", 4),
    "setup of 2^48 numbers": setup([["w", "f32", "plain", [0] * 8, 0, None]], "outputs"),
    "setup that calls the system": setup("execve", "symbols", 0),
    "setup that reads what it makes": setup(99, "bases", 1),
    "setup that begins nowhere": setup(9, "buffers", 0, 2),
    "images null": put(None, "images"),
    "images of no size": put(["", [1] * 4], "images"),
    "images of a number": put([7, [1] * 4], "images"),
    "images of too few steps": put(["N", [1]], "images"),
    "images of 2": put(["N", [2] * 4], "images"),
    "code empty": section(CODE, b""),
    "labels of numbers": section("labels", b"[1]"),
    "labels a mapping": section("labels", b"{}"),
}
