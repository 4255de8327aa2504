"""Reads a Dockerfile and a .dockerignore, as far as ours go."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``COPY --from=models /models /models``."""

    keyword: str
    flags: dict[str, str]
    value: str


def read_dockerfile(text: str) -> Iterator[Instruction]:
    """The instructions in order. Comments go, also those between continued lines."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        if not line.strip():
            continue
        keyword, value = line.split(maxsplit=1)
        flags = {}
        while match := re.match(r"--([a-z-]+)=(\S+)\s+", value):
            flags[match[1]] = match[2]
            value = value[match.end() :]
        yield Instruction(keyword.upper(), flags, value.strip())


def substitute(text: str, values: Mapping[str, str]) -> str:
    """The text with ``$NAME`` and ``${NAME}`` replaced; by nothing if they have no value."""
    return _VARIABLE.sub(lambda match: values.get(match[1] or match[2], ""), text)


def assignments(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """The names and values of ``A=1 B="2 3"``."""
    words = shlex.split(text)
    pairs = (word.partition("=") for word in words)
    return {name: substitute(value, values) for name, _, value in pairs}


def read_context(folder: Path) -> list[Path]:
    """The files of a build's context, which are those that .dockerignore lets through."""
    lines = (folder / ".dockerignore").read_text("utf-8").splitlines()
    rules = [
        (_pattern(line.removeprefix("!")), line.startswith("!"))
        for line in map(str.strip, lines)
        if line and not line.startswith("#")
    ]
    return [
        file
        for top in folder.iterdir()
        # Only an exception lets anything of what is ignored through: the rest is not looked at.
        if _goes_along(top.name, rules) or any(f"!{top.name}/" in line for line in lines)
        for file in (top.rglob("*") if top.is_dir() else [top])
        if not file.is_dir() and _goes_along(file.relative_to(folder).as_posix(), rules)
    ]


def _goes_along(path: str, rules: Sequence[tuple[re.Pattern[str], bool]]) -> bool:
    """Whether a path reaches the build: the last rule that matches decides."""
    goes_along = True
    for pattern, is_exception in rules:
        if pattern.match(path):
            goes_along = is_exception
    return goes_along


def _pattern(glob: str) -> re.Pattern[str]:
    """Matches the paths that a line of .dockerignore means, and what is below them."""
    parts = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    tokens = re.split(r"(\*\*/|\*\*|\*|\?)", glob.strip("/"))
    return re.compile("".join(parts.get(token, re.escape(token)) for token in tokens) + "(?:/.*)?$")
