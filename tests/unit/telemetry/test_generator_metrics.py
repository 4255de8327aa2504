"""Counters of generators, from the generator to the page of metrics."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

from embercache.v1 import cache_pb2

from sidecar.models.generation import GeneratorCounters
from sidecar.services.generator_stats import generator_stats
from sidecar.telemetry.generator_metrics import generators

NAMES = [each.name for each in fields(GeneratorCounters)]


def told() -> cache_pb2.GeneratorStats:
    """What is told of a generator each of whose counters has another value."""
    counters = {name: place for place, name in enumerate(NAMES, 1)}
    generator: Any = SimpleNamespace(
        info=SimpleNamespace(name="mine", version="1"),
        counters=GeneratorCounters(**counters),  # type: ignore[arg-type]
        queued=0,
        active=0,
        prefix_report=lambda: None,
    )
    return generator_stats(generator)


def test_every_counter_is_in_the_statistics() -> None:
    assert [getattr(told(), name) for name in NAMES] == list(range(1, len(NAMES) + 1))


def test_every_counter_is_a_metric() -> None:
    families = {
        each.name: each for each in generators(cache_pb2.StatsResponse(generators=[told()]))
    }
    metrics = [families[f"embercache_generator_{name}"].samples for name in NAMES]
    assert [each.value for samples in metrics for each in samples] == [*range(1, len(NAMES) + 1)]
    assert {each.labels["model"] for samples in metrics for each in samples} == {"mine"}
