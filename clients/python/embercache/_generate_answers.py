"""Reads the answers of ``generate``: protobuf messages to plain values."""

from __future__ import annotations

from contextlib import aclosing, closing
from typing import TYPE_CHECKING

from embercache._search_answers import tier_counts
from embercache._stream import ended_error
from embercache.generate import Generated, GenerateTimings
from embercache.results import tier
from embercache.v1 import generate_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

    from embercache.generate import FinishReason

_FINISH_REASONS: Mapping[int, FinishReason] = {
    generate_pb2.FINISH_REASON_STOP: "stop",
    generate_pb2.FINISH_REASON_LENGTH: "length",
    generate_pb2.FINISH_REASON_FILTERED: "filtered",
}


def generated(text: str, tokens: Sequence[int], summary: generate_pb2.GenerateSummary) -> Generated:
    """A whole answer."""
    timings = summary.timings
    return Generated(
        text=text,
        tokens=list(tokens),
        finish_reason=_FINISH_REASONS.get(summary.finish_reason, "unspecified"),
        prompt_tokens=summary.usage.prompt_tokens,
        completion_tokens=summary.usage.completion_tokens,
        reused_tokens=tier_counts(summary.usage.reused_tokens),
        tier=tier(summary.tier),
        age=summary.age_ms / 1000,
        model=summary.model,
        model_version=summary.model_version,
        timings=GenerateTimings(
            queued=timings.queued / 1000,
            loading=timings.loading / 1000,
            first_token=timings.first_token / 1000,
            total=timings.total / 1000,
        ),
        similarity=summary.similarity if summary.HasField("similarity") else None,
    )


class StreamedAnswer:
    """Puts an answer together that comes in pieces."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._tokens: list[int] = []
        self._summary: generate_pb2.GenerateSummary | None = None

    def add(self, _: int, message: generate_pb2.GenerateStreamResponse) -> str:
        """Takes a message; returns the text that it brought, which may be empty."""
        self._texts.append(message.text)
        self._tokens.extend(message.tokens)
        if message.HasField("summary"):
            self._summary = message.summary
        return message.text

    def finish(self) -> None:
        """Raises `UnavailableError` if the answer is not whole."""
        if self._summary is None:
            raise ended_error()

    @property
    def result(self) -> Generated:
        """The whole answer. Raises `RuntimeError` as long as it is not whole."""
        if self._summary is None:
            raise RuntimeError("there is no result yet; read the stream to its end")
        return generated("".join(self._texts), self._tokens, self._summary)


# Functions rather than methods of the streams: one that held itself would not end when it is
# dropped.


def texts(pieces: Generator[str, None, None], answer: StreamedAnswer) -> Generator[str, None, None]:
    """The pieces that are not empty; ends with an error if the answer is not whole."""
    with closing(pieces):
        for piece in pieces:
            if piece:
                yield piece
    answer.finish()


async def async_texts(
    pieces: AsyncGenerator[str, None], answer: StreamedAnswer
) -> AsyncGenerator[str, None]:
    """As `texts`."""
    async with aclosing(pieces):
        async for piece in pieces:
            if piece:
                yield piece
    answer.finish()
