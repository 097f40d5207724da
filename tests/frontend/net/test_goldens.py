"""Words against what Caffe computed, its weights read by name into a text of ours."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from netc.frontend.net.elaborate import parse_net
from netc.ir.interpret import interpret

CASES = {
    "convolution_03": "out = conv(data, 15, 5, stride=3, pad=1, dilation=3, groups=3, name=\"l\")",
    "deconvolution_02": "out = conv_transpose(data, 2, 1, stride=3, bias=false, name=\"l\")",
    "inner_product_01": "out = fc(data, 4, axis=3, name=\"l\")",
    "batch_norm_01": "out = batch_norm(data, eps=0.001, name=\"l\")",
    "bias_00": "out = bias(data, axis=-1, name=\"l\")",
    "embed_01": "out = embed(data, 4, 3, name=\"l\")",
    "prelu_00": "out = prelu(data, shared=true, name=\"l\")",
    "pooling_03": "out = avg_pool(data, 5, stride=3, pad=1, ceil=true)",
    "lrn_00": "out = lrn(data, 5, alpha=1, beta=0.5)",
    "rnn_01": "h = rnn(x, 2, cont=cont, name=\"l\")",
    "lstm_02": "h = lstm(x, 5, cont=cont, name=\"l\")",
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_agrees_with_caffe(name: str, shared: Path) -> None:
    folder = shared / "caffe" / "goldens" / name
    assert json.loads((folder / "case.json").read_text())["phase"] == "TEST"
    blobs = np.load(folder / "blobs.npz")
    feed = {k.split("|")[1]: blobs[k] for k in blobs if k.startswith("in|")}
    ports = ", ".join(f"{k}: f32[{', '.join(map(str, a.shape))}]" for k, a in feed.items())
    output = CASES[name].split(" = ")[0]
    text = f"net n({ports}) -> {output} {{ {CASES[name]} }}"
    has_weights = any(k.startswith("param|") for k in blobs)
    weights = folder / "net.caffemodel" if has_weights else None
    g = parse_net(text, weights=weights, strict=True)
    got, want = interpret(g, feed)[output], blobs[f"out|{output}"]
    assert np.abs(got - want).max() <= 1e-4 * max(1, np.abs(want).max())
