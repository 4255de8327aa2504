"""Documents as the embedded index keeps them: few objects, however many documents there are.

The garbage collector walks objects, and a million documents are many millions; it does not walk
into strings of bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.index.types import Chunk, Document, Revision

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.index.types import Scalar, Vector

# What a document takes beside its texts and vectors, measured with tracemalloc: it itself, each of
# its chunks, each field of its metadata if no other document has the same value there.
_BYTES = 400
_ROW_BYTES = 8
_FIELD_BYTES = 128


@dataclass(frozen=True, slots=True)
class Packed:
    """A document to be kept. ``vectors`` have the shape ``[chunks, dimensions]``."""

    id: str
    revision: Revision
    body: bytes
    vectors: Vector


@dataclass(frozen=True, slots=True)
class Body:
    """What a body holds. ``chunks`` are pairs of id and text."""

    metadata: Mapping[str, Scalar]
    tags: tuple[str, ...]
    chunks: tuple[tuple[str, str], ...]


def pack(document: Document, vectors: Vector) -> Packed:
    """The document with these vectors."""
    body = {
        "metadata": dict(document.metadata),
        "tags": document.tags,
        "chunks": [(chunk.id, chunk.text) for chunk in document.chunks],
    }
    text = json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Packed(document.id, document.revision, text.encode(), vectors)


def memory_of(packed: Packed, fields: int) -> int:
    """The bytes that a document with so many fields of metadata takes in a `Table`, at most."""
    rows = len(packed.vectors)
    text = len(packed.id) + len(packed.body)
    return text + packed.vectors.nbytes + rows * _ROW_BYTES + fields * _FIELD_BYTES + _BYTES


def unpack(packed: Packed) -> Document:
    """The document with its vectors."""
    body = read_body(packed.body)
    chunks = tuple(
        Chunk(name, text, vector)
        for (name, text), vector in zip(body.chunks, packed.vectors, strict=True)
    )
    return Document(packed.id, chunks, body.metadata, body.tags, packed.revision)


def read_body(body: bytes) -> Body:
    """Reads the body of a document."""
    parts = json.loads(body)
    chunks = tuple((name, text) for name, text in parts["chunks"])
    return Body(parts["metadata"], tuple(parts["tags"]), chunks)
