"""Changes of documents, as sidecars tell each other, and which cached lists they can touch.

A list of results is right for as long as no document that it was made from changes, and none comes
that belongs into it. Both can be told from the change itself: whose document it is and, if it has
vectors, whether one of them is near enough to the query and its metadata pass the filter. So one
new document does not empty the cache of its collection.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from sidecar.cache.codec import Codec, decode_vector, encode_vector
from sidecar.cache.keys import digest
from sidecar.index.filters import cost, matches
from sidecar.services.result_list import DOCUMENT_BYTES, MODEL_BYTES, read_facts, suffices

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from sidecar.cache.codec import Entry
    from sidecar.cache.generations import NamespaceState
    from sidecar.cache.keys import Digests
    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar
    from sidecar.services.result_list import ListFacts

# How much a cosine may be off: of two vectors of length 1 in half precision by no more than 2**-10,
# and that of an index by what its own arithmetic makes of it.
MARGIN = 0.005
ANY_MODEL = bytes(MODEL_BYTES)
# What is looked at for one list before it is given up as touched: an event loop waits for it.
MAX_COST = 20_000
_FORMAT = b"\x01"
_HEAD = struct.Struct("<8s8sIHH")


@dataclass(frozen=True, slots=True)
class Change:
    """One document that came, changed or went.

    ``model`` is a `model_digest`, or `ANY_MODEL`. ``vectors`` are those that it has now; without
    any, it is only gone from where it was.
    """

    model: bytes
    document: bytes
    metadata: Mapping[str, Scalar]
    vectors: Sequence[NDArray[np.float32]] | NDArray[np.float32]


def collection_tag(digests: Digests, name: str) -> bytes:
    """The tag that every cached list of a collection has."""
    return digests.of(b"collection", name.encode())


def document_digest(name: str) -> bytes:
    """What stands for a document in lists and changes."""
    return digest(b"document", name.encode())[:DOCUMENT_BYTES]


def model_digest(name: str, version: str) -> bytes:
    """What stands for a version of a model in lists and changes."""
    return digest(b"model", name.encode(), version.encode())[:MODEL_BYTES]


def half_unit(vector: NDArray[np.float32]) -> bytes:
    """A vector at length 1, as a float16 payload."""
    length = np.linalg.norm(vector.astype(np.float64))
    return encode_vector((vector / (length or 1.0)).astype(np.float32), Codec.FLOAT16)


def pack_changes(changes: Iterable[Change]) -> bytes:
    """The bytes of changes that are announced together."""
    parts = [_FORMAT]
    for change in changes:
        metadata = json.dumps(dict(change.metadata), separators=(",", ":")).encode()
        vectors = [half_unit(vector) for vector in change.vectors]
        size = len(vectors[0]) if vectors else 0
        parts += [
            _HEAD.pack(change.model, change.document, len(metadata), len(vectors), size),
            metadata,
            *vectors,
        ]
    return b"".join(parts)


@lru_cache(maxsize=1024)
def unpack_changes(data: bytes) -> tuple[Change, ...]:
    """The changes in the bytes that `pack_changes` made; their vectors are rows of length 1.

    Raises `ValueError` for bytes of another layout.
    """
    if data[:1] != _FORMAT:
        raise ValueError("changes in a layout that is not known here")
    changes, start = [], 1
    while start < len(data):
        model, document, metadata_bytes, count, size = _HEAD.unpack_from(data, start)
        start += _HEAD.size
        metadata = _read_metadata(data[start : start + metadata_bytes])
        start += metadata_bytes
        rows = decode_vector(data[start : start + count * size], Codec.FLOAT16)
        start += count * size
        vectors = rows.reshape(count, -1) if count else ()
        changes.append(Change(model, document, metadata, vectors))
    return tuple(changes)


def _read_metadata(data: bytes) -> dict[str, Scalar]:
    try:
        metadata = json.loads(data)
    except RecursionError:
        raise ValueError("metadata that nest too deeply") from None
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str | bool | int | float) for value in metadata.values()
    ):
        raise ValueError("metadata of another layout")
    return metadata


class ListCheck:
    """What a search asks of a cached list: see `sidecar.cache.items.Check`.

    ``semantic`` is the least similarity of another query whose list will do, None if none will.
    """

    def __init__(self, wanted: int, where: Filter | None, semantic: float | None) -> None:
        self.name = (wanted, semantic)
        self._wanted = wanted
        self._where = where

    def suffices(self, entry: Entry) -> bool:
        """Whether the list is as long as the call needs it."""
        return suffices(entry.value.payload, self._wanted)

    def renewed(self, state: NamespaceState, entry: Entry) -> Entry | None:
        """The list under the present generations, if no change since can have touched it."""
        facts = read_facts(entry.value.payload)
        tags = []
        for tag, generation in entry.tags:
            current = state.generation(tag)
            if current is None:
                return None
            if current != generation:
                changes = state.changes_since(tag, generation)
                if changes is None or touches(changes, facts, self._where):
                    return None
            tags.append((tag, current))
        return replace(entry, tags=tuple(tags))


def touches(changes: Sequence[bytes], facts: ListFacts, where: Filter | None) -> bool:
    """Whether one of the changes may make a list another one; true also where that is unknown."""
    query: NDArray[np.float32] | None = None
    left, each = MAX_COST, 1 if where is None else cost(where)
    for data in changes:
        try:
            unpacked = unpack_changes(data)
        except (ValueError, struct.error):
            return True
        left -= len(unpacked) * each
        if left < 0:
            return True
        for change in unpacked:
            if change.model not in (ANY_MODEL, facts.model):
                continue
            if change.document in facts.documents:
                return True
            if not len(change.vectors) or (where and not matches(where, change.metadata)):
                continue
            if query is None:
                query = decode_vector(facts.vector, Codec.FLOAT16)
            if len(query) != len(change.vectors[0]):
                return True
            if max(float(np.dot(row, query)) for row in change.vectors) >= facts.floor - MARGIN:
                return True
    return False
