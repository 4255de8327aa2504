"""``embercache embed``: vectors for texts, from arguments, a file or standard input."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import click
from click.core import ParameterSource

from sidecar.cli.cache_options import cache_options
from sidecar.cli.connection import address_option, connected
from sidecar.cli.embed_inputs import Inputs, from_arguments, from_lines, is_json_lines
from sidecar.cli.embed_outputs import Embedded, Row, open_writer
from sidecar.cli.private import private_sidecar
from sidecar.cli.progress import count_lines, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embercache import Client, EmbedOptions, EmbedResult

_BATCH_SIZE = 64
# Long texts on a busy CPU are slow, and eight batches are under way.
_ANSWER_SECONDS = 600.0


def _check_out(_ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in (".npy", ".jsonl"):
        raise click.BadParameter("its name must end in .npy or .jsonl, which chooses the format")
    return value


@click.command()
@click.argument("texts", nargs=-1)
@click.option("--file", type=click.File("rb"), help="one input a line; '-' for standard input")
@click.option(
    "--jsonl",
    is_flag=True,
    help='lines are JSON objects: "text" and perhaps "id" and "chunk_id", which make it an entity;'
    " understood by itself for files named .jsonl",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_out,
    help="file for the vectors: .npy (a float32 array, a row an input) or .jsonl;"
    " without it, JSON lines on standard output",
)
@address_option
@click.option("--dev", is_flag=True, help="start a private sidecar, gone when the command ends")
@click.option("--model", default="", help="a model's name  [default: the sidecar's first]")
@click.option(
    "--input-type",
    type=click.Choice(["query", "document"]),
    help="chooses the model's prompt, where it has one, and the default lifetime",
)
@cache_options
@click.pass_context
def embed(
    ctx: click.Context,
    /,
    texts: tuple[str, ...],
    file: BinaryIO | None,
    jsonl: bool,
    out: Path | None,
    address: str,
    dev: bool,
    **options: Any,
) -> None:
    """Embed TEXTS, or the lines of a file or of standard input.

    Row i of the output is input i, always: an input that has no vector is named on standard error
    by its line, is NaN in a .npy file and has "error" in JSON lines, and the command ends with
    exit code 1. Files of any size are read, embedded and written as a stream.

    \b
    Examples:
      embercache embed "how warm is an ember?"
      embercache embed --file corpus.txt --out vectors.npy
      embercache embed --file docs.jsonl --out vectors.jsonl --tag release-7
      grep -i error app.log | embercache embed --dev > vectors.jsonl
    """
    if dev and ctx.get_parameter_source("address") is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --address or --dev, not both")
    inputs, name = _inputs(texts, file, jsonl)
    request = cast("EmbedOptions", options)
    with contextlib.ExitStack() as exits:
        if dev:
            address = exits.enter_context(private_sidecar())
        client = exits.enter_context(connected(address))
        dimensions = _dimensions(client, request["model"])
        writer = exits.enter_context(open_writer(out, dimensions))
        # Lines of JSON that scroll by leave no place for a bar.
        is_quiet = out is None and sys.stdout.isatty()
        show = exits.enter_context(progress_bar("inputs", count_lines(file), is_quiet=is_quiet))
        tally = _Tally()
        for row in _rows(client, inputs, request):
            writer.write(row)
            tally.add(row)
            show(row.index + 1)
            if isinstance(row.outcome, str):
                click.echo(f"{name} {row.index + 1}: {row.outcome}", err=True)
    click.echo(tally, err=True)
    if tally.failed:
        ctx.exit(1)


def _inputs(texts: tuple[str, ...], file: BinaryIO | None, jsonl: bool) -> tuple[Inputs, str]:
    """What is to be embedded, and what one of them is called."""
    if texts and (file or jsonl):
        raise click.UsageError("give TEXTS, or lines to read (--file, --jsonl), not both")
    if texts:
        return Inputs(from_arguments(texts)), "text"
    if file is None:
        file = sys.stdin.buffer
        if file.isatty():
            raise click.UsageError("nothing to embed: give TEXTS, --file FILE, or pipe lines in")
    return Inputs(from_lines(file, is_json=jsonl or is_json_lines(file))), "line"


def _dimensions(client: Client, model: str) -> int:
    models = client.models()
    for candidate in models:
        if model in ("", candidate.name):
            return candidate.dimensions
    names = ", ".join(candidate.name for candidate in models)
    raise click.ClickException(f"the sidecar has no model {model!r}; it has: {names}")


def _rows(client: Client, inputs: Inputs, options: EmbedOptions) -> Iterator[Row]:
    """Every input in its order, the bad ones too."""
    index = 0

    def bad() -> Iterator[Row]:
        nonlocal index
        while (reason := inputs.bad_at(index)) is not None:
            yield Row(index, None, str(reason))
            index += 1

    results = client.embed_stream(
        inputs, batch_size=_BATCH_SIZE, timeout=_ANSWER_SECONDS, on_error="return", **options
    )
    for result in results:
        for place in range(len(result)):
            yield from bad()
            yield _row(index, result, place)
            index += 1
    yield from bad()


def _row(index: int, result: EmbedResult, place: int) -> Row:
    error = result.errors.get(place)
    if error is not None:
        return Row(index, result.inputs[place], error.message)
    vector = Embedded(result.tiers[place], result.truncated[place], result.vectors[place])
    return Row(index, result.inputs[place], vector)


class _Tally:
    """Counts rows by what answered them; its string is the summary."""

    def __init__(self) -> None:
        self.failed = 0
        self._truncated = 0
        self._tiers: Counter[str] = Counter()
        self._started = time.monotonic()

    def add(self, row: Row) -> None:
        if isinstance(row.outcome, str):
            self.failed += 1
        else:
            self._tiers[row.outcome.tier] += 1
            self._truncated += row.outcome.truncated

    def __str__(self) -> str:
        count = self._tiers.total() + self.failed
        seconds = time.monotonic() - self._started
        parts = [f"{number:,} {tier}" for tier, number in self._tiers.most_common()]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        summary = f"{count:,} inputs in {seconds:.2f} s ({count / seconds:,.0f}/s)"
        if parts:
            summary += f": {', '.join(parts)}"
        if self._truncated:
            summary += f"; {self._truncated:,} cut short, being longer than the model reads"
        return summary
