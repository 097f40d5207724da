"""Nets that say how devices share them, with words lost, doubled, exchanged: errors for people."""

from __future__ import annotations

import random
import re

import pytest

import netc
from netc import api
from netc.compiler import lower
from netc.errors import NetcError

NETS = (
    """net trick(data: f32[8, 3, 27, 27]) -> prob {
  replicate over cpu:0, cpu:1 {
    x = data |> conv(9, 5, stride=2, name="conv1") |> relu |> max_pool(3, stride=2)
  }
  on cpu:2 { z = x |> tanh }
  split channels over cpu:0, cpu:1 { x = x |> fc(40, name="fc6") |> relu }
  split channels over cpu:0, cpu:3 by input { x = x |> fc(40, name="fc7") }
  pipeline over cpu:0, cpu:1 micro_batches=4 { prob = x |> relu |> fc(10, name="fc8") }
}
""",
    """let k = 2
block half(x) {
  split channels over cpu:0, cpu:1 { y = x |> conv(8, 3, pad=1) |> relu }
  return y
}
net p(data: f32[N, 4, 9, 9]) -> y {
  pipeline over cpu:0, cpu:1, cpu:2 micro_batches=k {
    x = data |> half
    y = x |> half |> global_avg_pool |> flatten |> fc(5)
  }
}
""",
)
TOKEN = re.compile(r"\w+(?::\d+)?|[^\w\s]|\s+")
WORDS = (
    *("cpu:0", "cpu:9", "cuda:1", "sim:0", "over", "by", "input", "replicate", "pipeline", "split"),
    *("channels", "micro_batches", "0", "-1", "3", "1e9", "N", "=", "{", "}", "relu", "on"),
)


def mutant(rng: random.Random) -> str:
    """A net with up to three tokens changed."""
    tokens = TOKEN.findall(rng.choice(NETS))
    for _ in range(rng.randint(1, 3)):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        match rng.randrange(4):
            case 0:
                del tokens[i]
            case 1:
                tokens.insert(i, tokens[j])
            case 2:
                tokens[i], tokens[j] = tokens[j], tokens[i]
            case _:
                tokens[i] = rng.choice(WORDS)
    return "".join(tokens)


def error_of(text: str) -> NetcError | None:
    """What is wrong with a net, where something is."""
    try:
        lowered(text)
    except NetcError as e:
        return e
    return None


def lowered(text: str) -> None:
    graph = netc.parse(text, "mutant.net", warn=lambda *_: None)
    made = api.arranged(graph, api.compile_options(True, "native", None), None, {}, None)
    lower(made.graph, made.options)


@pytest.mark.parametrize("text", NETS)
def test_the_nets_themselves(text: str) -> None:
    lowered(text)


@pytest.mark.parametrize("seed", range(8))
def test_mutants_compile_or_say_where(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        text = mutant(rng)
        wrong = error_of(text)
        assert wrong is None or wrong.diagnostics[0].span.line, f"{wrong}\n{text}"
