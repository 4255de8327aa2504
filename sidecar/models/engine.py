"""The thread on which generations take turns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Protocol

from sidecar.models.niceness import give_way
from sidecar.models.types import ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from typing import TypeAlias

_log = logging.getLogger(__name__)


class Job(Protocol):
    """What takes turns. Everything is called from the engine's thread."""

    def is_unwanted(self) -> bool:
        """Whether nobody waits for it any more."""
        ...

    def turn(self, *, alone: bool) -> bool:
        """Does a small part of the work; returns whether that was the last one.

        ``alone``: no other job waits for its turn. Raises `ModelError`.
        """
        ...


_Outcome: TypeAlias = bool | ModelError
_Entry: TypeAlias = "tuple[Job, asyncio.Future[bool]]"


class Engine:
    """Gives each job one turn after the other, round and round, on one thread.

    Turns are not run together as a batch: the numbers of one generation would then depend on which
    others are at work. Used from one event loop only.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: deque[_Entry] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, job: Job) -> asyncio.Future[bool]:
        """Starts a job. The future tells that the engine is done with it.

        It is True at the end of the work and False if it was not wanted any more; or it fails with
        what the job raised, or with `ModelUnavailableError` after `close`. It is not to be
        cancelled: the job would still be at work.
        """
        self._loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = self._loop.create_future()
        with self._changed:
            if self._closed:
                future.set_exception(closing_error())
                return future
            self._jobs.append((job, future))
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run_forever, name=f"generate-{self._name}", daemon=True
            )
            self._thread.start()
        return future

    async def close(self) -> None:
        """Ends the turn in progress; jobs that are not done fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _run_forever(self) -> None:
        give_way()
        while (entry := self._next()) is not None:
            job, future = entry
            outcome = self._turn(job)
            if outcome is None:
                with self._changed:
                    self._jobs.append(entry)
            else:
                self._post(future, outcome)
        for _, future in self._jobs:
            self._post(future, closing_error())

    def _next(self) -> _Entry | None:
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            return None if self._closed else self._jobs.popleft()

    def _turn(self, job: Job) -> _Outcome | None:
        """How the job has ended; None if it has not."""
        if job.is_unwanted():
            return False
        try:
            return True if job.turn(alone=not self._jobs) else None
        except ModelError as error:
            return error
        except Exception as error:  # its message might quote a text
            _log.error("model %s: a generation failed (%s)", self._name, type(error).__name__)
            return ModelError(f"model {self._name} gave no answer ({type(error).__name__})")

    def _post(self, future: asyncio.Future[bool], outcome: _Outcome) -> None:
        # The loop may have been closed without us; then nobody waits for the outcome.
        with contextlib.suppress(RuntimeError):
            if self._loop:
                self._loop.call_soon_threadsafe(_deliver, future, outcome)


def closing_error() -> ModelUnavailableError:
    """What generations fail with that a model which is closed does not end."""
    return ModelUnavailableError("the model is shutting down; try another replica")


def _deliver(future: asyncio.Future[bool], outcome: _Outcome) -> None:
    if isinstance(outcome, ModelError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
