"""What the locks of Python packages and of crates say."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_ENTRY = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)(.*)$", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Locked:
    """A package or crate in one version; each of its files has one of these sha256."""

    name: str
    version: str
    sha256: tuple[str, ...]


def read_lock(path: Path) -> list[Locked]:
    """All packages of a lock. Raises `ValueError` if one of them has no hash."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [
        Locked(match[1], match[2], tuple(_HASH.findall(match[3])))
        for match in _ENTRY.finditer(text)
    ]
    if loose := [each.name for each in found if not each.sha256]:
        raise ValueError(f"{path}: {loose[0]} has no hash: run `make lock`")
    return found


def read_cargo_lock(path: Path) -> list[Locked]:
    """All crates of a lock but our own. Raises `ValueError` if one of them has no checksum.

    These are also what only tests or other systems need: the lock does not tell them apart.
    """
    found = tomllib.loads(path.read_text(encoding="utf-8"))["package"]
    crates = [each for each in found if "source" in each]
    if loose := [each["name"] for each in crates if "checksum" not in each]:
        raise ValueError(f"{path}: {loose[0]} has no checksum: take it from a registry")
    return [Locked(each["name"], each["version"], (each["checksum"],)) for each in crates]
