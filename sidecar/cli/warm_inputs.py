"""Reads what ``embercache warm`` is to warm, in parts that are asked for together."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from embercache import EmbedInput, InvalidArgumentError, Search, SearchOptions

from sidecar.cli.embed_inputs import (
    BadInputError,
    checked,
    embed_input,
    guarded,
    json_object,
    lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PART_LINES = 256

Item: TypeAlias = EmbedInput | Search


@dataclass(slots=True)
class Part:
    """Lines that follow each other, of which all inputs or all searches are ``items``.

    ``first_line`` counts from 1; ``lines`` is how many there are with the ``bad`` ones, by number.
    """

    first_line: int
    lines: int = 0
    items: list[Item] = field(default_factory=list)
    bad: list[tuple[int, BadInputError]] = field(default_factory=list)

    @property
    def holds_searches(self) -> bool:
        """Whether its items are searches."""
        return bool(self.items) and isinstance(self.items[0], Search)


def parts(file: BinaryIO, *, is_json: bool, from_line: int, namespace: str) -> Iterator[Part]:
    """All lines from that number on, counted from 1. The namespace is for searches without one."""
    parse: Callable[[str], Item] = partial(_parse, namespace) if is_json else checked
    part = Part(from_line)
    for number, line in enumerate(lines(file), 1):
        if number < from_line:
            continue
        item = line if isinstance(line, BadInputError) else guarded(parse, line)
        is_other = part.items and isinstance(item, Search) != part.holds_searches
        if part.lines == PART_LINES or (is_other and not isinstance(item, BadInputError)):
            yield part
            part = Part(number)
        part.lines += 1
        if isinstance(item, BadInputError):
            part.bad.append((number, item))
        else:
            part.items.append(item)
    if part.lines:
        yield part


def _parse(namespace: str, line: str) -> Item:
    value = json_object(line)
    return _search({"namespace": namespace} | value) if "query" in value else embed_input(value)


def _search(value: dict[str, Any]) -> Search:
    query = value.pop("query")
    known = SearchOptions.__annotations__
    if unknown := value.keys() - known:
        raise BadInputError(f"has {min(unknown)!r}; a search has query, {', '.join(known)}")
    try:
        return Search(query, **value)
    except InvalidArgumentError as error:
        raise BadInputError(error.message) from None
    except TypeError as error:
        raise BadInputError(str(error)) from None
