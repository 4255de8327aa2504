"""``embercache documents``: stores documents, and removes them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.connection import address_option, connected
from sidecar.cli.document_inputs import Source, text_files
from sidecar.cli.embed_inputs import BadInputError, is_json_lines
from sidecar.cli.progress import count_lines, progress_bar
from sidecar.cli.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from embercache import Client, Document, UpsertResult

# As many as a model computes at once, so that a bar moves often.
_BATCH_CHUNKS = 64
# Long texts on a busy CPU are slow.
_ANSWER_SECONDS = 600.0


@click.group()
def documents() -> None:
    """Store documents to be searched, and remove them."""


def _where(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where documents are."""
    for option in (
        click.option("--model", default="", help="a model's name  [default: the sidecar's first]"),
        click.option("--namespace", default="", help="part of the index to use"),
        click.option("--collection", default="", help="letters, digits, '.', '_' and '-'"),
    ):
        command = option(command)
    return command


@documents.command()
@click.argument("paths", nargs=-1, required=True, metavar="FILE...")
@_where
@click.option("--tag", "tags", multiple=True, help="tag for all of them; may be repeated")
@click.option(
    "--chunk-characters",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="most characters of a chunk",
)
@address_option
@click.pass_context
def add(
    ctx: click.Context,
    /,
    paths: tuple[str, ...],
    tags: tuple[str, ...],
    chunk_characters: int,
    address: str,
    **where: str,
) -> None:
    """Store the documents of each FILE, in place of what was there under their ids.

    A .jsonl file (or '-', standard input) has a document on each line: an object with "id", with
    "content" or a list of "chunks" (strings, or objects with "chunk_id" and "content"), and
    perhaps with "metadata" and "tags". Any other file is one document, whose id is its path. Of a
    folder, every file is one; its id is the path within the folder.

    A text longer than --chunk-characters is cut into chunks between paragraphs. What is embedded
    already is not embedded again. A document that fails is named on standard error, and the
    command ends with exit code 1.

    \b
    Examples:
      embercache documents add docs/ --collection docs
      embercache documents add shop.jsonl --collection shop --tag release-7
      jq -c '{id: .sku, content: .text}' shop.json | embercache documents add -
    """
    tally = _Tally()
    with connected(address) as client, progress_bar("documents", _count(paths)) as show:
        for batch in _batches(_read(paths, chunk_characters, tally)):
            if tags:
                batch = [replace(each, tags=(*each.tags, *tags)) for each in batch]
            tally.add(_store(client, batch, where))
            show(tally.count)
    click.echo(tally)
    if tally.failed:
        ctx.exit(1)


@documents.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_where
@address_option
def delete(ids: tuple[str, ...], address: str, **where: str) -> None:
    """Remove the documents of these IDs.

    \b
    Examples:
      embercache documents delete guide/setup.md --collection docs
    """
    with connected(address) as client:
        found = client.delete(ids, timeout=_ANSWER_SECONDS, **where)
    click.echo(f"removed {sum(found):,} of {counted(len(ids), 'document')}")
    if missing := [name for name, was_there in zip(ids, found, strict=True) if not was_there]:
        click.echo(f"not there: {', '.join(missing)}", err=True)


class _Tally:
    """Counts documents by what became of them; its string is the summary."""

    def __init__(self) -> None:
        self.failed = 0
        self._changes: Counter[str] = Counter()
        self._computed = 0
        self._cached = 0
        self._started = time.monotonic()

    @property
    def count(self) -> int:
        return self._changes.total() + self.failed

    def fail(self, name: str, reason: str) -> None:
        click.echo(f"{name}: {reason}", err=True)
        self.failed += 1

    def add(self, result: UpsertResult) -> None:
        for place, document in enumerate(result):
            if error := result.errors.get(place):
                self.fail(document.id, error.message)
                continue
            self._changes[document.change] += 1
            self._computed += document.computed
            self._cached += document.cached

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        parts = [f"{count:,} {change}" for change, count in self._changes.most_common()]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        return (
            f"{counted(self.count, 'document')} in {seconds:.1f} s: {', '.join(parts)};"
            f" {counted(self._computed, 'chunk')} computed, {self._cached:,} cached"
        )


def _read(paths: Sequence[str], most: int, tally: _Tally) -> Iterator[Document]:
    for path in paths:
        for name, document in Source(path, most):
            if isinstance(document, BadInputError):
                tally.fail(name, str(document))
            else:
                yield document


def _batches(found: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents that are stored together. An id that comes again begins a new batch."""
    batch: dict[str, Document] = {}
    chunks = 0
    for document in found:
        count = 1 if isinstance(document.content, str) else len(document.content)
        if batch and (chunks + count > _BATCH_CHUNKS or document.id in batch):
            yield list(batch.values())
            batch, chunks = {}, 0
        batch[document.id] = document
        chunks += count
    if batch:
        yield list(batch.values())


def _store(client: Client, batch: list[Document], where: dict[str, str]) -> UpsertResult:
    return client.upsert(batch, timeout=_ANSWER_SECONDS, on_error="return", **where)


def _count(paths: Sequence[str]) -> int | None:
    """How many documents there are to come; None if it cannot be known, or is not worth it."""
    if not sys.stderr.isatty() or "-" in paths:
        return None
    return sum(map(_count_in, map(Path, paths)))


def _count_in(path: Path) -> int:
    if path.is_dir():
        return sum(1 for _ in text_files(path))
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return (count_lines(file) or 0) if is_json_lines(file) else 1
