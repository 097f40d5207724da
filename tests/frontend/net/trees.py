"""Hypothesis strategies for trees of the language: what a text could have been parsed into."""

from __future__ import annotations

from hypothesis import strategies as st

from netc.frontend.net import ast


def _hidden(s: st.SearchStrategy, name: str) -> st.SearchStrategy:
    """The same strategy with a short repr: hypothesis prints all of it otherwise."""

    def draw(draw: st.DrawFn) -> object:
        return draw(s)

    draw.__name__ = name
    return st.composite(draw)()


WORDS = ("x", "conv", "a.b", "net", "repeat", "as", "N", "ß", "漢字", "a b", "`", '"', "\\", "1x1",
         "replicate", "over", "split", "channels", "pipeline", "by", "micro_batches",
         "and", "or", "not", "if", "else")  # fmt: skip
_any = st.characters(exclude_categories=("Cs",))
_names = st.one_of(st.sampled_from(WORDS), st.text(_any, min_size=1, max_size=6))
names = _hidden(_names, "names")
texts = _hidden(st.text(_any, max_size=8), "texts")
docs = st.one_of(st.just(""), texts, st.sampled_from(("one\ntwo", " lead", "a\n\n  b", '"', "\\")))
devices = st.sampled_from(("cpu:0", "cuda:1", "cuda:0@node-1.local", "sim:3"))
numbers = st.one_of(
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
).map(ast.Number)
references = _hidden(names.map(ast.Name), "references")


def _tuple(s: st.SearchStrategy, low: int = 0, high: int = 3) -> st.SearchStrategy:
    return st.lists(s, min_size=low, max_size=high).map(tuple)


def _named(s: st.SearchStrategy, high: int = 3) -> st.SearchStrategy:
    return st.lists(s, max_size=high, unique_by=lambda k: k.name).map(tuple)


def _calls(e: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(ast.Call, names, _tuple(e), _named(st.builds(ast.Keyword, names, e)))


@st.composite
def _chains(draw: st.DrawFn, e: st.SearchStrategy) -> ast.Chain:
    levels = (("or",), ("and",), ("<", "<=", "==", "!="), ("+", "-"), ("*", "/", "//", "%"))
    level = draw(st.sampled_from(levels))
    count = 1 if "<" in level else draw(st.integers(1, 3))
    operators = tuple(draw(st.sampled_from(level)) for _ in range(count))
    return ast.Chain(operators, tuple(draw(e) for _ in range(count + 1)))


def _index_bases(e: st.SearchStrategy) -> st.SearchStrategy:
    return e.filter(lambda x: not isinstance(x, ast.Index))


def _larger(e: st.SearchStrategy) -> st.SearchStrategy:
    stages = st.builds(ast.Stage, _calls(e), st.one_of(st.just(""), devices))
    return st.one_of(
        st.builds(ast.Items, _tuple(e)),
        _calls(e),
        st.builds(ast.Index, _index_bases(e), _tuple(e)),
        st.builds(ast.Negate, e.filter(lambda x: not isinstance(x, ast.Number | ast.Negate))),
        st.builds(ast.Not, e),
        _chains(e),
        st.builds(ast.Placed, e, devices),
        st.builds(ast.Pipe, e, _tuple(stages, 1)),
    )


atoms = _hidden(st.one_of(numbers, references, texts.map(ast.Text)), "atoms")
exprs = _hidden(st.recursive(atoms, _larger, max_leaves=8), "exprs")
lets = st.builds(ast.Let, names, exprs)


def _shardings(s: st.SearchStrategy) -> st.SearchStrategy:
    over, body = _tuple(devices, 1), _tuple(s)
    counts = st.one_of(st.none(), exprs)
    return st.one_of(
        st.builds(ast.Sharded, st.just("replicate"), over, body),
        st.builds(ast.Sharded, st.just("split"), over, body, st.sampled_from(("output", "input"))),
        st.builds(ast.Sharded, st.just("pipeline"), over, body, count=counts),
    )


def _bodies(s: st.SearchStrategy) -> st.SearchStrategy:
    branches = st.builds(ast.Branch, exprs, _tuple(s))
    return st.one_of(
        st.builds(ast.If, _tuple(branches, 1), _tuple(s)),
        st.builds(ast.Repeat, exprs, st.one_of(st.just(""), names), _tuple(s)),
        st.builds(ast.On, devices, _tuple(s)),
        _shardings(s),
    )


_simple = st.one_of(
    lets,
    st.builds(ast.Bind, _tuple(references, 1), exprs),
    st.builds(ast.Return, _tuple(exprs, 1)),
)
statements = _hidden(st.recursive(_simple, _bodies, max_leaves=4), "statements")


@st.composite
def _params(draw: st.DrawFn) -> tuple[ast.Parameter, ...]:
    found = draw(st.lists(names, max_size=3, unique=True))
    required = draw(st.integers(0, len(found)))
    return tuple(
        ast.Parameter(n, None if i < required else draw(exprs)) for i, n in enumerate(found)
    )


ports = _named(st.builds(ast.Port, names, exprs), 2)
items = st.one_of(
    texts.map(ast.Import),
    lets,
    st.builds(ast.OpDef, names, _params(), exprs),
    st.builds(ast.Block, names, _params(), _tuple(statements), docs),
    st.builds(ast.Net, names, ports, _tuple(references, 1), _tuple(statements), docs),
)
files = _hidden(st.builds(ast.File, _tuple(items), docs), "files")
