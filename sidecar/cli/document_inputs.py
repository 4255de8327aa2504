"""Reads the documents that ``embercache documents add`` is to store, and cuts them into chunks."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from embercache import Chunk, Document, InvalidArgumentError
from embercache.filters import metadata_value

from sidecar.cli.embed_inputs import (
    MAX_LINE_BYTES,
    BadInputError,
    checked,
    guarded,
    is_json_lines,
    json_object,
    lines,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")
_KEYS = {"id", "content", "chunks", "metadata", "tags"}


class Source:
    """A path that was given: JSON lines, a text file, or a folder of text files."""

    def __init__(self, path: str, most: int) -> None:
        """``most`` is the greatest length of a chunk, in characters."""
        self._path = path
        self._most = most

    def __iter__(self) -> Iterator[tuple[str, Document | BadInputError]]:
        """Each document, or why it cannot be read, with what to call it in a message."""
        if self._path == "-":
            yield from self._from_lines(sys.stdin.buffer, "line")
            return
        path = Path(self._path)
        if path.is_dir():
            for file in text_files(path):
                name = file.relative_to(path).as_posix()
                yield name, self._from_file(file, name)
            return
        try:
            with path.open("rb") as opened:
                if is_json_lines(opened):
                    yield from self._from_lines(opened, f"{path}, line")
                    return
        except OSError as error:
            raise click.ClickException(f"cannot read {path}: {error.strerror}") from error
        yield str(path), self._from_file(path, path.as_posix())

    def _from_lines(
        self, file: BinaryIO, name: str
    ) -> Iterator[tuple[str, Document | BadInputError]]:
        for number, line in enumerate(lines(file), 1):
            document = line if isinstance(line, BadInputError) else guarded(self._parse, line)
            yield f"{name} {number}", document

    def _from_file(self, file: Path, name: str) -> Document | BadInputError:
        try:
            if file.stat().st_size > MAX_LINE_BYTES:
                return BadInputError(f"longer than {MAX_LINE_BYTES} bytes")
            text = file.read_bytes().decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            return BadInputError("not UTF-8, and so no text")
        except OSError as error:
            return BadInputError(f"cannot be read: {error.strerror}")
        return guarded(lambda text: Document(checked(name), cut(text, self._most)), text)

    def _parse(self, line: str) -> Document:
        value = json_object(line)
        if unknown := value.keys() - _KEYS:
            raise BadInputError(f"has {min(unknown)!r}; only {', '.join(sorted(_KEYS))} are known")
        if "id" not in value:
            raise BadInputError('has no "id"')
        return Document(
            name_of(value, "id"),
            self._content(value),
            _metadata(value.get("metadata", {})),
            _strings(value.get("tags", []), "tags"),
        )

    def _content(self, value: dict[str, Any]) -> str | list[Chunk | str]:
        if ("content" in value) == ("chunks" in value):
            raise BadInputError('needs one of "content" and "chunks"')
        if "chunks" not in value:
            if not isinstance(value["content"], str):
                raise BadInputError('"content" is not a string')
            return cut(checked(value["content"]), self._most)
        if not isinstance(value["chunks"], list):
            raise BadInputError('"chunks" is not a list')
        return [_chunk(part) for part in value["chunks"]]


def text_files(folder: Path) -> Iterator[Path]:
    """All files below a folder that are not hidden, in order of their paths."""
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") for part in parts):
            yield file


def cut(text: str, most: int) -> str | list[Chunk | str]:
    """The content of a document: the text if it is no longer than ``most``, else its chunks.

    Chunks are as many paragraphs (what blank lines are between) as fit. A longer paragraph is cut
    between lines or words, a longer word anywhere. Raises `BadInputError` if there is no text.
    """
    text = text.strip()
    if not text:
        raise BadInputError("has no text")
    if len(text) <= most:
        return text
    chunks: list[Chunk | str] = []
    chunk = ""
    for paragraph in _BLANK_LINES.split(text):
        for piece in _pieces(paragraph.strip(), most):
            if chunk and len(chunk) + 2 + len(piece) > most:
                chunks.append(chunk)
                chunk = ""
            chunk = f"{chunk}\n\n{piece}" if chunk else piece
    chunks.append(chunk)
    return chunks


def _pieces(paragraph: str, most: int) -> Iterator[str]:
    while len(paragraph) > most:
        # At the end of a line, if that is not too short. White space behind the piece will do.
        end = paragraph.rfind("\n", most // 2 + 1, most + 1)
        if end < 0:
            end = max(paragraph.rfind(space, 1, most + 1) for space in (" ", "\n", "\t"))
        if end < 0:
            end = most
        yield paragraph[:end].rstrip()
        paragraph = paragraph[end:].lstrip()
    if paragraph:
        yield paragraph


def _chunk(part: Any) -> Chunk | str:
    if isinstance(part, str):
        return checked(part)
    if not isinstance(part, dict) or not isinstance(part.get("content"), str):
        raise BadInputError('a chunk is neither a string nor an object with a string "content"')
    return Chunk(name_of(part, "chunk_id"), checked(part["content"]))


def _metadata(value: Any) -> dict[str, str | float | bool]:
    if not isinstance(value, dict):
        raise BadInputError('"metadata" is not an object')
    for name, each in value.items():
        try:
            metadata_value(checked(name), each)
        except (TypeError, InvalidArgumentError) as error:
            raise BadInputError(f'"metadata": {error}') from None
    return value


def _strings(value: Any, name: str) -> Sequence[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadInputError(f'"{name}" is not a list of strings')
    return [checked(each) for each in value]
