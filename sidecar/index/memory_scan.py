"""The vectors that are nearest to a query, by looking at all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.index.types import Vector

# So many rows are copied together at a time: as much as stays in a processor's cache.
_BLOCK = 1024
# Copying a row costs as much as computing some.
_GATHER_BELOW = 0.25


def nearest(
    vectors: Vector,
    inverse_lengths: Vector,
    rows: NDArray[np.intp] | None,
    query: NDArray[np.float64],
    count: int,
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The rows of highest cosine with the query, and their cosines, in no order.

    All that are as good as the last of ``count`` are returned, so they may be more.

    Args:
        vectors: shape ``[n, dimensions]``, of any lengths but zero.
        inverse_lengths: shape ``[n]``.
        rows: those to look at; None for all.
        query: of length one.
    """
    scores = _scores(vectors, rows, query.astype(np.float32))
    scores *= inverse_lengths if rows is None else inverse_lengths[rows]
    if len(scores) > count:
        last = np.partition(scores, len(scores) - count)[len(scores) - count]
        # The bound on the error of a sum of products, for the last one and for each other.
        close = np.flatnonzero(scores >= last - len(query) * np.finfo(np.float32).eps)
        rows = close if rows is None else rows[close]
    elif rows is None:
        rows = np.arange(len(vectors))
    return rows, _exact(vectors, rows, query)


def _scores(vectors: Vector, rows: NDArray[np.intp] | None, query: Vector) -> Vector:
    if rows is None:
        return _products(vectors, query)
    if len(rows) > _GATHER_BELOW * len(vectors):
        return _products(vectors, query)[rows]
    blocks = range(0, len(rows), _BLOCK)
    some = [_products(vectors[rows[start : start + _BLOCK]], query) for start in blocks]
    return np.concatenate(some) if some else np.empty(0, np.float32)


def _products(vectors: Vector, query: Vector) -> Vector:
    # As fast as memory. A product of matrices would go to threads of the BLAS library, which
    # searches at the same time would wait for in turn: six took four times as long as one by one.
    products: Vector = np.einsum("ij,j->i", vectors, query)
    return products


def _exact(
    vectors: Vector, rows: NDArray[np.intp], query: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cosines, the same for the same vector wherever it is.

    Those of a matrix product depend on a row's place, as sums are taken in another order.
    """
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        block = slice(start, start + _BLOCK)
        some = vectors[rows[block]].astype(np.float64)
        lengths = np.sqrt((some * some).sum(axis=1))
        scores[block] = (some * query).sum(axis=1) / lengths
    return scores.clip(-1, 1)
