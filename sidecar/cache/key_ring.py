"""Keys that values are sealed with, from a file that may be replaced while a sidecar runs.

Each line is ``ID:BASE64``: a name of 1 to 16 letters, digits, '-' or '_', and 32 random bytes. The
first key seals, all of them open. Empty lines and those that begin with '#' mean nothing.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")

_log = structlog.get_logger()


class KeyRingError(ValueError):
    """The file of keys cannot be used. The message says why, and shows nothing of a key."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys of 32 bytes by their names; ``first`` names the one that seals."""

    first: str
    keys: Mapping[str, bytes] = field(repr=False)


def read_key_ring(path: Path) -> KeyRing:
    """The keys in a file. Raises `KeyRingError`."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise KeyRingError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeError:
        raise KeyRingError(f"{path} has other characters than ASCII; see ID:BASE64") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, _, text = line.partition(":")
        key = _decode(text)
        if not _ID.fullmatch(name) or key is None:
            raise KeyRingError(
                f"{path}, line {number}: write ID:BASE64, an id of 1 to 16 letters, digits, '-' or"
                f" '_' and {KEY_BYTES} random bytes, as from: openssl rand -base64 {KEY_BYTES}"
            )
        if name in keys:
            raise KeyRingError(f"{path}, line {number}: another key has the same id")
        keys[name] = key
    if not keys:
        raise KeyRingError(f"{path} has no key in it; write one line of ID:BASE64")
    return KeyRing(next(iter(keys)), keys)


class KeyFile:
    """The keys in a file; ``ring`` is what it held when it could last be read.

    Raises `KeyRingError` if it cannot be read at first.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ring = read_key_ring(path)
        self._problem = ""

    def reload(self) -> None:
        """Reads the file again; one that cannot be used changes nothing, and is logged once."""
        try:
            ring = read_key_ring(self.path)
        except KeyRingError as error:
            if str(error) != self._problem:
                _log.warning("the keys in use stay: those in the file are no good", reason=error)
            self._problem = str(error)
            return
        self._problem = ""
        if ring != self.ring:
            self.ring = ring
            _log.info("keys were read again", seals=ring.first, opens=list(ring.keys))


def _decode(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None
