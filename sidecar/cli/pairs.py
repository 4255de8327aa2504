"""Reads labelled pairs of queries for ``embercache semantic calibrate``."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_LABELS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two queries, and whether one answer is right for both."""

    a: str
    b: str
    same: bool


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file: CSV or TSV with a header, by its ending, else JSON lines.

    Raises `click.ClickException` with the line and the reason, never the text.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower())
    pairs = []
    try:
        # The mark that some editors put in front of a file is none of its text.
        with path.open(encoding="utf-8-sig", newline="") as file:
            records = _lines(file) if delimiter is None else _rows(file, delimiter)
            for number, record in records:
                try:
                    pairs.append(_pair(record))
                except ValueError as error:
                    raise click.ClickException(f"{path}, line {number}: {error}") from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{path}: not UTF-8 text") from None
    except csv.Error as error:
        raise click.ClickException(f"{path}: not {path.suffix[1:].upper()}: {error}") from None
    if not pairs:
        raise click.ClickException(f"{path}: there are no pairs in it")
    return pairs


def _lines(file: TextIO) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(file, 1) if line.strip())


def _rows(file: TextIO, delimiter: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, delimiter=delimiter)
    return ((reader.line_num, row) for row in reader)


def _pair(record: str | dict[str, Any]) -> Pair:
    """Raises `ValueError` with what is wrong, without the text itself."""
    fields = _parse(record) if isinstance(record, str) else record
    a, b, same = fields.get("a"), fields.get("b"), fields.get("same")
    if not (isinstance(a, str) and a.strip() and isinstance(b, str) and b.strip()):
        raise ValueError('"a" and "b" must be two texts')
    if isinstance(same, str):
        same = _LABELS.get(same.strip().lower())
    if not isinstance(same, bool):
        raise ValueError('"same" must be true or false')
    return Pair(a, b, same)


def _parse(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos + 1})") from None
    except (ValueError, RecursionError):
        raise ValueError("not usable JSON") from None
    if not isinstance(fields, dict):
        raise ValueError('not a JSON object with "a", "b" and "same"')
    return fields
