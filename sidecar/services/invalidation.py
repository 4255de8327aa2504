"""CacheService.Invalidate and PublishEvents, and the events of programs that call nobody."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from embercache.v1 import cache_pb2

from sidecar.cache.events import Event
from sidecar.cache.generations import InvalidationNotSharedError
from sidecar.cache.namespace_state import kind_scope, model_scope
from sidecar.services import generate, scores, search, vectors
from sidecar.services.changes import (
    ANY_MODEL,
    Change,
    collection_tag,
    document_digest,
    pack_changes,
)
from sidecar.services.errors import CallError, invalid
from sidecar.services.requests import (
    MAX_TAGS,
    check_tags,
    collection,
    decode,
    document_id,
    enum_value,
    tag_digests,
)
from sidecar.units import NAME_PATTERN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.generations import Generations, NamespaceState
    from sidecar.cache.read_through import ReadThrough
    from sidecar.models.generation import GeneratorInfo
    from sidecar.models.types import ModelInfo, RerankerInfo
    from sidecar.services.embed_request import RequestReader
    from sidecar.services.generate import GenerateService
    from sidecar.services.generate_request import GenerateReader
    from sidecar.services.search import SearchService
    from sidecar.services.search_request import SearchReader
    from sidecar.services.vectors import Vectors

_KINDS = (vectors.KIND, search.KIND, scores.KIND, generate.KIND, generate.PREFIX_KIND)
_MOST_TAGS = _MOST_EVENTS = 1000
_MOST_VERSION = 128
# So many fit into one announcement; more make the whole collection invalid.
_MOST_DOCUMENTS = 200
_TYPES: dict[int, str] = {
    cache_pb2.Event.TYPE_CREATED: "created",
    cache_pb2.Event.TYPE_UPDATED: "updated",
    cache_pb2.Event.TYPE_DELETED: "deleted",
}


class Invalidation:
    """Answers Invalidate and PublishEvents of cache.proto: bytes in, bytes out.

    Raises what `sidecar.services.errors.as_call_error` turns into a status.
    """

    def __init__(
        self,
        *,
        requests: RequestReader,
        reader: SearchReader,
        vectors: Vectors,
        search: SearchService,
        generation_reader: GenerateReader,
        generate: GenerateService,
        cache: ReadThrough,
        generations: Generations,
    ) -> None:
        self._requests = requests
        self._digests = requests.digests
        self._reader = reader
        self._vectors = vectors
        self._search = search
        self._generation_reader = generation_reader
        self._generate = generate
        self._cache = cache
        self._generations = generations

    async def invalidate(self, raw: bytes) -> bytes:
        """Invalidate."""
        self._requests.check_size(raw)
        request = decode(cache_pb2.InvalidateRequest, raw)
        name = self._requests.namespace(request.namespace)
        match request.WhichOneof("target"):
            case "tags":
                tags = tag_digests(self._digests, request.tags.tags, _MOST_TAGS)
                if not tags:
                    raise invalid("name at least one tag")
                await self._generations.invalidate_tags(name, tags)
            case "inputs":
                await self._remove_inputs(name, request.inputs)
            case "searches":
                await self._remove_searches(name, request.searches)
            case "generations":
                await self._remove_generations(name, request.generations)
            case "documents":
                ids = [document_id(each) for each in request.documents.ids]
                if not ids:
                    raise invalid("name at least one document")
                await self._touch_documents(name, collection(request.documents.collection), ids)
            case "kind":
                if request.kind not in _KINDS:
                    raise invalid(f"the kind of entries must be one of {', '.join(_KINDS)}")
                await self._generations.invalidate_scope(name, kind_scope(request.kind))
            case "model_version":
                await self._invalidate_version(name, request.model_version)
            case "whole_namespace":
                await self._generations.invalidate_namespace(name)
            case _:
                raise invalid(
                    "say what to invalidate: tags, inputs, searches, generations, documents,"
                    " kind, model_version or whole_namespace"
                )
        return cache_pb2.InvalidateResponse().SerializeToString()

    async def publish_events(self, raw: bytes) -> bytes:
        """PublishEvents."""
        self._requests.check_size(raw)
        request = decode(cache_pb2.PublishEventsRequest, raw)
        if not 1 <= len(request.events) <= _MOST_EVENTS:
            raise invalid(f"publish 1 to {_MOST_EVENTS} events in one call")
        # All are read before the first is applied, and all are applied here, whoever can be told.
        failure: InvalidationNotSharedError | None = None
        for event in [self._event(message) for message in request.events]:
            try:
                await self.apply(event)
            except InvalidationNotSharedError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return cache_pb2.PublishEventsResponse().SerializeToString()

    def _event(self, message: cache_pb2.Event) -> Event:
        kind = enum_value(_TYPES, message.type, "events.type")
        if kind != "created" and not message.ids and not message.tags:
            raise invalid("an event about documents that were updated or deleted needs their ids")
        check_tags(message.tags, _MOST_TAGS)
        return Event(
            type=kind,
            namespace=self._requests.namespace(message.namespace),
            collection=collection(message.collection),
            ids=tuple(document_id(each) for each in message.ids),
            tags=tuple(message.tags),
        )

    async def apply(self, event: Event) -> None:
        """Invalidates what depends on documents that changed outside.

        Raises `InvalidationNotSharedError` if that is in force on this sidecar alone.
        """
        try:
            if event.type == "created":
                # It may belong into any answer; nothing is known of its content.
                tag = collection_tag(self._digests, event.collection)
                await self._generations.announce(event.namespace, tag, b"")
            elif event.ids:
                await self._touch_documents(event.namespace, event.collection, event.ids)
        finally:
            if event.tags:
                await self._generations.invalidate_tags(
                    event.namespace, tag_digests(self._digests, event.tags, _MOST_TAGS)
                )

    async def _touch_documents(self, name: str, in_collection: str, ids: Sequence[str]) -> None:
        """Invalidates the lists that were made from one of the documents."""
        changes = b""
        if len(ids) <= _MOST_DOCUMENTS:
            changes = pack_changes(Change(ANY_MODEL, document_digest(each), {}, ()) for each in ids)
        tag = collection_tag(self._digests, in_collection)
        await self._generations.announce(name, tag, changes)

    async def _invalidate_version(
        self, name: str, target: cache_pb2.InvalidateRequest.ModelVersion
    ) -> None:
        model, version = target.model, target.version
        if len(version) > _MOST_VERSION or not (model == "" or re.fullmatch(NAME_PATTERN, model)):
            raise invalid("model_version has no name of a model, or no version: see ListModels")
        if not model or not version:
            info = self._info(model)
            model, version = info.name, version or info.version
        await self._generations.invalidate_scope(name, model_scope(model, version))

    def _info(self, name: str) -> ModelInfo | RerankerInfo | GeneratorInfo:
        """What a name means: a model, or else a reranker, or else a generator."""
        for find in (self._requests.model, self._reader.reranker):
            with contextlib.suppress(CallError):
                return find(name).info
        return self._generation_reader.generator(name).info

    async def _remove_inputs(self, name: str, target: cache_pb2.InvalidateRequest.Inputs) -> None:
        info = self._requests.model(target.model).info
        input_type, prompt = self._requests.input_prompt(info, target.input_type)
        items = []
        for entry in target.inputs:
            item = self._requests.item(entry, prompt, input_type)
            if isinstance(item, CallError):
                raise item
            items.append(item)
        if not items:
            raise invalid("name at least one input")
        tags = tag_digests(self._digests, target.tags, MAX_TAGS)
        await self._remove(name, lambda state: self._vectors.keys(state, info, items, tags))

    async def _remove_searches(
        self, name: str, target: cache_pb2.InvalidateRequest.Searches
    ) -> None:
        if not target.requests:
            raise invalid("name at least one search")
        for request in target.requests:
            request.namespace = name
        searches = [self._reader.read(request) for request in target.requests]
        await self._remove(
            name, lambda state: [self._search.key(state, parsed) for parsed in searches]
        )

    async def _remove_generations(
        self, name: str, target: cache_pb2.InvalidateRequest.Generations
    ) -> None:
        if not target.requests:
            raise invalid("name at least one generation")
        for request in target.requests:
            request.namespace = name
        wanted = [self._generation_reader.read(request) for request in target.requests]
        await self._remove(
            name, lambda state: [self._generate.key(state, parsed) for parsed in wanted]
        )

    async def _remove(self, name: str, keys_under: Callable[[NamespaceState], list[bytes]]) -> None:
        # A removal under an epoch of yesterday would remove nothing.
        state, is_agreed = await self._generations.agree(name)
        keys = keys_under(state)
        # This sidecar first, so that it obeys even if Redis cannot be told.
        self._cache.remove(keys)
        try:
            await self._generations.remove_shared(state, keys)
        finally:
            # Who asked meanwhile may have fetched them from Redis again.
            self._cache.remove(keys)
        if not is_agreed:
            raise InvalidationNotSharedError(
                "Redis did not say under which epoch others keep the entries: repeat the call"
            )
