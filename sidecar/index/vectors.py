"""What every index does with vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.index.types import Vector


def unit(vector: Vector) -> NDArray[np.float64]:
    """The vector with length 1. In float32, where servers compute, squares soon overflow."""
    wide = vector.astype(np.float64)
    return wide / np.linalg.norm(wide)
