"""Broken texts: whatever is cut, doubled or exchanged, there is a graph or a clean error."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest

from netc.errors import NetcError
from netc.frontend.net.elaborate import parse_net

EXAMPLES = Path(__file__).parents[3] / "examples"
SMALL = """
let k = 3
op swish(x, beta=1.0) = select(x > 0, x * sigmoid(beta * x), -x) |> tanh
block unit(x, out, stride=1, name="u") {
  y = conv(x, out, k, stride=stride, pad=k // 2, bias=false, init=gaussian(0, 0.01), name="")
  if stride == 1 and not (out > 16 or x == none) { y = relu(y) } else if k > 3 { let k = 3 }
  else { return y |> batch_norm(eps=0.001) |> scale |> swish(beta=2), tanh(y) }
  return y |> batch_norm(eps=0.001) |> scale |> swish(beta=2), y
}
net n(a: f32[N, 3, H, W], b: u8[2, 3, 8, 8]) -> y, z {
  c = cast(b, f32) - [104, 117, 123]
  repeat 2 as i { a, d = a |> unit(8 * (i + 1), name="s{i}") }
  on cuda:1 { e, f = c |> unit(4, stride=2) @ cpu:1 }
  w = param(f32[10, 64], init=xavier)
  y = concat(a |> global_avg_pool, d |> global_avg_pool) * 2 + 1
  z = max_pool(f, (2, 2), stride=2, ceil=true) |> fc(10, name="fc") |> softmax
  z = z + fc(max_pool(e, 2, stride=2), 10, b=fc.b, params="fc")
}
"""
SEEDS = [SMALL, *(p.read_text("utf-8") for p in sorted(EXAMPLES.glob("*.net")))]
WORDS = re.findall(r"[\w.]+|\"[^\"\n]*\"|\|>|//|\S", " ".join(SEEDS))
STRAY = (
    *"()[]{}=,@-`\"'\\#\0\n\u202e0",
    *("|>", "999999999999", "1e308", "-1", "inf", "none", "f32", "name", "params", "repeat", "net"),
    *("if", "else", "else {", "not", "and", "or", "== none", "return x"),
)


def broken(rng: random.Random) -> str:
    """A text with one to four changes."""
    parts = re.findall(r"\s+|[\w.]+|\"[^\"\n]*\"|\|>|//|\S", rng.choice(SEEDS))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(parts))
        match rng.randrange(5):
            case 0:
                del parts[at]
            case 1:
                parts[at] = rng.choice(WORDS)
            case 2:
                parts.insert(at, rng.choice(STRAY))
            case 3:
                end = min(len(parts), at + rng.randint(1, 30))
                parts[at:at] = parts[at:end]
            case 4:
                other = rng.randrange(len(parts))
                parts[at], parts[other] = parts[other], parts[at]
        if not parts:
            break
    return "".join(parts)


def check(count: int, seed: int) -> None:
    rng = random.Random(seed)
    for i in range(count):
        text = broken(rng)
        start, said = time.process_time(), ""
        try:
            parse_net(text, warn=lambda d: None)
        except NetcError as e:
            said = str(e)
        except BaseException:
            print(f"seed {seed}, text {i}:\n{text}")
            raise
        assert time.process_time() - start < 5, text
        assert len(said) < 100_000


def test_the_texts_are_whole_at_first() -> None:
    for text in SEEDS:
        assert parse_net(text, warn=lambda d: None).outputs


def test_broken_texts() -> None:
    check(400, int(os.environ.get("NETC_SEED", "1")))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_broken_texts_long(seed: int) -> None:
    check(5000, 1000 + seed)
