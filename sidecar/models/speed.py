"""How fast a queue is worked off: measured, not configured."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What was measured so many seconds of work ago counts for a third.
_MEMORY_SECONDS = 0.5
# Less than this is no measurement: the first runs are slow.
_LEAST_SECONDS = 0.1
# By how much at most. Measured: a run of 8 tokens by 2, with what a run costs besides its tokens.
_SMALL_RUNS_ARE_SLOWER = 3.0
# Of places: what was measured so many departures ago counts for a third.
_MEMORY_DEPARTURES = 8
# Without a new one an estimate counts for so long, or for as long as that many departures take.
_DEPARTURES_SECONDS = 60.0


class Speed:
    """A running estimate of the work done in a second. Sums are kept: long runs count for more."""

    def __init__(self) -> None:
        self._work = 0.0
        self._seconds = 0.0

    @property
    def per_second(self) -> float | None:
        """The estimate; None as long as too little was measured."""
        return self._work / self._seconds if self._seconds >= _LEAST_SECONDS else None

    def measured(self, work: float, seconds: float, *, while_others_waited: bool) -> None:
        """Takes note of work, and of how long it took.

        With nothing else to do, a run may be small and dear: it only tells of a speed that is
        larger than the estimate, or so much smaller that this does not explain it.
        """
        if not while_others_waited:
            here, before = work * self._seconds, self._work * seconds
            if here <= before <= _SMALL_RUNS_ARE_SLOWER * here:
                return
        kept = math.exp(-seconds / _MEMORY_SECONDS)
        self._work = self._work * kept + work
        self._seconds = self._seconds * kept + seconds


class Departures:
    """How fast those who wait for a place get one: told by those who leave theirs of late.

    One who stays long counts as one of several. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._count = 0.0
        self._seconds = 0.0
        self._measured_at = -math.inf
        self._waited_since: float | None = None

    @property
    def per_second(self) -> float | None:
        """The estimate; None if nothing was measured of late."""
        if self._seconds <= 0:
            return None
        per_second = self._count / self._seconds
        counts_for = max(_DEPARTURES_SECONDS, _MEMORY_DEPARTURES / per_second)
        return per_second if self._clock() - self._measured_at <= counts_for else None

    def left(self, *, others_wait: bool) -> None:
        """Takes note that somebody has left his place."""
        now = self._clock()
        if self._waited_since is not None:
            kept = math.exp(-1 / _MEMORY_DEPARTURES)
            self._count = self._count * kept + 1
            self._seconds = self._seconds * kept + now - self._waited_since
            self._measured_at = now
        elif others_wait and self.per_second is None:
            self._count = self._seconds = 0.0
        self._waited_since = now if others_wait else None
