"""Builds the requests of calls about documents: from arguments to protobuf messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from embercache._batches import Bulk
from embercache._fields import fill_cache_options, semantic_options, several, text, unicode_only
from embercache.errors import InvalidArgumentError
from embercache.filters import metadata_value, where_message
from embercache.search import Chunk, Document, Rerank
from embercache.v1 import search_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import timedelta

    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from embercache.filters import Where
    from embercache.search import Query, SearchOptions
    from embercache.types import CacheMode

_MOST_RESULTS = 1000


def search_request(
    query: Query,
    *,
    top_k: int = 10,
    where: Where | None = None,
    score_threshold: float | None = None,
    rerank: bool | Rerank = False,
    collection: str = "",
    namespace: str = "",
    model: str = "",
    model_version: str = "",
    mode: CacheMode = "default",
    ttl: float | timedelta | None = None,
    tags: Sequence[str] = (),
    semantic: bool | float | None = None,
) -> search_pb2.SearchRequest:
    """A request that has every option of `SearchOptions`."""
    request = search_pb2.SearchRequest(
        namespace=namespace,
        collection=collection,
        model=model,
        model_version=model_version,
        top_k=_count("top_k", top_k),
        score_threshold=score_threshold,
        filter=None if where is None else where_message(where),
    )
    if isinstance(query, np.ndarray):
        request.vector = _vector(query)
    elif isinstance(query, str):
        with unicode_only():
            request.text = query
    else:
        raise TypeError(f"query is a {type(query).__name__}; give a str or a numpy array")
    if rerank:
        request.rerank.CopyFrom(_rerank(Rerank() if rerank is True else rerank))
    if semantic is not None:
        request.semantic.CopyFrom(semantic_options(semantic))
    fill_cache_options(request.cache, mode, ttl, tags)
    return request


class Search:
    """A search to be warmed or invalidated: the arguments of `Client.search`, checked at once."""

    __slots__ = ("message",)

    def __init__(self, query: Query, **options: Unpack[SearchOptions]) -> None:
        self.message = search_request(query, **options)


def rerank_options(
    query: str,
    *,
    reranker: str = "",
    reranker_version: str = "",
    namespace: str = "",
    mode: CacheMode = "default",
    ttl: float | timedelta | None = None,
    tags: Sequence[str] = (),
) -> search_pb2.RerankRequest:
    """A request that has every option of `RerankOptions` and no passages yet."""
    with unicode_only():
        request = search_pb2.RerankRequest(
            query=text("query", query),
            reranker=reranker,
            reranker_version=reranker_version,
            namespace=namespace,
        )
    fill_cache_options(request.cache, mode, ttl, tags)
    return request


def _put_document(
    request: search_pb2.UpsertRequest, document: Document, index: int
) -> tuple[int, int]:
    """Adds a document; it counts for as many as it has chunks, which are what is computed."""
    if not isinstance(document, Document):
        raise TypeError(f"document {index} is a {type(document).__name__}; give a Document")
    message = request.documents.add()
    message.id = text(f"the id of document {index}", document.id)
    for chunk in _chunks(document, index):
        message.chunks.add(chunk_id=chunk.chunk_id, content=chunk.content)
    for name, value in document.metadata.items():
        message.metadata[name].CopyFrom(metadata_value(name, value))
    message.tags.extend(several("tags", document.tags))
    return len(message.chunks), message.ByteSize()


def _put_id(request: search_pb2.DeleteRequest, name: str, index: int) -> tuple[int, int]:
    request.ids.append(text(f"id {index}", name))
    return 1, len(name.encode())


def _put_passage(request: search_pb2.RerankRequest, passage: str, index: int) -> tuple[int, int]:
    request.passages.append(text(f"passage {index}", passage))
    return 1, len(passage.encode())


UPSERT: Bulk[Document, search_pb2.UpsertRequest, search_pb2.UpsertResponse, search_pb2.Upserted]
UPSERT = Bulk(
    asked=lambda request: request.documents,
    put=_put_document,
    answered=lambda response: response.documents,
)
DELETE: Bulk[str, search_pb2.DeleteRequest, search_pb2.DeleteResponse, bool] = Bulk(
    asked=lambda request: request.ids,
    put=_put_id,
    answered=lambda response: response.found,
    error_of=lambda found: None,
)
RERANK: Bulk[str, search_pb2.RerankRequest, search_pb2.RerankResponse, search_pb2.RerankScore]
RERANK = Bulk(
    asked=lambda request: request.passages,
    put=_put_passage,
    answered=lambda response: response.scores,
)


def documents_once(documents: Iterable[Document]) -> list[Document]:
    """The documents. Raises `InvalidArgumentError` if an id is there twice.

    The sidecar would find that out only of those that travel together.
    """
    listed = list(documents)
    seen: set[object] = set()
    for index, document in enumerate(listed):
        name = getattr(document, "id", None)  # what is no document is refused where it is read
        if name in seen:
            raise InvalidArgumentError("its id is given twice in this call", index=index)
        seen.add(name)
    return listed


def _chunks(document: Document, index: int) -> Iterator[Chunk]:
    if isinstance(document.content, str):
        yield Chunk("", document.content)
        return
    for place, part in enumerate(document.content):
        name = f"chunk {place} of document {index}"
        if isinstance(part, Chunk):
            text(f"the chunk_id of {name}", part.chunk_id)
            text(f"the content of {name}", part.content)
            yield part
        else:
            yield Chunk(str(place), text(name, part))


def _vector(query: NDArray[np.generic]) -> bytes:
    if query.ndim != 1 or query.dtype.kind not in "fiu":
        raise InvalidArgumentError(
            f"the query is an array of {query.dtype} with shape {list(query.shape)}; give one "
            "vector of numbers: shape [dimensions]"
        )
    return query.astype("<f4").tobytes()


def _rerank(rerank: Rerank) -> search_pb2.Rerank:
    if not isinstance(rerank, Rerank):
        raise TypeError(f"rerank is a {type(rerank).__name__}; give True, False or a Rerank")
    message = search_pb2.Rerank(reranker=rerank.reranker)
    if rerank.candidates is not None:
        message.candidates = _count("candidates", rerank.candidates)
    return message


def _count(name: str, value: int) -> int:
    if not 1 <= value <= _MOST_RESULTS:
        raise InvalidArgumentError(f"{name} is {value}; it must be 1 to {_MOST_RESULTS}")
    return value
