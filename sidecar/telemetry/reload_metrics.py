"""Metrics of files that are read again when they change, and could not be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric


class ReloadCollector(Collector):
    """Shows how often each kind of file could not be used, from counts that change meanwhile."""

    def __init__(self, failures: Mapping[str, int]) -> None:
        self._failures = failures

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        family = CounterMetricFamily(
            "embercache_reload_failures",
            "Changes of files that could not be used, so that what was read before stayed.",
            labels=["file"],
        )
        for file, count in self._failures.items():
            family.add_metric([file], count)
        yield family
