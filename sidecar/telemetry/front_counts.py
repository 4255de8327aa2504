"""What the front door counted on its own, put to what is counted in Python, and its heartbeat."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embercache_native import Front
    from prometheus_client.metrics_core import Metric

    from sidecar.services.stored import StoredResponses
    from sidecar.telemetry.metrics import CallMetrics

_SETTLE_SECONDS = 1.0
# An event loop that is as late as that is one that hangs.
_BEATS = 4

_log = structlog.get_logger()


class FrontCounts(Collector):
    """The calls that a front door answered, and metrics of its connections.

    ``methods`` are the paths of the calls, and their names in metrics. The front door answers for
    at most ``trusted`` seconds after the event loop was last seen to run: while it hangs, nothing
    is heard of what is invalidated. Nor does it for longer than ``believed_for()`` seconds more.
    """

    def __init__(
        self,
        front: Front,
        methods: Mapping[str, str],
        metrics: CallMetrics,
        responses: Sequence[StoredResponses],
        trusted: float,
        believed_for: Callable[[], float],
    ) -> None:
        self._front = front
        self._durations = {path: metrics.duration(name) for path, name in methods.items()}
        self._responses = responses
        self._trusted = trusted
        self._believed_for = believed_for

    def settle(self) -> None:
        """Counts those since this was called last."""
        for path, durations in self._durations.items():
            durations.add(*self._front.durations(path))
        for each in self._responses:
            each.settle()

    async def run(self) -> None:
        """Settles every second, so that little is lost and little waits; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._settle())
            tasks.create_task(self._beat())

    async def _settle(self) -> None:
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            try:
                self.settle()
            except Exception:
                # The heartbeat is not to end with it: all hits would go to Python for ever.
                _log.exception("what the front door answered is not counted")

    async def _beat(self) -> None:
        while True:
            self._front.trust(min(self._trusted, self._believed_for()))
            await asyncio.sleep(self._trusted / _BEATS)

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        yield GaugeMetricFamily(
            "embercache_front_connections",
            "Connections of callers to the native front door.",
            self._front.connections,
        )
        yield CounterMetricFamily(
            "embercache_front_failed_handshakes",
            "Connections to it that ended in their TLS handshake, or took too long for it.",
            self._front.failed_handshakes,
        )
