"""The draw of popular keys."""

from __future__ import annotations

import numpy as np
import pytest

from bench.zipf import zipf


@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.5])
def test_the_nth_key_comes_n_to_the_minus_alpha_as_often_as_the_first(alpha: float) -> None:
    counts = np.bincount(zipf(np.random.default_rng(1), alpha, 100, 400_000), minlength=100)

    expected = np.arange(1, 101) ** -alpha
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), atol=0.002)


def test_with_alpha_0_all_keys_are_alike() -> None:
    counts = np.bincount(zipf(np.random.default_rng(1), 0.0, 10, 100_000), minlength=10)

    np.testing.assert_allclose(counts / 100_000, 0.1, atol=0.005)


def test_all_keys_are_below_their_number() -> None:
    assert set(zipf(np.random.default_rng(1), 1.0, 3, 10_000).tolist()) == {0, 1, 2}


def test_the_same_seed_draws_the_same_keys() -> None:
    one, same, other = (zipf(np.random.default_rng(seed), 1.0, 50, 100) for seed in (1, 1, 2))

    assert (one == same).all()
    assert (one != other).any()
