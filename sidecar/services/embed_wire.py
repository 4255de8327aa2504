"""EmbedResponse, written straight to bytes.

The vector is the bulk of a response and is already bytes in the cache, so a response is put
together from ready pieces instead of a tree of message objects. Field numbers are those of
embed.proto; tests/unit/services/test_embed_wire.py holds the two together.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.cache.codec import Codec, split_scale, transcode
from sidecar.services.wire import AGE_BYTES, TIER_NUMBER, AgedBytes, length_delimited, varint

if TYPE_CHECKING:
    from sidecar.cache.codec import Entry
    from sidecar.cache.items import Tier

_SCALE = struct.Struct("<f")
_NO_PIECE = b""


@lru_cache(maxsize=8192)
def _tail(tier: Tier, version: str, tokens: int, truncated: bool) -> bytes:
    """Everything behind the vector and its scale, up to the age's own bytes."""
    return b"".join(
        (
            b"\x18",
            varint(TIER_NUMBER[tier]),
            length_delimited(4, version.encode()),
            b"\x28" + varint(tokens) if tokens else _NO_PIECE,
            b"\x30\x01" if truncated else _NO_PIECE,
            b"\x41",
        )
    )


class ResponseWriter:
    """Writes one EmbedResponse, item by item, in the order of the inputs."""

    def __init__(self, model: str, version: str, dimensions: int, encoding: Codec) -> None:
        self._version = version
        self._encoding = encoding
        head = b"".join(
            (
                length_delimited(2, model.encode()),
                b"\x18" + varint(dimensions),
                b"\x20" + varint(encoding),
            )
        )
        self._pieces = [head]
        self._length = len(head)
        self._ages: list[tuple[int, int]] = []

    def add_vector(self, entry: Entry, tier: Tier) -> None:
        """An item that has a vector."""
        value = entry.value
        vector = transcode(value.payload, value.codec, self._encoding)
        scale = _NO_PIECE
        if self._encoding is Codec.INT8:
            factor, vector = split_scale(vector)
            scale = b"\x15" + _SCALE.pack(factor)
        tail = _tail(tier, self._version, value.tokens, value.truncated)
        vector_head = b"\x0a" + varint(len(vector))
        size = len(vector_head) + len(vector) + len(scale) + len(tail) + AGE_BYTES
        item_head = b"\x0a" + varint(size)
        self._pieces += (item_head, vector_head, vector, scale, tail, bytes(AGE_BYTES))
        self._length += len(item_head) + size
        self._ages.append((self._length - AGE_BYTES, entry.created_ms))

    def add_error(self, code: int, message: str) -> None:
        """An item that has an error."""
        error = b"\x08" + varint(code) + length_delimited(2, message.encode())
        piece = length_delimited(1, length_delimited(7, error))
        self._pieces.append(piece)
        self._length += len(piece)

    def finish(self) -> AgedBytes:
        """The response."""
        return AgedBytes(b"".join(self._pieces), self._ages)
