"""Binary form of cache values: a 32-byte header, what depends on the entry, the payload.

Little-endian throughout::

    0   u8   format, 2
    1   u8   codec of the payload; and flags: 64 truncated, 128 a content digest follows the header
    2   u16  number of tags
    4   u32  dimensions
    8   u32  tokens
    12  i64  created, milliseconds since the Unix epoch
    20  i64  expires, likewise; 0 for never
    28  u32  CRC-32 of key, bytes 0 to 27 and everything behind the header
    32       content digest, 16 bytes, if flagged
             tags: digest, 16 bytes, and generation, i64, each
             payload

The key is part of the checksum, so a value that was copied to another key is corrupt there.
"""

from __future__ import annotations

import enum
import math
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_SKEW_SECONDS = 60.0
"""As far may the clocks of sidecars be apart."""

FORMAT = 2
_HEADER = struct.Struct("<BBHIIqq")
_CHECKSUM = struct.Struct("<I")
_TAG = struct.Struct("<16sq")
_SCALE = struct.Struct("<f")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
# 127 steps of it are still a float32.
_LARGEST_SCALE = float(np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0)))
_TRUNCATED, _HAS_CONTENT = 64, 128
_CODEC_BITS = 63
_CONTENT_BYTES = 16


class CorruptValueError(ValueError):
    """Bytes that are not what was stored under this key."""


class Codec(enum.IntEnum):
    """How the elements of a vector are stored."""

    FLOAT32 = 1
    FLOAT16 = 2
    INT8 = 3
    """A float32 scale, then one signed byte an element: element = byte * scale."""
    BYTES = 4
    """Not a vector: as many bytes as there are dimensions."""

    def payload_bytes(self, dimensions: int) -> int:
        """Length of the payload of a vector of that many elements."""
        if self is Codec.INT8:
            return _SCALE.size + dimensions
        return dimensions * _ELEMENT_BYTES[self]


_ELEMENT_BYTES = {Codec.FLOAT32: 4, Codec.FLOAT16: 2, Codec.BYTES: 1}


def encode_vector(vector: NDArray[np.float32], codec: Codec) -> bytes:
    """Payload of a finite vector of shape ``[dimensions]``.

    float16 clips to the largest half-precision number; int8 maps the largest magnitude to 127.
    """
    if codec is Codec.FLOAT32:
        return np.ascontiguousarray(vector, dtype="<f4").tobytes()
    if codec is Codec.FLOAT16:
        return np.clip(vector, -65504.0, 65504.0).astype("<f2").tobytes()
    peak = float(np.max(np.abs(vector), initial=0.0))
    # The scale is rounded as stored before it is used; one too small for float32 means zeros.
    scale = min(float(np.float32(peak / 127.0)), _LARGEST_SCALE)
    if scale == 0.0:
        return _SCALE.pack(0.0) + bytes(len(vector))
    steps = np.clip(np.rint(vector.astype(np.float64) / scale), -127, 127)
    return _SCALE.pack(scale) + steps.astype(np.int8).tobytes()


def decode_vector(payload: bytes, codec: Codec) -> NDArray[np.float32]:
    """Vector of shape ``[dimensions]`` from a payload."""
    if codec is Codec.FLOAT32:
        return np.frombuffer(payload, dtype="<f4")
    if codec is Codec.FLOAT16:
        return np.frombuffer(payload, dtype="<f2").astype(np.float32)
    scale = np.float32(_SCALE.unpack_from(payload)[0])
    return np.frombuffer(payload, dtype=np.int8, offset=_SCALE.size).astype(np.float32) * scale


def transcode(payload: bytes, stored: Codec, wanted: Codec) -> bytes:
    """The payload in another codec; the same bytes if it is the same one."""
    if stored is wanted:
        return payload
    return encode_vector(decode_vector(payload, stored), wanted)


def split_scale(payload: bytes) -> tuple[float, bytes]:
    """Scale and elements of an int8 payload."""
    return float(_SCALE.unpack_from(payload)[0]), payload[_SCALE.size :]


@dataclass(frozen=True, slots=True)
class Value:
    """What was computed for one input: mostly a vector, and what the model said of the input."""

    payload: bytes
    codec: Codec
    dimensions: int
    tokens: int
    truncated: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as the cache keeps it.

    Times are milliseconds since the Unix epoch; ``expires_ms`` is 0 for never. ``content`` is
    the digest of the input's content where the key does not cover it, else empty. ``tags`` are
    pairs of a tag's digest and its generation when the value was computed.
    """

    value: Value
    created_ms: int
    expires_ms: int
    content: bytes = b""
    tags: tuple[tuple[bytes, int], ...] = ()

    def seconds_left(self, now_ms: float) -> float:
        """For how long it may still be served, in seconds; not above 0 if not at all.

        An entry from the future was made while a clock was ahead, and nobody knows when its
        lifetime ends.
        """
        if not self.expires_ms:
            return math.inf
        if self.created_ms > now_ms + MOST_SKEW_SECONDS * 1000:
            return 0.0
        return (self.expires_ms - now_ms) / 1000


def pack(entry: Entry, key: bytes) -> bytes:
    """Bytes of an entry, to be stored under ``key``."""
    value = entry.value
    flags = (_TRUNCATED if value.truncated else 0) | (_HAS_CONTENT if entry.content else 0)
    header = _HEADER.pack(
        FORMAT,
        value.codec | flags,
        len(entry.tags),
        value.dimensions,
        value.tokens,
        entry.created_ms,
        entry.expires_ms,
    )
    tags = b"".join(_TAG.pack(*tag) for tag in entry.tags)
    body = entry.content + tags + value.payload
    return header + _CHECKSUM.pack(_checksum(key, header, body)) + body


def unpack(data: bytes, key: bytes) -> Entry:
    """Entry from the bytes found under ``key``.

    Raises `CorruptValueError` if they are not exactly what `pack` made for this key.
    """
    if len(data) < _HEADER_BYTES or data[0] != FORMAT:
        raise CorruptValueError("not a cache value of a format that is known here")
    header, body = data[: _HEADER.size], data[_HEADER_BYTES:]
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != _checksum(key, header, body):
        raise CorruptValueError("checksum does not match")
    _, flags, tag_count, dimensions, tokens, created, expires = _HEADER.unpack(header)
    content_end = _CONTENT_BYTES if flags & _HAS_CONTENT else 0
    tags_end = content_end + tag_count * _TAG.size
    payload = body[tags_end:]
    try:
        known = Codec(flags & _CODEC_BITS)
    except ValueError:
        raise CorruptValueError(f"unknown codec {flags & _CODEC_BITS}") from None
    if tags_end > len(body):
        raise CorruptValueError("it is cut short before its payload")
    if len(payload) != known.payload_bytes(dimensions):
        raise CorruptValueError("payload is not as long as its dimensions say")
    return Entry(
        value=Value(payload, known, dimensions, tokens, bool(flags & _TRUNCATED)),
        created_ms=created,
        expires_ms=expires,
        content=body[:content_end],
        tags=tuple(_TAG.iter_unpack(body[content_end:tags_end])),
    )


def _checksum(key: bytes, header: bytes, body: bytes) -> int:
    return zlib.crc32(body, zlib.crc32(header, zlib.crc32(key)))
