"""The blocking client."""

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
from embercache._blocking import Connection
from embercache._cache_requests import WARM_EMBED, WARM_SEARCH
from embercache._credentials import Credentials
from embercache._embed_requests import EMBED
from embercache._fields import error_classes, several
from embercache._generate_answers import StreamedAnswer
from embercache._search_requests import DELETE, RERANK, UPSERT
from embercache._stream import StreamWindow
from embercache.generate import GenerateStream
from embercache.results import decode, finish
from embercache.v1 import cache_pb2, embed_pb2, generate_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

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


class Client:
    """Talks to one sidecar. Safe to share between threads; make it after a fork, not before.

    ``address`` is ``host:port``, ``tls://host:port``, ``unix:///absolute/path`` or ``unix:path``;
    without it ``EMBERCACHE_ADDRESS`` from the environment, else ``127.0.0.1:50551``. A sidecar that
    asks who calls is shown what is in `CredentialFiles`. Nothing is connected until the first call.
    ``timeout`` is the deadline of every call, in seconds, its retries
    included; each call can be given its own.

    A call that fails with `UnavailableError` or `OverloadedError` has been tried five times, with
    exponential backoff, unless the deadline came first. Every method raises `EmbercacheError`.
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

    def embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> EmbedResult:
        """Embeds texts, named texts (`Entity`) or tensors; `EmbedOptions` lists the options.

        The answer is in the order of the inputs. Many or large inputs are sent in several calls,
        one after the other. If some inputs have no vector, `PartialFailureError` is raised, which
        holds the result with all the others; with ``on_error="return"`` that result is returned.
        """
        listed = list(_embed_requests.many(inputs))
        template = _embed_requests.options(**options)
        requests = _batches.requests(EMBED, template, listed, "inputs")
        method = self._connection.stubs.embed.Embed
        answers = self._connection.bulk(EMBED, method, requests, timeout)
        return finish(decode(listed, answers), on_error)

    def embed_stream(
        self,
        inputs: Iterable[EmbedInput],
        *,
        batch_size: int = 256,
        timeout: float = 60.0,
        on_error: OnError = "raise",
        **options: Unpack[EmbedOptions],
    ) -> Iterator[EmbedResult]:
        """Embeds any number of inputs; yields results of up to ``batch_size``, in input order.

        Up to eight batches are under way at a time, and no more is read ahead from ``inputs``,
        which may be longer than memory. Batches that could not be answered for the moment are
        sent again, and a stream that broke is opened anew. ``timeout`` is the longest wait, in
        seconds, for the next answer and for a sidecar that went away to come back. ``on_error``
        is as in `embed`; after an error the iterator ends, so give ``"return"`` where a bad input
        must not end the job.
        """
        batcher = _batches.Batcher(EMBED, _embed_requests.options(**options), batch_size)
        batches = _batches.batches(_embed_requests.many(inputs), batcher)
        return self._connection.embed_stream(StreamWindow(on_error, timeout), batches, timeout)

    def search(
        self, query: Query, *, timeout: float | None = None, **options: Unpack[SearchOptions]
    ) -> SearchResult:
        """Finds the chunks nearest to a text or a vector; `SearchOptions` lists the options."""
        request = _search_requests.search_request(query, **options)
        method = self._connection.stubs.search.Search
        classes = error_classes(request.cache)
        response = self._connection.call(method, request, timeout, classes)
        return _search_answers.search(response)

    def upsert(
        self,
        documents: Iterable[Document],
        *,
        collection: str = "",
        namespace: str = "",
        model: str = "",
        timeout: float | None = None,
        on_error: OnError = "raise",
    ) -> UpsertResult:
        """Stores documents, each in place of what was there under its id.

        A chunk is embedded only if its content is new. Many or large documents are sent in several
        calls, one after the other. Documents that fail are treated as inputs of `embed` that do.
        """
        listed = _search_requests.documents_once(documents)
        template = search_pb2.UpsertRequest(collection=collection, namespace=namespace, model=model)
        requests = _batches.requests(UPSERT, template, listed, "documents")
        method = self._connection.stubs.search.Upsert
        answers = self._connection.bulk(UPSERT, method, requests, timeout)
        return finish(_search_answers.upsert([each.id for each in listed], answers), on_error)

    def delete(
        self,
        ids: Iterable[str],
        *,
        collection: str = "",
        namespace: str = "",
        model: str = "",
        timeout: float | None = None,
    ) -> list[bool]:
        """Removes documents; returns for each id whether there was such a document.

        That is as the last attempt found it: when a call is retried whose answer was lost, the
        documents it had just removed are not there any more, and it is False.
        """
        template = search_pb2.DeleteRequest(collection=collection, namespace=namespace, model=model)
        requests = _batches.requests(DELETE, template, list(several("ids", ids)), "ids")
        method = self._connection.stubs.search.Delete
        answers = self._connection.bulk(DELETE, method, requests, timeout)
        return _search_answers.delete(answers)

    def rerank(
        self,
        query: str,
        passages: Iterable[str],
        *,
        timeout: float | None = None,
        on_error: OnError = "raise",
        **options: Unpack[RerankOptions],
    ) -> RerankResult:
        """Scores passages for a query, each cached on its own; `RerankOptions` lists the options.

        Passages that fail are treated as inputs of `embed` that do.
        """
        template = _search_requests.rerank_options(query, **options)
        listed = list(several("passages", passages))
        requests = _batches.requests(RERANK, template, listed, "passages")
        method = self._connection.stubs.search.Rerank
        answers = self._connection.bulk(RERANK, method, requests, timeout)
        return finish(_search_answers.rerank(answers), on_error)

    def generate(
        self, prompt: Prompt, *, timeout: float = 60.0, **options: Unpack[GenerateOptions]
    ) -> Generated:
        """Generates the text that follows a prompt; `GenerateOptions` lists the options.

        The prompt is a text that is taken as it is, or a list of messages (`ChatMessage`, or dicts
        with ``role`` and ``content``) for the model's own template. ``timeout`` is the deadline in
        seconds, its own because generating takes longer than other calls.
        """
        request = _generate_requests.generate_request(prompt, **options)
        method = self._connection.stubs.generate.Generate
        classes = error_classes(request.cache)
        response = self._connection.call(method, request, timeout, classes)
        return _generate_answers.generated(response.text, response.tokens, response.summary)

    def generate_stream(
        self, prompt: Prompt, *, timeout: float = 60.0, **options: Unpack[GenerateOptions]
    ) -> GenerateStream:
        """As `generate`, but gives the text piece by piece as it comes, and the rest at the end.

        ``timeout`` is the longest wait, in seconds, for the next piece. A stream is not tried again
        once a piece of it has come.
        """
        request = _generate_requests.generate_request(prompt, **options)
        answer = StreamedAnswer()
        pieces = self._connection.follow(
            lambda stubs: stubs.generate.GenerateStream,
            [request],
            timeout,
            answer.add,
            error_classes(request.cache),
        )
        return GenerateStream(_generate_answers.texts(pieces, answer), answer)

    def generators(self, *, timeout: float | None = None) -> list[GeneratorModel]:
        """The models of the sidecar that generate, the default one first; perhaps none."""
        request = generate_pb2.ListGeneratorsRequest()
        method = self._connection.stubs.generate.ListGenerators
        return _admin.generators(self._connection.call(method, request, timeout))

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """The models that the sidecar answers for, the default one first."""
        request = embed_pb2.ListModelsRequest()
        method = self._connection.stubs.embed.ListModels
        return _admin.models(self._connection.call(method, request, timeout))

    def stats(self, *, timeout: float | None = None) -> Stats:
        """Counters of the sidecar since it started, and the state of its tiers."""
        request = cache_pb2.StatsRequest()
        method = self._connection.stubs.cache.Stats
        return _admin.stats(self._connection.call(method, request, timeout))

    def invalidate(
        self,
        *,
        namespace: str = "",
        timeout: float | None = None,
        **target: Unpack[InvalidateTarget],
    ) -> None:
        """Makes entries invalid on every sidecar that shares the same Redis.

        `InvalidateTarget` lists what can be named; give one. After an `UnavailableError` the
        sidecar asked obeys, but others may not have heard: repeat the call.
        """
        request = _cache_requests.invalidate_request(namespace=namespace, **target)
        self._connection.call(self._connection.stubs.cache.Invalidate, request, timeout)

    def publish_events(self, events: Iterable[Event], *, timeout: float | None = None) -> None:
        """Tells of documents that changed outside: what depends on them becomes invalid.

        After an `UnavailableError`, repeat the call.
        """
        request = _cache_requests.events_request(events)
        self._connection.call(self._connection.stubs.cache.PublishEvents, request, timeout)

    def warm_embed(
        self,
        inputs: Iterable[EmbedInput],
        *,
        per_second: float | None = None,
        timeout: float = 60.0,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[WarmProgress]:
        """Computes and stores the vectors of inputs that are not cached yet; yields how far it is.

        Nothing is done unless the iterator is read; leaving it early ends the warming.
        ``per_second`` limits the inputs a second. ``timeout`` is the longest wait, in seconds, for
        the next progress, which comes about once a second.
        """
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
    ) -> Iterator[WarmProgress]:
        """As `warm_embed`, for the answers to searches."""
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
    ) -> Iterator[WarmProgress]:
        """As `warm_embed`, for the ``count`` queries that were asked most of late."""
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
    ) -> Iterator[MigrateModelProgress]:
        """Lets the name ``model`` mean the model ``to`` on every sidecar; yields how far it is.

        First the documents of every collection, and the ``popular`` queries of each namespace, are
        embedded with the other model; the old one serves until then. The rest is as in
        `warm_embed`.
        """
        request = _cache_requests.migrate_request(model, to, popular, per_second)
        return self._connection.follow(
            lambda stubs: stubs.cache.MigrateModel, [request], timeout, _admin.migration
        )

    def rollback_model(self, model: str, *, timeout: float | None = None) -> None:
        """Lets a name mean its own model again, on every sidecar."""
        request = cache_pb2.RollbackModelRequest(model=model)
        self._connection.call(self._connection.stubs.cache.RollbackModel, request, timeout)

    def flush(self, tiers: Sequence[FlushableTier] = (), *, timeout: float | None = None) -> int:
        """Empties tiers of this sidecar alone, all if none is named; returns how many entries.

        Nothing becomes invalid: what Redis holds is served again. The count is of the last attempt:
        after a retry it may lack what the first one has removed.
        """
        request = _cache_requests.flush_request(tiers)
        method = self._connection.stubs.cache.Flush
        return self._connection.call(method, request, timeout).entries

    def health(self, *, timeout: float | None = None) -> bool:
        """Whether the sidecar says that it is serving. Not retried."""
        request = _admin.HEALTH_REQUEST
        answer = self._connection.call(self._connection.stubs.health, request, timeout)
        return answer == _admin.HEALTH_SERVING

    def close(self) -> None:
        """Closes the connection. Calls under way fail."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _warm(
        self, requests: Sequence[cache_pb2.WarmRequest], total: int | None, timeout: float
    ) -> Iterator[WarmProgress]:
        return self._connection.follow(
            lambda stubs: stubs.cache.Warm, requests, timeout, _admin.WarmTotals(total).add
        )
