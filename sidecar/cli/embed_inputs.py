"""Reads what ``embercache embed`` is to embed, and names what cannot be read."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click
from embercache import Entity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embercache import EmbedInput

MAX_LINE_BYTES = 8 << 20
_JSON_SUFFIXES = {".jsonl", ".ndjson"}
_MAX_BAD_UNDER_WAY = 1000

T = TypeVar("T")


class BadInputError(Exception):
    """A line, or a text, that cannot be embedded. The message says why, not what it holds."""


class Inputs:
    """Inputs in their order, without the bad ones, which are held until their turn comes.

    A client reads inputs ahead of their answers, so what is bad is seen early. Memory stays
    bounded: too many bad ones among those under way end the command.
    """

    def __init__(self, source: Iterable[EmbedInput | BadInputError]) -> None:
        self._source = source
        self._bad: deque[tuple[int, BadInputError]] = deque()

    def __iter__(self) -> Iterator[EmbedInput]:
        for index, item in enumerate(self._source):
            if not isinstance(item, BadInputError):
                yield item
                continue
            self._bad.append((index, item))
            if len(self._bad) == _MAX_BAD_UNDER_WAY:
                raise click.ClickException(
                    f"{len(self._bad)} inputs in a row or nearly so cannot be read, the last of"
                    f" them number {index + 1} ({item}): is this the right file?"
                )

    def bad_at(self, index: int) -> BadInputError | None:
        """Why the input at ``index`` is bad; None if it is not, or there is none."""
        if self._bad and self._bad[0][0] == index:
            return self._bad.popleft()[1]
        return None


def from_arguments(texts: Iterable[str]) -> Iterator[EmbedInput | BadInputError]:
    """One input for each text of the command line."""
    return (guarded(checked, text) for text in texts)


def from_lines(file: BinaryIO, *, is_json: bool) -> Iterator[EmbedInput | BadInputError]:
    """One input for each line: the text that it is, or the JSON object that describes it."""
    parse = _parse if is_json else checked
    for line in lines(file):
        yield line if isinstance(line, BadInputError) else guarded(parse, line)


def is_json_lines(file: BinaryIO) -> bool:
    """Whether its name says that it holds JSON lines; standard input may have none."""
    return Path(str(getattr(file, "name", ""))).suffix in _JSON_SUFFIXES


def lines(file: BinaryIO) -> Iterator[str | BadInputError]:
    """The lines without their ends, or why one cannot be read."""
    for number, line in enumerate(_lines(file)):
        if number == 0 and isinstance(line, str):
            # Editors on Windows put a byte order mark in front of the first line.
            yield line.removeprefix("\ufeff")
        else:
            yield line


def _lines(file: BinaryIO) -> Iterator[str | BadInputError]:
    while line := file.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield BadInputError(f"longer than {MAX_LINE_BYTES} bytes")
            continue
        try:
            yield line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            yield BadInputError(f"not UTF-8 (byte {error.start + 1} of the line)")


def guarded(parse: Callable[[str], T], text: str) -> T | BadInputError:
    """What a line means, or why it means nothing."""
    try:
        return parse(text)
    except BadInputError as error:
        return error


def json_object(line: str) -> dict[str, Any]:
    """The JSON object of a line. Raises `BadInputError`."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInputError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except (ValueError, RecursionError):
        raise BadInputError("not usable JSON (nested too deeply, or a number too long)") from None
    if not isinstance(value, dict):
        raise BadInputError("not a JSON object")
    return value


def embed_input(value: dict[str, Any]) -> EmbedInput:
    """The input that a JSON object describes. Raises `BadInputError`."""
    if not isinstance(value.get("text"), str):
        raise BadInputError('has no string "text"')
    text = checked(value["text"])
    if "id" not in value:
        return text
    return Entity(name_of(value, "id"), text, name_of(value, "chunk_id"))


def _parse(line: str) -> EmbedInput:
    return embed_input(json_object(line))


def name_of(value: dict[str, Any], field: str) -> str:
    """A name in a JSON object, empty if it is not there. Raises `BadInputError`."""
    name = value.get(field, "")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise BadInputError(f'"{field}" is neither a string nor a whole number')
    return checked(str(name))


def checked(text: str) -> str:
    """The text itself. Raises `BadInputError` if it cannot be sent."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInputError("not Unicode (half of a surrogate pair)") from None
    return text
