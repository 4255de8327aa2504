"""The last quarter of an hour of a sidecar, in steps of two seconds, for those who look at it.

Counters are kept where things happen; here they are looked at now and then, and what was added
between two looks is kept. Nothing of this is on the path of a call.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from sidecar.telemetry.metrics import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from embercache import Stats

STEP_SECONDS = 2.0
MAX_STEPS = 450
"""A quarter of an hour."""
_MINUTE_STEPS = 30
# Their durations are those of whole streams, which callers choose.
_STREAMS = ("EmbedStream", "GenerateStream", "Warm", "MigrateModel")


@dataclass(frozen=True, slots=True)
class Look:
    """Counters at one moment; in ``stats`` none by use, which may be many.

    ``durations`` count the calls of each method that ended well, by the `BUCKETS` of their
    durations; ``failures`` those of each method and status that did not. ``invalidations`` are the
    changes that were heard of, ``breakers`` what is left alone.
    """

    stats: Stats
    durations: Mapping[str, Sequence[int]]
    failures: Mapping[tuple[str, str], int]
    invalidations: int
    breakers: Mapping[str, bool]


class Step(NamedTuple):
    """What came between two looks; ``at`` is the second one's time, in milliseconds since 1970.

    Durations are in milliseconds, None where no call ended. ``redis`` is 1 if it was up, 0 if it
    was left alone, None if there is none.
    """

    number: int
    at: int
    seconds: float
    hot: int
    disk: int
    warm: int
    computed: int
    coalesced: int
    failed: int
    calls: int
    calls_failed: int
    p50_ms: float | None
    p99_ms: float | None
    queued: int
    invalidations: int
    redis: int | None


class MethodInBrief(NamedTuple):
    """The calls of a method in the last minute, and how long those took that ended well."""

    method: str
    calls: int
    failed: Mapping[str, int]
    p50_ms: float | None
    p99_ms: float | None


class History:
    """The last `MAX_STEPS` steps. Used from one event loop.

    ``look`` reads the counters, ``clock`` gives monotonic seconds, ``wall`` seconds since 1970.
    """

    def __init__(
        self,
        look: Callable[[], Look],
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._look = look
        self._clock = clock
        self._wall = wall
        self.steps: deque[Step] = deque(maxlen=MAX_STEPS)
        self.now = look()
        # The oldest is what the last minute began with.
        self._minute: deque[Look] = deque([self.now], maxlen=_MINUTE_STEPS + 1)
        self._looked_at = clock()
        self._number = 0

    @property
    def minute_ago(self) -> Look:
        """The counters a minute ago, or at the first look."""
        return self._minute[0]

    def since(self, number: int) -> list[Step]:
        """The steps after that one."""
        first = self.steps[0].number if self.steps else 0
        return list(islice(self.steps, max(0, number + 1 - first), None))

    def take(self) -> None:
        """Looks, and keeps what has come since the last look."""
        before, self.now = self.now, self._look()
        now, clock = self.now, self._clock()
        self._number += 1
        self.steps.append(
            _step(before, now, self._number, clock - self._looked_at, round(self._wall() * 1000))
        )
        self._looked_at = clock
        self._minute.append(now)

    def methods(self) -> list[MethodInBrief]:
        """The methods that were called in the last minute, the busiest first."""
        before, now = self.minute_ago, self.now
        failed: dict[str, dict[str, int]] = {}
        for (method, code), count in now.failures.items():
            if new := count - before.failures.get((method, code), 0):
                failed.setdefault(method, {})[code] = new
        found = []
        for method in {*now.durations, *failed}:
            counts = _new(before.durations.get(method, ()), now.durations.get(method, ()))
            codes = failed.get(method, {})
            if calls := sum(counts) + sum(codes.values()):
                times = quantile_ms(counts, 0.5), quantile_ms(counts, 0.99)
                found.append(MethodInBrief(method, calls, codes, *times))
        return sorted(found, key=lambda each: -each.calls)

    def latency_ms(self) -> tuple[float | None, float | None]:
        """Median and 99th percentile of the calls of the last minute, streams left out."""
        counts = _calls(self.minute_ago, self.now)
        return quantile_ms(counts, 0.5), quantile_ms(counts, 0.99)


def quantile_ms(counts: Sequence[int], share: float) -> float | None:
    """About how many milliseconds that share of calls took at most; None if there were none.

    ``counts`` has one number for each of `BUCKETS` and one for what took longer, which is taken for
    the last bound. Within a bucket durations are taken to be spread evenly.
    """
    left = share * sum(counts)
    if not left:
        return None
    lower = 0.0
    for bound, count in zip(BUCKETS, counts, strict=False):
        if count and left <= count:
            return (lower + (bound - lower) * left / count) * 1000
        left -= count
        lower = bound
    return BUCKETS[-1] * 1000


def _step(before: Look, now: Look, number: int, seconds: float, at: int) -> Step:
    tiers = {
        name: tier.answered - before.stats.tiers[name].answered
        for name, tier in now.stats.tiers.items()
    }
    counts = _calls(before, now)
    answered = _ended_well(now) - _ended_well(before)
    failed = sum(now.failures.values()) - sum(before.failures.values())
    return Step(
        number=number,
        at=at,
        seconds=seconds,
        hot=tiers["hot"],
        disk=tiers["disk"],
        warm=tiers["warm"],
        computed=tiers["computed"],
        coalesced=tiers["coalesced"],
        failed=now.stats.items_failed - before.stats.items_failed,
        calls=answered + failed,
        calls_failed=failed,
        p50_ms=quantile_ms(counts, 0.5),
        p99_ms=quantile_ms(counts, 0.99),
        queued=_queued(now.stats),
        invalidations=now.invalidations - before.invalidations,
        redis=None if now.stats.warm.state == "off" else int(now.stats.warm.state == "up"),
    )


def _calls(before: Look, now: Look) -> list[int]:
    """The calls between two looks, of all methods but streams, by their durations."""
    counts = [0] * (len(BUCKETS) + 1)
    for method, buckets in now.durations.items():
        if method not in _STREAMS:
            new = _new(before.durations.get(method, ()), buckets)
            counts = [mine + more for mine, more in zip(counts, new, strict=True)]
    return counts


def _ended_well(look: Look) -> int:
    return sum(map(sum, look.durations.values()))


def _queued(stats: Stats) -> int:
    generations = sum(each.queued for each in stats.generators)
    return generations + sum(each.queued for each in stats.models)


def _new(before: Sequence[int], now: Sequence[int]) -> list[int]:
    """What was added to each bucket; nothing was there before a method's first call."""
    if not before:
        return list(now)
    return [count - old for count, old in zip(now, before, strict=True)]
