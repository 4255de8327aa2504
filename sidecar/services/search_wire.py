"""SearchResponse, written straight to bytes: the results are kept in the form in which they go out.

Field numbers are those of search.proto; tests/unit/services/test_search_wire.py holds the two
together.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sidecar.services.result_list import first_results
from sidecar.services.wire import AGE_BYTES, TIER_NUMBER, AgedBytes, length_delimited, varint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.cache.items import Tier

_FLOAT = struct.Struct("<f")


def write_response(
    *,
    payload: bytes,
    most: int,
    model: tuple[str, str],
    reranker: tuple[str, str] | None,
    tier: Tier,
    query_tier: Tier | None,
    rerank_tiers: Mapping[Tier, int],
    semantic: tuple[float, str] | None,
    created_ms: int,
) -> AgedBytes:
    """The response with up to ``most`` results of a packed list.

    ``model`` and ``reranker`` are names and versions, ``semantic`` the similarity of another query
    and its text.
    """
    parts = [first_results(payload, most)]
    parts += [length_delimited(2, model[0].encode()), length_delimited(3, model[1].encode())]
    if reranker is not None:
        parts += [length_delimited(4, reranker[0].encode())]
        parts += [length_delimited(5, reranker[1].encode())]
    parts.append(b"\x30" + varint(TIER_NUMBER[tier]))
    if query_tier is not None:
        parts.append(b"\x38" + varint(TIER_NUMBER[query_tier]))
    for each, count in rerank_tiers.items():
        inner = b"\x08" + varint(TIER_NUMBER[each]) + b"\x10" + varint(count)
        parts.append(length_delimited(8, inner))
    if semantic is not None:
        inner = b"\x0d" + _FLOAT.pack(semantic[0]) + length_delimited(2, semantic[1].encode())
        parts.append(length_delimited(9, inner))
    parts += [b"\x51", bytes(AGE_BYTES)]
    data = b"".join(parts)
    return AgedBytes(data, [(len(data) - AGE_BYTES, created_ms)])
