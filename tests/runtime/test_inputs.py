"""Whatever is given as an input: the right answer, or an error with what was expected and got."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netc.errors import InputError
from netc.runtime.ports import accept, intakes

from .handmade import WIDTH, byte_plan, feed, make_executable, reference

N = 3
X = feed(N)
DATA = X["data"]
EXE = make_executable()


class Foreign:
    """An array of another library, by the DLPack protocol."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


class OnAnotherDevice(Foreign):
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("the tensor is on a GPU")


class Negated(Foreign):
    """A tensor of PyTorch whose numbers are those in memory times -1: `x.conj().imag`."""

    def is_neg(self) -> bool:
        return True


class Frame:
    """What a table of pandas offers."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return DATA


class Sub(np.ndarray):
    """A subclass that would change the meaning of operators."""

    def __mul__(self, other: object) -> Any:
        raise AssertionError("operators of the input are not used")


class Buffer:
    def __init__(self, array: np.ndarray) -> None:
        self.__array_interface__ = array.__array_interface__
        self.keep = array


def unaligned() -> np.ndarray:
    raw = np.empty(DATA.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(DATA.tobytes(), np.uint8)
    return raw[1:].view(np.float32).reshape(DATA.shape)


def read_only() -> np.ndarray:
    copy = DATA.copy()
    copy.flags.writeable = False
    return copy


def overlapping() -> np.ndarray:
    """Rows that share elements, so that the expected rows do too."""
    return np.lib.stride_tricks.as_strided(DATA[0], (N, WIDTH), (4, 4), writeable=False)[:, :]


def special() -> np.ndarray:
    x = DATA.copy()
    x[0, :6] = np.nan, np.inf, -np.inf, -0.0, 1e-42, 3.4e38
    return x


# what is given -> the values it stands for
RIGHT: dict[str, tuple[Callable[[], Any], np.ndarray]] = {
    "as it is": (lambda: DATA, DATA),
    "read-only": (read_only, DATA),
    "column order": (lambda: np.asfortranarray(DATA), DATA),
    "every second row": (lambda: np.repeat(DATA, 2, 0)[::2], DATA),
    "every second column": (lambda: np.repeat(DATA, 2, 1)[:, ::2], DATA),
    "backwards": (lambda: DATA[::-1], DATA[::-1]),
    "columns backwards": (lambda: DATA[:, ::-1], DATA[:, ::-1]),
    "transposed": (lambda: DATA.T.copy().T, DATA),
    "broadcast": (lambda: np.broadcast_to(DATA[0], DATA.shape), np.repeat(DATA[:1], N, 0)),
    "one column broadcast": (
        lambda: np.broadcast_to(DATA[:, :1], DATA.shape),
        np.repeat(DATA[:, :1], WIDTH, 1),
    ),
    "big-endian": (lambda: DATA.astype(">f4"), DATA),
    "little-endian": (lambda: DATA.astype("<f4"), DATA),
    "unaligned": (unaligned, DATA),
    "special values": (special, special()),
    "denormals": (lambda: np.full_like(DATA, 1e-42), np.full_like(DATA, 1e-42)),
    "all NaN": (lambda: np.full_like(DATA, np.nan), np.full_like(DATA, np.nan)),
    "float16": (lambda: DATA.astype(np.float16), DATA.astype(np.float16).astype(np.float32)),
    "int8": (lambda: np.ones((N, WIDTH), np.int8), np.ones((N, WIDTH), np.float32)),
    "uint8": (lambda: np.full((N, WIDTH), 255, np.uint8), np.full((N, WIDTH), 255, np.float32)),
    "int16": (lambda: np.full((N, WIDTH), -7, np.int16), np.full((N, WIDTH), -7, np.float32)),
    "bool": (lambda: DATA > 0, (DATA > 0).astype(np.float32)),
    "lists": (lambda: DATA.tolist(), DATA),
    "tuples": (lambda: tuple(map(tuple, DATA.tolist())), DATA),
    "lists of special values": (lambda: special().tolist(), special()),
    "lists of whole numbers": (lambda: [[1] * WIDTH] * N, np.ones((N, WIDTH), np.float32)),
    "list of arrays": (lambda: list(DATA), DATA),
    "subclass": (lambda: DATA.view(Sub), DATA),
    "record array of floats": (lambda: DATA.view(np.recarray), DATA),
    "memory map": (lambda: np.asarray(memoryview(DATA)), DATA),
    "buffer": (lambda: memoryview(DATA), DATA),
    "DLPack": (lambda: Foreign(DATA), DATA),
    "DLPack, strided": (lambda: Foreign(np.repeat(DATA, 2, 1)[:, ::2]), DATA),
    "DLPack, float16": (lambda: Foreign(DATA.astype(np.float16)), DATA.astype(np.float16)),
    "__array__": (Frame, DATA),
    "__array_interface__": (lambda: Buffer(DATA), DATA),
}

# what is given -> what the error says of it
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "got NoneType"),
    "text": (lambda: "data.npy", "got str"),
    "bytes": (lambda: DATA.tobytes(), "got bytes"),
    "mapping": (lambda: {"data": DATA}, "got dict"),
    "set": (lambda: {1.0}, "got set"),
    "generator": (lambda: (row for row in DATA), "object"),
    "an object": (object, "object"),
    "a class": (lambda: int, "object"),
    "a function": (lambda: len, "object"),
    "a number": (lambda: 1.0, r"shape \(\)"),
    "a NumPy number": (lambda: np.float32(1), r"shape \(\)"),
    "an empty list": (list, r"shape \(0,\)"),
    "ragged lists": (lambda: [[1.0], [1.0, 2.0]], "inhomogeneous"),
    "a list with None": (lambda: [[None] * WIDTH] * N, "object"),
    "a list of text": (lambda: [["1"] * WIDTH] * N, "<U1"),
    "rank 1": (lambda: DATA[0], r"shape \(24,\)"),
    "rank 3": (lambda: DATA[None], r"shape \(1, 3, 24\)"),
    "rank 32": (lambda: DATA.reshape(DATA.shape + (1,) * 30), "shape"),
    "a wrong size": (lambda: DATA[:, :-1], r"shape \(3, 23\)"),
    "a size of zero": (lambda: DATA[:, :0], r"shape \(3, 0\)"),
    "transposed": (lambda: DATA.T, r"shape \(24, 3\)"),
    "another batch": (lambda: DATA[:2], "N is not"),
    "float64": (lambda: DATA.astype(np.float64), r"float64.*(?s:.)*astype\('float32'\)"),
    "big-endian float64": (lambda: DATA.astype(">f8"), ">f8"),
    "long double": (lambda: DATA.astype(np.longdouble), "longdouble|float128|float64"),
    "int32": (lambda: np.ones((N, WIDTH), np.int32), "int32"),
    "int64": (lambda: np.ones((N, WIDTH), np.int64), "int64"),
    "uint64": (lambda: np.ones((N, WIDTH), np.uint64), "uint64"),
    "complex": (lambda: DATA.astype(complex), "complex128"),
    "a list of complex": (lambda: [[1j] * WIDTH] * N, "complex128"),
    "objects": (lambda: DATA.astype(object), "object"),
    "strings": (lambda: DATA.astype("U8"), "<U8"),
    "dates": (lambda: np.zeros((N, WIDTH), "M8[s]"), "datetime64"),
    "durations": (lambda: np.zeros((N, WIDTH), "m8[s]"), "timedelta64"),
    "records": (lambda: np.zeros((N, WIDTH), [("a", "f4")]), "'a'"),
    "void": (lambda: np.zeros((N, WIDTH), "V4"), r"\|V4"),
    "masked": (lambda: np.ma.masked_array(DATA, DATA > 0), "masked array"),
    "huge, of no memory": (lambda: np.broadcast_to(np.float32(0), (1 << 40, 1 << 20)), "shape"),
    "huge bytes": (lambda: np.broadcast_to(np.uint8(0), (1 << 50, 5)), "shape"),
    "DLPack elsewhere": (lambda: OnAnotherDevice(DATA), "on a GPU"),
    "DLPack with the negative bit": (lambda: Negated(DATA), r"negative bit(?s:.)*resolve_neg\(\)"),
    "lists beyond float32": (lambda: [[1e300] * WIDTH] * N, "got a number beyond f32"),
    "a number beyond float32": (lambda: np.float64(1e300), "got a number beyond f32"),
    "DLPack of float64": (lambda: Foreign(DATA.astype(np.float64)), "float64"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right(name: str) -> None:
    make, meaning = RIGHT[name]
    given = make()
    before = np.array(np.asarray(given.array if isinstance(given, Foreign) else given)).tobytes()
    with np.errstate(all="ignore"):
        wanted = reference(np.asarray(meaning, np.float32), X["extra"])
    np.testing.assert_array_equal(EXE(data=given, extra=X["extra"])["out"], wanted)
    after = np.array(np.asarray(given.array if isinstance(given, Foreign) else given)).tobytes()
    assert before == after, "the input was modified"


@pytest.mark.parametrize("name", WRONG)
def test_wrong(name: str) -> None:
    make, says = WRONG[name]
    with pytest.raises(InputError, match=says) as caught:
        EXE(data=make(), extra=X["extra"])
    assert "f32[N,24]" in str(caught.value), "the error says what was expected"
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)
    np.testing.assert_array_equal(EXE(X)["out"], reference(**X))


def test_tensors_of_pytorch() -> None:
    torch = pytest.importorskip("torch")
    pairs = torch.complex(torch.from_numpy(DATA), torch.from_numpy(-DATA))
    with pytest.raises(InputError, match="negative bit"):
        EXE(data=pairs.conj().imag, extra=X["extra"])
    got = EXE(data=pairs.conj().imag.resolve_neg(), extra=X["extra"])["out"]
    np.testing.assert_array_equal(got, EXE(X)["out"])


def test_overlapping_rows() -> None:
    rows = overlapping()
    wanted = reference(np.array(rows), X["extra"])
    np.testing.assert_array_equal(EXE(data=rows, extra=X["extra"])["out"], wanted)


def test_one_array_for_two_inputs() -> None:
    np.testing.assert_array_equal(EXE(data=DATA, extra=DATA)["out"], reference(DATA, DATA))


def test_a_missing_axis_is_explained() -> None:
    with pytest.raises(InputError, match=r"x\[None\] adds a batch axis"):
        EXE(data=DATA[0], extra=X["extra"])


# ------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("feed_", "named", "says"),
    [
        (None, {}, "no value for data, extra"),
        ({}, {}, "no value for data, extra"),
        ({"data": DATA}, {}, "no value for extra"),
        ({"data": DATA, "extra": DATA, "more": DATA}, {}, "no input is called 'more'"),
        ({"Data": DATA, "extra": DATA}, {}, "no input is called 'Data'"),
        ({"data": DATA}, {"data": DATA, "extra": DATA}, "data is given twice"),
        ({1: DATA, "extra": DATA}, {}, "no input is called '1'"),
        ({"\x1b[31m": DATA, "extra": DATA}, {}, r"called '\\\\x1b\[31m'"),
        (DATA, {}, "inputs go by name"),
        ([DATA, DATA], {}, "inputs go by name"),
        (DATA, {"extra": DATA}, "inputs go by name"),
    ],
)
def test_wrong_names(feed_: Any, named: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        EXE(feed_, **named)


def test_a_mapping_and_keywords_together() -> None:
    np.testing.assert_array_equal(EXE({"data": DATA}, extra=X["extra"])["out"], reference(**X))


# ------------------------------------------------------------------- an input of bytes

BYTES = intakes(byte_plan().inputs)[0]


@pytest.mark.parametrize(
    "given",
    [
        np.full((N, WIDTH), 200, np.uint8),
        np.full((N, WIDTH), True),
        [[200] * WIDTH] * N,
        np.asfortranarray(np.full((N, WIDTH), 200, np.uint8)),
    ],
)
def test_bytes(given: Any) -> None:
    got = accept(BYTES, given)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, np.asarray(given))


@pytest.mark.parametrize(
    "given",
    [
        np.full((N, WIDTH), 200.0, np.float32),
        np.full((N, WIDTH), 200, np.int64),
        np.full((N, WIDTH), -1, np.int8),
        [[256] * WIDTH] * N,
        [[-1] * WIDTH] * N,
        [[0.5] * WIDTH] * N,
    ],
)
def test_what_does_not_fit_in_bytes(given: Any) -> None:
    with pytest.raises(InputError, match="u8"):
        accept(BYTES, given)


def test_the_tables_are_long_enough() -> None:
    assert len(RIGHT) + len(WRONG) >= 60
