"""Requests of every method, with a text of a user that no message may quote."""

from __future__ import annotations

from typing import Any

import numpy as np
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, generate_pb2, search_pb2

SECRET = "xylophone"  # noqa: S105
ONLY_IF_CACHED = common_pb2.CacheOptions(mode=common_pb2.CACHE_MODE_ONLY_IF_CACHED)


def embed(*texts: str, **fields: Any) -> embed_pb2.EmbedRequest:
    inputs = [embed_pb2.Input(text=text) for text in texts or [SECRET]]
    return embed_pb2.EmbedRequest(inputs=inputs, **fields)


def embed_entity(**fields: Any) -> embed_pb2.EmbedRequest:
    return embed_pb2.EmbedRequest(inputs=[{"entity": fields}])


def embed_tensor(*shape: int) -> embed_pb2.EmbedRequest:
    """Six numbers, in that shape."""
    data = np.ones(6, "<f4").tobytes()
    tensor = {"dtype": embed_pb2.DTYPE_FLOAT32, "shape": shape, "data": data}
    return embed_pb2.EmbedRequest(inputs=[{"tensor": tensor}], model="tensors")


def search(text: str = SECRET, **fields: Any) -> search_pb2.SearchRequest:
    return search_pb2.SearchRequest(text=text, **fields)


def where(**condition: Any) -> search_pb2.SearchRequest:
    return search(filter=condition)


def upsert(*texts: str, **fields: Any) -> search_pb2.UpsertRequest:
    documents = [
        document(id=f"{SECRET}{number}", chunks=[{"content": text}])
        for number, text in enumerate(texts or [SECRET])
    ]
    return search_pb2.UpsertRequest(documents=documents, **fields)


def document(**fields: Any) -> search_pb2.Document:
    return search_pb2.Document(**{"id": SECRET, "chunks": [{"content": SECRET}]} | fields)


def upsert_one(**fields: Any) -> search_pb2.UpsertRequest:
    return search_pb2.UpsertRequest(documents=[document(**fields)])


def delete(*ids: str, **fields: Any) -> search_pb2.DeleteRequest:
    return search_pb2.DeleteRequest(ids=ids or [SECRET], **fields)


def rerank(*passages: str, query: str = SECRET, **fields: Any) -> search_pb2.RerankRequest:
    return search_pb2.RerankRequest(query=query, passages=passages or [SECRET], **fields)


def generate(text: str = SECRET, **fields: Any) -> generate_pb2.GenerateRequest:
    return generate_pb2.GenerateRequest(text=text, **fields)


def sample(**sampling: Any) -> generate_pb2.GenerateRequest:
    return generate(sampling=sampling)


def chat(role: str, **fields: Any) -> generate_pb2.GenerateRequest:
    messages = [{"role": role, "content": SECRET}]
    return generate_pb2.GenerateRequest(chat={"messages": messages}, **fields)


def invalidate(**fields: Any) -> cache_pb2.InvalidateRequest:
    return cache_pb2.InvalidateRequest(**fields)


def invalidate_inputs(**fields: Any) -> cache_pb2.InvalidateRequest:
    return invalidate(inputs={"inputs": [{"text": SECRET}]} | fields)


def invalidate_search(**fields: Any) -> cache_pb2.InvalidateRequest:
    return invalidate(searches={"requests": [search(**fields)]})


def events(*given: dict[str, Any]) -> cache_pb2.PublishEventsRequest:
    return cache_pb2.PublishEventsRequest(events=[cache_pb2.Event(**each) for each in given])


def deleted(*ids: str, **fields: Any) -> cache_pb2.PublishEventsRequest:
    return events({"type": "TYPE_DELETED", "ids": ids or [SECRET]} | fields)


def warm(**fields: Any) -> cache_pb2.WarmRequest:
    return cache_pb2.WarmRequest(**fields)


def warm_search(**fields: Any) -> cache_pb2.WarmRequest:
    return warm(searches={"requests": [search(**fields)]})


def migrate(to: str = "other", **fields: Any) -> cache_pb2.MigrateModelRequest:
    return cache_pb2.MigrateModelRequest(to=to, **fields)


def rollback(model: str = "") -> cache_pb2.RollbackModelRequest:
    return cache_pb2.RollbackModelRequest(model=model)


def flush(tier: common_pb2.Tier.ValueType) -> cache_pb2.FlushRequest:
    return cache_pb2.FlushRequest(tiers=[tier])


def list_models() -> embed_pb2.ListModelsRequest:
    return embed_pb2.ListModelsRequest()
