"""Reads what ``embercache embed`` is to embed, and names what cannot be read."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from embercache import Entity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from embercache import EmbedInput

MAX_LINE_BYTES = 8 << 20
_MAX_BAD_UNDER_WAY = 1000


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
    return (_guarded(_checked, text) for text in texts)


def from_lines(file: BinaryIO, *, is_json: bool) -> Iterator[EmbedInput | BadInputError]:
    """One input for each line: the text that it is, or the JSON object that describes it."""
    parse = _parse if is_json else _checked
    for number, line in enumerate(_lines(file)):
        if isinstance(line, BadInputError):
            yield line
        else:
            # Editors on Windows put a byte order mark in front of the first line.
            yield _guarded(parse, line.removeprefix("\ufeff") if number == 0 else line)


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


def _guarded(parse: Callable[[str], EmbedInput], text: str) -> EmbedInput | BadInputError:
    try:
        return parse(text)
    except BadInputError as error:
        return error


def _parse(line: str) -> EmbedInput:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInputError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except (ValueError, RecursionError):
        raise BadInputError("not usable JSON (nested too deeply, or a number too long)") from None
    if not isinstance(value, dict) or not isinstance(value.get("text"), str):
        raise BadInputError('not a JSON object with a string "text"')
    text = _checked(value["text"])
    if "id" not in value:
        return text
    return Entity(_name(value, "id"), text, _name(value, "chunk_id"))


def _name(value: dict[str, Any], field: str) -> str:
    name = value.get(field, "")
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise BadInputError(f'"{field}" is neither a string nor a whole number')
    return _checked(str(name))


def _checked(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise BadInputError("not Unicode (half of a surrogate pair)") from None
    return text
