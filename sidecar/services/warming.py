"""CacheService.Warm: fills the cache before it is needed, by making calls as callers make them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import grpc
import structlog
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2
from google.protobuf.message import DecodeError

from sidecar.demand import in_background
from sidecar.services.errors import RETRYABLE, CallError, as_call_error, invalid
from sidecar.services.pace import Pace, reports
from sidecar.services.requests import decode

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
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_COMPUTED = (common_pb2.TIER_COMPUTED, common_pb2.TIER_COALESCED)

_log = structlog.get_logger()


@dataclass(slots=True)
class Warmed:
    """Items of a warming, by what came of them; those that failed also by their status."""

    total: int = 0
    cached: int = 0
    computed: int = 0
    failed: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    first_error: CallError | None = None

    def count(self, tier: int) -> None:
        """Counts an item that a tier answered."""
        if tier in _COMPUTED:
            self.computed += 1
        else:
            self.cached += 1

    def fail(self, error: CallError, items: int = 1) -> None:
        """Counts items that failed."""
        self.failed += items
        self.statuses[error.code.name] += items
        self.first_error = self.first_error or error

    def serialized(self) -> bytes:
        """As a WarmProgress."""
        return cache_pb2.WarmProgress(
            total=self.total, cached=self.cached, computed=self.computed, failed=self.failed
        ).SerializeToString()


class Warmer:
    """Answers Warm of cache.proto.

    At most two batches of 64 inputs are under way for each warming; one that finds the model's
    queue full waits. What cannot be done for half a minute, because the model is down or has no
    room, ends the warming; so does, at its end, that every item has failed. Raises what
    `sidecar.services.errors.as_call_error` turns into a status.

    Args:
        embed: `EmbedService.embed`: bytes in, bytes out.
        search: `SearchService.search`.
        popular: None where popular queries are not tracked.
        namespace: `RequestReader.namespace`.
        now: monotonic, in seconds.
        sleep: waits for so many seconds.
    """

    def __init__(
        self,
        embed: Call,
        search: Call,
        popular: PopularQueries | None,
        namespace: Callable[[str], str],
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._embed = embed
        self._search = search
        self._popular = popular
        self._namespace = namespace
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
            if warmed.failed:
                _log.warning("items could not be warmed", statuses=dict(warmed.statuses))
        if warmed.first_error is not None and warmed.failed == warmed.total:
            raise warmed.first_error

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
        as so many failed items. What the caller may not do raises whatever it is. What may succeed
        later is tried for half a minute, then raises.
        """
        in_background()
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
                return await self.popular(self._namespace(popular.namespace), popular.count), False
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
        requests = [request for query in queries if (request := popular_request(query)) is not None]
        for request in requests:
            # One that named none may have been made of a sidecar with another default.
            if request.namespace or self._namespace("") != name:
                request.namespace = name
        return requests

    async def _call(
        self, request: Request, pace: Pace, warmed: Warmed, *, ends_at_error: bool
    ) -> None:
        """Makes one call; what failed for want of room is asked for again."""
        attempts = 0
        failure = await self._call_once(request, warmed)
        while failure is not None:
            rest, error = failure
            attempts += 1
            may_succeed_later = error.code in RETRYABLE
            if may_succeed_later and await pace.back_off(attempts):
                failure = await self._call_once(rest, warmed)
                continue
            warmed.fail(error, _items(rest))
            is_forbidden = error.code is grpc.StatusCode.PERMISSION_DENIED
            if may_succeed_later or ends_at_error or is_forbidden:
                raise error
            return

    async def _call_once(
        self, request: Request, warmed: Warmed
    ) -> tuple[Request, CallError] | None:
        """Makes one call; returns what of it is not done, and why."""
        try:
            return await self._ask(request, warmed)
        except Exception as error:
            return request, as_call_error(error)

    async def _ask(self, request: Request, warmed: Warmed) -> tuple[Request, CallError] | None:
        """Makes one call; returns what of it may succeed later, and why it has not. Raises."""
        raw = request.SerializeToString()
        if isinstance(request, search_pb2.SearchRequest):
            answer = search_pb2.SearchResponse.FromString(await self._search(raw))
            warmed.count(answer.tier)
            return None
        response = embed_pb2.EmbedResponse.FromString(await self._embed(raw))
        again, reason = _without_inputs(request), None
        for item, embedding in zip(request.inputs, response.embeddings, strict=True):
            if not embedding.error.code:
                warmed.count(embedding.tier)
                continue
            error = CallError(_CODES[embedding.error.code], embedding.error.message)
            if error.code in RETRYABLE:
                again.inputs.append(item)
                reason = error
            else:
                warmed.fail(error)
        return None if reason is None else (again, reason)


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
