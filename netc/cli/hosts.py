"""What the command line says of other hosts: how they are reached, and the worker on each."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from netc.cli.gpus import run_options
from netc.cli.options import threads_option
from netc.errors import UsageError, clean

F = TypeVar("F", bound=Callable[..., Any])

_HOST = click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME=COMMAND",
    help="What starts a host's worker: node1='ssh node1 netc worker'. May be repeated.",
)


def host_options(command: F) -> F:
    """The options that say how other hosts are reached."""
    return _HOST(command)


def named_hosts(words: Sequence[str]) -> dict[str, str] | None:
    """Host -> command; nothing where none is given."""
    if not words:
        return None
    from netc.runtime.remote import example, host_and_command

    found: dict[str, str] = {}
    for word in words:
        said = host_and_command(word)
        if said is None:
            raise UsageError(f"--host {clean(word)!r} is no NAME=COMMAND", help=example())
        if said[0] in found:
            raise UsageError(f"--host names {clean(said[0])} twice")
        found[said[0]] = said[1]
    return found


@click.command("worker")
@threads_option
@run_options
def worker_command(threads: int | None, **gpu: Any) -> None:
    """Run parts of nets for the netc on another host that started this command.

    It reads what to do from its standard input and answers on its standard output, until that
    ends. No port is opened: who may start it, over ssh say, is who may use it.

    \b
    netc run model.bin --input data=x.npy --host node1='ssh node1 netc worker --threads 8'
    """
    import signal

    from netc import api
    from netc.runtime.remote_worker import serve
    from netc.runtime.wire import Channel

    if sys.stdin is None or sys.stdin.isatty():
        help = "netc run model.bin --host node1='ssh node1 netc worker'"
        raise UsageError("a worker is started by netc on another host", help=help)
    read, write = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what a library prints is no message
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends when whoever started it does
    load = functools.partial(api.load_part, threads=threads, **gpu)
    serve(Channel(read, write), load, _table)


def _table(names: Sequence[str]) -> str:
    """What these devices can do, as a machine table; where none is named, all that are here."""
    from netc.cli.probe import devices_here, measured

    return measured(devices_here(names)).show()
