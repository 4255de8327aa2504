"""The bounded queue in front of a model."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.demand import Demand, Priority, demand
from sidecar.models.backlog import Backlog
from sidecar.models.batcher import Batcher, BatchLimits
from sidecar.models.fair_shares import equal_shares
from sidecar.models.speed import Speed
from sidecar.models.types import (
    LEAST_RETRY_SECONDS,
    ModelUnavailableError,
    QueueFullError,
    TooLateError,
)

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Hashable, Sequence

    from sidecar.models.encoder import Encodable
    from sidecar.models.fair_shares import Share
    from sidecar.models.types import ModelCounters

In = TypeVar("In")
Out = TypeVar("Out")

# Inputs are overtaken by later ones that fill up a run, and by those of other namespaces. Simulated
# with twice as many as can be computed, 99 % of what was taken was done in the time that is so many
# times as long as the work before it (98 % with twenty namespaces), and as much was computed.
_DOUBT = 2.5
# To look at an input takes up to 0.4 us: all of them are looked at for 2 % of the time at most.
_REVIEW_PAUSE_SECONDS = 20e-6
# What part of the capacity there is besides it, for namespaces that have little in the queue.
_RESERVE = 0.5


@dataclass(slots=True, eq=False)
class Job(Generic[In, Out]):
    """An input on its way through a model. ``encodable`` is None until it is tokenised.

    ``length`` is in tokens, 1 for a tensor, and a guess until it is tokenised; only jobs of one
    ``kind`` may share a batch. ``counted`` is how the queue counts it: priority and work.
    """

    input: In
    future: asyncio.Future[Out]
    encodable: Encodable | None = None
    length: int = 1
    kind: Hashable = None
    demand: Demand = field(default_factory=demand)
    counted: tuple[Priority, float] = (Priority.INTERACTIVE, 0.0)

    def is_unwanted(self) -> bool:
        """Whether the caller has gone. Read by all threads: who goes later is computed for."""
        return self.future.cancelled()

    def is_over(self, now: float) -> bool:
        """Whether it is of no use to go on with it."""
        return self.future.cancelled() or self.demand.deadline <= now


@dataclass(frozen=True, slots=True)
class Taken(Generic[In, Out]):
    """What is to be done next: a batch to be computed, and jobs that are too late for that."""

    batch: list[Job[In, Out]]
    late: list[Job[In, Out]]


@dataclass(frozen=True, slots=True)
class _Run:
    work: float
    began: float
    others_wait: bool


class InputQueue(Generic[In, Out]):
    """Jobs wait here to be tokenised, and then to be computed. Safe to use from any thread.

    ``capacity`` bounds both together, in jobs. Half as much again is kept for interactive jobs of
    namespaces that have no more than their share of it, so that one that fills the queue does not
    shut out others, nor the background anybody. Jobs that nobody wants any more are dropped
    before a batch is formed, and when room is needed. Jobs that would be done too late for their
    callers are refused; those that are too late all the same are dropped before a batch is formed.
    ``share`` is the weight of a namespace. ``clock`` is that of `Demand`.
    """

    def __init__(
        self,
        limits: BatchLimits,
        capacity: int,
        counters: ModelCounters,
        share: Share = equal_shares,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._capacity = capacity
        self._counters = counters
        self._clock = clock
        self._lock = threading.Lock()
        self._has_arrived = threading.Condition(self._lock)
        self._is_ready = threading.Condition(self._lock)
        # By namespace; the first is the next to be tokenised for.
        self._arrived: dict[str, deque[Job[In, Out]]] = {}
        self._tokenising: list[Job[In, Out]] = []
        self._ready: Batcher[Job[In, Out]] = Batcher(limits, share)
        self._backlog = Backlog(share)
        self._speed = Speed()
        self._run: _Run | None = None
        self._review_at = self._make_room_at = -math.inf
        self._closed = False

    def __len__(self) -> int:
        return self._backlog.inputs

    @property
    def seconds(self) -> float:
        """How long the model will take for all that waits; 0 as long as its speed is not known."""
        with self._lock:
            return self._seconds(self._backlog.work)

    def put(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes all of the jobs, which are of one demand, or none.

        Raises `QueueFullError` if there is no room for them, `TooLateError` if they would be done
        too late, `ModelUnavailableError` after `close`.
        """
        with self._lock:
            if self._closed:
                raise ModelUnavailableError("the model is shutting down; try another replica")
            if len(self) + len(jobs) > self._capacity:
                self._drop_unwanted()
            if len(self) + len(jobs) > self._capacity and not self._may_use_reserve(jobs):
                self._refuse_for_want_of_room(len(jobs))
            self._refuse_if_late(jobs)
            for job in jobs:
                self._count(job)
                if job.encodable is None:
                    self._arrived.setdefault(job.demand.namespace, deque()).append(job)
                else:
                    self._add_ready(job)
            self._has_arrived.notify()
            self._is_ready.notify()

    def take_arrived(self, limit: int) -> list[Job[In, Out]] | None:
        """Waits for jobs to tokenise and returns up to ``limit``; None after `close`.

        Namespaces take turns, so that none has to wait until a large call of another is tokenised.
        """
        with self._lock:
            self._has_arrived.wait_for(lambda: self._arrived or self._closed)
            if self._closed:
                return None
            while self._arrived and len(self._tokenising) < limit:
                namespace = next(iter(self._arrived))
                jobs = self._arrived.pop(namespace)
                self._tokenising.append(jobs.popleft())
                if jobs:
                    self._arrived[namespace] = jobs
            return self._tokenising

    def put_ready(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes back the jobs of the last `take_arrived`, less those that have failed."""
        with self._lock:
            if self._closed:
                return
            self._forget(self._tokenising)
            # Others were dropped meanwhile.
            waited, self._tokenising = set(self._tokenising), []
            for job in jobs:
                if job in waited:
                    self._count(job)
                    self._add_ready(job)
            self._is_ready.notify()

    def take_batch(self) -> Taken[In, Out] | None:
        """Waits for jobs to compute and returns the next batch; None after `close`.

        Called by the one thread that runs the model. With jobs that are too late the batch may be
        empty.
        """
        with self._lock:
            while not self._closed:
                late = self._review()
                taken = self._ready.take()
                self._forget(taken)
                batch, too_late = self._part(taken, self._clock())
                if batch:
                    work = sum(job.counted[1] for job in batch) + self._limits.run_work
                    self._run = _Run(work, self._clock(), bool(self._ready))
                if batch or late or too_late:
                    return Taken(batch, late + too_late)
                if not self._ready:
                    self._is_ready.wait()
            return None

    def end_run(self) -> None:
        """Takes note that the last batch is computed; called before anybody hears of it."""
        with self._lock:
            if self._run is not None:
                run, self._run = self._run, None
                seconds = self._clock() - run.began
                self._speed.measured(run.work, seconds, while_others_waited=run.others_wait)

    def close(self) -> list[Job[In, Out]]:
        """Empties the queue for good and returns what was in it."""
        with self._lock:
            waiting = self._take_from_arrived(lambda _: True) + self._ready.discard(lambda _: True)
            left = waiting + self._tokenising
            self._forget(left)
            self._tokenising = []
            self._closed = True
            self._has_arrived.notify()
            self._is_ready.notify()
            return left

    # How long it takes

    def _seconds(self, work: float) -> float:
        """How long work takes that comes after the run in progress; 0 if that is not known."""
        speed = self._speed.per_second
        if speed is None:
            return 0.0
        rest = 0.0
        if self._run is not None:
            # One that takes longer than it should may take as long again.
            rest = abs(self._run.work / speed - (self._clock() - self._run.began))
        return rest + work / speed

    def _may_use_reserve(self, jobs: Sequence[Job[In, Out]]) -> bool:
        reserve = int(self._capacity * _RESERVE)
        if not jobs or len(self) + len(jobs) > self._capacity + reserve:
            return not jobs
        who = jobs[0].demand
        if who.priority is Priority.BACKGROUND:
            return False
        all_its = self._backlog.inputs_of(who.priority, who.namespace) + len(jobs)
        return all_its <= reserve * self._backlog.part_of(who.priority, who.namespace)

    def _refuse_for_want_of_room(self, inputs: int) -> None:
        self._counters.shed += inputs
        lacking = len(self) + inputs - self._capacity
        seconds = self._seconds(self._backlog.work * min(1.0, lacking / max(1, len(self))))
        raise QueueFullError(
            f"no room for {inputs} inputs: {len(self)} wait for the model already and at"
            f" most {self._capacity} may; send fewer at once, or try again later",
            retry_after=max(seconds, LEAST_RETRY_SECONDS) if seconds else None,
        )

    def _refuse_if_late(self, jobs: Sequence[Job[In, Out]]) -> None:
        # An idle model takes what it gets: what it can do in time stays in the cache, and its speed
        # becomes known.
        if not jobs or jobs[0].demand.deadline == math.inf:
            return
        who = jobs[0].demand
        if self._run is None and not self._backlog.stands_before(who.priority):
            return
        own = sum(self._limits.work(job.length) for job in jobs)
        work = self._backlog.work_until_done(who.priority, who.namespace, own)
        seconds, left = self._seconds(_DOUBT * work), who.deadline - self._clock()
        if seconds <= left:
            return
        self._counters.shed += len(jobs)
        self._counters.refused_late += len(jobs)
        raise TooLateError(
            f"the model may take {seconds:.3g} s to do these {len(jobs)} inputs, and the call's"
            f" deadline is in {max(0.0, left):.3g} s: try again later, or give the call more time",
            retry_after=max((seconds - left) / _DOUBT, LEAST_RETRY_SECONDS),
        )

    # What waits

    def _count(self, job: Job[In, Out]) -> None:
        job.counted = (job.demand.priority, self._limits.work(job.length))
        self._backlog.add(job.counted[0], job.demand.namespace, job.counted[1])

    def _forget(self, jobs: Sequence[Job[In, Out]]) -> None:
        for job in jobs:
            self._backlog.remove(job.counted[0], job.demand.namespace, job.counted[1])

    def _add_ready(self, job: Job[In, Out]) -> None:
        self._ready.add(
            job, job.length, job.kind, namespace=job.demand.namespace, priority=job.counted[0]
        )

    def _review(self) -> list[Job[In, Out]]:
        """Drops what nobody wants, moves what somebody waits for now, and returns the late.

        In a long queue not each time: a batch is looked at by itself.
        """
        now = self._clock()
        if now < self._review_at:
            return []

        def is_to_move(job: Job[In, Out]) -> bool:
            who = job.demand
            return (
                job.future.cancelled() or who.deadline <= now or who.priority is not job.counted[0]
            )

        out = self._take_from_arrived(lambda job: job.is_over(now))
        out += self._ready.discard(is_to_move)
        self._forget(out)
        wanted, late = self._part(out, now)
        for job in wanted:
            self._count(job)
            self._add_ready(job)
        self._review_at = now + _REVIEW_PAUSE_SECONDS * len(self)
        return late

    def _drop_unwanted(self) -> None:
        # All are looked at, so not for each of the calls that a full queue refuses.
        if self._clock() < self._make_room_at:
            return
        self._make_room_at = self._clock() + _REVIEW_PAUSE_SECONDS * len(self)
        gone = self._take_from_arrived(Job.is_unwanted) + self._ready.discard(Job.is_unwanted)
        gone += [job for job in self._tokenising if job.is_unwanted()]
        # Not in place: the thread that tokenises has the list.
        self._tokenising = [job for job in self._tokenising if not job.is_unwanted()]
        self._forget(gone)
        self._counters.abandoned += len(gone)

    def _take_from_arrived(self, leaves: Callable[[Job[In, Out]], bool]) -> list[Job[In, Out]]:
        gone = [job for jobs in self._arrived.values() for job in jobs if leaves(job)]
        if gone:
            left = set(gone)
            kept = {
                name: deque(job for job in jobs if job not in left)
                for name, jobs in self._arrived.items()
            }
            self._arrived = {name: jobs for name, jobs in kept.items() if jobs}
        return gone

    def _part(
        self, jobs: Sequence[Job[In, Out]], now: float
    ) -> tuple[list[Job[In, Out]], list[Job[In, Out]]]:
        """Those that are wanted, and those that are too late; the others are counted."""
        wanted, late = [], []
        for job in jobs:
            if job.is_unwanted():
                self._counters.abandoned += 1
            elif job.demand.deadline <= now:
                late.append(job)
            else:
                wanted.append(job)
        self._counters.dropped_late += len(late)
        return wanted, late
