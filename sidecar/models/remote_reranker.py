"""A reranker of the encoder pool, spoken to in the protocol that we serve."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import search_pb2, search_pb2_grpc

from sidecar.models.pool_channel import UNCACHED, item_error
from sidecar.models.remote_model import RemoteModel
from sidecar.models.types import ModelError, Pair, RerankerInfo
from sidecar.models.upstream_channel import UpstreamAccess
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class RemoteReranker(RemoteModel[Pair, float, RerankerInfo]):
    """A `Reranker` whose model runs in other sidecars."""

    setting = "model.rerankers"
    kind = RerankerInfo

    def __init__(
        self,
        name: str,
        target: str,
        *,
        queue_pairs: int,
        timeout: float,
        access: UpstreamAccess = UpstreamAccess(),  # noqa: B008 - it never changes
    ) -> None:
        super().__init__(name, target, queue_inputs=queue_pairs, timeout=timeout, access=access)
        self._stub = search_pb2_grpc.SearchServiceStub(self._channel.for_stubs())

    async def _ask(self) -> RerankerInfo | None:
        # Without passages, nothing is scored.
        request = search_pb2.RerankRequest(reranker=self._name, cache=UNCACHED)
        try:
            response = await self._stub.Rerank(request, timeout=self._ask_seconds)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return None
            raise
        return RerankerInfo(response.reranker, response.reranker_version, self._target)

    @property
    def _trial(self) -> Pair:
        return ("a", "a")

    def _together(self, inputs: Sequence[Pair]) -> Iterable[Sequence[int]]:
        """A call has one query."""
        places: defaultdict[str, list[int]] = defaultdict(list)
        for place, (query, _) in enumerate(inputs):
            places[query].append(place)
        return places.values()

    async def _compute(self, inputs: Sequence[Pair], version: str) -> list[float | ModelError]:
        request = search_pb2.RerankRequest(
            query=inputs[0][0],
            passages=[passage for _, passage in inputs],
            reranker=self._name,
            reranker_version=version,
            cache=UNCACHED,
        )
        with current().call("grpc", "embercache.v1.SearchService/Rerank", self._target) as span:
            response = await self._stub.Rerank(
                request, timeout=self._time_left(), metadata=span.headers()
            )
            span.answered("OK")
        return [_result(score) for score in response.scores]

    def _size(self, item: Pair) -> int:
        return len(item[1].encode())


def _result(score: search_pb2.RerankScore) -> float | ModelError:
    if score.HasField("error"):
        return item_error(score.error)
    if not math.isfinite(score.score):
        return ModelError("the encoder answered with a score that is none")
    return score.score
