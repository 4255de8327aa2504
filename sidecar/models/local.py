"""A model in this process: inputs of all callers are batched and computed by one thread."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from sidecar.models.batcher import BatchLimits
from sidecar.models.encoder import Encodable, Encoder
from sidecar.models.input_queue import InputQueue, Job
from sidecar.models.pack import read_pack
from sidecar.models.tokenise import TextTokeniser, Tokens
from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelCounters,
    ModelError,
    ModelInfo,
    ModelInput,
    ModelUnavailableError,
    Vector,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.models.session import Provider

QUEUE_INPUTS = 4096
"""How many inputs wait for a model at most, unless told otherwise."""

# Measured with bench/encoder.py: a CPU gains nothing from more tokens in a run, and a short run
# delays the next caller less.
_LIMITS = {
    "cpu": BatchLimits(tokens=512, rows=128, run_cost=12),
    "cuda": BatchLimits(tokens=16384, rows=256, run_cost=1024),
}
_TENSOR_ROWS = 32
_TOKENISE_TOGETHER = 64

_log = logging.getLogger(__name__)

_Outcome: TypeAlias = tuple[Job, Embedded | ModelError]


class LocalEmbedder:
    """An `Embedder` whose model runs in this process.

    A batch forms while the previous one runs; nothing waits for a batch to fill. One thread
    tokenises, one runs the model, and the event loop only queues and delivers. A run that fails
    is repeated input by input, so that a bad input fails alone.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokeniser: TextTokeniser | None,
        info: ModelInfo,
        limits: BatchLimits,
        queue_inputs: int = QUEUE_INPUTS,
    ) -> None:
        self.counters = ModelCounters()
        self.info = info
        self._encoder = encoder
        self._tokeniser = tokeniser
        self._queue = InputQueue(limits, queue_inputs, self.counters)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads: list[threading.Thread] = []

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        *,
        provider: Provider = "auto",
        threads: int | None = None,
        batch_tokens: int | None = None,
        queue_inputs: int = QUEUE_INPUTS,
    ) -> LocalEmbedder:
        """Loads the pack in ``folder`` and runs it once. Takes about a second: not for the loop.

        ``threads`` compute one run (all usable CPUs if None). ``batch_tokens`` bounds a run,
        padding included (if None: 512 on a CPU, 16384 on a GPU). ``queue_inputs`` bounds the
        inputs that wait. Raises `SetupError`.
        """
        pack = read_pack(folder)
        encoder = Encoder(pack, provider, threads)
        text = pack.text
        tokeniser = TextTokeniser(text.tokenizer, text.max_tokens) if text else None
        info = ModelInfo(
            name=name,
            version=pack.version,
            dimensions=encoder.dimensions,
            max_tokens=text.max_tokens if text else 0,
            accepts_text=text is not None,
            accepts_tensor=text is None,
            runs_on=encoder.device,
            prompts=text.prompts if text else {},
        )
        default = _LIMITS[encoder.device]
        limits = BatchLimits(
            tokens=batch_tokens or default.tokens,
            rows=default.rows if text else _TENSOR_ROWS,
            run_cost=default.run_cost,
        )
        return cls(encoder, tokeniser, info, limits, queue_inputs)

    @property
    def queued(self) -> int:
        """Inputs accepted and not yet handed to a run."""
        return len(self._queue)

    def submit(self, inputs: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        """Queues inputs and returns at once; see `Embedder.submit`."""
        loop = self._loop = asyncio.get_running_loop()
        jobs = [self._job(item, loop.create_future()) for item in inputs]
        refusals = {job: refusal for job in jobs if (refusal := self._refusal(job.input))}
        self._queue.put([job for job in jobs if job not in refusals])
        for job, refusal in refusals.items():
            job.future.set_exception(refusal)
        if not self._threads:
            self._start("tokenise", self._tokenise_forever)
            self._start("encode", self._run_forever)
        return [job.future for job in jobs]

    async def close(self) -> None:
        """Ends the run in progress; what is still queued fails with `ModelUnavailableError`."""
        error = ModelUnavailableError("the model is shutting down; try another replica")
        _deliver([(job, error) for job in self._queue.close()])
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    def _job(self, item: ModelInput, future: asyncio.Future[Embedded]) -> Job:
        if isinstance(item, str):
            return Job(item, future)
        return Job(item, future, encodable=item, kind=item.shape)

    def _refusal(self, item: ModelInput) -> InputRejectedError | None:
        if isinstance(item, str) and self.info.accepts_text:
            return None
        if not isinstance(item, str) and self.info.accepts_tensor:
            return self._encoder.refusal(item)
        takes, got = ("tensors", "text") if isinstance(item, str) else ("text", "tensors")
        return InputRejectedError(f"model {self.info.name} takes {takes}, not {got}")

    def _start(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=f"{name}-{self.info.name}", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _tokenise_forever(self) -> None:
        while (jobs := self._queue.take_arrived(_TOKENISE_TOGETHER)) is not None:
            failed = self._tokenise(jobs)
            self._queue.put_ready([job for job in jobs if job.encodable is not None])
            self._post(failed)

    def _tokenise(self, jobs: Sequence[Job]) -> list[_Outcome]:
        """Tokenises the jobs in place and returns those that have failed."""
        texts = [job.input for job in jobs if isinstance(job.input, str)]
        try:
            encoded = self._tokeniser(texts) if self._tokeniser else []
        except BaseException as error:  # a panic of the tokeniser's library is not an Exception
            if len(jobs) > 1:
                return [outcome for job in jobs for outcome in self._tokenise([job])]
            reason = type(error).__name__
            return [(jobs[0], InputRejectedError(f"the text cannot be tokenised ({reason})"))]
        for job, tokens in zip(jobs, encoded, strict=True):
            job.encodable, job.length = tokens, len(tokens.ids)
        return []

    def _run_forever(self) -> None:
        while (batch := self._queue.take_batch()) is not None:
            self._post(self._run(batch))

    def _run(self, batch: Sequence[Job]) -> list[_Outcome]:
        encodables = [job.encodable for job in batch if job.encodable is not None]
        self.counters.batches += 1
        try:
            vectors = self._encoder.run(encodables)
        except Exception as error:  # ONNX Runtime's errors share no base class
            if len(batch) == 1:
                return [(batch[0], self._failure(type(error).__name__))]
            _log.warning("model %s failed on %d inputs: %s", self.info.name, len(batch), error)
            return [outcome for job in batch for outcome in self._run([job])]
        finite = [bool(np.isfinite(vector).all()) for vector in vectors]
        tokens = [len(item.ids) if isinstance(item, Tokens) else 0 for item in encodables]
        self.counters.computed += sum(finite)
        self.counters.tokens += sum(tokens)
        self.counters.padding_tokens += len(tokens) * max(tokens) - sum(tokens)
        return [
            (job, _embedded(vector, job.encodable) if good else self._failure("NaN or infinity"))
            for job, vector, good in zip(batch, vectors, finite, strict=True)
        ]

    def _failure(self, reason: str) -> ModelError:
        return ModelError(f"model {self.info.name} gave no vector for this input ({reason})")

    def _post(self, outcomes: Sequence[_Outcome]) -> None:
        # The loop may have been closed without us; then nobody waits for the outcomes.
        with contextlib.suppress(RuntimeError):
            if self._loop and outcomes:
                self._loop.call_soon_threadsafe(_deliver, outcomes)


def _deliver(outcomes: Sequence[_Outcome]) -> None:
    for job, outcome in outcomes:
        if job.future.done():  # cancelled, or failed by `close`
            continue
        if isinstance(outcome, ModelError):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)


def _embedded(vector: Vector, encodable: Encodable | None) -> Embedded:
    if isinstance(encodable, Tokens):
        return Embedded(vector, len(encodable.ids), encodable.truncated)
    return Embedded(vector, 0, truncated=False)
