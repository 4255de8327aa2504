"""What was disturbed when, and which calls that can excuse.

Times are those of ``time.time``, in seconds: entries tell their age by it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tests.chaos.breakers import CAUSES, may_be_open
from tests.chaos.parts import DRAIN_DELAY, ENCODERS, REDIS, SIDECARS, link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.chaos.breakers import Episode, Interval

ENCODER, INDEX, NEWS = "encoder", "index", "redis"
"""What a call may need beside its sidecar. Each way of a sidecar to Redis has a breaker of this
name: for documents, and for entries and news of changes."""

STILL_TAKEN = DRAIN_DELAY / 2
"""For how long after SIGTERM a call must be taken. The delay itself is for the sidecar, which hears
of the signal later; half of it is for the way of a call to the sidecar."""

_TICK = 0.1

FOLLOWED_AGAIN = 4.0
"""A read of the stream of changes that was under way in an outage is given up after 3 s; then it
is read again."""


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

    What is said here of recovery is what calls are held to. ``episodes`` gives what the log of a
    sidecar says of a breaker, by process.
    """

    def __init__(
        self,
        timeline: Timeline,
        episodes: Callable[[str, str], Sequence[Sequence[Episode]]] = lambda sidecar, breaker: (),
    ) -> None:
        self.timeline = timeline
        self._episodes = episodes

    def down(self, sidecar: str, start: float, end: float) -> bool:
        """Whether the sidecar was killed, frozen, ended or starting at some moment.

        A call that it must have taken before it ended was not at one that is down: it is drained.
        """
        return any(
            one.part == sidecar and one.start < end and one.end > start
            for one in self.timeline.disturbances
            if one.kind != "restart" or start > one.start + STILL_TAKEN
        )

    def drained(self, sidecar: str, start: float, end: float) -> bool:
        """Whether a call was under way in a sidecar that was asked to end."""
        return any(
            one.part == sidecar
            and one.kind == "restart"
            and start <= one.start + STILL_TAKEN
            and one.start < end
            for one in self.timeline.disturbances
        )

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

    def redis_reached(self, sidecar: str, breaker: str, start: float, end: float) -> bool:
        """Whether nothing was wrong with Redis or the way there, and it was not left alone.

        Documents are found over a slow link too: there is time for that.
        """
        recovery = _index_recovery if breaker == INDEX else _news_recovery
        if self.timeline.of([REDIS, link(sidecar, REDIS)], start, end, recovery):
            return False
        parts = (REDIS, link(sidecar, REDIS), sidecar)
        outages = [(one.start, one.end) for one in self.timeline.disturbances if one.part in parts]
        return not any(
            opened < end and closed > start
            for episodes in self._episodes(sidecar, breaker)
            for opened, closed in may_be_open(episodes, outages)
        )

    def left_alone(self) -> list[Disturbance]:
        """When the logs say that a breaker was open, for readers of a report."""
        return [
            Disturbance(sidecar, "leaves alone", f"{breaker}: {one.reason}", one.opened, one.closed)
            for sidecar in SIDECARS
            for breaker in (INDEX, NEWS)
            for episodes in self._episodes(sidecar, breaker)
            for one in episodes
        ]

    def shares_of_time(self, start: float, end: float) -> dict[str, float]:
        """Of the time between two moments, for how much each sidecar was held to what.

        Calls are fewer while they wait for something: this is how much a run has tried.
        """
        moments = np.arange(start, end, _TICK).tolist()
        shares = {}
        for sidecar in SIDECARS:
            held = {
                "itself": [not self.down(sidecar, at, at) for at in moments],
                ENCODER: [self.encoder_lives(sidecar, at, at + _TICK) for at in moments],
                INDEX: [self.redis_reached(sidecar, INDEX, at, at) for at in moments],
                NEWS: [self.redis_reached(sidecar, NEWS, at, at) for at in moments],
            }
            shares |= {f"{sidecar}, {need}": sum(ok) / len(ok) for need, ok in held.items()}
        return shares

    def follows(self, sidecar: str, start: float, end: float) -> bool:
        """Whether the sidecar heard all the time of what others invalidate."""
        return self.redis_reached(sidecar, NEWS, start - FOLLOWED_AGAIN, end)


def _pool_recovery(one: Disturbance) -> float:
    """gRPC connects anew within 0.5 s, but notices after 5 s that a connection is dead.

    A slow link is no disturbance.
    """
    if one.kind == "latency":
        return -math.inf
    return 7.0 if one.kind in ("half open", "black hole", "freeze") else 2.0


def _news_recovery(one: Disturbance) -> float:
    """Nobody was told that a connection is dead which was left half open: a call finds out."""
    return CAUSES if one.kind == "half open" else 0.0


def _index_recovery(one: Disturbance) -> float:
    return -math.inf if one.kind == "latency" else _news_recovery(one)
