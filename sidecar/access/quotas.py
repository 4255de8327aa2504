"""What each namespace may take, and what it takes: items a second, computations under way.

Items are metered by a token bucket that may go into debt (as J. Turner's leaky bucket, "New
directions in communications", 1986, but for the debt): a call is taken whole while the balance is
positive, so that a call of more items than a second's worth can be made at all, and is paid for
afterwards.

Bytes in memory, the third quota, are kept by `sidecar.cache.hot.HotTier`, and ``share`` by the
queues in front of models. Used from one event loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sidecar.access.caller import is_our_own
from sidecar.access.policy import Policy

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator

    from sidecar.access.policy import Quota

    Clock = Callable[[], float]

QuotaName: TypeAlias = Literal["items_per_second", "computations"]

MAX_METERS = 10_000
MAX_COUNTED = 500
"""Namespaces whose refusals are counted apart."""
OTHERS = "(others)"

# A balance of zero does not do yet, and what is told is rounded to milliseconds.
_AFTER_DEBT_SECONDS = 0.001
# How long a computation takes, before one was seen, and how much the last one counts.
_FIRST_SECONDS = 0.1
_WEIGHT = 0.1
_LEAST_SECONDS, _MOST_SECONDS = 0.01, 30.0


class QuotaExceededError(Exception):
    """A namespace has taken what it may: try again in ``retry_after`` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(slots=True)
class Refused:
    """How many calls of a namespace a quota has refused since start-up."""

    namespace: str
    quota: QuotaName
    calls: int = 0


class Refusals:
    """What quotas have refused, by namespace; beyond `MAX_COUNTED`, namespaces share a count."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, QuotaName], Refused] = {}
        self._names: set[str] = set()

    def __iter__(self) -> Iterator[Refused]:
        return iter(self._refused.values())

    def add(self, namespace: str, quota: QuotaName) -> None:
        """Counts a call."""
        if namespace not in self._names:
            if len(self._names) >= MAX_COUNTED:
                namespace = OTHERS
            self._names.add(namespace)
        refused = self._refused.get((namespace, quota))
        if refused is None:
            refused = self._refused[namespace, quota] = Refused(namespace, quota)
        refused.calls += 1


class Meter:
    """What a namespace takes. ``items_per_second`` is 0 where that is not limited."""

    __slots__ = (
        *("_as_of", "_balance", "_clock", "_computations", "_namespace", "_refusals"),
        *("_running", "_seconds", "items_per_second"),
    )

    def __init__(self, namespace: str, quota: Quota, refusals: Refusals, clock: Clock) -> None:
        self._namespace = namespace
        self._refusals = refusals
        self._clock = clock
        self.items_per_second = self._balance = quota.items_per_second
        self._as_of = clock()
        self._computations = quota.computations
        self._running = 0
        self._seconds = _FIRST_SECONDS

    def limit(self, quota: Quota) -> None:
        """Puts another quota in force. A debt stays; it is paid at the new rate."""
        was_limited = self.items_per_second > 0
        self._settle()
        self.items_per_second = rate = quota.items_per_second
        self._balance = min(self._balance, rate) if was_limited else rate
        self._computations = quota.computations

    def take(self, items: int) -> None:
        """Charges items that a call asks for. Raises `QuotaExceededError`.

        Tell by ``items_per_second`` whether it need be called at all.
        """
        rate = self.items_per_second
        if not rate:
            return
        self._settle()
        if self._balance <= 0:
            raise self._refusal(
                "items_per_second",
                f"asks for more than its {rate:g} items a second",
                -self._balance / rate + _AFTER_DEBT_SECONDS,
            )
        self._balance -= items

    def admit(self, computations: int) -> None:
        """Raises `QuotaExceededError` if so many more would be too many under way at once.

        As many as are asked for together are taken when there is nothing under way, so that more
        than the limit can be asked for at all. What the sidecar does of its own accord is taken.
        """
        most = self._computations
        if not most or not self._running or self._running + computations <= most:
            return
        if is_our_own():
            return
        raise self._refusal(
            "computations",
            f"has {self._running} of its {most} computations under way and asks for {computations}",
            min(max(self._seconds, _LEAST_SECONDS), _MOST_SECONDS),
        )

    def watch(self, works: Iterable[asyncio.Future[Any]]) -> None:
        """Counts computations as under way until they are done."""
        if is_our_own():
            return
        ended = partial(self._ended, self._clock())
        for work in works:
            self._running += 1
            work.add_done_callback(ended)

    def _ended(self, began: float, work: asyncio.Future[Any]) -> None:
        self._running -= 1
        if not work.cancelled():
            self._seconds += _WEIGHT * (self._clock() - began - self._seconds)

    def _settle(self) -> None:
        now, rate = self._clock(), self.items_per_second
        self._balance = min(rate, self._balance + (now - self._as_of) * rate)
        self._as_of = now

    def _refusal(self, quota: QuotaName, reason: str, retry_after: float) -> QuotaExceededError:
        self._refusals.add(self._namespace, quota)
        return QuotaExceededError(
            f"the namespace {self._namespace} {reason}: try again in {retry_after:.3f} s, or have"
            f" its quota {quota} raised in the policy of this sidecar",
            retry_after,
        )


class Quotas:
    """The meters of all namespaces, and the policy that they go by.

    A namespace that the policy names has a meter of its own, and so have `MAX_METERS` others;
    those beyond share one, and the quota of ``*`` for it.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._refusals = Refusals()
        self._policy = Policy()
        self._clock = clock
        self._meters: dict[str, Meter] = {}

    def apply(self, policy: Policy) -> None:
        """Puts the quotas of a policy in force, also for what is under way."""
        self._policy = policy
        for namespace, meter in self._meters.items():
            meter.limit(policy.quota(namespace))

    def meter(self, namespace: str) -> Meter:
        """The meter of a namespace."""
        meter = self._meters.get(namespace)
        if meter is None:
            named = self._policy.quotas
            if len(self._meters) >= MAX_METERS and namespace not in (OTHERS, *named):
                return self.meter(OTHERS)
            quota = self._policy.quota(namespace)
            meter = self._meters[namespace] = Meter(namespace, quota, self._refusals, self._clock)
        return meter

    def charge(self, namespace: str, items: int) -> None:
        """Charges items that a call asks for; what the sidecar asks of its own accord is free.

        Raises `QuotaExceededError`.
        """
        meter = self.meter(namespace)
        if meter.items_per_second and not is_our_own():
            meter.take(items)

    def refused(self) -> Iterable[Refused]:
        """What was refused since start-up."""
        return self._refusals

    def share(self, namespace: str) -> float:
        """The weight of a namespace where several wait for a model, as it is now; 1 by default.

        For queues: one with twice the share of another gets twice as much computed while both wait.
        To be asked each time, since the policy may change; on any thread.
        """
        return self._policy.quota(namespace).share
