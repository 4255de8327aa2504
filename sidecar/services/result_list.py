"""A list of results as the cache keeps it: what it answers, and what tells whether it still may.

Little-endian::

    0   u8   flags: 1 nothing more was to be found
    1   u32  how many results were wanted
    5   f32  cosine that a new chunk must reach to come into the list; -2 for any
    9        digest of the model's name and version, 8 bytes
    17  u32  bytes of the query's vector
    21  u32  number of documents looked at
    25  u32  bytes of the query's text; 0 if it is not kept
    29  u32  number of results
    33       the vector, as float16 of length 1; 8 bytes a document; the text; for each result the
             end of its bytes (u32); the results as field 1 of a SearchResponse, one after the other
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FORMAT = b"list 1"
"""A part of every list's key, so that no other layout is ever read as this one."""
ANY_SCORE = -2.0
DOCUMENT_BYTES = MODEL_BYTES = 8
_HEADER = struct.Struct("<BIf8sIIII")
_ENDS = struct.Struct("<I")
_EXHAUSTED = 1


@dataclass(frozen=True, slots=True)
class ListFacts:
    """What is known of a list beside its results.

    ``floor`` is the cosine that a chunk must reach to come into the list. ``documents`` are the
    digests of all documents that the list was made from. ``vector`` is the query's, a float16
    payload. ``exhausted`` says that there were fewer results than ``wanted``.
    """

    wanted: int
    exhausted: bool
    floor: float
    model: bytes
    vector: bytes
    documents: frozenset[bytes]
    query: str


def pack_list(facts: ListFacts, results: Sequence[bytes]) -> bytes:
    """The bytes of a list; its results, best first, are in the form in which they are sent."""
    query = facts.query.encode()
    header = _HEADER.pack(
        _EXHAUSTED if facts.exhausted else 0,
        facts.wanted,
        facts.floor,
        facts.model,
        len(facts.vector),
        len(facts.documents),
        len(query),
        len(results),
    )
    ends, end = [], 0
    for result in results:
        end += len(result)
        ends.append(_ENDS.pack(end))
    return b"".join([header, facts.vector, *sorted(facts.documents), query, *ends, *results])


def read_facts(payload: bytes) -> ListFacts:
    """What `pack_list` was told beside the results."""
    flags, wanted, floor, model, vector_bytes, documents, query_bytes, _ = _HEADER.unpack_from(
        payload
    )
    vector_end = _HEADER.size + vector_bytes
    documents_end = vector_end + documents * DOCUMENT_BYTES
    return ListFacts(
        wanted=wanted,
        exhausted=bool(flags & _EXHAUSTED),
        floor=floor,
        model=model,
        vector=payload[_HEADER.size : vector_end],
        documents=frozenset(
            payload[i : i + DOCUMENT_BYTES]
            for i in range(vector_end, documents_end, DOCUMENT_BYTES)
        ),
        query=payload[documents_end : documents_end + query_bytes].decode(),
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
