"""The group of commands, each imported when it is asked for, and what becomes of errors."""

from __future__ import annotations

import importlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TextIO

import click

from netc.errors import NetcError, clean
from netc.version import __version__

INTERNAL = 70  # EX_SOFTWARE: a bug in netc
INTERRUPTED = 130  # 128 + SIGINT
CLOSED = 1  # nobody reads the output any more; click's own code for it

COMMANDS = {  # name -> (module, what it does in a line)
    "compile": ("build", "Compile a net into one file that runs."),
    "run": ("execute", "Run a model on arrays or images."),
    "time": ("execute", "Time a model, whole and op by op."),
    "inspect": ("look", "Show inputs, outputs, ops, FLOPs, memory and devices."),
    "explain": ("look", "Show what was fused, and why not more."),
    "dump": ("stages", "Print the IR after a pass."),
    "opt": ("stages", "Run passes on a graph and print it."),
    "draw": ("look", "Draw a net as SVG."),
    "convert": ("build", "Write a Caffe net in the .net language."),
    "devices": ("look", "List the devices of this machine."),
    "verify": ("build", "Rebuild a model and compare it byte by byte."),
    "diff": ("compare", "Compare two models of one net, value by value."),
    "bisect": ("stages", "Find the pass that first changes results."),
    "worker": ("hosts", "Run parts of nets for another host."),
}


class App(click.Group):
    """A group that knows its commands by name and ends every error in a message and a code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the one module that has the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"netc.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest names where there is no such command."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 2)
            hint = f" Did you mean {' or '.join(near)}?" if near else " See netc --help."
            raise click.UsageError(f"No command {clean(args[0])!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command line and exit: 0, or the code of what went wrong."""
        extra["standalone_mode"] = False
        run: Callable[..., Any] = super().main
        sys.exit(_guarded(lambda: run(args=args, prog_name=prog_name or "netc", **extra)))


def _guarded(run: Callable[[], Any]) -> int:
    """The exit code of a run; errors are printed, never with a traceback unless asked for."""
    _open_streams()
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _show_warning
        _show_log()
        try:
            code = run()
            sys.stdout.flush()
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as e:
            return e.exit_code
        except click.ClickException as e:
            _explain_usage(e)
            return e.exit_code
        except NetcError as e:
            _say(str(e) if "error: " in str(e) else f"error: {e}")
            return e.exit_code
        except (KeyboardInterrupt, click.Abort):
            _say("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            _discard(sys.stdout)
            return CLOSED
        except Exception as e:
            return _unexpected(e)


def _explain_usage(e: click.ClickException) -> None:
    """What click says, with the control characters of the user's words escaped."""
    context = e.ctx if isinstance(e, click.UsageError) else None
    if context is not None:
        _say(f"{context.get_usage()}\nTry '{context.command_path} --help' for help.\n")
    lines = e.format_message().split("\n")
    _say("error: " + "\n".join(map(clean, lines)))


def _unexpected(e: Exception) -> int:
    """A bug, or the machine's doing: one line, and how to see more."""
    if os.environ.get("NETC_DEBUG", "") not in ("", "0"):
        import traceback

        _say("".join(traceback.format_exception(e)).rstrip())
    if isinstance(e, MemoryError):
        _say("error: out of memory")
        return 9
    if isinstance(e, OSError) and e.strerror:
        from netc.runtime.atomic import STORAGE

        named = f"{clean(os.path.basename(str(e.filename)))}: " if e.filename else ""
        _say(f"error: {named}{e.strerror}")
        if sys.stdout and e.filename is None:
            _discard(sys.stdout)
        return 9 if e.errno in STORAGE else 1
    if isinstance(e, ImportError | OSError):
        _say(f"error: a library cannot be loaded: {clean(e)}")
        return 9
    _say(f"error: netc failed: {type(e).__name__}: {clean(e)}")
    _say("  help: this is a bug in netc; NETC_DEBUG=1 shows where")
    return INTERNAL


def _say(text: str) -> None:
    """A line on standard error, if there is one still."""
    try:
        print(text, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _discard(sys.stderr)


def _open_streams() -> None:
    """Standard streams that show in escapes what they cannot encode.

    Closed ones become the null device, so that no file takes their number.
    """
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_WRONLY)
            if fd != number:
                os.dup2(fd, number)
            setattr(sys, name, os.fdopen(number, "w"))
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard(stream: TextIO) -> None:
    """Send what a stream still holds nowhere, so that closing it at exit raises nothing."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError, AttributeError):
        return


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"warning: {message}")


class _Said(logging.Handler):
    """Remarks on what is standard error when they are made: above a spinner, where one turns."""

    def emit(self, record: logging.LogRecord) -> None:
        """One remark, with its severity where it has one."""
        _say(str(getattr(record, "remark", "")) or self.format(record))


def _show_log() -> None:
    log = logging.getLogger("netc")
    if not any(isinstance(h, _Said | logging.StreamHandler) for h in log.handlers):
        log.addHandler(_Said())
    log.setLevel(logging.DEBUG if os.environ.get("NETC_DEBUG") else logging.INFO)


@click.group(
    "netc",
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Every command has --help. A .net, .prototxt or .ir file is a net; a .bin is a model.",
)
@click.version_option(__version__, prog_name="netc")
def main() -> None:
    """Compile neural networks into one file of fast native code, and run them."""
