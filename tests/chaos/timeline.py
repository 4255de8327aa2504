"""What was disturbed when, and which calls that can excuse.

Times are those of ``time.time``, in seconds: entries tell their age by it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.chaos.parts import ENCODERS, REDIS, link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Interval = tuple[float, float]


@dataclass
class Disturbance:
    """Something done to a part, from ``start`` to ``end``; it has not ended yet if that is inf."""

    part: str
    kind: str
    detail: str
    start: float
    end: float = math.inf

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return min(self.end, time.time()) - self.start


@dataclass
class Timeline:
    """All disturbances of a run. Parts are named as in `tests.chaos.parts`."""

    began: float = field(default_factory=time.time)
    disturbances: list[Disturbance] = field(default_factory=list)

    def begin(self, part: str, kind: str, detail: str = "") -> Disturbance:
        """Takes note of the beginning; whoever ends it sets its ``end``."""
        disturbance = Disturbance(part, kind, detail, time.time())
        self.disturbances.append(disturbance)
        return disturbance

    def of(
        self,
        parts: Iterable[str],
        start: float,
        end: float,
        recovery: Callable[[Disturbance], float] = lambda _: 0.0,
    ) -> list[Interval]:
        """When parts were disturbed between two moments, each time with what it took to recover."""
        wanted = set(parts)
        found = []
        for one in self.disturbances:
            if one.part in wanted and one.start < end:
                until = one.end + recovery(one)
                if until > start:
                    found.append((max(one.start, start), min(until, end)))
        return found

    def around(self, start: float, end: float, seconds: float = 15.0) -> list[str]:
        """What was disturbed around a call, in words."""
        return [
            self.words(one)
            for one in self.disturbances
            if one.start < end + 1 and one.end > start - seconds
        ]

    def words(self, one: Disturbance) -> str:
        """One disturbance, its times counted from the beginning of the run."""
        end = "..." if math.isinf(one.end) else f"{one.end - self.began:.2f}"
        return (
            f"{one.start - self.began:.2f} to {end} s: {one.part}: {one.kind} {one.detail}".strip()
        )


def overlap(groups: Sequence[Sequence[Interval]]) -> bool:
    """Whether there is a moment that lies in an interval of every group."""
    common = list(groups[0]) if groups else []
    for group in groups[1:]:
        common = [
            (max(a[0], b[0]), min(a[1], b[1]))
            for a in common
            for b in group
            if max(a[0], b[0]) < min(a[1], b[1])
        ]
    return bool(common)


def length(intervals: Sequence[Interval]) -> float:
    """The seconds that lie in at least one of the intervals."""
    total, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


class Circumstances:
    """What a sidecar could reach at a time, by what was done to the parts and how it recovers.

    What is said here of recovery is what calls are held to.
    """

    def __init__(self, timeline: Timeline) -> None:
        self.timeline = timeline

    def down(self, sidecar: str, start: float, end: float) -> bool:
        """Whether the sidecar was killed, frozen or starting at some moment."""
        return bool(self.timeline.of([sidecar], start, end))

    def stopped_seconds(self, sidecar: str, start: float, end: float) -> float:
        """For how long its process did not run."""
        return length(self.timeline.of([sidecar], start, end))

    def encoder_lives(self, sidecar: str, start: float, end: float) -> bool:
        """Whether there was an encoder in reach at every moment.

        One behind a slow link counts, but not behind one that drips.
        """
        groups = [
            [
                *self.timeline.of([encoder], start, end, _pool_recovery),
                *self.timeline.of([link(sidecar, encoder)], start, end, _pool_recovery),
            ]
            for encoder in ENCODERS
        ]
        return not overlap(groups)

    def redis_reached(self, sidecar: str, start: float, end: float) -> bool:
        """Whether nothing was wrong with Redis or the way there, nor lately."""
        return not self.timeline.of([REDIS, link(sidecar, REDIS)], start, end, _redis_recovery)


def _pool_recovery(one: Disturbance) -> float:
    """gRPC connects anew within 0.5 s, but notices after 5 s that a connection is dead.

    A slow link is no disturbance.
    """
    if one.kind == "latency":
        return -math.inf
    return 7.0 if one.kind in ("half open", "black hole", "freeze") else 2.0


def _redis_recovery(_: Disturbance) -> float:
    """The breaker's back-off is 15 s at most, and a probe may take two."""
    return 17.0
