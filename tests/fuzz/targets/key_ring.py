"""The file of keys that values are sealed with."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from sidecar.cache.key_ring import KEY_BYTES, KeyRingError, read_key_ring

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (KeyRingError,)
MAX_BYTES = 1024


def seeds() -> Iterator[bytes]:
    key = base64.b64encode(bytes(range(KEY_BYTES)))
    yield b"# keys\n\none:" + key + b"\ntwo-2_:" + key + b"\n"


def run(data: bytes) -> None:
    ring = read_key_ring(data)
    assert ring.first in ring.keys
    assert all(len(key) == KEY_BYTES for key in ring.keys.values())
