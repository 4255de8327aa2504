"""Semantic entries that other sidecars announce: nothing in a message may do harm, so none raises.

The input is the message's fields, with a byte 255 after each part but in the vector, which is last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.cache.codec import Codec, encode_vector
from sidecar.cache.semantic import SemanticIndex
from sidecar.cache.semantic_follower import SemanticFollower

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = ()
DIMENSIONS = 8
_QUERY = np.ones(DIMENSIONS, np.float32)
_WARM: Any = None


def seeds() -> Iterator[bytes]:
    for size in (DIMENSIONS, 3):
        vector = encode_vector(np.linspace(-1, 1, size, dtype=np.float32), Codec.INT8)
        yield b"\xff".join([b"scope", b"key", b"0", vector])
        yield b"\xff".join([b"scope", b"other", b"4102444800000", vector])


def run(data: bytes) -> None:
    index = SemanticIndex(2, lambda: 1e9)
    follower = SemanticFollower(_WARM, "ec", index, 2)
    for message in data.split(b"\xfe\xfe")[:4]:
        parts = message.split(b"\xff", 3)
        follower._apply(dict(zip((b"s", b"k", b"e", b"v"), parts, strict=False)))
        for match in index.nearest(b"scope", _QUERY, 2):
            assert -1 <= match.similarity <= 1
