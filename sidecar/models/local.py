"""A model in this process that embeds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.batcher import TEXT_LIMITS, BatchLimits
from sidecar.models.encoder import Encodable, Encoder
from sidecar.models.fair_shares import equal_shares
from sidecar.models.input_queue import Job
from sidecar.models.pack import read_pack
from sidecar.models.tokenise import TextTokeniser, Tokens
from sidecar.models.types import (
    Embedded,
    InputRejectedError,
    ModelInfo,
    ModelInput,
    TokenVectors,
    Vector,
)
from sidecar.models.worker import QUEUE_INPUTS, ModelWorker

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

    from sidecar.models.fair_shares import Share
    from sidecar.models.session import Provider

_TENSOR_ROWS = 32
_TOKENS = "tokens"  # the kind of the jobs that want token vectors: a run gives one or the other


class LocalEmbedder:
    """An `Embedder` whose model runs in this process, on threads of its own."""

    def __init__(
        self,
        encoder: Encoder,
        tokeniser: TextTokeniser | None,
        info: ModelInfo,
        limits: BatchLimits,
        queue_inputs: int = QUEUE_INPUTS,
        share: Share = equal_shares,
    ) -> None:
        self.info = info
        self._encoder = encoder
        self._tokeniser = tokeniser
        # The kind of a job tells what its future is for.
        self._worker: ModelWorker[ModelInput, Any] = ModelWorker(
            info.name,
            tokenise=self._tokenise,
            run=self._run,
            result="vector for this input",
            max_tokens=info.max_tokens,
            limits=limits,
            queue_inputs=queue_inputs,
            share=share,
        )
        self.counters = self._worker.counters

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
        share: Share = equal_shares,
    ) -> LocalEmbedder:
        """Loads the pack in ``folder`` and runs it once. Takes about a second: not for the loop.

        ``threads`` compute one run (all usable CPUs if None). ``batch_tokens`` bounds a run,
        padding included (if None: 512 on a CPU, 16384 on a GPU). ``queue_inputs`` bounds the
        inputs that wait; ``share`` is the weight of a namespace then. Raises `SetupError`.
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
        default = TEXT_LIMITS[encoder.device]
        limits = BatchLimits(
            tokens=batch_tokens or default.tokens,
            rows=default.rows if text else _TENSOR_ROWS,
            run_cost=default.run_cost,
        )
        return cls(encoder, tokeniser, info, limits, queue_inputs, share)

    @property
    def queued(self) -> int:
        """Inputs accepted and not yet handed to a run."""
        return self._worker.queued

    @property
    def queue_seconds(self) -> float:
        """How long the model will take for them; 0 as long as its speed is not known."""
        return self._worker.queue_seconds

    @property
    def gives_token_vectors(self) -> bool:
        """Whether `submit_tokens` can be used: not with a graph that has pooled outputs only."""
        return self._encoder.gives_token_vectors

    def submit(self, inputs: Sequence[ModelInput]) -> list[asyncio.Future[Embedded]]:
        """Queues inputs and returns at once; see `Embedder.submit`."""
        loop = asyncio.get_running_loop()
        jobs = [self._job(item, loop.create_future()) for item in inputs]
        refusals = {job: refusal for job in jobs if (refusal := self._refusal(job.input))}
        self._worker.submit([job for job in jobs if job not in refusals])
        for job, refusal in refusals.items():
            job.future.set_exception(refusal)
        return [job.future for job in jobs]

    def submit_tokens(self, texts: Sequence[str]) -> list[asyncio.Future[TokenVectors]]:
        """Queues texts for the vectors of their tokens; otherwise like `Embedder.submit`.

        Prompt prefixes have to be in front already. Tokens that the tokeniser adds, such as [CLS],
        are left out, unless there are no others.
        """
        loop = asyncio.get_running_loop()
        jobs: list[Job[ModelInput, TokenVectors]] = [
            Job(text, loop.create_future(), kind=_TOKENS) for text in texts
        ]
        self._worker.submit(jobs)
        return [job.future for job in jobs]

    async def close(self) -> None:
        """Ends the run in progress; what is still queued fails with `ModelUnavailableError`."""
        await self._worker.close()

    def _job(self, item: ModelInput, future: asyncio.Future[Embedded]) -> Job[ModelInput, Embedded]:
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

    def _tokenise(self, inputs: Sequence[ModelInput]) -> list[Tokens]:
        texts = [item for item in inputs if isinstance(item, str)]
        return self._tokeniser(texts) if self._tokeniser else []

    def _run(
        self, batch: Sequence[Encodable], kind: Hashable
    ) -> list[Embedded | None] | list[TokenVectors | None]:
        if kind == _TOKENS:
            texts = [item for item in batch if isinstance(item, Tokens)]
            return [
                vectors if np.isfinite(vectors).all() else None
                for vectors in self._encoder.run_tokens(texts)
            ]
        return [
            _embedded(vector, item) if np.isfinite(vector).all() else None
            for vector, item in zip(self._encoder.run(batch), batch, strict=True)
        ]


def _embedded(vector: Vector, item: Encodable) -> Embedded:
    if isinstance(item, Tokens):
        return Embedded(vector, len(item.ids), item.truncated)
    return Embedded(vector, 0, truncated=False)
