"""Which statuses the contract documents: the comments of the protos, and the tables of the pages.

In a comment, a line has a status and when a method ends with it: conditions, with ``;`` between
them. What stands behind a ``:`` is advice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
SERVED = ("embed", "search", "generate", "cache")
EVERY_METHOD = "*"

_COMMENT = re.compile(r" *// ?(.*)")
_STATUS = re.compile(r" +([A-Z_]+) +(\S.*)")
_MORE = re.compile(r" {10,}(\S.*)")
_MESSAGE = re.compile(r" *message (\w+) \{")
_METHOD = re.compile(r" *rpc (\w+)\(")
_ERROR = re.compile(r" *ItemError (\w+) =")
_AS_FOR = re.compile(r"Status as for (\w+)")


class Documented(NamedTuple):
    """That a method, or one item of it, ends with a status under a condition.

    ``owner`` is a method, the field for the error of an item, or `EVERY_METHOD`.
    """

    owner: str
    status: str
    when: str


def documented() -> set[Documented]:
    """What the protos document."""
    found = set(_read("How calls end", EVERY_METHOD, _proto("common")))
    for name in SERVED:
        for owner, comment in _comments(_proto(name)):
            found.update(_lines(owner, comment))
    return found


def same_as() -> dict[str, str]:
    """Which owners refer to which others: their statuses are those, beside their own."""
    return {
        owner: reference[1]
        for name in SERVED
        for owner, comment in _comments(_proto(name))
        if (reference := _AS_FOR.search(" ".join(comment)))
    }


def owners() -> set[str]:
    """Every method, and every field for the error of an item."""
    return {owner for name in SERVED for owner, _ in _comments(_proto(name))}


def comment_of(name: str) -> str:
    """The comment above an owner, on one line."""
    found = [
        comment for file in SERVED for owner, comment in _comments(_proto(file)) if owner == name
    ]
    return " ".join(line for comment in found for line in comment)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of a page, without its own heading."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    rows = text.split(f"\n{heading}\n", 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0]
    cells = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in f"|{rows}".splitlines()
    ]
    return cells[2:]


def conditions(cell: str) -> list[str]:
    """The conditions in a line or a cell."""
    plain = cell.replace("`", "")
    return [each.strip() for each in plain.partition(":")[0].split(";")]


def _proto(name: str) -> list[str]:
    path = ROOT / "proto" / "embercache" / "v1" / f"{name}.proto"
    return path.read_text("utf-8").splitlines()


def _comments(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each method and each error of an item, with the comment above it."""
    comment: list[str] = []
    message = ""
    for line in lines:
        if found := _COMMENT.fullmatch(line):
            comment.append(found[1])
            continue
        if found := _MESSAGE.match(line):
            message = found[1]
        elif found := _METHOD.match(line):
            yield found[1], comment
        elif found := _ERROR.match(line):
            yield f"{message}.{found[1]}", comment
        comment = []


def _read(beginning: str, owner: str, lines: list[str]) -> Iterator[Documented]:
    """What the comment documents that begins so."""
    comment: list[str] = []
    for line in [*lines, ""]:
        if found := _COMMENT.fullmatch(line):
            comment.append(found[1])
            continue
        if comment and comment[0].startswith(beginning):
            yield from _lines(owner, comment)
        comment = []


def _lines(owner: str, comment: list[str]) -> Iterator[Documented]:
    status, when = "", ""
    for line in [*comment, ""]:
        more = _MORE.fullmatch(line) if status else None
        if more:
            when += f" {more[1]}"
            continue
        if status:
            yield from (Documented(owner, status, each) for each in conditions(when))
        found = _STATUS.fullmatch(line)
        status, when = (found[1], found[2]) if found else ("", "")
