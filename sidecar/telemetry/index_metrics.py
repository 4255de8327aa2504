"""Metrics of the index of documents, where it is in the memory of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric


@runtime_checkable
class _Bounded(Protocol):
    """An index with a bound on its memory."""

    capacity_bytes: int

    @property
    def bytes(self) -> int: ...


class IndexCollector(Collector):
    """Shows how much memory the documents of an index take, if they are in memory."""

    def __init__(self, index: object) -> None:
        self._index = index

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        if isinstance(self._index, _Bounded):
            yield GaugeMetricFamily(
                "embercache_index_bytes",
                "Memory of the documents in the index.",
                value=self._index.bytes,
            )
            yield GaugeMetricFamily(
                "embercache_index_capacity_bytes",
                "Most memory that they may take.",
                value=self._index.capacity_bytes,
            )
