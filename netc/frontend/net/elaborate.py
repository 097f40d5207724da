"""Tree to graph: statements, blocks and nets, every mistake at the user's line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from netc.errors import (
    Diagnostic,
    GraphError,
    NetcError,
    ParseError,
    ResourceError,
    Source,
    Span,
    UsageError,
    clean,
)
from netc.frontend.files import display
from netc.frontend.generalize import Shape
from netc.frontend.labels import read_labels
from netc.frontend.net import ast
from netc.frontend.net.evaluate import Expressions, argument_text, located
from netc.frontend.net.fill import Warn, filled
from netc.frontend.net.imports import Loader
from netc.frontend.net.parse import parse
from netc.frontend.net.scope import Broken, Library, Scope, SilentError, bind, endless
from netc.frontend.net.words import ArgumentError, near, show
from netc.frontend.shapes import chosen, given_shapes
from netc.ir.device import Device
from netc.ir.dims import sym
from netc.ir.graph import Graph, Value
from netc.ir.shards import Shard
from netc.ir.solve import solved
from netc.ir.types import DType, TensorType

MAX_REPORTED = 20
_BLOCK_DEPTH = 4  # what a block within a block adds to the depth


def read_net(path: str | os.PathLike[str], **options: Any) -> Graph:
    """The graph in a `.net` file and the files it imports. Options as for `parse_net`."""
    return _graph(Loader().load(path), display(path), **options)


def parse_net(text: str, name: str = "<text>", **options: Any) -> Graph:
    """The graph in a text.

    Options: `weights`, a file or a mapping by parameter name; `phase`, "test" or "train";
    `shapes`, input name to shape; `net`, the name of one of several nets; `strict`, weights that
    do not match are errors; `labels`, names or their file; `warn`, called with each remark
    instead of the log. Raises a NetcError that lists every mistake found.
    """
    if not isinstance(text, str):
        raise UsageError(f"the language is text, not {type(text).__name__}")
    file = parse(Source(name, text))
    for item in file.items:
        if isinstance(item, ast.Import):
            raise ParseError("a text that is no file cannot import", item.span)
    return _graph([file], name, **options)


def _graph(
    files: Sequence[ast.File],
    name: str,
    phase: str = "test",
    shapes: Mapping[str, Iterable[int | str]] | None = None,
    net: str | None = None,
    weights: Any = None,
    strict: bool = False,
    labels: str | os.PathLike[str] | Iterable[str] = (),
    warn: Warn | None = None,
) -> Graph:
    if phase not in ("test", "train"):
        raise UsageError(f"the phase is test or train, not {clean(phase)!r}")
    library = Library()
    for file in files:
        library.add(file, main=file is files[-1])
    try:
        graph = Elaborator(library, phase, given_shapes(shapes), Span(name)).run(net)
    except RecursionError:
        raise ResourceError("the net is nested too deeply") from None
    graph = replace(graph, labels=read_labels(labels))
    return filled(graph, weights, strict, warn)


class Elaborator(Expressions):
    """Makes the graph of one net."""

    def __init__(
        self, library: Library, phase: str, shapes: Mapping[str, Shape], file: Span
    ) -> None:
        super().__init__(library, phase)
        self.shapes, self.file = shapes, file
        self.found: list[Diagnostic] = [*library.wrong]
        self.open: list[tuple[str, Span]] = []  # the blocks being called, and from where

    def run(self, wanted: str | None) -> Graph:
        """The graph of the only net, or of the one with this name."""
        for let in self.library.lets.values():
            self._statement(let, self.globals)
        net = self._choose(wanted)
        scope = Scope(self.globals)
        self._inputs(net.ports, scope)
        ports = {p.name for p in net.ports}
        for name in (given for given in self.shapes if given not in ports):
            self.report(GraphError(f"the net has no input `{clean(name)}` to shape", net.span))
        self._statements(net.body, scope)
        outputs: dict[str, Value] = {}
        for o in net.outputs:
            if o.id in outputs:
                self.report(GraphError(f"`{clean(o.id)}` is an output already", o.span))
            outputs[o.id] = self._output(o, scope)
        if self.found:
            raise GraphError(self.found[:MAX_REPORTED])
        return self.maker.b.graph(net.name, outputs)

    def _choose(self, wanted: str | None) -> ast.Net:
        nets = [n for n in self.library.nets if wanted is None or n.name == wanted]
        if len(nets) == 1:
            return nets[0]
        names = ", ".join(clean(n.name) for n in self.library.nets)
        if nets:
            one = clean(nets[0].name)
            how = f'choose one of {names}: --net {one}, or net="{one}" in Python'
            help = how if wanted is None else ""
            self.report(GraphError(f"the file has {len(nets)} nets", nets[1].span, help))
        elif wanted is not None:
            self.report(GraphError(f"the file has no net `{clean(wanted)}`", self.file, names))
        else:
            help = "such as `net name(data: f32[N, 3, 224, 224]) -> prob { … }`"
            self.report(GraphError("the file has no net", self.file, help))
        raise GraphError(self.found[:MAX_REPORTED])

    def report(self, error: NetcError) -> None:
        """Note an error; the same one, from another call of a block, counts once."""
        for d in error.diagnostics:
            if not any(d.message == k.message and d.span == k.span for k in self.found):
                self.found.append(self._from_block(d))
        if len(self.found) >= MAX_REPORTED:
            raise GraphError(self.found[:MAX_REPORTED])

    def _from_block(self, d: Diagnostic) -> Diagnostic:
        if not self.open:
            return d
        name, at = self.open[-1]
        called = f"block `{clean(name)}` is called at {at}"
        return replace(d, help=f"{d.help}\n        {called}" if d.help else called)

    def _inputs(self, ports: Sequence[ast.Port], scope: Scope) -> None:
        """Every input in the shape that was asked for, and what the sizes in it then are."""
        types: dict[str, TensorType] = {}
        for port in ports:
            with self._bound(port.name, scope), located(port.type.span):
                types[port.name] = self._port_type(port, scope)
        asked = [name for name in types if name in self.shapes]
        sizes = solved([types[name] for name in asked], [self.shapes[name] for name in asked])
        for name, size in sizes.items():
            scope[name] = size
        for port in (p for p in ports if p.name in types):
            with self._bound(port.name, scope), located(port.span), self.maker.b.at(port.span):
                type = chosen(port.name, types[port.name], sizes, self.shapes.get(port.name))
                scope[port.name] = self.maker.b.input(port.name, type)

    @contextmanager
    def _bound(self, name: str, scope: Scope) -> Iterator[None]:
        """What goes wrong is noted, and the name is then broken."""
        try:
            yield
        except (NetcError, SilentError) as e:
            scope[name] = Broken()
            if isinstance(e, NetcError):
                self.report(e)

    def _port_type(self, port: ast.Port, scope: Scope) -> TensorType:
        """`f32[N, 3, 227, 227]`, where names not bound yet are symbols."""
        e = port.type
        if isinstance(e, ast.Index) and isinstance(e.base, ast.Name) and e.base.id not in scope:
            help = f"element types are {', '.join(d.value for d in DType)}"
            raise GraphError(f"there is no element type `{clean(e.base.id)}`", e.span, help)
        base = self.eval(e.base, scope) if isinstance(e, ast.Index) else None
        if not isinstance(e, ast.Index) or not isinstance(base, DType):
            help = "such as `data: f32[N, 3, 224, 224]`"
            raise GraphError("an input has an element type and a shape", port.type.span, help)
        for name in (name for item in e.items for name in _sizes_in(item) if name.id not in scope):
            with located(name.span):
                scope[name.id] = sym(name.id)
        return self.type(base, [self.eval(item, scope) for item in e.items])

    def _output(self, name: ast.Name, scope: Scope) -> Any:
        value = scope.find(name.id, self)
        if isinstance(value, Value | Broken):
            return value
        given = [n for n, v in scope.own.items() if isinstance(v, Value)]
        if value is self:
            message = f"the net gives `{clean(name.id)}`, but nothing in it has that name"
            help = scope.missed(name.id) or near(name.id, given)
            self.report(GraphError(message, name.span, help))
        else:
            message = f"the net gives `{clean(name.id)}`, which is {show(value)}, not a tensor"
            self.report(GraphError(message, name.span))
        return None

    def _statements(self, body: Sequence[ast.Statement], scope: Scope) -> tuple[Any, ...]:
        """Run statements in order, those of a block up to a `return`; what it gives."""
        for s in body:
            returned = self._statement(s, scope)
            if returned and self.open:
                return returned
        return ()

    def _statement(self, s: ast.Statement, scope: Scope) -> tuple[Any, ...]:
        """Run one statement. A wrong one is noted, and what it binds is then broken."""
        self.step(s.span)
        try:
            with located(s.span):
                return self._run(s, scope)
        except ResourceError:
            raise
        except (NetcError, SilentError) as e:
            _break(s, scope)
            if ast.returns(s) and self.open:
                raise
            if isinstance(e, NetcError):
                self.report(e)
        return ()

    def _run(self, s: ast.Statement, scope: Scope) -> tuple[Any, ...]:
        match s:
            case ast.Let(name, value):
                scope[name] = self._constant(name, self.eval(value, scope))
            case ast.Bind(targets, value):
                self._bind(s, targets, value, scope)
            case ast.If():
                return self._if(s, scope)
            case ast.Repeat():
                self._repeat(s, scope)
            case ast.On(device, body):
                with self.maker.on(Device.parse(device)):
                    self._statements(body, scope)
            case ast.Sharded(body=body):
                with self.maker.sharded(self._shard(s, scope)):
                    self._statements(body, scope)
            case ast.Return(values):
                out = []
                for v in values:
                    out.append(self.eval(v, scope))
                return tuple(out)
        return ()

    def _shard(self, s: ast.Sharded, scope: Scope) -> Shard:
        """The devices, and the number of micro-batches, at their places."""
        count = None if s.count is None else self.eval(s.count, scope)
        devices = tuple(map(Device.parse, s.devices))
        with located(s.span if s.count is None else s.count.span):
            return Shard(s.way, devices, s.by, count)

    def _constant(self, name: str, value: Any) -> Any:
        if isinstance(value, Value):
            help = f"write `{clean(name)} = …` without `let`"
            raise GraphError(f"`let {clean(name)}` is a constant, not a tensor", help=help)
        return value

    def _bind(self, s: ast.Bind, targets: tuple[ast.Name, ...], e: ast.Expr, scope: Scope) -> None:
        hint = targets[0].id if len(targets) == 1 else ""
        value = self.eval(e, scope, hint)
        values = value if isinstance(value, tuple) and len(targets) > 1 else (value,)
        if len(values) != len(targets):
            message = f"{len(targets)} names for {len(values)} value{'s' * (len(values) > 1)}"
            raise GraphError(message, s.span)
        for target, v in zip(targets, values, strict=True):
            if not isinstance(v, Value):
                name = clean(target.id)
                help = f"write `let {name} = …`"
                if isinstance(v, tuple):
                    raise GraphError(f"one name for {len(v)} values", help=f"write `{name}, … = …`")
                raise GraphError(f"`{name}` is {show(v)}, not a tensor", target.span, help)
            scope[target.id] = v

    def _if(self, s: ast.If, scope: Scope) -> tuple[Any, ...]:
        """Run the first branch whose condition holds; what it returns."""
        holding = (b.body for b in s.branches if self.truth("if", b.condition, scope))
        taken = next(holding, s.otherwise)
        for body in ast.bodies(s):
            self.step(s.span)
            if body is not taken:
                self._leave(body, scope)
        return self._statements(taken, scope)

    def _leave(self, body: Sequence[ast.Statement], scope: Scope) -> None:
        """Note what the statements of a branch that is not taken would bind."""
        for s in body:
            self.step(s.span)
            scope.untaken.update(ast.bound(s))
            for inner in ast.bodies(s):
                self.step(s.span)
                self._leave(inner, scope)

    def _repeat(self, s: ast.Repeat, scope: Scope) -> None:
        count = self.eval(s.count, scope)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            message = f"`repeat` takes a count such as 3, not {show(count)}"
            raise GraphError(message, s.count.span)
        before = scope.own.get(s.index, self)
        for i in range(count):
            self.step(s.span)
            if s.index:
                scope[s.index] = i
            self._statements(s.body, scope)
        if s.index:
            scope.own.pop(s.index, None)
            if before is not self:
                scope[s.index] = before

    def block(
        self,
        block: ast.Block,
        args: Sequence[Any],
        keywords: Mapping[str, Any],
        at: Span,
        hint: str,
    ) -> Any:
        """What a block returns: one value, or a tuple of several."""
        what = f"block `{clean(block.name)}`"
        if any(name == block.name for name, _ in self.open):
            raise GraphError(f"{what} calls itself", at)
        keywords = dict(keywords)
        named = any(p.name == "name" for p in block.params)
        explicit = None if named else keywords.pop("name", None)
        scope = Scope(self.globals)

        def default(p: ast.Parameter, before: Mapping[str, Any]) -> Any:
            assert p.default is not None
            scope.own.update(before)
            return self.eval(p.default, scope)

        scope.own.update(bind(what, block.params, args, keywords, default))
        explicit = argument_text(scope.find("name") if named else explicit, "name")
        with self.maker.within(self._scope(explicit, hint or block.name)):
            return self._called(block, scope, at)

    def _called(self, block: ast.Block, scope: Scope, at: Span) -> Any:
        self.open.append((block.name, at))
        self.depth += _BLOCK_DEPTH
        try:
            returned = self._statements(block.body, scope)
            if not returned and any(map(ast.returns, block.body[-1:])):
                help = "in the branches of `if` that were taken there is none"
                raise GraphError(endless(block), block.span, help)
        except SilentError:
            raise
        except ResourceError:
            raise
        except NetcError as e:
            self.report(e)
            raise SilentError from None
        finally:
            self.depth -= _BLOCK_DEPTH
            self.open.pop()
        if not returned:
            raise SilentError
        return returned[0] if len(returned) == 1 else returned

    def _scope(self, explicit: str | None, otherwise: str) -> str:
        """The path of a block's nodes: the name given, none for "", or a free one."""
        maker = self.maker
        if explicit == "":
            return maker.scope
        taken = maker.scopes
        if explicit is not None:
            path = maker.path(explicit)
            if path in taken:
                raise ArgumentError(f"the name `{clean(path)}` is used twice", argument="name")
        else:
            path = maker.free_scope(otherwise)
        taken.add(path)
        return path


def _sizes_in(e: ast.Expr) -> Iterator[ast.Name]:
    """The names in a size of a type: `4 * H`."""
    match e:
        case ast.Name():
            yield e
        case ast.Chain(operands=parts) | ast.Call(args=parts):
            for part in parts:
                yield from _sizes_in(part)


def _break(s: ast.Statement, scope: Scope) -> None:
    for name, _ in ast.bound(s):
        scope[name] = Broken()
    for body in ast.bodies(s):
        for inner in body:
            _break(inner, scope)
