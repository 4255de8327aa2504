"""How the benchmark of overload judges what became of misses."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.overload import Misses


def test_a_miss_that_was_accepted_and_dropped_late_has_not_kept_its_deadline() -> None:
    ends = Counter({"OK": 50, "RESOURCE_EXHAUSTED": 50})
    assert Misses(1.0, 0, ends).kept == 1.0
    misses = Misses(1.0, 10, ends)
    assert misses.kept == pytest.approx(50 / 60)
    assert misses.refused == pytest.approx(0.4)


def test_more_drops_than_refusals_leave_no_refusal() -> None:
    """Callers of those that are dropped may see that the deadline is over instead."""
    misses = Misses(1.0, 10, Counter({"OK": 6, "DEADLINE_EXCEEDED": 4}))
    assert (misses.refused, misses.kept) == (0.0, 0.6)
