"""The tiers of a fleet in virtual time: the real hot tier in every pod, a model of Redis.

A text takes the path of `sidecar.cache.read_through`: a stored response, the entry, what is being
computed for somebody else in this pod, Redis, the model. What was computed is kept in memory and
written to Redis, where the first writer wins. A lookup in Redis takes no time here.
"""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from bench.simulate_redis import Policy, SimulatedRedis
from bench.simulate_traffic import BIN_SECONDS, DAY, calls, restarts
from sidecar.cache.accounts import Account

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.simulate_traffic import Calls, Restart, Scale, Traffic
    from sidecar.cache.hot import HotTier

    MakeHot = Callable[[int, Callable[[], float]], HotTier[Any]]

_KEY_BYTES = 8


@dataclass(frozen=True)
class Sizes:
    """Bytes of what is kept, and how long it lives and takes, in seconds.

    ``item_bytes`` and ``response_bytes`` are of key and payload in memory, ``redis_bytes`` of all
    that an entry takes in Redis. ``redis_max_bytes`` 0 is no bound.
    """

    item_bytes: int
    response_bytes: int
    redis_bytes: float
    hot_max_bytes: int = 256 * 2**20
    redis_max_bytes: float = 0
    redis_policy: Policy = "allkeys-lru"
    query_ttl: float = DAY
    ttl_jitter: float = 0.1
    model_seconds: float = 0.0


@dataclass(slots=True)
class Counts:
    """Texts by what answered: memory, somebody else's computation in the pod, Redis, the model.

    So they add up to ``asked``; ``warm`` and ``model`` add up to the lookups in Redis, and each
    computation is one write there.
    """

    asked: float = 0
    hot: float = 0
    coalesced: float = 0
    warm: float = 0
    model: float = 0

    @property
    def lookups(self) -> float:
        """Texts looked up in Redis."""
        return self.warm + self.model

    def __mul__(self, weight: float) -> Counts:
        return Counts(*(getattr(self, each.name) * weight for each in fields(self)))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, e.name) + getattr(other, e.name) for e in fields(self)))


@dataclass(frozen=True)
class Bin:
    """A stretch of time: texts of callers and of the batch job, and entries in Redis at its end."""

    queries: Counts
    documents: Counts
    entries: float


@dataclass
class Pod:
    """The memory of one sidecar. ``version`` is that of its model, ``life`` counts restarts."""

    hot: HotTier[Any]
    flights: set[bytes] = field(default_factory=set)
    version: int = 0
    life: int = 0


def simulate(
    traffic: Traffic, scale: Scale, sizes: Sizes, make_hot: MakeHot, seed: int = 0
) -> list[Bin]:
    """What happens in each `BIN_SECONDS`, in the whole fleet; the same for the same seed."""
    fleet = Fleet(scale, sizes, make_hot, seed)
    todo = restarts(traffic, scale)[::-1]
    return [fleet.run(each, todo) for each in calls(traffic, scale, seed)]


class Fleet:
    """Pods and the Redis that they share."""

    def __init__(self, scale: Scale, sizes: Sizes, make_hot: MakeHot, seed: int) -> None:
        self.now = 0.0
        self._sizes = sizes
        self._weight = scale.weight
        self._random = random.Random(seed)
        self._redis = SimulatedRedis(
            sizes.redis_bytes, sizes.redis_max_bytes / scale.weight, sizes.redis_policy, seed
        )
        self._account = Account("embed", "default", "model")
        capacity = sizes.hot_max_bytes // scale.texts_per_key
        self._make_hot = lambda: make_hot(capacity, lambda: self.now)
        self.pods = [Pod(self._make_hot()) for _ in range(scale.pods)]
        # What the models are at work on, by when it is done.
        self._work: list[tuple[float, int, int, int, bytes, tuple[int, int], float]] = []
        self._begun = 0

    def run(self, asked: Calls, todo: list[Restart]) -> Bin:
        """Goes on to the end of some calls; takes the restarts that are due from the end."""
        queries, documents = Counts(), Counts()
        columns = (asked.times, asked.pods, asked.keys, asked.groups, asked.documents)
        lists = (each.tolist() for each in columns)
        for time, pod, key, group, document in zip(*lists, strict=True):
            while todo and todo[-1].time <= time:
                self._restart(todo.pop())
            while self._work and self._work[0][0] <= time:
                self._compute_done()
            self.now = time
            counts = documents if document else queries
            counts.asked += 1
            self._ask(pod, key.to_bytes(_KEY_BYTES), group, document, counts)
        self._redis.expire(self.now)
        entries = len(self._redis) * self._weight
        return Bin(queries * self._weight, documents * self._weight, entries)

    def _ask(self, number: int, key: bytes, group: int, document: bool, counts: Counts) -> None:
        pod = self.pods[number]
        hot = pod.hot
        # A batch is hardly ever asked for again as it was, so only the others have responses.
        response = b"r" + key
        if not document and hot.get(response) is not None:
            counts.hot += 1
            return
        held = hot.get(key)
        if held is not None:
            counts.hot += 1
            if not document:
                self._keep(hot, response, self._sizes.response_bytes, held.expires)
            return
        if key in pod.flights:
            counts.coalesced += 1
            return
        name = (pod.version, group)
        expires = self._redis.get(name, self.now)
        if expires is not None:
            counts.warm += 1
            self._keep(hot, key, self._sizes.item_bytes, expires)
            return
        counts.model += 1
        self._begun += 1
        pod.flights.add(key)
        done = self.now + self._sizes.model_seconds
        lifetime = math.inf if document else self._lifetime()
        work = (done, self._begun, number, pod.life, key, name, lifetime)
        heapq.heappush(self._work, work)

    def _compute_done(self) -> None:
        self.now, _, number, life, key, name, lifetime = heapq.heappop(self._work)
        expires = self.now + lifetime
        self._redis.set_nx(name, self.now, expires)
        pod = self.pods[number]
        if pod.life == life:
            pod.flights.remove(key)
            self._keep(pod.hot, key, self._sizes.item_bytes, expires)

    def _keep(self, hot: HotTier[Any], key: bytes, size: int, expires: float) -> None:
        hot.put(key, None, size - len(key), self._account, ttl=expires - self.now)

    def _restart(self, restart: Restart) -> None:
        pod = self.pods[restart.pod]
        pod.hot = self._make_hot()
        pod.flights.clear()
        pod.life += 1
        pod.version += restart.new_version

    def _lifetime(self) -> float:
        return self._sizes.query_ttl * (1 - self._sizes.ttl_jitter * self._random.random())


def between(bins: list[Bin], begin: float, end: float) -> list[Bin]:
    """Those of some time, in seconds from the start."""
    return bins[round(begin / BIN_SECONDS) : round(end / BIN_SECONDS)]
