"""Reads weights in GGUF's block formats Q4_1 and Q8_0, without rounding them.

Both cut a row into blocks of 32 numbers that share a scale:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, ggml-quants.c there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 32
_Q4_1_BYTES = 20  # float16 scale, float16 minimum, 32 numbers of 4 bits
_Q8_0_BYTES = 34  # float16 scale, 32 numbers of 8 bits


class Q4(NamedTuple):
    """Rows of numbers ``scales * quants + minima``, a scale and a minimum for each block.

    ``scales`` and ``minima``, float32 ``[rows, blocks]``; ``quants``, uint8 from 0 to 15
    ``[rows, blocks, 32]``.
    """

    scales: NDArray[Any]
    minima: NDArray[Any]
    quants: NDArray[Any]

    def dequantised(self) -> NDArray[Any]:
        """Returns the numbers, float32 ``[rows, columns]``."""
        numbers: NDArray[Any] = self.scales[..., None] * self.quants + self.minima[..., None]
        return numbers.reshape(len(numbers), -1)


class Q8(NamedTuple):
    """Rows of numbers ``scales * quants``: float32 ``[rows, blocks]``, int8 with 32 for each."""

    scales: NDArray[Any]
    quants: NDArray[Any]

    def dequantised(self) -> NDArray[Any]:
        """Returns the numbers, float32 ``[rows, columns]``."""
        numbers: NDArray[Any] = self.scales[..., None] * self.quants
        return numbers.reshape(len(numbers), -1)


def unpack_q4_1(rows: NDArray[Any]) -> Q4:
    """Takes uint8 ``[rows, bytes]`` of Q4_1 blocks apart.

    The low halves of a block's bytes are its first 16 numbers.
    """
    blocks = rows.reshape(len(rows), -1, _Q4_1_BYTES)
    packed = blocks[..., 4:]
    quants = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return Q4(_halves(blocks[..., 0:2]), _halves(blocks[..., 2:4]), quants)


def unpack_q8_0(rows: NDArray[Any]) -> Q8:
    """Takes uint8 ``[rows, bytes]`` of Q8_0 blocks apart."""
    blocks = rows.reshape(len(rows), -1, _Q8_0_BYTES)
    return Q8(_halves(blocks[..., 0:2]), blocks[..., 2:].view(np.int8))


def pack_pairs(quants: NDArray[Any]) -> NDArray[Any]:
    """Packs numbers of 4 bits, uint8 ``[..., 32]``, as `MatMulNBits` has them: neighbours share
    a byte, and the first is its low half."""
    pairs: NDArray[Any] = quants[..., 0::2] | (quants[..., 1::2] << 4)
    return pairs


def _halves(pairs: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(pairs).view("<f2")[..., 0].astype(np.float32)
