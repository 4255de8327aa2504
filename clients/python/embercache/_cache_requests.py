"""Builds the requests of administrative calls: from arguments to protobuf messages."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from embercache._batches import Load
from embercache._embed_requests import INPUT_TYPES, fill_input, many, put_input
from embercache._fields import choose, several, text, unicode_only
from embercache._generate_requests import Generation, generate_request
from embercache._search_requests import Search, search_request
from embercache.errors import InvalidArgumentError
from embercache.types import Event
from embercache.v1 import cache_pb2, common_pb2, generate_pb2, search_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from embercache.types import EmbedInput, EventType, FlushableTier, InputType, Kind
    from embercache.v1 import embed_pb2

_Number = TypeVar("_Number", int, float)
_Asked = TypeVar("_Asked", search_pb2.SearchRequest, generate_pb2.GenerateRequest)

_KINDS: Mapping[Kind, str] = {
    "embed": "embed",
    "search": "search",
    "rerank": "rerank",
    "generate": "generate",
    "prefix": "prefix",
}
_FLUSHABLE: Mapping[FlushableTier, common_pb2.Tier.ValueType] = {
    "hot": common_pb2.TIER_HOT,
    "disk": common_pb2.TIER_DISK,
}
_EVENTS: Mapping[EventType, cache_pb2.Event.Type.ValueType] = {
    "created": cache_pb2.Event.TYPE_CREATED,
    "updated": cache_pb2.Event.TYPE_UPDATED,
    "deleted": cache_pb2.Event.TYPE_DELETED,
}


def invalidate_request(
    *,
    namespace: str = "",
    tags: Sequence[str] | None = None,
    inputs: Iterable[EmbedInput] | None = None,
    documents: Iterable[str] | None = None,
    searches: Iterable[str | Search] | None = None,
    generations: Iterable[str | Generation] | None = None,
    kind: Kind | None = None,
    model_version: str | None = None,
    whole_namespace: bool = False,
    model: str = "",
    input_type: InputType | None = None,
    collection: str = "",
) -> cache_pb2.InvalidateRequest:
    """Raises `InvalidArgumentError` unless exactly one kind of target is given."""
    targets = {
        "tags": tags is not None and inputs is None,
        "inputs": inputs is not None,
        "documents": documents is not None,
        "searches": searches is not None,
        "generations": generations is not None,
        "kind": kind is not None,
        "model_version": model_version is not None,
        "whole_namespace": whole_namespace,
    }
    given = [name for name, is_given in targets.items() if is_given]
    if len(given) != 1:
        found = f"; these are given: {', '.join(given)}" if given else ""
        raise InvalidArgumentError(f"give exactly one of {', '.join(targets)}{found}")
    _only_with(given, "model", model, ("inputs", "model_version"))
    _only_with(given, "input_type", input_type, ("inputs",))
    _only_with(given, "collection", collection, ("documents",))
    request = cache_pb2.InvalidateRequest(namespace=namespace)
    if inputs is not None:
        request.inputs.tags.extend(several("tags", tags or ()))
        for index, item in enumerate(many(inputs)):
            with unicode_only(index):
                fill_input(request.inputs.inputs.add(), item, index)
        request.inputs.model = model
        request.inputs.input_type = choose("input_type", input_type, INPUT_TYPES)
    elif tags is not None:
        request.tags.tags.extend(several("tags", tags))
    elif documents is not None:
        request.documents.collection = collection
        request.documents.ids.extend(several("documents", documents))
    elif searches is not None:
        request.searches.SetInParent()
        for search in several("searches", searches):
            _put_in(namespace, request.searches.requests.add(), _search_message(search))
    elif generations is not None:
        request.generations.SetInParent()
        for generation in several("generations", generations):
            _put_in(namespace, request.generations.requests.add(), _generation_message(generation))
    elif kind is not None:
        request.kind = choose("kind", kind, _KINDS)
    elif model_version is not None:
        request.model_version.SetInParent()
        request.model_version.model = model
        request.model_version.version = model_version
    else:
        request.whole_namespace.SetInParent()
    return request


def flush_request(tiers: Sequence[FlushableTier]) -> cache_pb2.FlushRequest:
    """Empty for all tiers that can be flushed."""
    return cache_pb2.FlushRequest(tiers=[choose("tiers", tier, _FLUSHABLE) for tier in tiers])


def events_request(events: Iterable[Event]) -> cache_pb2.PublishEventsRequest:
    """Raises `TypeError` for what is no event."""
    request = cache_pb2.PublishEventsRequest()
    for index, event in enumerate(events):
        if not isinstance(event, Event):
            raise TypeError(f"event {index} is a {type(event).__name__}; give an Event")
        request.events.add(
            type=choose("type", event.type, _EVENTS),
            namespace=event.namespace,
            collection=event.collection,
            ids=several("ids", event.ids),
            tags=several("tags", event.tags),
        )
    return request


def warm_options(
    per_second: float | None, embed: embed_pb2.EmbedRequest | None = None
) -> cache_pb2.WarmRequest:
    """A request without items yet."""
    return cache_pb2.WarmRequest(embed=embed, per_second=_rate(per_second))


def popular_request(count: int, namespace: str, per_second: float | None) -> cache_pb2.WarmRequest:
    """Asks for what was asked most."""
    popular = cache_pb2.WarmRequest.Popular(namespace=namespace, count=_positive("count", count))
    return cache_pb2.WarmRequest(popular=popular, per_second=_rate(per_second))


def migrate_request(
    model: str, to: str, popular: int, per_second: float | None
) -> cache_pb2.MigrateModelRequest:
    """Asks for a name to mean another model."""
    if popular < 0:
        raise InvalidArgumentError(f"popular is {popular}; it must not be negative")
    return cache_pb2.MigrateModelRequest(
        model=model, to=to, popular=popular, per_second=_rate(per_second)
    )


def _put_warmed(request: cache_pb2.WarmRequest, item: EmbedInput, index: int) -> tuple[int, int]:
    return put_input(request.embed, item, index)


def _put_search(request: cache_pb2.WarmRequest, item: str | Search, index: int) -> tuple[int, int]:
    message = _search_message(item)
    request.searches.requests.append(message)
    return 1, message.ByteSize()


WARM_EMBED: Load[EmbedInput, cache_pb2.WarmRequest] = Load(
    asked=lambda request: request.embed.inputs, put=_put_warmed
)
WARM_SEARCH: Load[str | Search, cache_pb2.WarmRequest] = Load(
    asked=lambda request: request.searches.requests, put=_put_search
)


def _rate(per_second: float | None) -> float:
    if per_second is None:
        return 0.0
    return _positive("per_second", per_second)


def _positive(name: str, value: _Number) -> _Number:
    if not 0 < value < math.inf:
        raise InvalidArgumentError(f"{name} is {value}; it must be a positive number")
    return value


def _only_with(given: Sequence[str], name: str, value: object, targets: Sequence[str]) -> None:
    if value and given[0] not in targets:
        raise InvalidArgumentError(f"{name} only goes with {' and '.join(targets)}")


def _search_message(search: str | Search) -> search_pb2.SearchRequest:
    if isinstance(search, Search):
        return search.message
    return search_request(text("a search", search))


def _generation_message(generation: str | Generation) -> generate_pb2.GenerateRequest:
    if isinstance(generation, Generation):
        return generation.message
    return generate_request(text("a generation", generation))


def _put_in(namespace: str, message: _Asked, asked: _Asked) -> None:
    if asked.namespace not in ("", namespace):
        raise InvalidArgumentError(
            "a search or generation names another namespace; give it to invalidate, one namespace"
            " a call"
        )
    message.CopyFrom(asked)
    message.namespace = namespace
