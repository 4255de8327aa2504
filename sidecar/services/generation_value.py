"""A whole answer as the cache keeps it, in the pieces in which it came.

A number is a varint. A list of numbers is its size in bytes and its varints::

    u8       format: 1
    number   bytes of the prompt's text
             the prompt's text, UTF-8
    u8       why generation ended: 0 stop, 1 length, 2 filtered
    number   tokens of the prompt
    number   tokens of the answer
    list     characters of each piece's text
    list     tokens of each piece
    u8       bytes of a token: 2 or 4
    number   number of tokens in all pieces
             tokens of all pieces, little-endian
             text of all pieces, UTF-8

Texts and tokens stand together, and not piece by piece, so that they are read at once.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from sidecar.models.generation import FinishReason, Piece
from sidecar.services.wire import varint

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.models.generation import Completion

_FORMAT = 1
_REASONS: tuple[FinishReason, ...] = ("stop", "length", "filtered")
_TOKEN_CODES = {2: "H", 4: "I"}
_LONGEST_VARINT = 9


@dataclass(frozen=True, slots=True)
class StoredCompletion:
    """An answer that was kept, and the prompt that it answered."""

    pieces: tuple[Piece, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    prompt: str


def pack_completion(completion: Completion, prompt: str) -> bytes:
    """The bytes of an answer to ``prompt``.

    Raises `ValueError` for a text that is not valid Unicode, with half of a surrogate pair.
    """
    pieces = completion.pieces
    tokens = [token for piece in pieces for token in piece.tokens]
    width = 2 if max(tokens, default=0) < 1 << 16 else 4
    text = prompt.encode()
    return b"".join(
        [
            bytes([_FORMAT]),
            varint(len(text)),
            text,
            bytes([_REASONS.index(completion.finish_reason)]),
            varint(completion.prompt_tokens),
            varint(completion.completion_tokens),
            _varints(len(piece.text) for piece in pieces),
            _varints(len(piece.tokens) for piece in pieces),
            bytes([width]),
            varint(len(tokens)),
            struct.pack(f"<{len(tokens)}{_TOKEN_CODES[width]}", *tokens),
            "".join(piece.text for piece in pieces).encode(),
        ]
    )


def read_completion(payload: bytes) -> StoredCompletion:
    """What `pack_completion` was given. Raises `ValueError` for any other bytes."""
    reader = _Reader(payload)
    prompt = reader.prompt()
    reason = reader.byte()
    if reason >= len(_REASONS):
        raise ValueError("an answer with an unknown reason for its end")
    prompt_tokens, completion_tokens = reader.number(), reader.number()
    text_ends = [0, *accumulate(reader.numbers())]
    token_ends = [0, *accumulate(reader.numbers())]
    tokens = reader.tokens()
    text = reader.rest().decode()
    if len(text_ends) != len(token_ends) or (text_ends[-1], token_ends[-1]) != (
        len(text),
        len(tokens),
    ):
        raise ValueError("an answer whose parts do not fit together")
    return StoredCompletion(
        tuple(
            Piece(text[a:b], tokens[c:d])
            for (a, b), (c, d) in zip(pairwise(text_ends), pairwise(token_ends), strict=True)
        ),
        _REASONS[reason],
        prompt_tokens,
        completion_tokens,
        prompt,
    )


def read_prompt(payload: bytes) -> str:
    """The prompt alone, without a look at the rest. Raises `ValueError` as `read_completion`."""
    return _Reader(payload).prompt()


def _varints(numbers: Iterable[int]) -> bytes:
    data = b"".join(map(varint, numbers))
    return varint(len(data)) + data


class _Reader:
    """Reads a payload from front to end. Everything raises `ValueError` where bytes are missing."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def prompt(self) -> str:
        if self.byte() != _FORMAT:
            raise ValueError("an answer in another format")
        return self.take(self.number()).decode()

    def byte(self) -> int:
        return self.take(1)[0]

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._payload):
            raise ValueError("an answer that was cut short")
        data = self._payload[self._at : end]
        self._at = end
        return data

    def number(self) -> int:
        number = 0
        for shift in range(0, 7 * _LONGEST_VARINT, 7):
            byte = self.byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise ValueError("an answer with too large a number")

    def numbers(self) -> list[int]:
        data = self.take(self.number())
        if data.isascii():
            # Each is a byte of its own: so it is unless a piece has 128 characters or tokens.
            return list(data)
        reader, numbers = _Reader(data), []
        while reader._at < len(data):
            numbers.append(reader.number())
        return numbers

    def tokens(self) -> tuple[int, ...]:
        width, count = self.byte(), self.number()
        if width not in _TOKEN_CODES:
            raise ValueError("an answer with tokens of another width")
        return struct.unpack(f"<{count}{_TOKEN_CODES[width]}", self.take(count * width))

    def rest(self) -> bytes:
        return self.take(len(self._payload) - self._at)
