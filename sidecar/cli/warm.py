"""``embercache warm``: fills the cache before it is needed."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from embercache import EmbercacheError, InvalidArgumentError, WarmProgress

from sidecar.cli.connection import address_option, connected
from sidecar.cli.embed_inputs import is_json_lines
from sidecar.cli.parameters import NumberType
from sidecar.cli.progress import count_lines, progress_bar
from sidecar.cli.warm_inputs import Part, parts
from sidecar.cli.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from embercache import Client


@click.command()
@click.argument("file", type=click.File("rb"), required=False)
@click.option(
    "--popular",
    type=click.IntRange(min=1),
    metavar="N",
    help="in place of FILE: the N queries that were asked most of late",
)
@click.option(
    "--jsonl",
    is_flag=True,
    help='lines are JSON objects: "text" (and perhaps "id" and "chunk_id") or "query" (and the'
    " options of a search); understood by itself for files named .jsonl",
)
@click.option(
    "--per-second",
    type=NumberType(min=0, min_open=True),
    help="most items a second  [default: no limit]",
)
@click.option(
    "--from-line",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="where to begin: go on with a file after an interruption",
)
@click.option("--namespace", default="", help="part of the cache to fill")
@click.option("--model", default="", help="of texts  [default: the sidecar's first]")
@click.option(
    "--input-type",
    type=click.Choice(["query", "document"]),
    help="of texts: as in the calls that are to find them",
)
@click.option("--tag", "tags", multiple=True, help="of texts: as in the calls; may be repeated")
@address_option
@click.pass_context
def warm(
    ctx: click.Context,
    /,
    file: BinaryIO | None,
    popular: int | None,
    jsonl: bool,
    per_second: float | None,
    from_line: int,
    address: str,
    **options: Any,
) -> None:
    """Compute and store what is not cached yet: each line of FILE is a text to be embedded.

    With JSON lines, searches can be warmed too: {"query": "what glows?", "collection": "docs"}.
    What is cached is skipped, so nothing is lost by beginning again; --from-line saves the looking.

    \b
    Examples:
      embercache warm questions.txt --input-type query --per-second 50
      embercache warm searches.jsonl
      embercache warm --popular 1000
    """
    if (file is None) == (popular is None):
        raise click.UsageError("give FILE or --popular N")
    tally = _Tally()
    with connected(address) as client:
        if file is not None:
            _warm_file(client, file, jsonl, from_line, per_second, options, tally)
        elif popular is not None:
            _warm_popular(client, popular, per_second, options["namespace"], tally)
    click.echo(tally)
    if tally.failed:
        ctx.exit(1)


class _Tally:
    """Adds up the parts of a warming; its string is the summary."""

    def __init__(self) -> None:
        self.failed = 0
        self._cached = 0
        self._computed = 0
        self._started = time.monotonic()

    def add(self, progress: WarmProgress) -> None:
        self._cached += progress.cached
        self._computed += progress.computed
        self.failed += progress.failed

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        count = self._cached + self._computed + self.failed
        return (
            f"{counted(count, 'item')} in {seconds:.1f} s: {self._cached:,} cached already,"
            f" {self._computed:,} computed, {self.failed:,} failed"
        )


def _warm_popular(
    client: Client, count: int, per_second: float | None, namespace: str, tally: _Tally
) -> None:
    progress = WarmProgress(0, 0, 0, 0)
    with progress_bar("queries", count) as show:
        for progress in client.warm_popular(count, namespace=namespace, per_second=per_second):
            show(progress.done, progress.total)
    tally.add(progress)


def _warm_file(
    client: Client,
    file: BinaryIO,
    jsonl: bool,
    from_line: int,
    per_second: float | None,
    options: dict[str, Any],
    tally: _Tally,
) -> None:
    total = count_lines(file)
    with progress_bar("lines", total) as show:
        is_json = jsonl or is_json_lines(file)
        name = options["namespace"]
        for part in parts(file, is_json=is_json, from_line=from_line, namespace=name):
            with _resumable(file, part.first_line):
                tally.add(_warm_part(client, part, per_second, options, show))
            show(part.first_line - 1 + part.lines)


def _warm_part(
    client: Client,
    part: Part,
    per_second: float | None,
    options: dict[str, Any],
    show: Callable[..., None],
) -> WarmProgress:
    for number, reason in part.bad:
        click.echo(f"line {number}: {reason}", err=True)
    last = WarmProgress(0, 0, 0, 0)
    if part.holds_searches:
        steps = client.warm_search(part.items, per_second=per_second)  # type: ignore[arg-type]
    elif part.items:
        steps = client.warm_embed(part.items, per_second=per_second, **options)  # type: ignore[arg-type]
    else:
        steps = iter(())
    try:
        for last in steps:
            show(part.first_line - 1 + last.done)
    except InvalidArgumentError as error:
        if not last.failed or last.failed < len(part.items):
            raise
        # Each of them is wrong, and the lines behind them need not be.
        end = part.first_line + part.lines - 1
        where = f"lines {part.first_line} to {end}" if part.lines > 1 else f"line {end}"
        click.echo(f"{where}: {error.message}", err=True)
    return WarmProgress(last.total, last.cached, last.computed, last.failed + len(part.bad))


@contextlib.contextmanager
def _resumable(file: BinaryIO, line: int) -> Iterator[None]:
    """Says how to go on if the warming is interrupted while it is at that line."""
    try:
        yield
    except (EmbercacheError, KeyboardInterrupt):
        is_piped = file is sys.stdin.buffer
        name = "-" if is_piped else shlex.quote(file.name)
        click.echo(
            f"stopped at line {line:,}; to go on: embercache warm {name} --from-line {line}"
            " and the options that were given"
            + (", with the same input from its beginning" if is_piped else ""),
            err=True,
        )
        raise
