"""How documents lie in Redis.

Every chunk is an element of its collection's vector set, called ``WRITE:NUMBER`` after the write
that brought it; it never changes. Its attributes hold what filters look at and what a hit carries.
The hash ``documents`` says for each document which write is the valid one: setting one field of
it replaces the document as a whole, whatever elements there are of other writes.

==================  ===============================================================
``vectors``         vector set of the chunks, also those not valid yet or any more
``documents``       hash: document id -> `Header` as JSON
``raw``             hash: element -> the vector bit by bit, which the set does not keep
``ids``             sorted set of document ids, all with the score 0: their order
``garbage``         sorted set: element -> time from which it may be removed, in seconds
                    since the Unix epoch; 0 for one that is not valid any more
``state``           hash: ``clock``, the number of the last change; ``documents`` and
                    ``chunks``, how many there must be: with fewer, Redis has lost some
==================  ===============================================================

The braces in a key make a collection live on one node of a cluster.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.cache.keys import digest
from sidecar.index.redis_filters import attributes
from sidecar.index.types import Chunk, Collection, Document, IndexUnavailableError, Revision

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from sidecar.index.types import Scalar


class Layout:
    """The keys of an index.

    ``collections`` is a hash: digest of a collection -> the collection as JSON. ``trial`` is used
    for a moment, to see what Redis can do.
    """

    def __init__(self, prefix: str) -> None:
        self._stem = f"{prefix}:index:"
        self.identity = self._stem + "{identity}"
        self.trial = self.identity + ":trial"
        self.collections = self._stem + "collections"

    def keys(self, collection: Collection) -> Keys:
        """Where the collection lies."""
        stem = f"{self._stem}{{{collection_digest(collection)}}}:"
        return Keys(*(stem + name for name in Keys.__slots__))


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one collection."""

    vectors: str
    documents: str
    raw: str
    ids: str
    garbage: str
    state: str

    @property
    def all(self) -> tuple[str, ...]:
        """In the order in which scripts take them."""
        return (self.vectors, self.documents, self.raw, self.ids, self.garbage, self.state)


@dataclass(frozen=True, slots=True)
class Header:
    """Which elements are a document: those of ``write``, numbered from 1 to ``chunks``."""

    write: str
    chunks: int
    revision: Revision
    clock: int = 0

    @property
    def elements(self) -> list[str]:
        """The names of the document's elements."""
        return [f"{self.write}:{number}" for number in range(1, self.chunks + 1)]

    def encode(self) -> str:
        """As it is given to the script that stores it; the script adds the clock."""
        return json.dumps(
            {
                "write": self.write,
                "chunks": self.chunks,
                "content": self.revision.content.hex(),
                "whole": self.revision.whole.hex(),
            }
        )


def decode_header(text: bytes) -> Header:
    """The header as it is stored."""
    fields = json.loads(text)
    revision = Revision(bytes.fromhex(fields["content"]), bytes.fromhex(fields["whole"]))
    return Header(fields["write"], fields["chunks"], revision, int(fields["clock"]))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What an element says of itself."""

    document: str
    chunk: str
    text: str
    metadata: Mapping[str, Scalar]
    tags: tuple[str, ...]


def encode_attributes(document: Document, chunk: Chunk) -> bytes:
    """The attributes of an element, as JSON. What filters look at comes first."""
    return json.dumps(
        attributes(document.metadata)
        | {
            "document": document.id,
            "chunk": chunk.id,
            "metadata": dict(document.metadata),
            "tags": document.tags,
            "text": chunk.text,
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()


def decode_attributes(text: bytes) -> Attributes:
    """The attributes as they are stored."""
    fields = json.loads(text, parse_int=float)
    return Attributes(
        fields["document"],
        fields["chunk"],
        fields["text"],
        fields["metadata"],
        tuple(fields["tags"]),
    )


def decode_document(stored: Sequence[bytes]) -> Document:
    """A document from its header and, for each chunk, its attributes and its vector.

    Raises `IndexUnavailableError` if one of them is missing.
    """
    if not stored or None in stored:
        raise lost()
    header, *chunks = stored
    found = [decode_attributes(text) for text in chunks[::2]]
    vectors = [np.frombuffer(raw, "<f4").astype(np.float32) for raw in chunks[1::2]]
    return Document(
        found[0].document,
        tuple(
            Chunk(one.chunk, one.text, vector) for one, vector in zip(found, vectors, strict=True)
        ),
        found[0].metadata,
        found[0].tags,
        decode_header(header).revision,
    )


def float32_bytes(vector: NDArray[np.floating[Any]]) -> bytes:
    """A vector as Redis is given it."""
    return vector.astype("<f4").tobytes()


def lost() -> IndexUnavailableError:
    """What is to be said of a collection of which something is missing."""
    return IndexUnavailableError(
        "the index (Redis) has lost part of this collection: store its documents again, and see"
        " that Redis does not evict them (its maxmemory-policy)"
    )


def collection_digest(collection: Collection) -> str:
    """What names the collection in keys."""
    one = collection
    parts = (one.namespace, one.name, one.model, one.version, str(one.dimensions))
    return digest(*(part.encode() for part in parts)).hex()


def encode_collection(collection: Collection) -> bytes:
    """The collection as `Layout.collections` has it."""
    one = collection
    return json.dumps([one.namespace, one.name, one.model, one.version, one.dimensions]).encode()


def decode_collection(text: bytes) -> Collection:
    """The inverse of `encode_collection`."""
    return Collection(*json.loads(text))
