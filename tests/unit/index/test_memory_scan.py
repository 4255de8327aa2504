"""The nearest vectors by looking at all of them."""

from __future__ import annotations

import numpy as np
import pytest

from sidecar.index.memory_scan import nearest
from sidecar.index.vectors import unit


@pytest.mark.parametrize("share", [1.0, 0.6, 0.1, 0.001, 0.0])
@pytest.mark.parametrize("count", [1, 10, 1000, 10_000])
def test_finds_the_rows_of_highest_cosine(share: float, count: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((5000, 48)).astype(np.float32)
    query = unit(rng.standard_normal(48).astype(np.float32))
    rows = None if share == 1 else np.flatnonzero(rng.random(5000) < share)
    looked_at = np.arange(5000) if rows is None else rows
    cosines = (
        vectors.astype(np.float64) @ query / np.linalg.norm(vectors.astype(np.float64), axis=1)
    )
    best = looked_at[np.argsort(-cosines[looked_at])][:count]
    found, scores = nearest(vectors, inverse_lengths(vectors), rows, query, count)
    assert found[np.argsort(-scores)][:count].tolist() == best.tolist()
    assert scores == pytest.approx(cosines[found], abs=1e-12)


def test_equal_vectors_score_the_same_wherever_they_are() -> None:
    rng = np.random.default_rng(2)
    vectors = np.tile(rng.standard_normal(101).astype(np.float32), (3001, 1))
    query = unit(rng.standard_normal(101).astype(np.float32))
    found, scores = nearest(vectors, inverse_lengths(vectors), None, query, 5)
    assert len(found) == 3001
    assert len(set(scores.tolist())) == 1


def test_orders_vectors_that_single_precision_cannot_tell_apart() -> None:
    rng = np.random.default_rng(5)
    vectors = np.tile(rng.standard_normal(64).astype(np.float32), (2000, 1))
    vectors[:, ::5] *= 1 + rng.standard_normal((2000, 13)).astype(np.float32) * 1e-6
    query = unit(rng.standard_normal(64).astype(np.float32))
    exact = vectors.astype(np.float64)
    expected = np.argsort(-(exact @ query) / np.linalg.norm(exact, axis=1))[:10]
    found, scores = nearest(vectors, inverse_lengths(vectors), None, query, 10)
    assert found[np.argsort(-scores)][:10].tolist() == expected.tolist()


@pytest.mark.parametrize("length", [1e-36, 1e-20, 1e20, 1e37])
def test_very_short_and_very_long_vectors_are_no_problem(length: float) -> None:
    rng = np.random.default_rng(3)
    exact = rng.standard_normal((200, 16))
    vectors = (exact * length).astype(np.float32)
    query = unit((exact[7] * length).astype(np.float32))
    found, scores = nearest(vectors, inverse_lengths(vectors), None, query, 3)
    expected = np.argsort(-(exact @ exact[7]) / np.linalg.norm(exact, axis=1))[:3]
    assert found[np.argsort(-scores)][:3].tolist() == expected.tolist()
    assert scores.max() == pytest.approx(1.0)


def test_no_score_is_beyond_one() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((500, 7)).astype(np.float32)
    for vector in vectors:
        _, scores = nearest(vectors, inverse_lengths(vectors), None, unit(vector), 500)
        assert scores.min() >= -1
        assert scores.max() <= 1


def inverse_lengths(vectors: np.ndarray) -> np.ndarray:
    return (1 / np.linalg.norm(vectors.astype(np.float64), axis=1)).astype(np.float32)
