"""Popularity as G. K. Zipf found it: the n-th most popular key is asked for n^-alpha as often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def zipf(rng: np.random.Generator, alpha: float, keys: int, count: int) -> NDArray[np.int64]:
    """Draws ``count`` of ``keys`` keys, 0 being the most popular; with alpha 0 all are alike."""
    weights = np.cumsum(np.arange(1, keys + 1) ** -alpha)
    return np.searchsorted(weights, rng.random(count) * weights[-1])
