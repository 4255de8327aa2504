"""Binary form of blocks of keys and values outside of memory: a 32-byte header and the elements.

Little-endian throughout::

    0   u8   format, 1
    1   u8   how elements are stored: 1 float32, 2 float16, 3 int8
    2   u8   what they are elements of: 1 float32, 2 float16
    3   u8   0
    4   u32  length of each of the four axes
    20  i64  expires, milliseconds since the Unix epoch; 0 for never
    28  u32  CRC-32 of name, bytes 0 to 27 and everything behind the header
    32       for int8: a float32 scale for each row of the last axis
             elements

The name is part of the checksum, so a block that was copied to another name is corrupt there.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.models.prefix_store import Block

PrefixCodec: TypeAlias = Literal["exact", "float16", "int8"]
"""How blocks are stored: ``exact`` is float16 where that loses nothing, else float32; ``int8`` has
one scale for each row of the last axis."""

_FORMAT = 1
_HEADER = struct.Struct("<BBBx4Iq")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_FLOAT32, _FLOAT16, _INT8 = 1, 2, 3
_DTYPES: dict[int, type[np.floating[Any]]] = {_FLOAT32: np.float32, _FLOAT16: np.float16}
_LARGEST_HALF = 65504.0
# 127 steps of it are still a float32.
_LARGEST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(127), np.float32(0))


class CorruptBlockError(ValueError):
    """Bytes that are not what was stored under this name."""


def stored_name(key: bytes, codec: PrefixCodec) -> bytes:
    """The name of a block outside of memory: sidecars with other codecs have blocks of their own.

    Else one that is to be exact would answer from what another one has rounded.
    """
    return key + b":" + codec.encode()


def encode_block(block: Block, name: bytes, codec: PrefixCodec, expires_ms: int) -> bytes | None:
    """Bytes of a block, to be stored under ``name``; None if a number in it is not finite.

    Raises `ValueError` for an array that is no block.
    """
    kind = next((kind for kind, dtype in _DTYPES.items() if block.dtype == dtype), None)
    if kind is None or block.ndim != 4:
        raise ValueError(
            f"a block is float32 or float16 of 4 axes, not {block.dtype} of {block.ndim}"
        )
    if not np.isfinite(block).all():
        return None
    stored, parts = _elements(block, codec)
    header = _HEADER.pack(_FORMAT, stored, kind, *block.shape, expires_ms)
    bodies = [np.ascontiguousarray(part).reshape(-1).view(np.uint8).data for part in parts]
    checksum = _CHECKSUM.pack(_checksum(name, header, *bodies))
    return b"".join((header, checksum, *bodies))


def decode_block(data: bytes, name: bytes) -> tuple[Block, int]:
    """The block found under ``name``, read-only, and when it expires.

    Raises `CorruptBlockError` if the bytes are not exactly what `encode_block` made for this name.
    """
    if len(data) < _HEADER_BYTES or data[0] != _FORMAT:
        raise CorruptBlockError("not a block of a format that is known here")
    body = memoryview(data)[_HEADER_BYTES:]
    header = data[: _HEADER.size]
    if _CHECKSUM.unpack_from(data, _HEADER.size)[0] != _checksum(name, header, body):
        raise CorruptBlockError("checksum does not match")
    _, stored, kind, *shape, expires_ms = _HEADER.unpack(header)
    if kind not in _DTYPES or stored not in (*_DTYPES, _INT8):
        raise CorruptBlockError(f"unknown elements {stored} of {kind}")
    if len(body) != _body_bytes(stored, shape):
        raise CorruptBlockError("elements are not as many as the header says")
    try:
        block = _block(body, stored, shape).astype(_DTYPES[kind], copy=False)
    except ValueError as error:  # an axis has no elements, so that others can have any length
        raise CorruptBlockError("axes are longer than arrays can be") from error
    block.flags.writeable = False
    return block, expires_ms


def _elements(block: Block, codec: PrefixCodec) -> tuple[int, list[NDArray[Any]]]:
    """How the elements are stored, and the arrays that are."""
    if codec == "int8":
        return _INT8, _quantise(block)
    if block.dtype == np.float16:
        return _FLOAT16, [block.astype("<f2", copy=False)]
    if codec == "float16":
        return _FLOAT16, [np.clip(block, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")]
    # Layer by layer: mostly it shows in the first one.
    if all(_is_half(layer) for layer in block):
        return _FLOAT16, [block.astype("<f2")]
    return _FLOAT32, [block.astype("<f4", copy=False)]


def _is_half(values: NDArray[np.float32]) -> bool:
    """Whether float16 keeps every bit, the sign of zeros included."""
    with np.errstate(over="ignore"):
        back = values.astype(np.float16).astype(np.float32)
    return bool(np.array_equal(back.view(np.uint32), values.view(np.uint32)))


def _quantise(block: Block) -> list[NDArray[Any]]:
    """Scales and elements: the largest magnitude of a row becomes 127."""
    values = block.astype(np.float32, copy=False)
    # Not of absolute values: that would be another copy of the block.
    peaks = np.maximum(values.max(axis=-1, initial=0), -values.min(axis=-1, initial=0))
    scales = np.minimum(peaks / np.float32(127), _LARGEST_SCALE)
    # A scale too small for float32 means zeros.
    divisors = np.where(scales > 0, scales, np.float32(np.inf))[..., None]
    steps = np.rint(values / divisors)
    # The smallest scales are coarse: they are subnormal numbers.
    return [scales.astype("<f4", copy=False), np.clip(steps, -127, 127).astype(np.int8)]


def _block(body: memoryview, stored: int, shape: list[int]) -> Block:
    if stored != _INT8:
        dtype = np.dtype(_DTYPES[stored]).newbyteorder("<")
        return np.frombuffer(body, dtype=dtype).reshape(shape)
    rows = math.prod(shape[:-1])
    scales = np.frombuffer(body, "<f4", count=rows).reshape(*shape[:-1], 1)
    steps = np.frombuffer(body, np.int8, offset=4 * rows).reshape(shape)
    block: Block = np.multiply(steps, scales, dtype=np.float32)
    return block


def _body_bytes(stored: int, shape: list[int]) -> int:
    elements = math.prod(shape)
    if stored == _INT8:
        return elements + 4 * math.prod(shape[:-1])
    return elements * np.dtype(_DTYPES[stored]).itemsize


def _checksum(name: bytes, *parts: bytes | memoryview) -> int:
    checksum = zlib.crc32(name)
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return checksum
