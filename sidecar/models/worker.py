"""Serves one model: inputs of all callers are batched and computed on threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Generic, TypeAlias

from sidecar.models.fair_shares import equal_shares
from sidecar.models.input_queue import In, InputQueue, Job, Out
from sidecar.models.niceness import give_way
from sidecar.models.tokenise import Tokens
from sidecar.models.types import (
    LEAST_RETRY_SECONDS,
    InputRejectedError,
    ModelCounters,
    ModelError,
    ModelUnavailableError,
    TooLateError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from sidecar.models.batcher import BatchLimits
    from sidecar.models.encoder import Encodable
    from sidecar.models.fair_shares import Share

QUEUE_INPUTS = 4096
"""How many inputs wait for a model at most, unless told otherwise."""

_TOKENISE_TOGETHER = 64
# Of English. A wrong guess is put right when the text is tokenised, some milliseconds later.
_CHARACTERS_A_TOKEN = 4

_log = logging.getLogger(__name__)

_Outcome: TypeAlias = tuple[Job[In, Out], Out | ModelError]


class ModelWorker(Generic[In, Out]):
    """Computes jobs. Used from one event loop only.

    A batch forms while the previous one runs; nothing waits for a batch to fill. One thread
    tokenises, one runs the model, and the event loop only queues and delivers. What fails for a
    batch is repeated input by input, so that a bad input fails alone.

    ``tokenise`` makes tokens of inputs, at most ``max_tokens`` of each. ``run`` computes a batch of
    one kind, and gives None for each input that has no finite result, which ``result`` names in
    messages. ``share`` is the weight of a namespace where several wait.
    """

    def __init__(
        self,
        name: str,
        *,
        tokenise: Callable[[Sequence[In]], Sequence[Tokens]],
        run: Callable[[Sequence[Encodable], Hashable], Sequence[Out | None]],
        result: str,
        max_tokens: int,
        limits: BatchLimits,
        queue_inputs: int,
        share: Share = equal_shares,
    ) -> None:
        self.counters = ModelCounters()
        self._name = name
        self._tokenise_inputs = tokenise
        self._run_model = run
        self._result = result
        self._max_tokens = max_tokens
        self._queue: InputQueue[In, Out] = InputQueue(limits, queue_inputs, self.counters, share)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    @property
    def queued(self) -> int:
        """Jobs accepted and not yet handed to a run."""
        return len(self._queue)

    @property
    def queue_seconds(self) -> float:
        """How long the model will take for them; 0 as long as its speed is not known."""
        return self._queue.seconds

    def submit(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes all of the jobs, or none. They are of this context's `demand`.

        Raises `QueueFullError` if there is no room for them, `TooLateError` if they would be done
        after their deadline, `ModelUnavailableError` after `close`.
        """
        self._loop = asyncio.get_running_loop()
        for job in jobs:
            if job.encodable is None:
                guess = 1 + _characters(job.input) // _CHARACTERS_A_TOKEN
                job.length = min(self._max_tokens, guess)
        self._queue.put(jobs)
        if not self._threads:
            self._start("tokenise", self._tokenise_forever)
            self._start("encode", self._run_forever)

    async def close(self) -> None:
        """Ends the run in progress; what is still queued fails with `ModelUnavailableError`."""
        error = ModelUnavailableError("the model is shutting down; try another replica")
        _deliver([(job, error) for job in self._queue.close()])
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"{name}-{self._name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tokenise_forever(self) -> None:
        while (jobs := self._queue.take_arrived(_TOKENISE_TOGETHER)) is not None:
            try:
                failed = self._tokenise(jobs)
                ready = [job for job in jobs if job.encodable is not None]
            except Exception as error:
                ready, failed = [], self._broken(jobs, error)
            self._queue.put_ready(ready)
            self._post(failed)

    def _tokenise(self, jobs: Sequence[Job[In, Out]]) -> list[_Outcome[In, Out]]:
        """Tokenises the jobs in place and returns those that have failed."""
        try:
            encoded = self._tokenise_inputs([job.input for job in jobs])
        except BaseException as error:  # a panic of the tokeniser's library is not an Exception
            if len(jobs) > 1:
                return [outcome for job in jobs for outcome in self._tokenise([job])]
            if isinstance(error, InputRejectedError):
                return [(jobs[0], error)]
            reason = type(error).__name__
            return [(jobs[0], InputRejectedError(f"the text cannot be tokenised ({reason})"))]
        for job, tokens in zip(jobs, encoded, strict=True):
            job.encodable, job.length = tokens, len(tokens.ids)
        return []

    def _run_forever(self) -> None:
        give_way()
        while (taken := self._queue.take_batch()) is not None:
            self._post([(job, self._too_late()) for job in taken.late])
            if taken.batch:
                try:
                    outcomes = self._run(taken.batch)
                except Exception as error:
                    outcomes = self._broken(taken.batch, error)
                self._queue.end_run()
                self._post(outcomes)

    def _run(self, batch: Sequence[Job[In, Out]]) -> list[_Outcome[In, Out]]:
        encodables = [job.encodable for job in batch if job.encodable is not None]
        self.counters.batches += 1
        try:
            results = self._run_model(encodables, batch[0].kind)
        except Exception as error:  # ONNX Runtime's errors share no base class
            if len(batch) == 1:
                return [(batch[0], self._failure(type(error).__name__))]
            _log.warning("model %s failed on %d inputs: %s", self._name, len(batch), error)
            return [outcome for job in batch for outcome in self._run([job])]
        tokens = [len(item.ids) if isinstance(item, Tokens) else 0 for item in encodables]
        self.counters.computed += sum(result is not None for result in results)
        self.counters.tokens += sum(tokens)
        self.counters.padding_tokens += len(tokens) * max(tokens) - sum(tokens)
        return [
            (job, self._failure("NaN or infinity") if result is None else result)
            for job, result in zip(batch, results, strict=True)
        ]

    def _broken(self, jobs: Sequence[Job[In, Out]], error: Exception) -> list[_Outcome[In, Out]]:
        """Fails all jobs for what should not happen. The thread goes on: nobody else would do."""
        reason = type(error).__name__  # its message might quote a text
        _log.error("model %s: a batch of %d inputs failed (%s)", self._name, len(jobs), reason)
        return [(job, self._failure(reason)) for job in jobs]

    def _too_late(self) -> ModelError:
        return TooLateError(
            f"the deadline passed while the input waited for model {self._name}: try again later",
            retry_after=max(self._queue.seconds, LEAST_RETRY_SECONDS),
        )

    def _failure(self, reason: str) -> ModelError:
        return ModelError(f"model {self._name} gave no {self._result} ({reason})")

    def _post(self, outcomes: Sequence[_Outcome[In, Out]]) -> None:
        # The loop may have been closed without us; then nobody waits for the outcomes.
        with contextlib.suppress(RuntimeError):
            if self._loop and outcomes:
                self._loop.call_soon_threadsafe(_deliver, outcomes)


def _characters(item: object) -> int:
    """Of a text, or of both texts of a pair."""
    texts = item if isinstance(item, tuple) else (item,)
    return sum(len(text) for text in texts if isinstance(text, str))


def _deliver(outcomes: Sequence[_Outcome[In, Out]]) -> None:
    for job, outcome in outcomes:
        if job.future.done():  # cancelled, or failed by `close`
            continue
        if isinstance(outcome, ModelError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
