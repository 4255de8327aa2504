"""What the front door counted on its own, put to what is counted in Python."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from embercache_native import Front

    from sidecar.services.stored import StoredResponses
    from sidecar.telemetry.metrics import CallMetrics

_SETTLE_SECONDS = 1.0


class FrontCounts:
    """The calls that a front door answered; ``methods`` are their paths, and names in metrics."""

    def __init__(
        self,
        front: Front,
        methods: Mapping[str, str],
        metrics: CallMetrics,
        responses: Sequence[StoredResponses],
    ) -> None:
        self._front = front
        self._durations = {path: metrics.duration(name) for path, name in methods.items()}
        self._responses = responses

    def settle(self) -> None:
        """Counts those since this was called last."""
        for path, durations in self._durations.items():
            durations.add(*self._front.durations(path))
        for each in self._responses:
            each.settle()

    async def run(self) -> None:
        """Settles every second, so that little is lost and little waits; until cancelled."""
        while True:
            await asyncio.sleep(_SETTLE_SECONDS)
            self.settle()
