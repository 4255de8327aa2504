"""Serves one model: inputs of all callers are batched and computed on threads."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Generic, TypeAlias

from sidecar.models.input_queue import In, InputQueue, Job, Out
from sidecar.models.tokenise import Tokens
from sidecar.models.types import (
    InputRejectedError,
    ModelCounters,
    ModelError,
    ModelUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from sidecar.models.batcher import BatchLimits
    from sidecar.models.encoder import Encodable

QUEUE_INPUTS = 4096
"""How many inputs wait for a model at most, unless told otherwise."""

_TOKENISE_TOGETHER = 64

_log = logging.getLogger(__name__)

_Outcome: TypeAlias = tuple[Job[In, Out], Out | ModelError]


class ModelWorker(Generic[In, Out]):
    """Computes jobs. Used from one event loop only.

    A batch forms while the previous one runs; nothing waits for a batch to fill. One thread
    tokenises, one runs the model, and the event loop only queues and delivers. What fails for a
    batch is repeated input by input, so that a bad input fails alone.

    ``tokenise`` makes tokens of inputs. ``run`` computes a batch of one kind, and gives None for
    each input that has no finite result, which ``result`` names in messages.
    """

    def __init__(
        self,
        name: str,
        *,
        tokenise: Callable[[Sequence[In]], Sequence[Tokens]],
        run: Callable[[Sequence[Encodable], Hashable], Sequence[Out | None]],
        result: str,
        limits: BatchLimits,
        queue_inputs: int,
    ) -> None:
        self.counters = ModelCounters()
        self._name = name
        self._tokenise_inputs = tokenise
        self._run_model = run
        self._result = result
        self._queue: InputQueue[In, Out] = InputQueue(limits, queue_inputs, self.counters)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    @property
    def queued(self) -> int:
        """Jobs accepted and not yet handed to a run."""
        return len(self._queue)

    def submit(self, jobs: Sequence[Job[In, Out]]) -> None:
        """Takes all of the jobs, or none.

        Raises `QueueFullError` if there is no room for them, `ModelUnavailableError` after `close`.
        """
        self._loop = asyncio.get_running_loop()
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
            failed = self._tokenise(jobs)
            self._queue.put_ready([job for job in jobs if job.encodable is not None])
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
        while (batch := self._queue.take_batch()) is not None:
            self._post(self._run(batch))

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

    def _failure(self, reason: str) -> ModelError:
        return ModelError(f"model {self._name} gave no {self._result} ({reason})")

    def _post(self, outcomes: Sequence[_Outcome[In, Out]]) -> None:
        # The loop may have been closed without us; then nobody waits for the outcomes.
        with contextlib.suppress(RuntimeError):
            if self._loop and outcomes:
                self._loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Sequence[_Outcome[In, Out]]) -> None:
    for job, outcome in outcomes:
        if job.future.done():  # cancelled, or failed by `close`
            continue
        if isinstance(outcome, ModelError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
