"""EmbedResponse, written straight to bytes.

The vector is the bulk of a response and is already bytes in the cache, so a response is put
together from ready pieces instead of a tree of message objects. Field numbers are those of
embed.proto; tests/unit/services/test_embed_wire.py holds the two together.

The age of each item is a fixed64 at the end of its message. Its offset is remembered, so that a
stored response is brought up to date by writing eight bytes an item.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from sidecar.cache.codec import Codec, split_scale, transcode
from sidecar.cache.items import Tier

if TYPE_CHECKING:
    from sidecar.cache.codec import Entry

_AGE = struct.Struct("<Q")
_SCALE = struct.Struct("<f")
_NO_PIECE = b""
TIER_NUMBER = {
    Tier.HOT: 1,
    Tier.DISK: 2,
    Tier.WARM: 3,
    Tier.COMPUTED: 4,
    Tier.COALESCED: 5,
}


def varint(number: int) -> bytes:
    """A non-negative integer in protobuf's variable-length form."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def length_delimited(field: int, data: bytes) -> bytes:
    """A field whose value is bytes, a string or a message."""
    return varint(field << 3 | 2) + varint(len(data)) + data


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


class AgedBytes:
    """A response, and for each item the offset of its age and when it was computed."""

    __slots__ = ("_ages", "_data", "_ends_with_age", "size")

    def __init__(self, data: bytes, ages: list[tuple[int, int]]) -> None:
        self.size = len(data)
        self._ages = ages
        # So it is with one item, which most responses have: then it is quicker to append the age.
        self._ends_with_age = len(ages) == 1 and ages[0][0] == len(data) - _AGE.size
        self._data = data[: -_AGE.size] if self._ends_with_age else data

    def at(self, now_ms: int) -> bytes:
        """The response with the ages of that moment."""
        if self._ends_with_age:
            return self._data + _AGE.pack(max(0, now_ms - self._ages[0][1]))
        buffer = bytearray(self._data)
        for offset, created_ms in self._ages:
            _AGE.pack_into(buffer, offset, max(0, now_ms - created_ms))
        return bytes(buffer)


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
        size = len(vector_head) + len(vector) + len(scale) + len(tail) + _AGE.size
        item_head = b"\x0a" + varint(size)
        self._pieces += (item_head, vector_head, vector, scale, tail, bytes(_AGE.size))
        self._length += len(item_head) + size
        self._ages.append((self._length - _AGE.size, entry.created_ms))

    def add_error(self, code: int, message: str) -> None:
        """An item that has an error."""
        error = b"\x08" + varint(code) + length_delimited(2, message.encode())
        piece = length_delimited(1, length_delimited(7, error))
        self._pieces.append(piece)
        self._length += len(piece)

    def finish(self) -> AgedBytes:
        """The response."""
        return AgedBytes(b"".join(self._pieces), self._ages)
