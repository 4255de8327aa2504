"""``embercache top``: a sidecar as it is now, on the whole terminal, until one has seen enough."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING

import click
from embercache import DeadlineExceededError, EmbercacheError, UnavailableError
from rich.console import Console
from rich.live import Live

from sidecar.cli.connection import address_option, connected
from sidecar.cli.duration import DurationType
from sidecar.cli.top_view import Looks, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embercache import Client

_WIDTH = 120  # where there is no terminal to ask
_LEAST_SECONDS = 0.1
_ANSWER_SECONDS = 5.0
# How soon a terminal that has another size is drawn anew.
_SIZE_SECONDS = 0.2


@click.command()
@address_option
@click.option(
    "--every",
    type=DurationType(),
    default="2s",
    show_default=True,
    help="time between two looks, like 500ms or 5s",
)
@click.option("--once", is_flag=True, help="look once, show it and end")
def top(address: str, every: float, once: bool) -> None:
    """Show live whether a sidecar is well and what it answers.

    What is wrong comes first, with what to do about it. Shares and rates are of the time since the
    last look; "worth" counts since the sidecar started. Press q or Ctrl-C to leave. A sidecar
    that does not answer any more is asked again until it does. Where output is no terminal, every
    look is printed below the one before.

    \b
    Examples:
      embercache top
      embercache top --address unix:/run/embercache.sock --every 5s
      embercache top --once
    """
    looks = Looks()
    is_live = sys.stdout.isatty() and not once
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    with connected(address) as client, contextlib.suppress(KeyboardInterrupt):
        # Whether there is a sidecar at all is told as by every other command.
        looks.take(client.stats())
        if is_live:
            _show_live(client, address, max(every, _LEAST_SECONDS), console, looks)
            return
        console.print(view(looks, address, console.width))
        while not once:
            time.sleep(max(every, _LEAST_SECONDS))
            _look(client, looks)
            console.print("", view(looks, address, console.width), sep="\n")


def _show_live(client: Client, address: str, every: float, console: Console, looks: Looks) -> None:
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        size, due = None, time.monotonic() + every
        while True:
            now = time.monotonic()
            if now >= due:
                _look(client, looks)
                size, due = None, time.monotonic() + every
            if console.size != size:
                size = console.size
                live.update(view(looks, address, size.width, keys="q to leave"), refresh=True)
            if pressed(min(_SIZE_SECONDS, max(0.0, due - now))) in ("q", "Q"):
                return


def _look(client: Client, looks: Looks) -> None:
    try:
        looks.take(client.stats(timeout=_ANSWER_SECONDS))
    except (UnavailableError, DeadlineExceededError):
        looks.miss()
    except EmbercacheError as error:
        looks.miss(error.message)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What waits so many seconds for a key that is pressed, and gives it, or else nothing.

    Keys come at once and are not shown, until the context is left.
    """
    if not sys.stdin.isatty():
        yield _no_key
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield _key
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _key(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""
