"""Protobuf's wire form, for responses that are put together from ready pieces.

The age of an item is a fixed64 at the end of its message. Its offset is remembered, so that a
stored response is brought up to date by writing eight bytes an item.
"""

from __future__ import annotations

import struct

from sidecar.cache.items import Tier

_AGE = struct.Struct("<Q")
AGE_BYTES = _AGE.size
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


class AgedBytes:
    """A response, and for each item the offset of its age and when it was computed."""

    __slots__ = ("_data", "_ends_with_age", "ages", "size")

    def __init__(self, data: bytes, ages: list[tuple[int, int]]) -> None:
        self.size = len(data)
        self.ages = ages
        # So it is with one item, which most responses have: then it is quicker to append the age.
        self._ends_with_age = len(ages) == 1 and ages[0][0] == len(data) - _AGE.size
        self._data = data[: -_AGE.size] if self._ends_with_age else data

    @property
    def data(self) -> bytes:
        """The response, in which ages are to be filled in."""
        return self._data + bytes(_AGE.size) if self._ends_with_age else self._data

    def at(self, now_ms: int) -> bytes:
        """The response with the ages of that moment."""
        if self._ends_with_age:
            return self._data + _AGE.pack(max(0, now_ms - self.ages[0][1]))
        buffer = bytearray(self._data)
        for offset, created_ms in self.ages:
            _AGE.pack_into(buffer, offset, max(0, now_ms - created_ms))
        return bytes(buffer)
