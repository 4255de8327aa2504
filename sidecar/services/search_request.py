"""From a SearchRequest to what the cache and the index need, and all that can be wrong with it."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import numpy as np

from sidecar.index.filters import And, Filter, In, Not, Or, Range, canonical_filter
from sidecar.index.types import Collection
from sidecar.services.embed_request import check_version
from sidecar.services.errors import CallError, invalid
from sidecar.services.requests import (
    cache_choices,
    collection,
    semantic_threshold,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from embercache.v1 import search_pb2
    from numpy.typing import NDArray

    from sidecar.config import SemanticSettings
    from sidecar.index.types import Scalar
    from sidecar.models.types import Embedder, ModelInfo, Reranker, RerankerInfo
    from sidecar.services.embed_request import Item, RequestReader
    from sidecar.services.requests import CacheChoices

MAX_TOP_K = 1000
DEFAULT_TOP_K = 10
DEFAULT_CANDIDATES = 50
MAX_METADATA = 64
_MAX_CONDITIONS = 256
_MAX_DEPTH = 16
_MAX_VALUES = 1000
_MAX_VALUE_BYTES = 4096
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_FLOAT = struct.Struct("<f")


@dataclass(frozen=True, slots=True)
class Reranking:
    """A reranker, what it is, and how many of the nearest it scores."""

    reranker: Reranker
    info: RerankerInfo
    candidates: int


@dataclass(frozen=True, slots=True)
class ParsedSearch:
    """A request whose every part is right.

    Either ``item`` and ``text``, the query as it was given, are set, or ``vector``.
    ``semantic`` is the least similarity of another query, None if only this one's answer will do.
    """

    embedder: Embedder
    info: ModelInfo
    collection: Collection
    text: str
    item: Item | None
    vector: NDArray[np.float32] | None
    top_k: int
    where: Filter | None
    threshold: float | None
    reranking: Reranking | None
    cache: CacheChoices
    semantic: float | None

    @property
    def count(self) -> int:
        """How many chunks the index is asked for."""
        return self.reranking.candidates if self.reranking else self.top_k

    def scope_parts(self) -> list[bytes]:
        """Everything that the answer depends on, but for the query and how many are wanted."""
        parts = [
            self.collection.name.encode(),
            canonical_filter(self.where),
            b"" if self.threshold is None else _FLOAT.pack(self.threshold),
        ]
        if self.reranking:
            info = self.reranking.info
            parts += [info.name.encode(), info.version.encode()]
            parts.append(str(self.reranking.candidates).encode())
        return [b"scope%d" % len(parts), *parts, *sorted(self.cache.tags)]

    def query_parts(self) -> tuple[bytes, ...]:
        """The query itself."""
        if self.item is not None:
            return self.item.key_parts
        assert self.vector is not None  # noqa: S101 - one of the two is set
        return b"vector", self.vector.tobytes()


class SearchReader:
    """Checks requests against the limits, models and rerankers of this sidecar."""

    def __init__(
        self,
        reader: RequestReader,
        rerankers: Mapping[str, Reranker],
        semantic: SemanticSettings,
    ) -> None:
        self._reader = reader
        self._rerankers = rerankers
        self._semantic = semantic

    def read(self, request: search_pb2.SearchRequest) -> ParsedSearch:
        """The request in our terms. Raises `CallError`."""
        embedder = self._reader.model(request.model)
        info = embedder.info
        check_version(info, request.model_version)
        if request.top_k > MAX_TOP_K:
            raise invalid(f"top_k is {request.top_k}: ask for at most {MAX_TOP_K}")
        top_k = request.top_k or DEFAULT_TOP_K
        item, vector = self._query(request, info)
        name = self._reader.namespace(request.namespace)
        threshold = semantic_threshold(request.semantic, name, self._semantic)
        return ParsedSearch(
            embedder=embedder,
            info=info,
            collection=self.collection(info, request.namespace, request.collection),
            text=request.text,
            item=item,
            vector=vector,
            top_k=top_k,
            where=read_filter(request.filter) if request.HasField("filter") else None,
            threshold=_threshold(request),
            reranking=self._reranking(request, top_k),
            cache=cache_choices(self._reader.digests, request.cache),
            semantic=threshold if request.WhichOneof("query") == "text" else None,
        )

    def collection(self, info: ModelInfo, in_namespace: str, name: str) -> Collection:
        """A collection as a model sees it. Raises `CallError`."""
        return Collection(
            self._reader.namespace(in_namespace),
            collection(name),
            info.name,
            info.version,
            info.dimensions,
        )

    def reranker(self, name: str) -> Reranker:
        """The reranker of that name, or the first for an empty one. Raises `CallError`."""
        if not self._rerankers:
            raise CallError(
                grpc.StatusCode.NOT_FOUND, "there is no reranker here: name one in model.rerankers"
            )
        if not name:
            return next(iter(self._rerankers.values()))
        reranker = self._rerankers.get(name)
        if reranker is None:
            raise CallError(
                grpc.StatusCode.NOT_FOUND,
                f"no such reranker here: choose one of {', '.join(self._rerankers)}, or add it to"
                " model.rerankers",
            )
        return reranker

    def _query(
        self, request: search_pb2.SearchRequest, info: ModelInfo
    ) -> tuple[Item | None, NDArray[np.float32] | None]:
        match request.WhichOneof("query"):
            case "text":
                prompt = info.prompts.get("query", "")
                return self._reader.text(request.text, prompt, "query"), None
            case "vector":
                return None, _vector(request.vector, info.dimensions)
            case _:
                raise invalid("there is no query: set its text or its vector")

    def _reranking(self, request: search_pb2.SearchRequest, top_k: int) -> Reranking | None:
        if not request.HasField("rerank"):
            return None
        if request.WhichOneof("query") != "text":
            raise invalid("reranking needs the text of the query: set it, or leave rerank out")
        reranker = self.reranker(request.rerank.reranker)
        candidates = request.rerank.candidates or max(DEFAULT_CANDIDATES, top_k)
        if not top_k <= candidates <= MAX_TOP_K:
            raise invalid(
                f"rerank.candidates is {candidates}: it must be at least top_k, {top_k}, and at"
                f" most {MAX_TOP_K}"
            )
        return Reranking(reranker, reranker.info, candidates)


def read_filter(message: search_pb2.Filter) -> Filter:
    """A filter in our terms. Raises `CallError`."""
    return _filter(message, 0, _Budget())


def read_metadata(message: Mapping[str, search_pb2.MetadataValue]) -> dict[str, Scalar]:
    """The metadata of a document. Raises `CallError`."""
    if len(message) > MAX_METADATA:
        raise invalid(f"the metadata has {len(message)} keys: at most {MAX_METADATA} are allowed")
    return {_field(key): _scalar(value) for key, value in message.items()}


def write_metadata(
    metadata: Mapping[str, Scalar], message: Mapping[str, search_pb2.MetadataValue]
) -> None:
    """Puts metadata into a message."""
    for key, value in metadata.items():
        if isinstance(value, bool):
            message[key].flag = value
        elif isinstance(value, str):
            message[key].text = value
        else:
            message[key].number = value


class _Budget:
    """What a filter may still have."""

    def __init__(self) -> None:
        self.conditions = _MAX_CONDITIONS
        self.values = _MAX_VALUES


def _filter(message: search_pb2.Filter, depth: int, budget: _Budget) -> Filter:
    budget.conditions -= 1
    if depth > _MAX_DEPTH or budget.conditions < 0:
        raise invalid(
            f"the filter has more than {_MAX_CONDITIONS} conditions or is nested deeper than"
            f" {_MAX_DEPTH}: use 'in' for many values"
        )
    match message.WhichOneof("condition"):
        case "equal":
            return In(_field(message.equal.key), (_scalar(message.equal.value),))
        case "in":
            return _in(getattr(message, "in"), budget)
        case "range":
            return _range(message.range)
        case "and":
            return And(_filters(getattr(message, "and").filters, depth, budget))
        case "or":
            return Or(_filters(getattr(message, "or").filters, depth, budget))
        case "not":
            return Not(_filter(getattr(message, "not"), depth + 1, budget))
        case _:
            raise invalid("the filter has an empty condition: set one, or leave the filter out")


def _filters(
    messages: Iterable[search_pb2.Filter], depth: int, budget: _Budget
) -> tuple[Filter, ...]:
    return tuple(_filter(message, depth + 1, budget) for message in messages)


def _in(message: search_pb2.Filter.In, budget: _Budget) -> In:
    budget.values -= len(message.values)
    if budget.values < 0:
        raise invalid(f"the filter's 'in' have more than {_MAX_VALUES} values: split the search")
    return In(_field(message.key), tuple(_scalar(value) for value in message.values))


def _range(message: search_pb2.Filter.Range) -> Filter:
    above = message.gt if message.HasField("gt") else None
    least = message.gte if message.HasField("gte") else None
    below = message.lt if message.HasField("lt") else None
    most = message.lte if message.HasField("lte") else None
    if any(bound is not None and math.isnan(bound) for bound in (above, least, below, most)):
        raise invalid("a bound of a filter's range is not a number")
    key = _field(message.key)
    # Numbers in metadata are finite, so that an infinite bound lets all of them through, or none.
    if math.inf in (above, least) or -math.inf in (below, most):
        return In(key, ())
    return Range(
        key, *(None if x is not None and math.isinf(x) else x for x in (above, least, below, most))
    )


def _field(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise invalid("a key of metadata has 1 to 64 letters, digits and '_', no digit first")
    return key


def _scalar(value: search_pb2.MetadataValue) -> Scalar:
    match value.WhichOneof("value"):
        case "text":
            if len(value.text.encode()) > _MAX_VALUE_BYTES:
                raise invalid(f"a value of metadata is longer than {_MAX_VALUE_BYTES} bytes")
            return value.text
        case "number":
            if not math.isfinite(value.number):
                raise invalid("a number in metadata is not finite")
            return value.number
        case "flag":
            return value.flag
        case _:
            raise invalid("a value of metadata is empty: set its text, number or flag")


def _threshold(request: search_pb2.SearchRequest) -> float | None:
    if not request.HasField("score_threshold"):
        return None
    if not math.isfinite(request.score_threshold):
        raise invalid("score_threshold must be a number")
    return request.score_threshold


def _vector(data: bytes, dimensions: int) -> NDArray[np.float32]:
    if len(data) != 4 * dimensions:
        raise invalid(
            f"the query's vector has {len(data)} bytes; the model's {dimensions} dimensions are"
            f" {4 * dimensions} bytes of float32"
        )
    vector = np.frombuffer(data, dtype="<f4")
    length = float(np.linalg.norm(vector.astype(np.float64)))
    if not math.isfinite(length) or length == 0:
        raise invalid("the query's vector must be finite and must not be all zeros")
    return vector
