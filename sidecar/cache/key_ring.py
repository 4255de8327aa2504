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

from sidecar.files_in_use import FilesError, FilesInUse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

KEY_BYTES = 32
_ID = re.compile(r"[A-Za-z0-9_-]{1,16}")

_log = structlog.get_logger()


class KeyRingError(ValueError):
    """What a file of keys holds cannot be used. The message shows nothing of a key."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys of 32 bytes by their names; ``first`` names the one that seals."""

    first: str
    keys: Mapping[str, bytes] = field(repr=False)


def read_key_ring(content: bytes) -> KeyRing:
    """The keys in what a file holds. Raises `KeyRingError`."""
    try:
        lines = content.decode("ascii").splitlines()
    except UnicodeError:
        raise KeyRingError("there are other characters than ASCII; see ID:BASE64") from None
    keys: dict[str, bytes] = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        name, _, text = line.partition(":")
        key = _decode(text)
        if not _ID.fullmatch(name) or key is None:
            raise KeyRingError(
                f"line {number}: write ID:BASE64, an id of 1 to 16 letters, digits, '-' or"
                f" '_' and {KEY_BYTES} random bytes, as from: openssl rand -base64 {KEY_BYTES}"
            )
        if name in keys:
            raise KeyRingError(f"line {number}: another key has the same id")
        keys[name] = key
    if not keys:
        raise KeyRingError("there is no key in it; write one line of ID:BASE64")
    return KeyRing(next(iter(keys)), keys)


class KeyFile:
    """The keys in a file that may be replaced at any time.

    Raises `FilesError` if it cannot be used at first.
    """

    def __init__(self, path: Path) -> None:
        self._files = FilesInUse([path], lambda contents: read_key_ring(contents[0]))
        self.failures = {"keys": 0}
        """How many changes could not be used."""

    @property
    def ring(self) -> KeyRing:
        """What the file held when it could last be used; the same object until that changes."""
        return self._files.value

    async def follow(self) -> None:
        """Reads the file again whenever it changes, until cancelled."""
        await self._files.follow(self._renewed, self._failed)

    def _renewed(self) -> None:
        _log.info("keys were read again", seals=self.ring.first, opens=list(self.ring.keys))

    def _failed(self, error: FilesError) -> None:
        self.failures["keys"] += 1
        _log.error("the keys in use stay: those in the file are no good", reason=str(error))


def _decode(text: str) -> bytes | None:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None
