"""Exemplars: the traces that buckets of durations lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecar.telemetry.metrics import CallMetrics

if TYPE_CHECKING:
    from prometheus_client.samples import Exemplar

ONE, TWO = "1" * 32, "2" * 32


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(registry: CollectorRegistry) -> CallMetrics:
    return CallMetrics(registry)


def exemplars(registry: CollectorRegistry) -> dict[str, Exemplar]:
    """The exemplars of buckets, by their upper bounds."""
    page = exposition.generate_latest(registry).decode()
    return {
        sample.labels["le"]: sample.exemplar
        for family in parse_openmetrics(page)
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_a_bucket_leads_to_the_last_call_in_it_that_was_traced(
    registry: CollectorRegistry, metrics: CallMetrics
) -> None:
    durations = metrics.duration("Embed")
    durations.observe_traced(0.003, ONE)
    durations.observe_traced(0.004, TWO)
    durations.observe(0.0045)
    durations.observe_traced(0.0041, "")
    found = exemplars(registry)
    assert found.keys() == {"0.005"}
    assert found["0.005"].labels == {"trace_id": TWO}
    assert found["0.005"].value == 0.004
    assert found["0.005"].timestamp


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, "5e-05"), (0.05, "0.05"), (99.0, "+Inf")])
def test_an_exemplar_is_in_the_bucket_that_counts_it(
    seconds: float, bucket: str, registry: CollectorRegistry, metrics: CallMetrics
) -> None:
    metrics.duration("Embed").observe_traced(seconds, ONE)
    assert exemplars(registry).keys() == {bucket}


def test_a_call_that_was_traced_counts_like_others(
    registry: CollectorRegistry, metrics: CallMetrics
) -> None:
    metrics.duration("Embed").observe(0.5)
    metrics.duration("Embed").observe_traced(0.25, ONE)
    labels = {"method": "Embed"}
    assert registry.get_sample_value("embercache_call_seconds_count", labels) == 2
    assert registry.get_sample_value("embercache_call_seconds_sum", labels) == 0.75


def test_the_text_format_has_no_exemplars(
    registry: CollectorRegistry, metrics: CallMetrics
) -> None:
    metrics.duration("Embed").observe_traced(0.25, ONE)
    page = generate_latest(registry).decode()
    assert ONE not in page
    assert list(parse_text(page))
