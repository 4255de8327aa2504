"""How many tasks the event loop has: a leak of them is one of memory and, in the end, of time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric


class TaskCollector(Collector):
    """Counts the tasks of a loop when metrics are asked for, which may be on another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def collect(self) -> Iterator[Metric]:
        """The gauge."""
        tasks = len(asyncio.all_tasks(self._loop))
        yield GaugeMetricFamily("embercache_tasks", "Tasks of the event loop.", value=tasks)
