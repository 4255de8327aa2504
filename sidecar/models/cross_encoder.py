"""A cross-encoder in this process: a model that reads query and passage together."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.batcher import TEXT_LIMITS
from sidecar.models.errors import SetupError
from sidecar.models.fair_shares import equal_shares
from sidecar.models.feed import tokens_feed
from sidecar.models.input_queue import Job
from sidecar.models.pair_pack import PairPack, read_pair_pack
from sidecar.models.session import Provider, open_session
from sidecar.models.tokenise import PairTokeniser, Tokens
from sidecar.models.types import ModelError, Pair, RerankerInfo
from sidecar.models.worker import QUEUE_INPUTS, ModelWorker

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.models.encoder import Encodable
    from sidecar.models.fair_shares import Share


class CrossEncoder:
    """One ONNX Runtime session for one pack, for one run at a time.

    ``device`` is "cpu" or "cuda"; ``max_tokens`` of a pair are read.
    """

    def __init__(
        self, pack: PairPack, provider: Provider = "auto", threads: int | None = None
    ) -> None:
        """Loads the model and runs it once; raises `SetupError` if that fails."""
        self._pack = pack
        self.max_tokens = pack.text.max_tokens
        self._session, self.device = open_session(pack.path, provider, threads)
        self._width = self._warm_up()

    def run(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        """Returns a score for each pair, which may be NaN or infinite.

        It is the logit; where the model tells "not relevant" from "relevant", the difference of
        the two. Raises `ModelError` if the model answers with another shape, and whatever ONNX
        Runtime raises if the run fails.
        """
        logits = self._logits(batch)
        if logits.shape != (len(batch), self._width):
            raise ModelError(
                f"the model answered {len(batch)} pairs with shape {list(logits.shape)},"
                f" not [{len(batch)}, {self._width}]"
            )
        with np.errstate(all="ignore"):  # NaN and infinity are the caller's to find
            return logits[:, 0] if self._width == 1 else logits[:, 1] - logits[:, 0]

    def _logits(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        feed = tokens_feed(self._pack.inputs, self._pack.text.pad_id, batch)
        (logits,) = self._session.run([self._pack.output.name], feed)
        floats: NDArray[np.float32] = logits.astype(np.float32, copy=False)
        return floats

    def _warm_up(self) -> int:
        """Runs the model once, and returns how many numbers it answers a pair with."""
        # Three tokens: an answer for each token must not pass for a pair of numbers.
        probe = Tokens([self._pack.text.pad_id] * 3, truncated=False)
        try:
            shape = self._logits([probe]).shape
        except Exception as error:
            raise SetupError(f"{self._pack.path}: its first run failed ({error})") from error
        if shape not in ((1, 1), (1, 2)):
            raise SetupError(
                f"{self._pack.path}: one pair gave shape {list(shape)}; a cross-encoder is needed"
                " that answers with one number, or with two: not relevant, relevant"
            )
        return int(shape[1])


class CrossEncoderReranker:
    """A `Reranker` whose model runs in this process, on threads of its own."""

    def __init__(
        self,
        encoder: CrossEncoder,
        tokeniser: PairTokeniser,
        info: RerankerInfo,
        prompts: Mapping[str, str],
        queue_pairs: int = QUEUE_INPUTS,
        share: Share = equal_shares,
    ) -> None:
        self.info = info
        self._encoder = encoder
        self._query_prompt = prompts.get("query", "")
        self._passage_prompt = prompts.get("document", "")
        self._worker: ModelWorker[Pair, float] = ModelWorker(
            info.name,
            tokenise=tokeniser,
            run=self._run,
            result="score for this pair",
            max_tokens=encoder.max_tokens,
            limits=TEXT_LIMITS[encoder.device],
            queue_inputs=queue_pairs,
            share=share,
        )
        self.counters = self._worker.counters

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        provider: Provider = "auto",
        threads: int | None = None,
        queue_pairs: int = QUEUE_INPUTS,
        share: Share = equal_shares,
    ) -> CrossEncoderReranker:
        """Loads the pack in ``folder`` and runs it once. Takes about a second: not for the loop.

        ``threads`` compute one run (all usable CPUs if None). ``queue_pairs`` bounds the pairs
        that wait; ``share`` is the weight of a namespace then. Raises `SetupError`.
        """
        pack = read_pair_pack(folder)
        encoder = CrossEncoder(pack, provider, threads)
        tokeniser = PairTokeniser(pack.text.tokenizer, pack.text.max_tokens)
        info = RerankerInfo(name, pack.version, encoder.device)
        return cls(encoder, tokeniser, info, pack.text.prompts, queue_pairs, share)

    def submit(self, pairs: Sequence[Pair]) -> list[asyncio.Future[float]]:
        """Queues pairs and returns at once; see `Reranker.submit`."""
        loop = asyncio.get_running_loop()
        jobs: list[Job[Pair, float]] = [
            Job((self._query_prompt + query, self._passage_prompt + passage), loop.create_future())
            for query, passage in pairs
        ]
        self._worker.submit(jobs)
        return [job.future for job in jobs]

    async def close(self) -> None:
        """Ends the run in progress; what is still queued fails with `ModelUnavailableError`."""
        await self._worker.close()

    def _run(self, batch: Sequence[Encodable], _: Hashable) -> list[float | None]:
        pairs = [item for item in batch if isinstance(item, Tokens)]
        scores = self._encoder.run(pairs)
        return [float(score) if np.isfinite(score) else None for score in scores]
