"""What `--input` gives: arrays from .npy and .npz files, pixels from images; outputs to files."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from netc.errors import InputError, UsageError, WeightsError, clean
from netc.runtime.atomic import write_file

_MEMBER = ".npy"  # behind an array's name in an archive
_LONGEST = 0xFFFF  # bytes of a name in an archive

Arrays = dict[str, NDArray[Any]]


class Spec(Protocol):
    """What an input looks like."""

    @property
    def dtype(self) -> Any:
        """Element type."""

    @property
    def shape(self) -> tuple[int | str, ...]:
        """Sizes, symbols by name."""


def read_feed(given: Sequence[str], inputs: Mapping[str, Spec]) -> Arrays:
    """The arrays named by `NAME=FILE` words. Several images for one input make a batch."""
    feed: Arrays = {}
    pictures: dict[str, list[NDArray[Any]]] = {}
    for word in given:
        name, path = _split(word, inputs)
        _regular(path)
        if path.suffix == ".npz" and not name:
            _enter(feed, read_arrays(path))
            continue
        name = name or _only(inputs)
        if name not in inputs:
            known = ", ".join(f"{clean(k)}: {v}" for k, v in inputs.items())
            raise InputError(f"no input {clean(name)!r}", help=f"the inputs are {known}")
        if path.suffix in (".npy", ".npz"):
            _enter(feed, {name: _pick(read_arrays(path), name, path)})
        else:
            pictures.setdefault(name, []).append(_image(path, name, inputs[name]))
    for name, batch in pictures.items():
        if len({p.shape for p in batch}) > 1:
            raise InputError(f"the images for {clean(name)!r} differ in size")
        _enter(feed, {name: np.stack(batch).astype(_numpy(inputs[name]), copy=False)})
    return feed


def pictures_of(given: Sequence[str], inputs: Mapping[str, Spec]) -> list[Path]:
    """The images among `NAME=FILE` words."""
    from netc.cli.images import is_image

    return [path for _, path in (_split(word, inputs) for word in given) if is_image(path)]


def _enter(feed: Arrays, found: Arrays) -> None:
    """Add arrays to those there are; no input is given twice."""
    for name, array in found.items():
        if name in feed:
            help = "only images of one input may be several: they make a batch"
            raise InputError(f"input {clean(name)} is given twice", help=help)
        feed[name] = array


def _split(word: str, inputs: Mapping[str, Spec]) -> tuple[str, Path]:
    """`data=x.npy`, or a path alone where that is plain. Names and paths may hold `=`."""
    for name in inputs:
        if word.startswith(name + "="):
            return name, Path(word[len(name) + 1 :])
    if "=" not in word or Path(word).exists():
        return "", Path(word)
    name, _, path = word.partition("=")
    return name, Path(path)


def _only(inputs: Mapping[str, Spec]) -> str:
    if len(inputs) != 1:
        names = ", ".join(map(clean, inputs))
        raise UsageError("say which input the file is for", help=f"NAME=FILE, with one of {names}")
    (name,) = inputs
    return name


def _regular(path: Path) -> None:
    """Refuse what is not a plain file before anything waits on it."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or "its name holds a NUL"
        raise InputError(f"cannot open {clean(path)}: {reason}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{clean(path)} is not a file")


def read_arrays(path: Path) -> Arrays:
    """The arrays of a .npz by name, or the one of a .npy under the name ''."""
    from netc.frontend.npz import read_npy, read_npz

    data = path.read_bytes()
    try:
        if path.suffix == ".npz":
            return read_npz(data, path.name)
        return {"": read_npy(data, path.name)}
    except WeightsError as e:
        raise InputError(e.diagnostics) from None


def _pick(arrays: Arrays, name: str, path: Path) -> NDArray[Any]:
    if name in arrays:
        return arrays[name]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    there = ", ".join(map(clean, list(arrays)[:10])) or "nothing"
    raise InputError(f"{clean(path.name)} has no array {clean(name)!r}; it has {there}")


def _image(path: Path, name: str, spec: Spec) -> NDArray[Any]:
    from netc.cli.images import is_image, read_image

    if not is_image(path):
        help = "a file is .npy, .npz or an image: .png, .jpg, .bmp, .gif, .webp, .tif, .ppm, .pgm"
        raise InputError(f"{clean(path.name)} is of no kind netc reads", help=help)
    return read_image(path, spec.shape, f"input {clean(name)!r}, {spec},")


def _numpy(spec: Spec) -> np.dtype[Any]:
    dtype: np.dtype[Any] = spec.dtype.numpy
    return dtype


def check_arrays(path: Path, names: Collection[str]) -> None:
    """Raise UsageError for a file that cannot hold arrays of these names."""
    if path.suffix == ".npy":
        if len(names) != 1:
            raise UsageError(f"a .npy holds one array and there are {len(names)}; write a .npz")
    elif path.suffix != ".npz":
        raise UsageError(f"cannot write {clean(path.name)}", help="an output is .npz or .npy")
    elif why := _not_in_archive(names):
        help = "name it otherwise in the net" + ", or write a .npy" * (len(names) == 1)
        raise UsageError(f"no .npz holds {why}", help=help)


def _not_in_archive(names: Collection[str]) -> str:
    """What of these names readers of an archive would not find again; nothing where all is well."""
    for name in names:
        shown, stem = clean(repr(name)), name.removesuffix(_MEMBER)
        if "\0" in name:
            return f"an array named {shown}: its name has a NUL"
        if len(f"{name}{_MEMBER}".encode()) > _LONGEST:
            return f"an array named {shown}: its name is too long"
        if stem != name and stem in names:
            return f"both {clean(repr(stem))} and {shown}"
    return ""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """A .npz, or a .npy where there is one array and the name says so; whole or not at all."""
    check_arrays(path, arrays)
    out = io.BytesIO()
    if path.suffix == ".npy":
        np.save(out, next(iter(arrays.values())), allow_pickle=False)
    else:
        with zipfile.ZipFile(out, "w") as archive:
            for name, array in arrays.items():
                entry = zipfile.ZipInfo(f"{name}{_MEMBER}")
                with archive.open(entry, "w", force_zip64=True) as f:
                    np.lib.format.write_array(f, np.asarray(array), allow_pickle=False)
    write_file(path, [out.getbuffer()])
