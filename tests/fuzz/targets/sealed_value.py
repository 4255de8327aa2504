"""Sealed values as Redis and disks give them back: only what was sealed opens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.key_ring import KeyRing
from sidecar.cache.sealing import NotOpenedError, Sealer

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (NotOpenedError,)
DOMAIN, NAME, SECRET = b"entries", b"key", b"a vector"


class _Keys:
    ring = KeyRing("one", {"one": bytes(32), "0": bytes(range(32))})


_SEALER = Sealer(_Keys())
_SEALED = [_SEALER.seal(DOMAIN, NAME, data) for data in (SECRET, b"")]


def seeds() -> Iterator[bytes]:
    yield from _SEALED
    yield _SEALER.seal(b"prompts", NAME, SECRET)
    yield _SEALER.seal(DOMAIN, b"other", SECRET)


def run(data: bytes) -> None:
    opened = _SEALER.open(DOMAIN, NAME, data)
    # Else a value was forged: these are all that were sealed for this name under these keys.
    assert data in _SEALED
    assert opened in (SECRET, b"")
