"""Conversions between float16 and float32, of which numpy's own take four times as long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sign, and a float16's exponent and mantissa moved to where float32 has them.
_KEPT_BITS = np.uint32(0x8FFFE000).view(np.int32)
# Between the biases of the exponents, 127 and 15. The product is exact, subnormals included.
_BIAS = np.float32(2.0**112)
# So many values at once: what they need for a moment stays in a CPU's cache and in the heap. Memory
# that is new (see `heap`) takes longer to get than to fill.
_PIECE = 2**15


def widen(half: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """Writes finite float16 values to ``out``, of the same shape, without changing any."""
    bits = out.view(np.int32)
    np.copyto(bits, half.view(np.int16))  # keeps the sign in front
    bits <<= 13
    bits &= _KEPT_BITS
    out *= _BIAS


def narrow(values: NDArray[np.float32]) -> NDArray[Any]:
    """The values in float16 if that is exact for all of them, else as they are.

    Infinity and NaN stay float32.
    """
    half = np.empty(values.shape, np.float16)
    for rows in _pieces(values):
        with np.errstate(over="ignore", invalid="ignore"):
            half[rows] = values[rows]
        if not np.isfinite(half[rows]).all():
            return values
        back = np.empty(half[rows].shape, np.float32)
        widen(half[rows], back)
        if not np.array_equal(back.view(np.uint32), values[rows].view(np.uint32)):
            return values
    return half


def _pieces(values: NDArray[Any]) -> list[slice]:
    """Slices of the first axis that have about `_PIECE` values each."""
    rows = max(1, _PIECE * len(values) // max(1, values.size))
    return [slice(start, start + rows) for start in range(0, len(values), rows)]
