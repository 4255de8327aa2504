"""Documents as rows, and rows as documents."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
from psycopg.types.json import Jsonb

from sidecar.cache.keys import digest
from sidecar.index.types import Chunk, Collection, Document, Revision

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from sidecar.index.types import Scalar, Vector

# PostgreSQL has no NUL in strings. This keeps their order, and all other strings as they are.
_ESCAPES = {"\0": "\1\1", "\1": "\1\2"}
_PLAIN = {escaped: plain for plain, escaped in _ESCAPES.items()}


def escape(text: str) -> str:
    """The string without NUL."""
    return re.sub("[\0\1]", lambda found: _ESCAPES[found[0]], text)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return re.sub("\1[\1\2]", lambda found: _PLAIN[found[0]], text)


def stored(value: Scalar) -> Scalar:
    """A value of metadata as it is stored."""
    if isinstance(value, bool):
        return value
    return escape(value) if isinstance(value, str) else float(value)


def collection_key(collection: Collection) -> UUID:
    """What names the collection in every row."""
    parts = (*collection_names(collection), str(collection.dimensions))
    return UUID(bytes=digest(*(part.encode() for part in parts)))


def collection_names(collection: Collection) -> tuple[str, ...]:
    """The names in a row of ``collections``."""
    of = collection
    return tuple(map(escape, (of.namespace, of.name, of.model, of.version)))


def document_row(key: UUID, document: Document) -> tuple[object, ...]:
    """A row of ``documents``."""
    metadata = {name: stored(value) for name, value in document.metadata.items()}
    return (
        key,
        escape(document.id),
        document.revision.content,
        document.revision.whole,
        Jsonb(metadata),
        [escape(tag) for tag in document.tags],
    )


def chunk_rows(key: UUID, document: Document) -> Iterator[tuple[object, ...]]:
    """The rows of ``chunks`` of a document with vectors."""
    for number, chunk in enumerate(document.chunks):
        if chunk.vector is None:
            raise ValueError("some chunks of a document have vectors and others have none")
        name = (key, escape(document.id), number, escape(chunk.id))
        yield (*name, escape(chunk.text), vector_text(chunk.vector))


def read_document(rows: Sequence[Sequence[Any]]) -> Document:
    """A document from the rows of its chunks."""
    document, content, whole, metadata, tags, *_ = rows[0]
    chunks = tuple(
        Chunk(unescape(chunk), unescape(text), _vector(sent)) for *_, chunk, text, sent in rows
    )
    revision = Revision(content, whole)
    read_metadata, read_tags = read_extras(metadata, tags)
    return Document(unescape(document), chunks, read_metadata, read_tags, revision)


def read_extras(metadata: str, tags: Sequence[str]) -> tuple[Mapping[str, Scalar], tuple[str, ...]]:
    """Metadata and tags from a row of ``documents``."""
    values: dict[str, Scalar] = json.loads(metadata, parse_int=float)
    for name, value in values.items():
        if isinstance(value, str):
            values[name] = unescape(value)
    return values, tuple(map(unescape, tags))


def vector_text(vector: NDArray[np.floating[Any]]) -> str:
    """A vector as pgvector reads it: rounded to the float32 that it was."""
    return f"[{','.join(map(repr, vector.tolist()))}]"


def _vector(sent: bytes) -> Vector:
    """A vector as pgvector sends it: two numbers of two bytes, then the elements."""
    return np.frombuffer(sent, ">f4", offset=4).astype(np.float32)
