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
from typing import TYPE_CHECKING

import numpy as np

from sidecar.cache.codec import Codec, decode_vector, encode_vector
from sidecar.cache.keys import digest
from sidecar.index.filters import matches
from sidecar.services.result_list import DOCUMENT_BYTES, MODEL_BYTES, suffices, unpack_results

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from sidecar.cache.codec import Entry
    from sidecar.cache.generations import NamespaceState
    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar
    from sidecar.services.result_list import ResultList

# How much the cosine of two int8 vectors may be off: about ten times what was measured
# (python -m bench.codecs).
MARGIN = 0.01
ANY_MODEL = bytes(MODEL_BYTES)
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
    vectors: tuple[NDArray[np.float32], ...]


def collection_tag(name: str) -> bytes:
    """The tag that every cached list of a collection has."""
    return digest(b"collection", name.encode())


def document_digest(name: str) -> bytes:
    """What stands for a document in lists and changes."""
    return digest(b"document", name.encode())[:DOCUMENT_BYTES]


def model_digest(name: str, version: str) -> bytes:
    """What stands for a version of a model in lists and changes."""
    return digest(b"model", name.encode(), version.encode())[:MODEL_BYTES]


def pack_changes(changes: Iterable[Change]) -> bytes:
    """The bytes of changes that are announced together."""
    parts = []
    for change in changes:
        metadata = json.dumps(dict(change.metadata), separators=(",", ":")).encode()
        vectors = [encode_vector(vector, Codec.INT8) for vector in change.vectors]
        size = len(vectors[0]) if vectors else 0
        parts += [
            _HEAD.pack(change.model, change.document, len(metadata), len(vectors), size),
            metadata,
            *vectors,
        ]
    return b"".join(parts)


def unpack_changes(data: bytes) -> list[Change]:
    """The changes in the bytes that `pack_changes` made."""
    changes, start = [], 0
    while start < len(data):
        model, document, metadata_bytes, count, size = _HEAD.unpack_from(data, start)
        start += _HEAD.size
        metadata = json.loads(data[start : start + metadata_bytes])
        start += metadata_bytes
        vectors = [data[start + i * size : start + (i + 1) * size] for i in range(count)]
        start += count * size
        decoded = tuple(decode_vector(vector, Codec.INT8) for vector in vectors)
        changes.append(Change(model, document, metadata, decoded))
    return changes


class ListCheck:
    """What a search asks of a cached list: see `sidecar.cache.items.Check`."""

    def __init__(self, wanted: int, where: Filter | None) -> None:
        self.name = wanted
        self._wanted = wanted
        self._where = where

    def suffices(self, entry: Entry) -> bool:
        """Whether the list is as long as the call needs it."""
        return suffices(entry.value.payload, self._wanted)

    def renewed(self, state: NamespaceState, entry: Entry) -> Entry | None:
        """The list under the present generations, if no change since can have touched it."""
        found = unpack_results(entry.value.payload)
        tags = []
        for tag, generation in entry.tags:
            current = state.generation(tag)
            if current is None:
                return None
            if current != generation:
                changes = state.changes_since(tag, generation)
                if changes is None or touches(changes, found, self._where):
                    return None
            tags.append((tag, current))
        return replace(entry, tags=tuple(tags))


def touches(changes: Sequence[bytes], found: ResultList, where: Filter | None) -> bool:
    """Whether one of the changes may make a list another one."""
    vector: NDArray[np.float32] | None = None
    for data in changes:
        for change in unpack_changes(data):
            if change.model not in (ANY_MODEL, found.model):
                continue
            if change.document in found.documents:
                return True
            if not change.vectors or (where and not matches(where, change.metadata)):
                continue
            if vector is None:
                vector = _unit(decode_vector(found.vector, Codec.INT8))
            nearest = max(float(_unit(each) @ vector) for each in change.vectors)
            if nearest >= found.floor - MARGIN:
                return True
    return False


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector
