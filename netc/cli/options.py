"""Options that several commands share, and the values they take."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import click

from netc.errors import NetcError, UsageError, clean
from netc.runtime.limits import DEFAULT

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:
    ParamType = click.ParamType  # generic since click 8.4 only


class WrittenType(click.Path):
    """The path of a file to write, in a folder that is there before any work is done for it."""

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Any:
        """The path, which no longer says whether it ended in a slash."""
        text, shown = os.fspath(value), f"cannot write {clean(value) or repr('')}"
        if not text:
            raise UsageError(f"{shown}: that is no name")
        if text == "-":
            help = "what a command prints, it prints without the option; a file so called is ./-"
            raise UsageError(f"{shown}: that stands for standard output", help=help)
        if os.path.basename(text) in ("", ".", ".."):
            raise UsageError(f"{shown}: that names a folder")
        try:
            os.stat(os.path.join(os.path.dirname(text) or ".", ""))
        except OSError as error:
            raise UsageError(f"{shown}: {error.strerror}") from None
        return super().convert(value, param, ctx)


EXISTING = click.Path(path_type=Path)
WRITTEN = WrittenType(path_type=Path)
_NAMING = ("inputs", "machine")  # options whose words may name files: `data=x.npy`


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with another suffix; a folder's own name has none."""
    return path.with_suffix(suffix) if path.name else path


def spare_inputs(*written: Path | None) -> None:
    """Refuse to write over a file that the command being run reads."""
    context = click.get_current_context()
    given = {
        p.name: context.params[p.name] for p in context.command.params if p.type is not WRITTEN
    }
    read = [path for name, value in given.items() for path in _paths(value, name in _NAMING)]
    outputs = [out for out in written if out is not None]
    if any(map(_is_net, outputs)):
        read += [path for source in read for path in _imported(source)]
    for out in outputs:
        if any(_same(out, path) for path in read):
            message = f"the output {clean(out)} is also an input"
            raise UsageError(message, help="write to another file")


def _paths(value: Any, naming: bool) -> Iterator[Path]:
    """The files that the value of an option may mean."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, tuple):
        for each in value:
            yield from _paths(each, naming)
    elif isinstance(value, str) and naming:
        words = value.split("=")
        yield from (Path("=".join(words[i:])) for i in range(len(words)))


def _imported(source: Path) -> Iterable[Path]:
    """The files that a `.net` file imports. Whoever compiles it says what is wrong in them."""
    from netc.frontend.net.imports import Loader

    loader = Loader()
    if _is_net(source):
        with suppress(NetcError):
            loader.load(source)
    return loader.files


def _is_net(path: Path) -> bool:
    """Whether the file, or the one that a link leads to, is a `.net` file by its name."""
    with suppress(OSError, ValueError):
        return path.resolve().suffix.lower() == ".net"
    return False


def _same(a: Path, b: Path) -> bool:
    with suppress(OSError, ValueError):
        return os.path.samefile(a, b)
    return False


_SIZE = r"\d{1,10}|(\d{1,10}\*)?[A-Za-z_]\w*"


class ShapeType(ParamType):
    """`data=1,3,224,224`; `data=N,3,H,32*W` leaves sizes open, the width a multiple of 32."""

    name = "BLOB=N,C,H,W"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int | str, ...]]:
        """The name and the sizes."""
        if isinstance(value, tuple):
            return value
        name, equals, sizes = str(value).rpartition("=")
        words = [w.strip() for w in re.split(r"[,x×]" if "," not in sizes else ",", sizes)]
        if not (name and equals and all(re.fullmatch(_SIZE, w) for w in words)):
            self.fail(f"{clean(value)!r} is not a shape such as data=1,3,224,224", param, ctx)
        return name, tuple(int(w) if w.isdigit() else w for w in words)


class NumbersType(ParamType):
    """`104,117,123`: numbers; or a file, where one is allowed."""

    name = "NUMBERS"

    def __init__(self, or_file: bool = False) -> None:
        self.or_file = or_file

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...] | Path:
        """The numbers, or the path."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return tuple(float(w) for w in value.split(","))
        except ValueError:
            if self.or_file:
                return Path(value)
            self.fail(f"{clean(value)!r} is not a list of numbers such as 104,117,123", param, ctx)


class SecondsType(click.FloatRange):
    """A number of seconds between two others, which `nan` is not."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{clean(value)!r} is not a number of seconds", param, ctx)
        return seconds


class SizeType(ParamType):
    """`256` or `256x320`: height and width in pixels."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Height and width."""
        if isinstance(value, tuple):
            return value
        m = re.fullmatch(r"(\d{1,6})(?:[x×,](\d{1,6}))?", str(value))
        if m is None or 0 in (int(m[1]), int(m[2] or m[1])):
            self.fail(f"{clean(value)!r} is not a size such as 256 or 256x320", param, ctx)
        return int(m[1]), int(m[2] or m[1])


def many(*names: str, **more: Any) -> Callable[[F], F]:
    """An option that may be repeated."""
    return click.option(*names, multiple=True, **more)


_SOURCE = (
    click.option("--weights", type=EXISTING, help="Weights: caffemodel, .h5, safetensors or npz."),
    click.option(
        "--phase",
        type=click.Choice(["test", "train"]),
        default="test",
        help="Which layers a Caffe net has; with train, dropout drops.",
    ),
    click.option("--level", type=int, default=0, help="Caffe's NetState level."),
    many("--stage", help="Caffe's NetState stage; may be repeated."),
    many("--shape", type=ShapeType(), help="The shape of an input; may be repeated."),
    many("--output", help="A value to give, inside the net or not; may be repeated."),
    click.option("--net", help="Which net of a .net file that has several."),
    click.option("--strict", is_flag=True, help="Weights that do not match are errors."),
)
_PREPARE = (
    click.option("--resize", type=SizeType(), help="Resize images to this size first."),
    click.option("--crop", type=SizeType(), help="Then cut this size from the middle."),
    click.option("--mean", type=NumbersType(True), help="Subtract: one number a channel, or file."),
    click.option("--scale", type=float, help="Multiply by this after the mean."),
    click.option("--channels", type=click.Choice(["RGB", "BGR"]), help="What the net expects."),
    click.option("--labels", type=EXISTING, help="Names of the classes, one a line."),
)


def source_options(command: F) -> F:
    """The options that say how a net is read."""
    return _apply(_SOURCE, command)


def prepare_options(command: F) -> F:
    """The options that put preprocessing at the head of a net."""
    return _apply(_PREPARE, command)


def _apply(options: tuple[Callable[[F], F], ...], command: F) -> F:
    for option in reversed(options):
        command = option(command)
    return command


threads_option = click.option(
    "--threads",
    type=click.IntRange(1, DEFAULT.threads),
    help="Threads; one a core where not given.",
)
