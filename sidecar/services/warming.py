"""CacheService.Warm: fills the cache before it is needed, by making calls as callers make them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2
from google.protobuf.message import DecodeError

from sidecar.services.errors import RETRYABLE, CallError, as_call_error, invalid
from sidecar.services.pace import Pace, reports
from sidecar.services.requests import decode, namespace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from sidecar.cache.popular import PopularQueries, PopularQuery

    Call = Callable[[bytes], Awaitable[bytes]]

T = TypeVar("T")
Request: TypeAlias = embed_pb2.EmbedRequest | search_pb2.SearchRequest

# What stands before a caller in the queue of a model, at most.
_BATCHES_AT_ONCE = 2
_BATCH_ITEMS = 64
_BATCH_BYTES = 256 * 1024
_RETRYABLE_NUMBERS = {code.value[0] for code in RETRYABLE}
_COMPUTED = (common_pb2.TIER_COMPUTED, common_pb2.TIER_COALESCED)


@dataclass(slots=True)
class Warmed:
    """Items of a warming, by what came of them."""

    total: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0

    def count(self, tier: int) -> None:
        """Counts an item that a tier answered."""
        if tier in _COMPUTED:
            self.computed += 1
        else:
            self.cached += 1

    def serialized(self) -> bytes:
        """As a WarmProgress."""
        return cache_pb2.WarmProgress(
            total=self.total, cached=self.cached, computed=self.computed, failed=self.failed
        ).SerializeToString()


class Warmer:
    """Answers Warm of cache.proto.

    At most two batches of 64 inputs are under way for each warming; one that finds the model's
    queue full waits. Raises what `sidecar.services.errors.as_call_error` turns into a status.

    Args:
        embed: `EmbedService.embed`: bytes in, bytes out.
        search: `SearchService.search`.
        popular: None where popular queries are not tracked.
        now: monotonic, in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        embed: Call,
        search: Call,
        popular: PopularQueries | None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._embed = embed
        self._search = search
        self._popular = popular
        self._now = now
        self._sleep = sleep

    async def warm(self, raw: bytes) -> AsyncIterator[bytes]:
        """Warm."""
        request = decode(cache_pb2.WarmRequest, raw)
        pace = self.pace(request.per_second)
        requests, ends_at_error = await self._requests(request)
        warmed = Warmed()
        work = asyncio.create_task(self.repeat(requests, pace, warmed, ends_at_error=ends_at_error))
        try:
            async with contextlib.aclosing(reports(work, warmed.serialized)) as progress:
                async for message in progress:
                    yield message
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def pace(self, per_second: float) -> Pace:
        """A limit of so many items a second. Raises `CallError`."""
        return Pace(per_second, self._now, self._sleep)

    async def repeat(
        self,
        requests: Sequence[Request],
        pace: Pace,
        warmed: Warmed,
        *,
        ends_at_error: bool = False,
    ) -> None:
        """Makes the calls, and counts in ``warmed``.

        A call that fails as a whole raises its `CallError` or, without ``ends_at_error``, counts
        as so many failed items.
        """
        warmed.total += sum(map(_items, requests))
        batches = _batches(requests, pace.batch(_BATCH_ITEMS))

        async def work() -> None:
            for batch in batches:
                await pace.take(_items(batch))
                await self._call(batch, pace, warmed, ends_at_error=ends_at_error)

        await _together([work() for _ in range(_BATCHES_AT_ONCE)])

    async def _requests(self, request: cache_pb2.WarmRequest) -> tuple[list[Request], bool]:
        """The calls to make, and whether an error of one is an error of all."""
        match request.WhichOneof("what"):
            case "embed":
                if not request.embed.inputs:
                    raise invalid("there is nothing to warm: put inputs into embed")
                return [request.embed], True
            case "searches":
                if not request.searches.requests:
                    raise invalid("there is nothing to warm: put requests into searches")
                return list(request.searches.requests), False
            case "popular":
                popular = request.popular
                if not popular.count:
                    raise invalid("popular.count: say how many queries")
                return await self.popular(namespace(popular.namespace), popular.count), False
            case _:
                raise invalid("say what to warm: embed, searches or popular")

    async def popular(self, name: str, count: int) -> list[Request]:
        """The queries asked most in a namespace, as calls to make. Raises `CallError`."""
        if self._popular is None:
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                "popular queries are not tracked: set popular.queries to how many of each"
                " namespace to track",
            )
        queries = await self._popular.top(name, count)
        return [request for query in queries if (request := popular_request(query)) is not None]

    async def _call(
        self, request: Request, pace: Pace, warmed: Warmed, *, ends_at_error: bool
    ) -> None:
        """Makes one call; what failed for want of room is asked for again."""
        failures = 0
        rest: Request | None = request
        while rest is not None:
            try:
                rest = await self._call_once(rest, warmed)
            except Exception as error:
                failure = as_call_error(error)
                if failure.code not in RETRYABLE:
                    if ends_at_error:
                        raise failure from error
                    break
            failures += 1
            if rest is not None and not await pace.back_off(failures):
                break
        if rest is not None:
            warmed.failed += _items(rest)

    async def _call_once(self, request: Request, warmed: Warmed) -> Request | None:
        """Makes one call; returns what of it may succeed later."""
        raw = request.SerializeToString()
        if isinstance(request, search_pb2.SearchRequest):
            answer = search_pb2.SearchResponse.FromString(await self._search(raw))
            warmed.count(answer.tier)
            return None
        response = embed_pb2.EmbedResponse.FromString(await self._embed(raw))
        again = _without_inputs(request)
        for item, embedding in zip(request.inputs, response.embeddings, strict=True):
            if embedding.error.code in _RETRYABLE_NUMBERS:
                again.inputs.append(item)
            elif embedding.error.code:
                warmed.failed += 1
            else:
                warmed.count(embedding.tier)
        return again if again.inputs else None


def popular_request(query: PopularQuery) -> Request | None:
    """The call that a popular query was; None if it cannot be read.

    What it asked of the cache was for that time: a warming reads and stores.
    """
    kind: type[Request] = (
        search_pb2.SearchRequest if query.kind == "search" else embed_pb2.EmbedRequest
    )
    try:
        request = kind.FromString(query.request)
    except DecodeError:
        return None
    request.cache.ClearField("mode")
    return request


def _items(request: Request) -> int:
    return len(request.inputs) if isinstance(request, embed_pb2.EmbedRequest) else 1


def _batches(requests: Iterable[Request], most: int) -> Iterator[Request]:
    """Searches as they are; inputs of Embed in batches, those of like requests together."""
    likes: dict[bytes, embed_pb2.EmbedRequest] = {}
    for request in requests:
        if isinstance(request, search_pb2.SearchRequest):
            yield request
            continue
        rest = _without_inputs(request)
        like = rest.SerializeToString(deterministic=True)
        for item in request.inputs:
            batch = likes.setdefault(like, rest)
            batch.inputs.append(item)
            if len(batch.inputs) >= most or batch.ByteSize() >= _BATCH_BYTES:
                yield likes.pop(like)
                rest = embed_pb2.EmbedRequest.FromString(like)
    yield from (batch for batch in likes.values() if batch.inputs)


def _without_inputs(request: embed_pb2.EmbedRequest) -> embed_pb2.EmbedRequest:
    rest = embed_pb2.EmbedRequest()
    rest.CopyFrom(request)
    rest.ClearField("inputs")
    return rest


async def _together(works: Sequence[Awaitable[None]]) -> None:
    """Waits for all; the first error ends them all and is raised."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
