from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.generation import Sampling
from sidecar.models.sampler import Sampler, distribution

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

GREEDY = Sampling(max_tokens=1)
DRAWN = Sampling(max_tokens=1, temperature=1.0, seed=1)
# Few distinct values, so that ties are common; exact in float32.
LOGIT = st.sampled_from([-math.inf, *(n / 2 for n in range(-12, 13))])
LOGITS = st.lists(LOGIT, min_size=1, max_size=12).filter(lambda row: max(row) > -math.inf)
# Shares that no sum of weights hits exactly, where rounding would decide.
SHARE = st.sampled_from([0.013, 0.117, 0.3331, 0.5003, 0.7771, 0.9003, 0.99, 1.0])


def array(logits: Sequence[float]) -> NDArray[np.float32]:
    return np.array(logits, np.float32)


def slow_distribution(logits: Sequence[float], sampling: Sampling) -> dict[int, float]:
    """What the options say, word by word, of tokens that have any probability."""
    assert sampling.temperature
    top = max(logits)
    weights = {i: math.exp((x - top) / sampling.temperature) for i, x in enumerate(logits)}
    ranked = sorted(weights, key=lambda i: (-weights[i], i))
    if sampling.top_k:
        ranked = ranked[: sampling.top_k]
    if sampling.top_p < 1:
        total, count = 0.0, 0
        wanted = sampling.top_p * sum(weights[i] for i in ranked)
        while total < wanted and count < len(ranked):
            total += weights[ranked[count]]
            count += 1
        ranked = ranked[:count]
    ranked = [i for i in ranked if weights[i] >= sampling.min_p * weights[ranked[0]]]
    total = sum(weights[i] for i in ranked)
    return {i: weights[i] / total for i in ranked if weights[i] > 0}


def fast_distribution(logits: Sequence[float], sampling: Sampling) -> dict[int, float]:
    tokens, weights = distribution(array(logits), sampling)
    shares = weights / weights.sum(dtype=np.float64)
    return {
        int(token): float(share) for token, share in zip(tokens, shares, strict=True) if share > 0
    }


@given(
    LOGITS,
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(0, 14),
    SHARE,
    st.sampled_from([0.0, 0.013, 0.2, 0.7, 1.0]),
)
def test_the_tokens_that_may_come_and_their_probabilities_are_what_the_options_say(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = replace(DRAWN, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = slow_distribution(logits, sampling)
    assert fast_distribution(logits, sampling) == pytest.approx(expected, rel=1e-5, abs=1e-30)


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.01, 1.0, 5.0])
def test_top_p_finds_the_likeliest_of_a_large_vocabulary_however_flat_it_is(
    top_p: float, spread: float
) -> None:
    logits = (np.random.default_rng(7).standard_normal(5000) * spread).astype(np.float32)
    sampling = replace(DRAWN, top_p=top_p)
    assert set(fast_distribution(logits, sampling)) == set(
        slow_distribution(logits.tolist(), sampling)
    )


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = array([0, 1, 2, -math.inf, 2.5, -1, 0.5])
    sampling = replace(DRAWN, temperature=0.8, top_k=5, seed=20)
    sampler, draws = Sampler(sampling, []), 20_000
    counts = np.bincount([sampler.next(logits) for _ in range(draws)], minlength=7)
    expected = slow_distribution(logits.tolist(), sampling)
    assert set(np.flatnonzero(counts)) == set(expected)
    chi_square = sum((counts[i] - draws * p) ** 2 / (draws * p) for i, p in expected.items())
    # Four degrees of freedom: above this in one of a thousand seeds.
    assert chi_square < 18.5


@given(LOGITS, st.lists(st.integers(0, 11)), st.floats(0.5, 3), st.integers(1, 6))
def test_the_repetition_penalty_meets_every_token_of_prompt_and_answer_once(
    logits: list[float], prompt: list[int], penalty: float, length: int
) -> None:
    prompt = [token % len(logits) for token in prompt]
    sampler = Sampler(replace(GREEDY, repetition_penalty=penalty), prompt)
    seen, row, factor = set(prompt), array(logits), np.float32(penalty)
    for _ in range(length):
        slow = [
            (x / factor if x > 0 else x * factor) if i in seen else x for i, x in enumerate(row)
        ]
        token = sampler.next(row)
        assert token == slow.index(max(slow))
        seen.add(token)


def test_the_repetition_penalty_is_applied_before_the_other_options() -> None:
    sampling = replace(DRAWN, top_k=1, repetition_penalty=4.0)
    assert Sampler(sampling, [1]).next(array([2, 3, 1])) == 0


@pytest.mark.parametrize("temperature", [0.0, None])
def test_without_a_temperature_the_likeliest_token_comes_and_of_equal_ones_the_first(
    temperature: float | None,
) -> None:
    sampler = Sampler(replace(GREEDY, temperature=temperature), [])
    assert sampler.next(array([1, 3, -math.inf, 3])) == 1


@pytest.mark.parametrize("temperature", [1e-45, 1e-300])
def test_the_lowest_temperatures_are_as_good_as_none(temperature: float) -> None:
    sampler = Sampler(replace(DRAWN, temperature=temperature), [])
    assert {sampler.next(array([1, 2, -math.inf, 1.999])) for _ in range(50)} == {1}


@pytest.mark.parametrize(("drawn", "token"), [(0.0, 1), (np.nextafter(1, 0), 3)])
def test_a_token_without_probability_is_not_chosen_by_the_most_extreme_number(
    drawn: float, token: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "Generator", lambda _: SimpleNamespace(random=lambda: drawn))
    row = array([-math.inf, 1, 1, 1, -math.inf])
    assert Sampler(DRAWN, []).next(row) == token


@given(st.integers(0, 2**64 - 1), st.sampled_from([0, 3]), SHARE)
def test_the_same_seed_gives_the_same_tokens(seed: int, top_k: int, top_p: float) -> None:
    sampling = replace(DRAWN, seed=seed, top_k=top_k, top_p=top_p, repetition_penalty=1.1)
    rows = np.random.default_rng(3).standard_normal((10, 20)).astype(np.float32)
    first, second = Sampler(sampling, [4]), Sampler(sampling, [4])
    assert [first.next(row) for row in rows] == [second.next(row) for row in rows]


def test_other_seeds_and_no_seed_give_other_tokens() -> None:
    flat = np.zeros(1000, np.float32)
    samplers = [Sampler(replace(DRAWN, seed=seed), []) for seed in (1, 2, None, None)]
    answers = {tuple(sampler.next(flat) for _ in range(10)) for sampler in samplers}
    assert len(answers) == len(samplers)


@given(LOGITS, st.lists(LOGITS, max_size=3))
def test_what_is_drawn_depends_on_the_number_of_tokens_before_and_not_on_their_logits(
    logits: list[float], before: list[list[float]]
) -> None:
    one, other = Sampler(DRAWN, []), Sampler(DRAWN, [])
    for row in before:
        one.next(array(row))
        other.next(array([0]))
    assert one.next(array(logits)) == other.next(array(logits))


@given(LOGITS, st.integers(0, 100))
def test_neutral_options_change_nothing(logits: list[float], seed: int) -> None:
    plain = Sampling(max_tokens=1, temperature=1.0, seed=seed)
    neutral = replace(plain, top_k=len(logits), top_p=1.0, min_p=0.0, repetition_penalty=1.0)
    one, other = Sampler(plain, [0]), Sampler(neutral, [0])
    assert [one.next(array(logits)) for _ in range(5)] == [
        other.next(array(logits)) for _ in range(5)
    ]


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, replace(DRAWN, top_k=1, top_p=0.5)])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize(
    "logits", [[1, math.nan, 2], [1, math.inf, 2], [math.nan], [-math.inf, -math.inf, -math.inf]]
)
def test_logits_that_are_no_numbers_are_an_error(
    sampling: Sampling, penalty: float, logits: list[float]
) -> None:
    sampler = Sampler(replace(sampling, repetition_penalty=penalty), [0])
    with pytest.raises(ValueError, match="NaN or infinite"):
        sampler.next(array(logits))


@given(LOGITS, st.integers(0, 3), SHARE)
def test_the_logits_are_left_as_they_are(logits: list[float], top_k: int, top_p: float) -> None:
    row = array(logits)
    Sampler(replace(DRAWN, top_k=top_k, top_p=top_p, repetition_penalty=2.0), [0]).next(row)
    assert row.tolist() == array(logits).tolist()
