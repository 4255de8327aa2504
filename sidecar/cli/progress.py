"""Bars for commands that take a while, on standard error."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(
    noun: str, total: int | None = None, *, is_quiet: bool = False
) -> Iterator[Callable[..., None]]:
    """What to call with what is done so far, and ``total`` if that became known.

    There is no bar where standard error is no terminal.
    """
    if is_quiet or not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TextColumn(f"{{task.completed:,}} {noun}"),
        TimeRemainingColumn(),
    )
    # Standard output is for results.
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as bar:
        task = bar.add_task("", total=total)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)


def count_lines(file: BinaryIO | None) -> int | None:
    """How many lines there are to come; None if it cannot be known."""
    if file is None or not file.seekable():
        return None
    start = file.tell()
    count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    file.seek(start)
    return count
