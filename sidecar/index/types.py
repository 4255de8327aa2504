"""What Search needs of an index: one protocol, and the documents and hits that pass through it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.index.filters import Filter

Vector: TypeAlias = NDArray[np.float32]
Scalar: TypeAlias = str | float | bool

MAX_TIES = 1000
"""So many chunks with the score of the last hit are put in order, at least."""


class IndexUnavailableError(Exception):
    """The index is down or refuses; try again later. The message is fit for the caller."""


class IndexSetupError(IndexUnavailableError):
    """The index cannot be used until somebody changes something. The message says what."""


class IndexFullError(IndexUnavailableError):
    """The index has no room for these documents, and is as it was. The message says what to do."""


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents that are searched together: their vectors come from one version of one model."""

    namespace: str
    name: str
    model: str
    version: str
    dimensions: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a document that is found on its own.

    ``vector`` is finite, of shape ``[dimensions]`` and not all zeros; None leaves the vector that
    the index has for this chunk as it is.
    """

    id: str
    text: str
    vector: Vector | None


@dataclass(frozen=True, slots=True)
class Revision:
    """What a document was when it was stored: digests of its chunks, and of all there is of it."""

    content: bytes
    whole: bytes


@dataclass(frozen=True, slots=True)
class Document:
    """A document with at least one chunk. Metadata and tags belong to all of its chunks.

    Either all chunks have vectors, or none has: then the index has this document with the same
    chunks (and ``revision.content``), and only metadata, tags and ``revision.whole`` change.
    """

    id: str
    chunks: tuple[Chunk, ...]
    metadata: Mapping[str, Scalar]
    tags: tuple[str, ...]
    revision: Revision


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that was found. ``score`` is the cosine of its vector and the query's, -1 to 1."""

    document: str
    chunk: str
    score: float
    text: str
    metadata: Mapping[str, Scalar]
    tags: tuple[str, ...]


class Index(Protocol):
    """Documents and their vectors. Used from one event loop; everything raises
    `IndexUnavailableError` if the index is down.

    A collection that nothing was put into is empty, not an error.
    """

    @property
    def identity(self) -> str:
        """Equal for two sidecars if and only if they see the same documents.

        Another one as soon as the index is found to have lost its documents. Raises
        `IndexUnavailableError` while it is not known, `IndexSetupError` if it cannot be.
        """
        ...

    async def start(self) -> None:
        """Opens or connects; if it is there already, sees whether `identity` is still right.

        Raises `IndexSetupError` if it cannot be used as it is.
        """
        ...

    async def close(self) -> None:
        """Writes what is to be written and lets go."""
        ...

    async def revisions(self, collection: Collection, ids: Sequence[str]) -> list[Revision | None]:
        """What is stored of each document, None where there is none."""
        ...

    async def upsert(self, collection: Collection, documents: Sequence[Document]) -> None:
        """Stores documents; each replaces all that was there under its id, at once or not at all.

        Raises `KeyError` with the id of a document without vectors that is not there any more, or
        is there with another ``revision.content``. Others of the call may be stored then.
        """
        ...

    async def delete(self, collection: Collection, ids: Sequence[str]) -> list[bool]:
        """Removes documents; tells of each whether it was there."""
        ...

    async def search(
        self, collection: Collection, vector: Vector, count: int, where: Filter | None
    ) -> list[Hit]:
        """The ``count`` chunks of highest score whose document's metadata match.

        Descending by score; equal scores by document and chunk. If more than `MAX_TIES` chunks
        have the score of the last, it may be any of them that are hits.
        """
        ...

    async def collections(self) -> list[Collection]:
        """Every collection that has documents."""
        ...

    async def count(self, collection: Collection) -> int:
        """How many documents a collection has."""
        ...

    async def documents(self, collection: Collection, after: str, count: int) -> list[Document]:
        """Documents in order of id, from the first whose id is greater than ``after``.

        With their vectors.
        """
        ...

    async def fetch(self, collection: Collection, ids: Sequence[str]) -> list[Document | None]:
        """Each document with its vectors, None where there is none."""
        ...
