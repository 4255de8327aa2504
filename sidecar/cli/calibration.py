"""What a semantic cache would have done with labelled pairs of queries, threshold by threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

THRESHOLDS = (0.80, 0.825, 0.85, 0.875, 0.90, 0.925, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995)
# Of the normal distribution, for 95 % on both sides.
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Judged:
    """A pair of queries: whether they mean the ``same``, their cosine, what the guard says."""

    same: bool
    similarity: float
    refused: bool


@dataclass(frozen=True, slots=True)
class Rates:
    """What was answered at a threshold. Rates are shares, None if there is nothing to share.

    ``hit_rate`` is of the pairs that mean the same; ``wrong_rate``, and the bounds of its 95 %
    interval, of the answers.
    """

    answered: int
    wrong: int
    hit_rate: float | None
    wrong_rate: float | None
    wrong_rate_low: float
    wrong_rate_high: float


@dataclass(frozen=True, slots=True)
class Row:
    """One threshold, with and without the guard."""

    threshold: float
    without_guard: Rates
    with_guard: Rates


Verdict: TypeAlias = Literal["recommended", "too_small", "none"]


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The lowest threshold that is known to be good enough, if any.

    - ``recommended``: the wrong-hit rate at ``threshold`` is under the limit, at 95 %;
    - ``too_small``: at ``threshold`` it is in the file, but that has too few pairs to be sure;
    - ``none``: it is not even in the file, at any threshold.
    """

    verdict: Verdict
    threshold: float | None


def calibrate(pairs: Sequence[Judged]) -> list[Row]:
    """One row for each of `THRESHOLDS`."""
    return [
        Row(
            threshold,
            _rates(pairs, [pair for pair in pairs if pair.similarity >= threshold]),
            _rates(
                pairs,
                [pair for pair in pairs if pair.similarity >= threshold and not pair.refused],
            ),
        )
        for threshold in THRESHOLDS
    ]


def recommend(rows: Sequence[Row], max_wrong: float) -> Recommendation:
    """The threshold to choose, for a guard is always there, at a wrong-hit rate below a limit."""
    for row in rows:
        if row.with_guard.answered and row.with_guard.wrong_rate_high < max_wrong:
            return Recommendation("recommended", row.threshold)
    for row in rows:
        rate = row.with_guard.wrong_rate
        if rate is not None and rate < max_wrong:
            return Recommendation("too_small", row.threshold)
    return Recommendation("none", None)


def answers_needed(max_wrong: float) -> int:
    """How many answers, none of them wrong, put the upper bound under a limit."""
    return math.floor(_Z**2 * (1 - max_wrong) / max_wrong) + 1


def wilson(count: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, after Wilson (1927); (0, 1) of nothing."""
    if total == 0:
        return 0.0, 1.0
    share, weight = count / total, _Z**2 / total
    middle = share + weight / 2
    spread = _Z * math.sqrt(share * (1 - share) / total + weight / total / 4)
    low, high = (middle - spread) / (1 + weight), (middle + spread) / (1 + weight)
    # Rounded, a bound may end up on the wrong side of a share of 0 or 1.
    return min(share, max(0.0, low)), max(share, min(1.0, high))


def _rates(pairs: Sequence[Judged], answered: Sequence[Judged]) -> Rates:
    same = sum(pair.same for pair in pairs)
    right = sum(pair.same for pair in answered)
    wrong = len(answered) - right
    return Rates(
        len(answered),
        wrong,
        right / same if same else None,
        wrong / len(answered) if answered else None,
        *wilson(wrong, len(answered)),
    )
