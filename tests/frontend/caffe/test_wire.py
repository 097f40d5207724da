"""The binary reader: every form of a blob, and damage of every kind."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netc.errors import WeightsError
from netc.frontend.caffe.blobs import read_mean
from netc.frontend.caffe.weights import read_weights
from netc.frontend.caffe.wire import read_binary

from .files import dims, field, legacy, packed, refused, unpacked, v0, v1, v2, varint

A = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7

FORMS = {
    "packed": dims(A.shape) + packed(A),
    "unpacked": dims(A.shape) + unpacked(A),
    "double": dims(A.shape) + packed(A, 8),
    "unpacked double": dims(A.shape) + unpacked(A, 8),
    "with diff": dims(A.shape) + packed(A) + packed(A * 2, 6),
    "unpacked diff": unpacked(A * 2, 6) + dims(A.shape) + packed(A),
    "in pieces": packed(A[0]) + dims(A.shape) + unpacked(A[1]),
    "dims unpacked": field(7, b"".join(field(1, d) for d in A.shape)) + packed(A),
    "raw float": dims(A.shape) + field(10, 1) + field(12, A.tobytes()),
    "raw half": dims(A.shape) + field(10, 2) + field(12, A.astype("<f2").tobytes()),
    "raw double": dims(A.shape) + field(10, 0) + field(12, A.astype("<f8").tobytes()),
    "unknown fields": dims(A.shape) + packed(A) + field(77, b"x") + field(78, 5),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_blob(form: str) -> None:
    (found,) = read_weights(v2("c", [FORMS[form]]))["c"]
    assert found.shape == A.shape
    np.testing.assert_array_equal(found, A)
    assert found.dtype == (np.float64 if "double" in form else np.float32)


@pytest.mark.parametrize("version", [v0, v1, v2])
def test_every_version_of_a_layer(version: Any) -> None:
    data = field(1, "net") + version("c", [legacy((5,)) + packed(np.ones(5))])
    (found,) = read_weights(data)["c"]
    assert found.shape == (1, 1, 1, 5)


def test_packed_floats_are_not_copied() -> None:
    data = v2("c", [dims((1000,)) + packed(np.ones(1000))])
    (found,) = read_weights(data)["c"]
    assert np.shares_memory(found, np.frombuffer(data, np.uint8))


def test_a_long_run_of_unpacked_floats() -> None:
    a = np.arange(200_000, dtype=np.float32)
    (found,) = read_weights(v2("c", [unpacked(a) + dims(a.shape)]))["c"]
    np.testing.assert_array_equal(found, a)


def test_the_last_of_two_layers_of_one_name_counts() -> None:
    one, two = (dims((1,)) + packed(np.full(1, v)) for v in (1, 2))
    assert read_weights(v2("c", [one]) + v2("c", [two]) + v2("c", []))["c"][0][0] == 2


def test_layers_without_blobs_are_left_out() -> None:
    data = v2("relu", [], "ReLU") + v2("c", [dims((1,)) + packed(np.ones(1))])
    assert list(read_weights(data)) == ["c"]


DAMAGE = {
    "odd bytes": (v2("c", [dims((2,)) + field(5, b"1234567")]), "7 bytes are not a whole number"),
    "count": (v2("c", [dims((3,)) + packed(np.ones(2))]), "has 2 values for the shape (3,)"),
    "negative dim": (v2("c", [dims((-1,)) + packed(np.ones(1))]), "has the shape (-1,)"),
    "huge dim": (v2("c", [dims((1 << 31,)) + packed(np.ones(1))]), "has the shape (2147483648,)"),
    "axes": (v2("c", [dims((1,) * 33) + packed(np.ones(1))]), "has 33 axes; 32 are allowed"),
    "empty but huge": (v2("c", [dims((0, 1 << 30, 1 << 30, 1 << 30))]), "has the shape (0, "),
    "overflow": (v2("c", [dims((1 << 30, 1 << 30)) + packed(np.ones(1))]), "has the shape"),
    "raw kind": (v2("c", [dims((1,)) + field(10, 3) + field(12, b"1234")]), "is stored as INT"),
    "raw enum": (v2("c", [dims((1,)) + field(10, 9)]), "raw_data_type has no value 9"),
    "text": (b"hello, this is no model at all", "is not one that Caffe's files use"),
    "empty": (b"", "the file is empty"),
    "no layers": (field(1, "net"), "the file holds no layers"),
    "web page": (b"<!DOCTYPE html><html>", "the file is a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1", "the file is a Git LFS pointer"),
    "field 0": (b"\x00\x00", "a field has number 0"),
    "long varint": (b"\xa0" + b"\xff" * 20, "longer than 64 bits"),
    "past the end": (field(100, b"abc")[:-1], "a field of 3 bytes has 2 left"),
    "floats as text": (v2("c", [varint(5 << 3) + b"\x05"]), "data is not stored as floats"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage(kind: str) -> None:
    data, message = DAMAGE[kind]
    error = refused(read_weights, data)
    assert isinstance(error, WeightsError)
    assert message in str(error)


def test_2000_flips_and_truncations(shared: Path) -> None:
    whole = (shared / "models" / "mtcnn" / "det1.caffemodel").read_bytes()
    rng = random.Random(1)
    headers = [i for i in range(len(whole)) if i % 4096 < 200]
    for i in range(2000):
        data = bytearray(whole)
        if i % 2:
            del data[rng.randrange(len(data)) :]
        else:
            data[rng.choice(headers) if i % 4 else rng.randrange(len(data))] ^= 1 << rng.randrange(
                8
            )
        _read_or_refuse(bytes(data))


def test_2000_random_files() -> None:
    rng = random.Random(2)
    for _ in range(2000):
        _read_or_refuse(rng.randbytes(rng.randrange(1, 300)))


def _read_or_refuse(data: bytes) -> None:
    """Whatever happens is a result or a WeightsError."""
    for read in (read_weights, lambda d: read_binary(d, "NetParameter")):
        with contextlib.suppress(WeightsError):
            read(data)


def test_a_mean_image() -> None:
    mean = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    np.testing.assert_array_equal(read_mean(legacy(mean.shape) + packed(mean)), mean)
    np.testing.assert_array_equal(read_mean(dims(mean.shape) + packed(mean, 8)), mean)


def test_real_files(shared: Path) -> None:
    found = read_weights(shared / "models" / "lenet" / "lenet.caffemodel")
    assert {name: [b.shape for b in blobs] for name, blobs in found.items()} == {
        "conv1": [(20, 1, 5, 5), (20,)],
        "conv2": [(50, 20, 5, 5), (50,)],
        "ip1": [(500, 800), (500,)],
        "ip2": [(10, 500), (10,)],
    }
