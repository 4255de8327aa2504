"""Metrics of files that are read again when they change, and could not be used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric


class ReloadCollector(Collector):
    """Shows how often each kind of file could not be used."""

    def __init__(self) -> None:
        self._failures: list[Mapping[str, int]] = []

    def show(self, failures: Mapping[str, int]) -> None:
        """Shows these counts too, by kind of file, as they are at each collection."""
        self._failures.append(failures)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        family = CounterMetricFamily(
            "embercache_reload_failures",
            "Changes of files that could not be used, so that what was read before stayed.",
            labels=["file"],
        )
        for failures in self._failures:
            for file, count in failures.items():
                family.add_metric([file], count)
        yield family
