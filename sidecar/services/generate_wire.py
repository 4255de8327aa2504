"""Answers of GenerateService as bytes.

The summary ends with its age, so that a stored response is brought up to date by writing eight
bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache.v1 import common_pb2, generate_pb2

from sidecar.cache.items import Tier
from sidecar.services.wire import AGE_BYTES, TIER_NUMBER, AgedBytes, length_delimited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.models.generation import FinishReason, Piece

_REASONS: dict[FinishReason, generate_pb2.FinishReason.ValueType] = {
    "stop": generate_pb2.FINISH_REASON_STOP,
    "length": generate_pb2.FINISH_REASON_LENGTH,
    "filtered": generate_pb2.FINISH_REASON_FILTERED,
}
_AGE = b"\x21" + bytes(AGE_BYTES)
_SUMMARY = 3


def finish_reason(reason: FinishReason) -> generate_pb2.FinishReason.ValueType:
    """The number of a reason."""
    return _REASONS[reason]


def tier_count(tier: str, count: int) -> common_pb2.TierCount:
    """How many tokens came from a tier."""
    return common_pb2.TierCount(tier=TIER_NUMBER[Tier(tier)], count=count)  # type: ignore[arg-type]


def write_piece(piece: Piece) -> bytes:
    """A piece of a stream."""
    message = generate_pb2.GenerateStreamResponse(text=piece.text, tokens=piece.tokens)
    return message.SerializeToString()


def write_last(summary: generate_pb2.GenerateSummary, created_ms: int) -> AgedBytes:
    """The last message of a stream."""
    return _with_summary(b"", summary, created_ms)


def write_whole(
    pieces: Sequence[Piece], summary: generate_pb2.GenerateSummary, created_ms: int
) -> AgedBytes:
    """The response of a call that is answered at once."""
    message = generate_pb2.GenerateResponse(
        text="".join(piece.text for piece in pieces),
        tokens=[token for piece in pieces for token in piece.tokens],
    )
    return _with_summary(message.SerializeToString(), summary, created_ms)


def _with_summary(data: bytes, summary: generate_pb2.GenerateSummary, created_ms: int) -> AgedBytes:
    data += length_delimited(_SUMMARY, summary.SerializeToString() + _AGE)
    return AgedBytes(data, [(len(data) - AGE_BYTES, created_ms)])
