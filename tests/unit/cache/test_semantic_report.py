from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, get_args

import pytest

from sidecar.cache import semantic_report
from sidecar.cache.semantic_report import OTHERS, Band, Outcome, SemanticReport

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTCOMES = get_args(Outcome)


def bands(report: SemanticReport, namespace: str = "n") -> Sequence[Band]:
    return dict(report.items())[namespace]


def hit(report: SemanticReport) -> Band:
    """The one band that something was counted in."""
    (band,) = [band for band in bands(report) if band.looked_up]
    return band


@pytest.mark.parametrize(
    ("similarity", "lower", "upper"),
    [
        (-1.0, -1.0, 0.70),
        (0.0, -1.0, 0.70),
        (0.6999, -1.0, 0.70),
        (0.70, 0.70, 0.75),
        (0.93, 0.925, 0.95),
        (0.95, 0.95, 0.97),
        (0.99, 0.99, 0.995),
        (0.9949, 0.99, 0.995),
        (0.995, 0.995, 1.0),
        (1.0, 0.995, 1.0),
        (1.0000001, 0.995, 1.0),
        (-1.0000001, -1.0, 0.70),
    ],
)
def test_a_lookup_is_counted_in_the_band_of_its_similarity(
    similarity: float, lower: float, upper: float
) -> None:
    report = SemanticReport()
    report.count("n", similarity, "answered")
    assert (hit(report).lower, hit(report).upper) == (lower, upper)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_each_outcome_has_a_count_of_its_own(outcome: Outcome) -> None:
    report = SemanticReport()
    report.count("n", 0.96, outcome)
    report.count("n", 0.96, outcome)
    counts = {name: value for name, value in asdict(hit(report)).items() if value == 2}
    assert set(counts) == {"looked_up", outcome}


def test_bands_are_side_by_side_and_cover_every_cosine() -> None:
    report = SemanticReport()
    report.count("n", 0.5, "below_threshold")
    found = bands(report)
    assert (found[0].lower, found[-1].upper) == (-1, 1)
    assert [band.upper for band in found[:-1]] == [band.lower for band in found[1:]]


def test_namespaces_are_counted_apart() -> None:
    report = SemanticReport()
    report.count("a", 0.96, "answered")
    report.count("b", 0.96, "refused_by_guard")
    assert sum(band.answered for band in bands(report, "a")) == 1
    assert sum(band.answered for band in bands(report, "b")) == 0


def test_the_number_of_namespaces_is_bounded_and_none_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(semantic_report, "MAX_NAMESPACES", 3)
    report = SemanticReport()
    for name in ("a", "b", "c", "d", "e", "a"):
        report.count(name, 0.96, "answered")
    counts = {name: sum(band.looked_up for band in found) for name, found in report.items()}
    assert counts == {"a": 2, "b": 1, "c": 1, OTHERS: 2}


def test_nothing_is_reported_of_a_namespace_that_never_looked_anything_up() -> None:
    assert not SemanticReport().items()
