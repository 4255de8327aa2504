"""The file in which a sidecar keeps which names were moved to which models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.cache.model_moves import Copy, Move, Moves, dump_moves, parse_moves

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (ValueError,)
IS_JSON = True


def seeds() -> Iterator[bytes]:
    old, new = ("minilm", "1"), ("other", "2")
    copy = Copy(old, new, old)
    yield dump_moves(Moves(3, {"minilm": Move("other", {"a": copy, "b": copy})}))
    yield dump_moves(Moves(0, {"minilm": Move("", {})}))


def run(data: bytes) -> Moves:
    return parse_moves(data)


def verify(moves: Moves) -> None:
    assert parse_moves(dump_moves(moves)) == moves
