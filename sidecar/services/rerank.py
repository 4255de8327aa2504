"""SearchService.Rerank: passages scored for a query, each pair from cache where possible."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import search_pb2

from sidecar.models.types import VersionChangedError
from sidecar.services.embed_request import check_version
from sidecar.services.errors import as_call_error, invalid, raise_if_all_may_be_retried
from sidecar.services.requests import cache_choices, decode
from sidecar.services.scores import score
from sidecar.services.wire import TIER_NUMBER

if TYPE_CHECKING:
    from sidecar.access.quotas import Quotas
    from sidecar.cache.generations import Generations
    from sidecar.cache.items import Answer
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.scores import Scores
    from sidecar.services.search_request import SearchReader


class RerankService:
    """Answers Rerank of search.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        requests: RequestReader,
        reader: SearchReader,
        scores: Scores,
        generations: Generations,
        quotas: Quotas,
        max_passages: int,
    ) -> None:
        self._requests = requests
        self._reader = reader
        self._scores = scores
        self._generations = generations
        self._quotas = quotas
        self._max_passages = max_passages

    async def rerank(self, raw: bytes) -> bytes:
        """Rerank."""
        self._requests.check_size(raw)
        request = decode(search_pb2.RerankRequest, raw)
        if len(request.passages) > self._max_passages:
            raise invalid(
                f"there are {len(request.passages)} passages, more than the {self._max_passages}"
                " allowed: split them"
            )
        for text in (request.query, *request.passages):
            self._requests.check_text(text)
        name = self._requests.namespace(request.namespace)
        self._quotas.charge(name, len(request.passages))
        response, answers = await self._answer(request)
        if any(isinstance(answer, VersionChangedError) for answer in answers):
            response, answers = await self._answer(request)
        outcomes = [
            as_call_error(answer) if isinstance(answer, Exception) else answer for answer in answers
        ]
        raise_if_all_may_be_retried(outcomes)
        for outcome in outcomes:
            item = response.scores.add()
            if isinstance(outcome, Exception):
                item.error.code, item.error.message = outcome.number, outcome.message
            else:
                item.score = score(outcome.entry)
                item.tier = TIER_NUMBER[outcome.tier]  # type: ignore[assignment]
        return response.SerializeToString()

    async def _answer(
        self, request: search_pb2.RerankRequest
    ) -> tuple[search_pb2.RerankResponse, list[Answer | Exception]]:
        reranker = self._reader.reranker(request.reranker)
        info = reranker.info
        check_version(info, request.reranker_version)
        choices = cache_choices(self._requests.digests, request.cache)
        state = await self._generations.state(self._requests.namespace(request.namespace))
        response = search_pb2.RerankResponse(reranker=info.name, reranker_version=info.version)
        pairs = [(request.query, passage) for passage in request.passages]
        return response, await self._scores.fetch(state, reranker, info, pairs, choices)
