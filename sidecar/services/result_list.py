"""A list of results as the cache keeps it: what it answers, and what tells whether it still may.

Little-endian::

    0   u8   flags: 1 nothing more was to be found, 2 the query was truncated
    1   u32  how many results were wanted
    5   f32  cosine that a new chunk must reach to come into the list; -2 for any
    9        digest of the model's name and version, 8 bytes
    17  u32  bytes of the query's vector
    21  u32  number of documents looked at
    25  u32  bytes of the query's text; 0 if it is not kept
    29  u32  number of results
    33       the vector as int8 with its scale; 8 bytes a document; the text; for each result the
             end of its bytes (u32); the results as field 1 of a SearchResponse, one after the other
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_SCORE = -2.0
DOCUMENT_BYTES = MODEL_BYTES = 8
_HEADER = struct.Struct("<BIf8sIIII")
_ENDS = struct.Struct("<I")
_EXHAUSTED, _TRUNCATED = 1, 2


@dataclass(frozen=True, slots=True)
class ResultList:
    """The results of one query, best first, each in the form in which it is sent.

    ``floor`` is the cosine that a chunk must reach to come into the list. ``documents`` are the
    digests of all documents that the list was made from. ``vector`` is the query's, an int8
    payload. ``exhausted`` says that there were fewer results than ``wanted``.
    """

    wanted: int
    exhausted: bool
    truncated: bool
    floor: float
    model: bytes
    vector: bytes
    documents: frozenset[bytes]
    query: str
    results: Sequence[bytes]


def pack_results(found: ResultList) -> bytes:
    """The bytes of a list."""
    query = found.query.encode()
    flags = (_EXHAUSTED if found.exhausted else 0) | (_TRUNCATED if found.truncated else 0)
    header = _HEADER.pack(
        flags,
        found.wanted,
        found.floor,
        found.model,
        len(found.vector),
        len(found.documents),
        len(query),
        len(found.results),
    )
    ends, end = [], 0
    for result in found.results:
        end += len(result)
        ends.append(_ENDS.pack(end))
    parts = [header, found.vector, *sorted(found.documents), query, *ends, *found.results]
    return b"".join(parts)


def unpack_results(payload: bytes) -> ResultList:
    """The list in the bytes that `pack_results` made."""
    flags, wanted, floor, model, vector_bytes, documents, query_bytes, count = _HEADER.unpack_from(
        payload
    )
    vector_end = _HEADER.size + vector_bytes
    documents_end = vector_end + documents * DOCUMENT_BYTES
    query_end = documents_end + query_bytes
    start = query_end + count * _ENDS.size
    ends = [0, *(end for (end,) in _ENDS.iter_unpack(payload[query_end:start]))]
    return ResultList(
        wanted=wanted,
        exhausted=bool(flags & _EXHAUSTED),
        truncated=bool(flags & _TRUNCATED),
        floor=floor,
        model=model,
        vector=payload[_HEADER.size : vector_end],
        documents=frozenset(
            payload[i : i + DOCUMENT_BYTES]
            for i in range(vector_end, documents_end, DOCUMENT_BYTES)
        ),
        query=payload[documents_end:query_end].decode(),
        results=[payload[start + begin : start + end] for begin, end in itertools.pairwise(ends)],
    )


def suffices(payload: bytes, wanted: int) -> bool:
    """Whether a list has all that a call for so many results would be told."""
    flags, had, *_ = _HEADER.unpack_from(payload)
    return bool(flags & _EXHAUSTED) or had >= wanted


def first_results(payload: bytes, most: int) -> bytes:
    """The bytes of up to so many results, best first."""
    *_, vector_bytes, documents, query_bytes, count = _HEADER.unpack_from(payload)
    ends = _HEADER.size + vector_bytes + documents * DOCUMENT_BYTES + query_bytes
    start = ends + count * _ENDS.size
    taken = min(most, count)
    if taken == 0:
        return b""
    (end,) = _ENDS.unpack_from(payload, ends + (taken - 1) * _ENDS.size)
    return payload[start : start + end]
