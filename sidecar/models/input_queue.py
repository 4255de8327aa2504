"""The bounded queue in front of a model."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from sidecar.models.batcher import Batcher, BatchLimits
from sidecar.models.types import ModelUnavailableError, QueueFullError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable, Sequence

    from sidecar.models.encoder import Encodable
    from sidecar.models.types import ModelCounters

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(slots=True, eq=False)
class Job(Generic[In, Out]):
    """An input on its way through a model. ``encodable`` is None until it is tokenised.

    ``length`` is in tokens, 1 for a tensor; only jobs of one ``kind`` may share a batch.
    """

    input: In
    future: asyncio.Future[Out]
    encodable: Encodable | None = None
    length: int = 1
    kind: Hashable = None

    def is_unwanted(self) -> bool:
        """Whether the caller has gone. Read by all threads: who goes later is computed for."""
        return self.future.cancelled()


class InputQueue(Generic[In, Out]):
    """Jobs wait here to be tokenised, and then to be computed. Safe to use from any thread.

    ``capacity`` bounds both together, in jobs. Jobs that nobody wants any more are dropped
    before a batch is formed, and when room is needed.
    """

    def __init__(self, limits: BatchLimits, capacity: int, counters: ModelCounters) -> None:
        self._capacity = capacity
        self._counters = counters
        self._lock = threading.Lock()
        self._has_arrived = threading.Condition(self._lock)
        self._is_ready = threading.Condition(self._lock)
        self._arrived: deque[Job[In, Out]] = deque()
        self._tokenising: list[Job[In, Out]] = []
        self._ready: Batcher[Job[In, Out]] = Batcher(limits)
        self._closed = False

    def __len__(self) -> int:
        return len(self._arrived) + len(self._tokenising) + len(self._ready)

    def put(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes all of the jobs, or none.

        Raises `QueueFullError` if there is no room for them, `ModelUnavailableError` after `close`.
        """
        with self._lock:
            if self._closed:
                raise ModelUnavailableError("the model is shutting down; try another replica")
            if len(self) + len(jobs) > self._capacity:
                self._drop_unwanted()
            if len(self) + len(jobs) > self._capacity:
                self._counters.shed += len(jobs)
                raise QueueFullError(
                    f"no room for {len(jobs)} inputs: {len(self)} wait for the model already and at"
                    f" most {self._capacity} may; send fewer at once, or try again later"
                )
            for job in jobs:
                if job.encodable is None:
                    self._arrived.append(job)
                else:
                    self._ready.add(job, job.length, job.kind)
            self._has_arrived.notify()
            self._is_ready.notify()

    def take_arrived(self, limit: int) -> list[Job[In, Out]] | None:
        """Waits for jobs to tokenise and returns up to ``limit``; None after `close`."""
        with self._lock:
            self._has_arrived.wait_for(lambda: self._arrived or self._closed)
            if self._closed:
                return None
            count = min(limit, len(self._arrived))
            self._tokenising = [self._arrived.popleft() for _ in range(count)]
            return self._tokenising

    def put_ready(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes back the jobs of the last `take_arrived`, less those that have failed."""
        with self._lock:
            self._tokenising = []
            if not self._closed:
                for job in jobs:
                    self._ready.add(job, job.length, job.kind)
                self._is_ready.notify()

    def take_batch(self) -> list[Job[In, Out]] | None:
        """Waits for jobs to compute and returns the next batch; None after `close`."""
        with self._lock:
            while not self._closed:
                self._drop_unwanted()
                if batch := self._ready.take():
                    return batch
                self._is_ready.wait()
            return None

    def close(self) -> list[Job[In, Out]]:
        """Empties the queue for good and returns what was in it."""
        with self._lock:
            left = [*self._arrived, *self._tokenising, *self._ready.discard(lambda _: True)]
            self._arrived.clear()
            self._tokenising = []
            self._closed = True
            self._has_arrived.notify()
            self._is_ready.notify()
            return left

    def _drop_unwanted(self) -> None:
        wanted = deque(job for job in self._arrived if not job.is_unwanted())
        gone = len(self._arrived) - len(wanted) + len(self._ready.discard(Job.is_unwanted))
        self._arrived = wanted
        self._counters.abandoned += gone
