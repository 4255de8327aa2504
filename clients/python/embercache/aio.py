"""The asyncio client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache import (
    _admin,
    _batches,
    _cache_requests,
    _channel,
    _embed_requests,
    _generate_answers,
    _generate_requests,
    _search_answers,
    _search_requests,
)
from embercache._asyncio import Connection, batches
from embercache._cache_requests import WARM_EMBED, WARM_SEARCH
from embercache._credentials import Credentials
from embercache._embed_requests import EMBED
from embercache._fields import error_classes, several
from embercache._generate_answers import StreamedAnswer
from embercache._search_requests import DELETE, RERANK, UPSERT
from embercache._stream import StreamWindow
from embercache.generate import AsyncGenerateStream
from embercache.results import decode, finish
from embercache.v1 import cache_pb2, embed_pb2, generate_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence

    from typing_extensions import Self, Unpack

    from embercache._search_requests import Search
    from embercache.generate import Generated, GenerateOptions, GeneratorModel, Prompt
    from embercache.results import EmbedResult
    from embercache.search import (
        Document,
        Query,
        RerankOptions,
        RerankResult,
        SearchOptions,
        SearchResult,
        UpsertResult,
    )
    from embercache.stats import Stats
    from embercache.types import (
        CredentialFiles,
        EmbedInput,
        EmbedOptions,
        Event,
        FlushableTier,
        InvalidateTarget,
        MigrateModelProgress,
        Model,
        OnError,
        WarmProgress,
    )


class AsyncClient:
    """As `Client`, for asyncio. Belongs to the event loop of its first call.

    It may be made where no loop runs yet.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float = 10.0,
        **files: Unpack[CredentialFiles],
    ) -> None:
        place = _channel.place(address)
        self._connection = Connection(place, timeout, Credentials(place, **files))

    async def embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> EmbedResult:
        """As `Client.embed`."""
        listed = list(_embed_requests.many(inputs))
        template = _embed_requests.options(**options)
        requests = _batches.requests(EMBED, template, listed, "inputs")
        method = self._connection.stubs.embed.Embed
        answers = await self._connection.bulk(EMBED, method, requests, timeout)
        return finish(decode(listed, answers), on_error)

    def embed_stream(
        self,
        inputs: Iterable[EmbedInput] | AsyncIterable[EmbedInput],
        *,
        batch_size: int = 256,
        timeout: float = 60.0,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[EmbedResult]:
        """As `Client.embed_stream`; ``inputs`` may be an async iterable too."""
        batcher = _batches.Batcher(EMBED, _embed_requests.options(**options), batch_size)
        cut = batches(_embed_requests.many(inputs), batcher)
        return self._connection.embed_stream(StreamWindow(on_error, timeout), cut, timeout)

    async def search(
        self, query: Query, *, timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """As `Client.search`."""
        request = _search_requests.search_request(query, **options)
        method = self._connection.stubs.search.Search
        classes = error_classes(request.cache)
        return _search_answers.search(
            await self._connection.call(method, request, timeout, classes)
        )

    async def upsert(
        self,
        documents: Iterable[Document],
        *,
        collection: str = "",
        namespace: str = "",
        model: str = "",
        timeout: float | None = None,
        on_error: OnError = "raise",
    ) -> UpsertResult:
        """As `Client.upsert`."""
        listed = _search_requests.documents_once(documents)
        template = search_pb2.UpsertRequest(collection=collection, namespace=namespace, model=model)
        requests = _batches.requests(UPSERT, template, listed, "documents")
        method = self._connection.stubs.search.Upsert
        answers = await self._connection.bulk(UPSERT, method, requests, timeout)
        return finish(_search_answers.upsert([each.id for each in listed], answers), on_error)

    async def delete(
        self,
        ids: Iterable[str],
        *,
        collection: str = "",
        namespace: str = "",
        model: str = "",
        timeout: float | None = None,
    ) -> list[bool]:
        """As `Client.delete`."""
        template = search_pb2.DeleteRequest(collection=collection, namespace=namespace, model=model)
        requests = _batches.requests(DELETE, template, list(several("ids", ids)), "ids")
        method = self._connection.stubs.search.Delete
        return _search_answers.delete(
            await self._connection.bulk(DELETE, method, requests, timeout)
        )

    async def rerank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[RerankOptions],
    ) -> RerankResult:
        """As `Client.rerank`."""
        template = _search_requests.rerank_options(query, **options)
        listed = list(several("passages", passages))
        requests = _batches.requests(RERANK, template, listed, "passages")
        method = self._connection.stubs.search.Rerank
        answers = await self._connection.bulk(RERANK, method, requests, timeout)
        return finish(_search_answers.rerank(answers), on_error)

    async def generate(
        self, prompt: Prompt, *, timeout: float = 60.0, **options: Unpack[GenerateOptions]
    ) -> Generated:
        """As `Client.generate`."""
        request = _generate_requests.generate_request(prompt, **options)
        method = self._connection.stubs.generate.Generate
        classes = error_classes(request.cache)
        response = await self._connection.call(method, request, timeout, classes)
        return _generate_answers.generated(response.text, response.tokens, response.summary)

    def generate_stream(
        self, prompt: Prompt, *, timeout: float = 60.0, **options: Unpack[GenerateOptions]
    ) -> AsyncGenerateStream:
        """As `Client.generate_stream`; not awaited itself."""
        request = _generate_requests.generate_request(prompt, **options)
        answer = StreamedAnswer()
        pieces = self._connection.follow(
            lambda stubs: stubs.generate.GenerateStream,
            [request],
            timeout,
            answer.add,
            error_classes(request.cache),
        )
        return AsyncGenerateStream(_generate_answers.async_texts(pieces, answer), answer)

    async def generators(self, *, timeout: float | None = None) -> list[GeneratorModel]:
        """As `Client.generators`."""
        request = generate_pb2.ListGeneratorsRequest()
        method = self._connection.stubs.generate.ListGenerators
        return _admin.generators(await self._connection.call(method, request, timeout))

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """As `Client.models`."""
        request = embed_pb2.ListModelsRequest()
        method = self._connection.stubs.embed.ListModels
        return _admin.models(await self._connection.call(method, request, timeout))

    async def stats(self, *, timeout: float | None = None) -> Stats:
        """As `Client.stats`."""
        request = cache_pb2.StatsRequest()
        method = self._connection.stubs.cache.Stats
        return _admin.stats(await self._connection.call(method, request, timeout))

    async def invalidate(
        self,
        *,
        namespace: str = "",
        timeout: float | None = None,
        **target: Unpack[InvalidateTarget],
    ) -> None:
        """As `Client.invalidate`."""
        request = _cache_requests.invalidate_request(namespace=namespace, **target)
        await self._connection.call(self._connection.stubs.cache.Invalidate, request, timeout)

    async def publish_events(
        self, events: Iterable[Event], *, timeout: float | None = None
    ) -> None:
        """As `Client.publish_events`."""
        request = _cache_requests.events_request(events)
        await self._connection.call(self._connection.stubs.cache.PublishEvents, request, timeout)

    def warm_embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        per_second: float | None = None,
        timeout: float = 60.0,
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[WarmProgress]:
        """As `Client.warm_embed`."""
        listed = list(_embed_requests.many(inputs))
        template = _cache_requests.warm_options(per_second, _embed_requests.options(**options))
        requests = _batches.requests(WARM_EMBED, template, listed, "inputs")
        return self._warm(requests, len(listed), timeout)

    def warm_search(
        self,
        searches: Iterable[str | Search],
        *,
        per_second: float | None = None,
        timeout: float = 60.0,
    ) -> AsyncIterator[WarmProgress]:
        """As `Client.warm_search`."""
        listed = list(several("searches", searches))
        template = _cache_requests.warm_options(per_second)
        requests = _batches.requests(WARM_SEARCH, template, listed, "searches")
        return self._warm(requests, len(listed), timeout)

    def warm_popular(
        self,
        count: int,
        *,
        namespace: str = "",
        per_second: float | None = None,
        timeout: float = 60.0,
    ) -> AsyncIterator[WarmProgress]:
        """As `Client.warm_popular`."""
        request = _cache_requests.popular_request(count, namespace, per_second)
        return self._warm([request], None, timeout)

    def migrate_model(
        self,
        model: str,
        to: str,
        *,
        popular: int = 1000,
        per_second: float | None = None,
        timeout: float = 60.0,
    ) -> AsyncIterator[MigrateModelProgress]:
        """As `Client.migrate_model`."""
        request = _cache_requests.migrate_request(model, to, popular, per_second)
        return self._connection.follow(
            lambda stubs: stubs.cache.MigrateModel, [request], timeout, _admin.migration
        )

    async def rollback_model(self, model: str, *, timeout: float | None = None) -> None:
        """As `Client.rollback_model`."""
        request = cache_pb2.RollbackModelRequest(model=model)
        await self._connection.call(self._connection.stubs.cache.RollbackModel, request, timeout)

    async def flush(
        self,
        tiers: Sequence[FlushableTier] = (),
        *,
        timeout: float | None = None,
    ) -> int:
        """As `Client.flush`."""
        request = _cache_requests.flush_request(tiers)
        method = self._connection.stubs.cache.Flush
        return (await self._connection.call(method, request, timeout)).entries

    async def health(self, *, timeout: float | None = None) -> bool:
        """As `Client.health`."""
        request = _admin.HEALTH_REQUEST
        method = self._connection.stubs.health
        answer = await self._connection.call(method, request, timeout)
        return answer == _admin.HEALTH_SERVING

    async def close(self) -> None:
        """Closes the connection. Calls under way are cancelled."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _warm(
        self, requests: Sequence[cache_pb2.WarmRequest], total: int | None, timeout: float
    ) -> AsyncIterator[WarmProgress]:
        return self._connection.follow(
            lambda stubs: stubs.cache.Warm, requests, timeout, _admin.WarmTotals(total).add
        )
