"""Reads the chart's values with the comments above them, from which README and schema are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CHART = Path(__file__).parent / "embercache"
VALUES = CHART / "values.yaml"


@dataclass(frozen=True, slots=True)
class Value:
    """A key of values.yaml: its path, such as ``("image", "tag")``, its default and its comment.

    ``is_section`` says that the keys below it have comments of their own.
    """

    path: tuple[str, ...]
    default: Any
    comment: str
    is_section: bool


def read_values() -> Iterator[Value]:
    """All keys that have a comment, in order. Raises ValueError for one that lacks it."""
    text = VALUES.read_text(encoding="utf-8")
    lines = text.splitlines()
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    yield from _read_mapping(root, yaml.safe_load(text), (), lines)


def _read_mapping(
    node: yaml.MappingNode, values: dict[str, Any], parents: tuple[str, ...], lines: list[str]
) -> Iterator[Value]:
    for key, child in node.value:
        path = (*parents, key.value)
        comment = _comment_above(key, lines)
        if not comment:
            raise ValueError(
                f"values.yaml, line {key.start_mark.line + 1}: {key.value} has no comment"
            )
        is_section = isinstance(child, yaml.MappingNode) and any(
            _comment_above(each, lines) for each, _ in child.value
        )
        yield Value(path, values[key.value], comment, is_section)
        if is_section:
            yield from _read_mapping(child, values[key.value], path, lines)


def _comment_above(key: yaml.ScalarNode, lines: list[str]) -> str:
    """The comment right above a key, at the key's indentation."""
    found: list[str] = []
    start = " " * key.start_mark.column + "# "
    for line in reversed(lines[: key.start_mark.line]):
        if not line.startswith(start):
            break
        found.insert(0, line.removeprefix(start))
    return " ".join(found)
