"""What a user says of a layer, followed through the passes by the names of nodes.

A pass may fold a layer into another or join it with its siblings; the word on a convolution or a
product then goes to the one that computes it now. Where several words meet, one of them is
chosen. A word on anything else ends with its node.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from netc.ir.graph import Graph, Node, Value
from netc.ir.op import Op
from netc.ir.ops.convolution import PRODUCTS, Fc
from netc.ir.ops.fused import Fused
from netc.ir.ops.matmul import MatMul
from netc.ir.verify import is_anchor
from netc.passes.base import Context, Pass

_MULTIPLYING = (*PRODUCTS, MatMul)


class Words:
    """Words on nodes, by name; a hook between passes keeps them up to date."""

    def __init__(self, said: Mapping[str, str], choose: Callable[[Sequence[str]], str]) -> None:
        self.said = dict(said)
        self.choose = choose

    def __call__(self, done: Pass, before: Graph, after: Graph, ctx: Context) -> None:
        """The hook."""
        if not self.said or after is before:
            return
        old, new = (dict(_computing(graph)) for graph in (before, after))
        moved: dict[str, list[str]] = {}
        for name, word in self.said.items():
            target = name
            for share in shares_of(name, old, new):
                moved.setdefault(share, []).append(word)
            if name in old and isinstance(old[name].op, _MULTIPLYING):
                target = _heir(old[name], before, after, new)
            elif name in new and isinstance(new[name].op, _MULTIPLYING):
                continue  # it became part of that
            if target in new:
                moved.setdefault(target, []).append(word)
        self.said = {name: self.choose(words) for name, words in moved.items()}

    def of_kernels(self, graph: Graph) -> dict[str, str]:
        """The word on each kernel: its anchor's, or without an anchor what its nodes say."""
        found = {}
        for kernel in graph.nodes:
            if not isinstance(kernel.op, Fused):
                continue
            inner = [n for n in kernel.op.body.nodes if n not in kernel.op.body.inputs]
            anchors = [n for n in inner if is_anchor(n.op)]
            words = [self.said[n.name] for n in anchors or inner if n.name in self.said]
            if words:
                found[kernel.name] = self.choose(words)
        return found


def shares_of(name: str, before: Container[str], after: Iterable[str]) -> list[str]:
    """The names of the shares of a node on several devices."""
    return [n for n in after if n.startswith(f"{name}.") and n not in before]


def _computing(graph: Graph) -> Iterator[tuple[str, Node]]:
    """The nodes by name; a kernel stands for those in its body."""
    for node in graph.nodes:
        if isinstance(node.op, Fused):
            body = node.op.body
            yield from ((n.name, n) for n in body.nodes if n not in body.inputs)
        else:
            yield node.name, node


def _does(now: Op, before: Op) -> bool:
    """Whether an op can be what another became: inner products are matrix products and back."""
    either = (Fc, MatMul)
    return type(now) is type(before) or (isinstance(now, either) and isinstance(before, either))


def _heir(node: Node, before: Graph, after: Graph, new: Mapping[str, Node]) -> str:
    """The name of what computes a product now, or nothing.

    Down to the first reader whose name is still there, and up from it to the first product.
    """
    reader: Node | None = node
    while reader is not None and reader.name not in new:
        reader = next((user for user in before.uses[reader.results[0]] if user), None)
    waiting: list[Value] = [] if reader is None else [new[reader.name].results[0]]
    seen: set[Node] = set()
    while waiting:
        found = waiting.pop(0).node
        if _does(found.op, node.op):
            return found.name
        if found not in seen:
            seen.add(found)
            waiting += found.inputs
    return ""
