"""Whole answers as the cache gives them back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.models.generation import Completion, Piece
from sidecar.services.generation_value import (
    StoredCompletion,
    pack_completion,
    read_completion,
    read_prompt,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (ValueError,)


def seeds() -> Iterator[bytes]:
    pieces = (Piece("Hello", (1, 2)), Piece("", (70_000,)), Piece(" \N{SNOWMAN}" * 70, (3,) * 130))
    for few in (pieces[:1], pieces, ()):
        completion = Completion(
            pieces=few,
            finish_reason="length",
            prompt_tokens=300,
            completion_tokens=sum(len(piece.tokens) for piece in few),
            reused={},
            queued_seconds=0.0,
            loading_seconds=0.0,
        )
        yield pack_completion(completion, "What is \N{SNOWMAN}?")


def run(data: bytes) -> tuple[StoredCompletion, bytes]:
    return read_completion(data), data


def verify(read: tuple[StoredCompletion, bytes]) -> None:
    stored, data = read
    assert read_prompt(data) == stored.prompt
    assert sum(len(piece.text) + len(piece.tokens) for piece in stored.pieces) <= len(data)
