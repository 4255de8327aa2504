from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.calibration import (
    THRESHOLDS,
    Judged,
    Recommendation,
    Row,
    answers_needed,
    calibrate,
    recommend,
    wilson,
)

PAIRS = [
    Judged(same=True, similarity=0.99, refused=False),
    Judged(same=True, similarity=0.95, refused=True),
    Judged(same=True, similarity=0.91, refused=False),
    Judged(same=True, similarity=0.70, refused=False),
    Judged(same=False, similarity=0.98, refused=True),
    Judged(same=False, similarity=0.92, refused=False),
]


def row(pairs: list[Judged], threshold: float) -> Row:
    return next(row for row in calibrate(pairs) if row.threshold == threshold)


def many(right: int, wrong: int = 0, similarity: float = 0.96) -> list[Judged]:
    return [Judged(True, similarity, False)] * right + [Judged(False, similarity, False)] * wrong


def test_the_hit_rate_is_of_the_same_pairs_and_the_wrong_hit_rate_of_the_answers() -> None:
    rates = row(PAIRS, 0.90).without_guard
    assert (rates.answered, rates.wrong) == (5, 2)
    assert rates.hit_rate == 3 / 4
    assert rates.wrong_rate == 2 / 5


def test_what_the_guard_refuses_is_no_answer_right_or_wrong() -> None:
    rates = row(PAIRS, 0.90).with_guard
    assert (rates.answered, rates.wrong) == (3, 1)
    assert rates.hit_rate == 2 / 4
    assert rates.wrong_rate == 1 / 3


def test_a_pair_at_the_threshold_is_answered() -> None:
    assert row(PAIRS, 0.95).without_guard.answered == 3
    assert row(PAIRS, 0.96).without_guard.answered == 2


def test_without_answers_or_without_same_pairs_there_is_no_rate() -> None:
    assert row(PAIRS, 0.995).with_guard.wrong_rate is None
    assert row(PAIRS[4:], 0.90).with_guard.hit_rate is None


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    # From Newcombe (1998), table I.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_that_of_wilson(count: int, total: int, low: float, high: float) -> None:
    assert wilson(count, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(1, 500))
def test_the_share_lies_in_its_interval(count: int, more: int) -> None:
    low, high = wilson(count, count + more)
    assert 0 <= low <= count / (count + more) <= high <= 1


def test_the_lowest_threshold_that_is_surely_good_enough_is_recommended() -> None:
    pairs = many(1000, similarity=0.96) + many(5, 5, similarity=0.91)
    assert recommend(calibrate(pairs), 0.01) == Recommendation("recommended", 0.925)


def test_a_small_file_recommends_nothing_but_the_one_to_try() -> None:
    assert recommend(calibrate(many(100)), 0.01) == Recommendation("too_small", THRESHOLDS[0])
    assert recommend(calibrate(many(100)), 0.05) == Recommendation("recommended", THRESHOLDS[0])


def test_where_too_many_answers_are_wrong_everywhere_none_is_recommended() -> None:
    assert recommend(calibrate(many(900, 100, similarity=1.0)), 0.01) == Recommendation(
        "none", None
    )


def test_without_any_answer_none_is_recommended() -> None:
    assert recommend(calibrate(many(9, similarity=0.5)), 0.01) == Recommendation("none", None)


@pytest.mark.parametrize("max_wrong", [0.001, 0.01, 0.05, 0.5])
def test_the_answers_needed_are_just_enough(max_wrong: float) -> None:
    enough = answers_needed(max_wrong)
    assert recommend(calibrate(many(enough)), max_wrong).verdict == "recommended"
    assert recommend(calibrate(many(enough - 1)), max_wrong).verdict == "too_small"
