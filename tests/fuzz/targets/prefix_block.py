"""Blocks of prompts as Redis and disks give them back, with the checksum put right."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.prefix_codec import CorruptBlockError, decode_block, encode_block

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (CorruptBlockError,)
NAME = b"block"


def seeds() -> Iterator[bytes]:
    block = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 2, 2)
    for codec in ("exact", "float16", "int8"):
        for dtype in (np.float32, np.float16):
            made = encode_block(block.astype(dtype), NAME, codec, 5)
            assert made is not None
            yield made


def run(data: bytes) -> None:
    try:
        decode_block(data, NAME)
    except CorruptBlockError:
        right = zlib.crc32(data[32:], zlib.crc32(data[:28], zlib.crc32(NAME)))
        data = data[:28] + struct.pack("<I", right) + data[32:]
    block, _ = decode_block(data, NAME)
    assert block.ndim == 4
    assert block.nbytes <= 4 * len(data)
