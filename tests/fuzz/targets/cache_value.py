"""Values as Redis and disks give them back, also with the checksum put right."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from sidecar.cache.codec import (
    Codec,
    CorruptValueError,
    Entry,
    Value,
    decode_vector,
    encode_vector,
    pack,
    transcode,
    unpack,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (CorruptValueError,)
KEY = b"ec:v:default:minilm:0:digest"


def seeds() -> Iterator[bytes]:
    vector = np.linspace(-1, 1, 8, dtype=np.float32)
    tags = ((b"t" * 16, 3), (b"u" * 16, -1))
    for codec in Codec:
        payload = b"text" if codec is Codec.BYTES else encode_vector(vector, codec)
        value = Value(payload, codec, 4 if codec is Codec.BYTES else 8, 5, truncated=True)
        yield pack(Entry(value, 1, 2, b"c" * 16, tags), KEY)
        yield pack(Entry(value, 1, 0), KEY)


def run(data: bytes) -> tuple[Entry, bytes]:
    try:
        unpack(data, KEY)
    except CorruptValueError:
        right = zlib.crc32(data[32:], zlib.crc32(data[:28], zlib.crc32(KEY)))
        data = data[:28] + struct.pack("<I", right) + data[32:]
    return unpack(data, KEY), data


def verify(read: tuple[Entry, bytes]) -> None:
    entry, data = read
    assert pack(entry, KEY) == data
    value = entry.value
    if value.codec is not Codec.BYTES:
        with np.errstate(all="ignore"):
            assert decode_vector(value.payload, value.codec).shape == (value.dimensions,)
            transcode(value.payload, value.codec, Codec.FLOAT32)
