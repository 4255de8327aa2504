"""Made-up traffic of a fleet: who asks for which text when, and which pods restart.

Of a large fleet only a sample is drawn, in two ways that leave the rate of each text at each pod
as it is:

- *Texts*: one stands for ``texts_per_key`` texts that are next to each other in popularity, as
  popular as they are on average, and the tiers are made smaller by as much. That is the spatial
  sampling of C. Waldspurger, N. Park, A. Garthwaite, I. Ahmad, "Efficient MRC construction with
  SHARDS", FAST 2015; strata of popularity take the place of its random choice, so that the sample
  has as many requests as it should.
- *Pods*: ``pods`` of them are there. For Redis, which sees them all, ``keys_per_group`` texts
  that are next to each other count as one text: as many pods by as many texts are as many
  independent streams of misses as that one text has in the whole fleet.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bench.zipf import zipf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

HOUR, DAY = 3600.0, 86_400.0
BIN_SECONDS = 300.0
"""The time over which rates are taken, peaks too."""

# Ranges of numbers of keys, so that no two kinds of texts meet.
_ONE_OFF, _DOCUMENT, _FLASH = 1 << 60, 2 << 60, 3 << 60
# Times, pods, keys, groups, whether documents.
_Columns: TypeAlias = "tuple[NDArray[Any], ...]"
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Traffic:
    """What is asked of a fleet, from midnight on. Hours count from the start of each day.

    ``rate`` is of texts a second at each pod, on the average of a day; the ``swing`` of the day is
    a cosine around it with its peak at 14:00. Texts that are asked for again have Zipf's
    popularity; each gives its place to a new one after ``churn_days``. A ``one_off`` share is
    asked for once and never again. Each day ``documents`` are read once, in calls of ``batch``,
    through a tenth of the pods; all pods restart, one after the other; and for some minutes as much
    again is asked for, about ``flash_texts`` that are new. At ``version_at`` seconds from the start
    a restart brings another version of the model, for which nothing is cached.
    """

    rate: float = 10.0
    swing: float = 0.6
    texts: int = 10_000_000
    alpha: float = 0.9
    one_off: float = 0.2
    churn_days: float = 7.0
    documents: int = 1_000_000
    batch: int = 64
    scan_hour: float = 2.0
    scan_hours: float = 2.0
    deploy_hour: float = 10.0
    deploy_minutes: float = 20.0
    flash_hour: float = 17.0
    flash_minutes: float = 10.0
    flash_texts: int = 50_000
    seconds: float = 2 * DAY + 12 * HOUR
    version_at: float = 2 * DAY + 10 * HOUR


@dataclass(frozen=True)
class Scale:
    """What part of a fleet of ``fleet`` pods is simulated; see above. Exact, if all ones."""

    fleet: int
    pods: int
    texts_per_key: int = 1
    keys_per_group: int = 1

    @property
    def weight(self) -> float:
        """The requests for which one of the simulation stands."""
        return self.texts_per_key * self.fleet / self.pods


@dataclass(frozen=True)
class Calls:
    """Texts asked for, in the order of ``times`` (seconds), each by number.

    ``groups`` are the numbers under which Redis knows them; ``documents`` says which are read by
    the batch job.
    """

    times: NDArray[np.float64]
    pods: NDArray[np.int64]
    keys: NDArray[np.int64]
    groups: NDArray[np.int64]
    documents: NDArray[np.bool_]


@dataclass(frozen=True)
class Restart:
    """A pod that comes up anew with nothing in memory, maybe with another model version."""

    time: float
    pod: int
    new_version: bool


def scale_for(fleet: int, traffic: Traffic, requests: float, most_pods: int = 100) -> Scale:
    """A scale at which about so many requests are simulated."""
    per_pod = math.ceil(fleet / most_pods)
    pods = round(fleet / per_pod)
    expected = pods * traffic.rate * traffic.seconds
    return Scale(fleet, pods, max(1, math.ceil(expected / requests)), per_pod)


def restarts(traffic: Traffic, scale: Scale) -> list[Restart]:
    """All restarts in their order. One that brings a new version takes the daily one's place."""
    begins = [
        (day * DAY + traffic.deploy_hour * HOUR, False)
        for day in range(math.ceil(traffic.seconds / DAY))
    ]
    begins = [each for each in begins if abs(each[0] - traffic.version_at) > HOUR]
    begins.append((traffic.version_at, True))
    step = traffic.deploy_minutes * 60 / scale.pods
    return [
        Restart(begin + pod * step, pod, new_version)
        for begin, new_version in sorted(begins)
        for pod in range(scale.pods)
        if begin + pod * step < traffic.seconds
    ]


def calls(traffic: Traffic, scale: Scale, seed: int) -> Iterator[Calls]:
    """The calls of each `BIN_SECONDS`; the same for the same seed."""
    source = _Source(traffic, scale, np.random.default_rng(seed))
    for begin in np.arange(0.0, traffic.seconds, BIN_SECONDS):
        yield source.calls(float(begin), min(float(begin) + BIN_SECONDS, traffic.seconds))


class _Source:
    def __init__(self, traffic: Traffic, scale: Scale, rng: np.random.Generator) -> None:
        self._traffic, self._scale, self._rng = traffic, scale, rng
        self._popular = _popularity(traffic.texts, traffic.alpha, scale.texts_per_key)
        self._one_offs = 0

    def calls(self, begin: float, end: float) -> Calls:
        """The calls of a part of the time, in their order."""
        parts = [self._queries(begin, end), self._flash(begin, end), self._scan(begin, end)]
        joined = [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return Calls(*(column[order] for column in joined))

    def _queries(self, begin: float, end: float) -> _Columns:
        traffic, scale = self._traffic, self._scale
        times = self._arrivals(begin, end, self._rate((begin + end) / 2))
        count = len(times)
        drawn = np.searchsorted(self._popular, self._rng.random(count) * self._popular[-1])
        groups = drawn // scale.keys_per_group
        # Not all at once: each group changes at a moment of its own.
        age = times / (traffic.churn_days * DAY) + groups * _GOLDEN % 1
        version = age.astype(np.int64)
        keys = version * len(self._popular) + drawn
        groups = version * len(self._popular) + groups
        once = self._rng.random(count) < traffic.one_off
        new = _ONE_OFF + self._one_offs + np.arange(once.sum())
        self._one_offs += len(new)
        keys[once] = groups[once] = new
        pods = self._rng.integers(scale.pods, size=count)
        return times, pods, keys, groups, np.zeros(count, bool)

    def _flash(self, begin: float, end: float) -> _Columns:
        traffic, scale = self._traffic, self._scale
        starts = begin // DAY * DAY + traffic.flash_hour * HOUR
        begin, end = max(begin, starts), min(end, starts + traffic.flash_minutes * 60)
        rate = self._rate((begin + end) / 2) if traffic.flash_texts else 0.0
        times = self._arrivals(begin, end, rate)
        count = len(times)
        number = max(1, traffic.flash_texts // scale.texts_per_key)
        drawn = zipf(self._rng, traffic.alpha, number if count else 1, count)
        base = _FLASH + int(starts // DAY) * number
        pods = self._rng.integers(scale.pods, size=count)
        groups = base + drawn // scale.keys_per_group
        return times, pods, base + drawn, groups, np.zeros(count, bool)

    def _scan(self, begin: float, end: float) -> _Columns:
        traffic, scale = self._traffic, self._scale
        starts = begin // DAY * DAY + traffic.scan_hour * HOUR
        number = round(traffic.documents / scale.weight)
        step = traffic.scan_hours * HOUR / max(1, number)
        first, last = (min(max(math.ceil((at - starts) / step), 0), number) for at in (begin, end))
        documents = np.arange(first, last)
        readers = max(1, scale.pods // 10)
        keys = _DOCUMENT + documents
        times = starts + documents * step
        return times, documents % readers, keys, keys, np.ones(len(keys), bool)

    def _rate(self, time: float) -> float:
        """Of texts a second at each pod."""
        angle = 2 * math.pi * (time - 14 * HOUR) / DAY
        return self._traffic.rate * (1 + self._traffic.swing * math.cos(angle))

    def _arrivals(self, begin: float, end: float, rate: float) -> NDArray[np.float64]:
        if end <= begin:
            return np.zeros(0)
        expected = rate * self._scale.pods / self._scale.texts_per_key * (end - begin)
        return begin + np.sort(self._rng.random(self._rng.poisson(expected))) * (end - begin)


def _popularity(texts: int, alpha: float, texts_per_key: int) -> NDArray[np.float64]:
    """Sums of the popularity of keys, each that of so many texts, from the most popular on."""
    sums = np.cumsum(np.arange(1, texts + 1) ** -alpha)
    ends = np.minimum(np.arange(1, -(-texts // texts_per_key) + 1) * texts_per_key, texts)
    return sums[ends - 1]
