"""Bounds what an OpenAI-compatible service may send in answer to one call.

The SDK holds an answer, and a line of a stream, in memory until it ends.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import httpx2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

_ALWAYS_BYTES = 2**20
# A vector of 8,192 numbers takes less, even if each is written with all of its digits.
_BYTES_AN_INPUT = 2**18
# A token takes some hundreds of bytes, with all that an event repeats.
_BYTES_A_TOKEN = 2**10
_MOST_TOKENS = 2**18

most_bytes: ContextVar[int] = ContextVar("most_bytes", default=_ALWAYS_BYTES)
"""Of the answer to the call that is being made."""


class UnboundedAnswerError(ValueError):
    """An answer is longer than any should be, or could be so. The message says what it is."""


def bound_of(body: Mapping[str, Any]) -> int:
    """The bytes that an answer may have, by the inputs or the tokens that a call asks for."""
    tokens: int = body.get("max_tokens", body.get("max_completion_tokens", 0))
    return (
        _ALWAYS_BYTES
        + len(body.get("input", ())) * _BYTES_AN_INPUT
        + min(tokens, _MOST_TOKENS) * _BYTES_A_TOKEN
    )


def bound(response: httpx2.Response) -> None:
    """Has the reading of a response raise `UnboundedAnswerError` after `most_bytes`.

    Raises it at once for a compressed one, of which nobody knows how long it is.
    """
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise UnboundedAnswerError("a compressed answer, which was not asked for")
    response.stream = _Bounded(response.stream, most_bytes.get())


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise UnboundedAnswerError(f"an answer of more than {self._most} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
