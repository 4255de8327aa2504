"""Reranks with the encoder at hand, by the vectors that it has for each token."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.errors import SetupError
from sidecar.models.pack_files import digest
from sidecar.models.types import ModelError, ModelUnavailableError, RerankerInfo
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.local import LocalEmbedder
    from sidecar.models.types import Pair, TokenVectors

# Part of the version: to be raised with every change in how a score is made.
_ALGORITHM = b"maxsim 1"

# NumPy's OpenBLAS uses more threads above so many multiplications. They gain nothing for products
# of this size, but spin for tens of milliseconds on the CPUs that the encoder needs.
_ONE_THREAD = 2**18

_log = logging.getLogger(__name__)


def max_similarity(query: TokenVectors, passage: TokenVectors) -> float:
    """MaxSim of ColBERT (Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832).

    For each token of the query the largest cosine over the tokens of the passage, and of these the
    mean, where ColBERT has the sum: so queries of all lengths score in [-1, 1]. 0 if either has
    no tokens.
    """
    if not len(query) or not len(passage):
        return 0.0
    best = np.full(len(query), -1, np.float32)
    rows = max(1, _ONE_THREAD // query.size)
    for start in range(0, len(passage), rows):
        block = passage[start : start + rows]
        best = np.maximum(best, (query @ block.T).max(axis=1))
    return min(1.0, float(best.mean()))  # rounding may lead above 1


@dataclass(slots=True, eq=False)
class _Text:
    """A text of one call: its token vectors, and the pairs that still need them."""

    tokens: asyncio.Future[TokenVectors]
    pairs: set[_Scoring] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Scoring:
    """A pair of one call on its way to a score."""

    query: _Text
    passage: _Text
    score: asyncio.Future[float]

    def is_ready(self) -> bool:
        return self.query.tokens.done() and self.passage.tokens.done()

    def end(self, outcome: float | BaseException) -> None:
        if self.score.done():
            return
        if isinstance(outcome, BaseException):
            self.score.set_exception(outcome)
        else:
            self.score.set_result(outcome)


class LateInteractionReranker:
    """A `Reranker` that compares the token vectors of an encoder: see `max_similarity`.

    The texts of a call wait in the encoder's queue, each of them once. A pair is scored as soon as
    both its texts are there, and token vectors go when the last pair that needs them has its score.
    """

    def __init__(self, embedder: LocalEmbedder) -> None:
        """Raises `SetupError` if the encoder has no token vectors. It is not closed by `close`."""
        model = embedder.info
        if not embedder.gives_token_vectors:
            raise SetupError(
                f"model {model.name} cannot rerank: its graph has no output with a vector for each"
                " token. Name the pack of a cross-encoder in model.rerankers, or export the graph"
                " with an output last_hidden_state, [batch, sequence, dimensions]"
            )
        version = digest([model.version.encode(), _ALGORITHM])
        self.info = RerankerInfo(f"{model.name}-maxsim", version, model.runs_on)
        self._embedder = embedder
        self._pending: set[_Scoring] = set()  # lack the tokens of a text
        self._ready: list[_Scoring] = []
        self._scorer: asyncio.Task[None] | None = None
        self._closed = False

    def submit(self, pairs: Sequence[Pair]) -> list[asyncio.Future[float]]:
        """Queues pairs and returns at once; see `Reranker.submit`."""
        if self._closed:
            raise ModelUnavailableError("the model is shutting down; try another replica")
        prompts = self._embedder.info.prompts
        query_prompt, passage_prompt = prompts.get("query", ""), prompts.get("document", "")
        prompted = [(query_prompt + query, passage_prompt + passage) for query, passage in pairs]
        texts = self._queue_texts(prompted)
        return [self._begin(texts[query], texts[passage]) for query, passage in prompted]

    async def close(self) -> None:
        """Ends the scoring in progress; all other pairs fail with `ModelUnavailableError`."""
        self._closed = True
        error = ModelUnavailableError("the model is shutting down; try another replica")
        for scoring in (*self._pending, *self._ready):
            scoring.end(error)
        if self._scorer is not None:
            await asyncio.wait({self._scorer})

    def _queue_texts(self, pairs: Sequence[Pair]) -> dict[str, _Text]:
        # Queries first: then they are seldom what a passage waits for.
        texts = dict.fromkeys(chain((query for query, _ in pairs), (text for _, text in pairs)))
        tokens = self._embedder.submit_tokens(list(texts))
        queued = {text: _Text(future) for text, future in zip(texts, tokens, strict=True)}
        for text in queued.values():
            text.tokens.add_done_callback(partial(self._arrived, text))
        return queued

    def _begin(self, query: _Text, passage: _Text) -> asyncio.Future[float]:
        score: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        scoring = _Scoring(query, passage, score)
        query.pairs.add(scoring)
        passage.pairs.add(scoring)
        self._pending.add(scoring)
        score.add_done_callback(partial(self._ended, scoring))
        return score

    def _ended(self, scoring: _Scoring, _: asyncio.Future[float]) -> None:
        """Gives up what a pair needed when it has its score, has failed or is cancelled."""
        self._pending.discard(scoring)
        for text in (scoring.query, scoring.passage):
            text.pairs.discard(scoring)
            if not text.pairs:
                text.tokens.cancel()

    def _arrived(self, text: _Text, tokens: asyncio.Future[TokenVectors]) -> None:
        """Scores the pairs of which both texts are there now; fails those of a text that failed."""
        if tokens.cancelled():  # by us: no pair needs it
            return
        error = tokens.exception()
        for scoring in text.pairs:
            if error is not None:
                scoring.end(error)
            elif scoring in self._pending and scoring.is_ready():
                self._pending.remove(scoring)
                self._ready.append(scoring)
        if self._ready and (self._scorer is None or self._scorer.done()):
            self._scorer = create_shared_task(self._score_ready())

    async def _score_ready(self) -> None:
        while self._ready:
            scorings = [scoring for scoring in self._ready if not scoring.score.done()]
            self._ready.clear()
            vectors = [(one.query.tokens.result(), one.passage.tokens.result()) for one in scorings]
            outcomes: Sequence[float | ModelError]
            try:
                outcomes = await asyncio.to_thread(_max_similarities, vectors)
            except Exception as error:  # out of memory, say
                _log.exception("%s could not score %d pair(s)", self.info.name, len(scorings))
                reason = type(error).__name__
                outcomes = [ModelError(f"the pair was not scored ({reason})")] * len(scorings)
            for scoring, outcome in zip(scorings, outcomes, strict=True):
                scoring.end(outcome)


def _max_similarities(vectors: Sequence[tuple[TokenVectors, TokenVectors]]) -> list[float]:
    return [max_similarity(query, passage) for query, passage in vectors]
