"""What calls about documents take and return."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from embercache.errors import EmbercacheError
    from embercache.filters import Scalar, Where
    from embercache.types import CacheMode, Tier

Query: TypeAlias = str | NDArray[np.generic]
"""A text, or its vector: an array of one dimension."""
Change: TypeAlias = Literal["unspecified", "created", "updated", "unchanged"]


@dataclass(frozen=True, slots=True)
class Rerank:
    """Scores the nearest chunks once more, by a model that sees query and text together.

    ``reranker`` is empty for the sidecar's first. ``candidates`` is how many of the nearest are
    scored, at most 1000; without it 50, or ``top_k`` if that is more.
    """

    reranker: str = ""
    candidates: int | None = None


class SearchOptions(TypedDict, total=False):
    """The options of ``search`` and `Search`. All may be left out.

    - ``top_k``: most results, 1 to 1000; 10 without it.
    - ``where``: only documents whose metadata pass: ``{"lang": "en", "year": 2000}``, or a
      `Filter` made with `field`.
    - ``score_threshold``: only chunks whose cosine with the query is not less.
    - ``rerank``: ``True``, or a `Rerank`, to order the nearest by a reranker's scores.
    - ``collection``: where to search; letters, digits, ``.``, ``_`` and ``-``, at most 64.
    - ``semantic``: whether the answer to another query of the same meaning may be given:
      ``True``, ``False``, or the least cosine of the two queries; without it as the sidecar is
      set for the namespace.
    - ``namespace``, ``model``, ``model_version``, ``mode``, ``ttl``, ``tags``: as in
      `EmbedOptions`. With ``mode="only_if_cached"``, an answer that is not cached raises
      `NotCachedError`.
    """

    top_k: int
    where: Where | None
    score_threshold: float | None
    rerank: bool | Rerank
    collection: str
    namespace: str
    model: str
    model_version: str
    mode: CacheMode
    ttl: float | timedelta | None
    tags: Sequence[str]
    semantic: bool | float | None


class RerankOptions(TypedDict, total=False):
    """The options of ``rerank``. All may be left out.

    - ``reranker``: empty for the sidecar's first; ``reranker_version``: refuse to answer
      (`VersionMismatchError`) with any other version.
    - ``namespace``, ``mode``, ``ttl``, ``tags``: as in `EmbedOptions`.
    """

    reranker: str
    reranker_version: str
    namespace: str
    mode: CacheMode
    ttl: float | timedelta | None
    tags: Sequence[str]


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A chunk that was found.

    ``id`` is the document's. ``score`` is the cosine of the query's vector and the chunk's;
    ``rerank_score`` the reranker's, on its own scale, ``None`` without reranking. Numbers in
    ``metadata`` are float.
    """

    id: str
    chunk_id: str
    score: float
    content: str
    metadata: Mapping[str, Scalar]
    rerank_score: float | None


@dataclass(frozen=True, slots=True)
class SemanticMatch:
    """The query whose answer was given, and its cosine with the one that was asked."""

    similarity: float
    query: str


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The chunks that were found, best first, and what is known of the answer.

    - ``tier``: what answered for the list of results; ``query_tier``: for the query's vector,
      ``"unspecified"`` if this call did not need it; ``rerank_tiers``: for how many of the
      reranker's scores, empty if this call needed none;
    - ``age``: seconds since the list was computed;
    - ``semantic``: ``None`` unless the answer to another query was given;
    - ``reranker``, ``reranker_version``: empty without reranking.
    """

    results: Sequence[SearchHit]
    tier: Tier
    query_tier: Tier
    rerank_tiers: Mapping[Tier, int]
    age: float
    semantic: SemanticMatch | None
    model: str
    model_version: str
    reranker: str
    reranker_version: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document that is found on its own.

    ``chunk_id`` names it within the document, in at most 1024 bytes; it may be empty.
    """

    chunk_id: str
    content: str


@dataclass(frozen=True, slots=True)
class Document:
    """What `Client.upsert` stores.

    ``content`` is the text of the one chunk it has, which then has an empty ``chunk_id``, or a
    list of chunks; a str in the list is named by its place: ``"0"``, ``"1"``, ... The ``id`` has
    1 to 1024 bytes. Keys of ``metadata`` are 1 to 64 letters, digits and ``_``, no digit first.
    Invalidating one of ``tags`` invalidates the answers that list the document.
    """

    id: str
    content: str | Sequence[Chunk | str]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    tags: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Upserted:
    """What became of a document: how many chunks the model computed, and how many were cached.

    The ``change`` of a document that failed is ``"unspecified"``.
    """

    id: str
    change: Change
    computed: int
    cached: int


@dataclass(frozen=True, eq=False)
class UpsertResult(Sequence[Upserted]):
    """What became of each document, as a sequence in their order.

    ``errors`` are the documents that were not stored, by their place, and why. ``model`` and
    ``model_version`` embedded the others; the version is empty if there are none.
    """

    documents: Sequence[Upserted]
    errors: Mapping[int, EmbercacheError]
    model: str
    model_version: str

    @overload
    def __getitem__(self, place: int) -> Upserted: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Upserted]: ...
    def __getitem__(self, place: int | slice) -> Upserted | Sequence[Upserted]:
        return self.documents[place]

    def __len__(self) -> int:
        return len(self.documents)


@dataclass(frozen=True, eq=False)
class RerankResult:
    """The scores of n passages, in their order.

    - ``scores``: array [n], float32, higher is better; NaN for a passage that failed;
    - ``tiers``: what answered each;
    - ``errors``: the passages that have no score, by their place, and why;
    - ``reranker``, ``reranker_version``: what made the scores.
    """

    scores: NDArray[np.float32]
    tiers: Sequence[Tier]
    errors: Mapping[int, EmbercacheError]
    reranker: str
    reranker_version: str

    def __len__(self) -> int:
        return len(self.scores)
