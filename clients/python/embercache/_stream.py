"""The messages of one bulk job over EmbedStream, without any I/O.

Batches are sent ahead of their answers, but only so many; answers come in any order and leave in
the order of the inputs. What was not answered is sent again, also over a new stream when the old
one broke.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embercache import _backoff
from embercache._answers import Answer
from embercache._embed_requests import EMBED
from embercache.errors import (
    DeadlineExceededError,
    EmbercacheError,
    InternalError,
    UnavailableError,
    from_batch,
)
from embercache.results import decode, finish, one_version
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from embercache._embed_requests import EmbedBatch
    from embercache.results import EmbedResult
    from embercache.types import OnError

WINDOW = 8  # batches that are sent, or answered but waiting for their turn
FINISH_SECONDS = 1.0  # for the sidecar to end a call of which all is answered


@dataclass(slots=True)
class _Flight:
    """A batch on its way; ``asked`` for the inputs at ``places``, ``None`` when it has landed."""

    batch: EmbedBatch
    asked: embed_pb2.EmbedStreamRequest | None
    places: Sequence[int]
    answer: Answer[embed_pb2.EmbedResponse, embed_pb2.Embedding] | None = None
    error: EmbercacheError | None = None
    failures: int = 0


@dataclass(frozen=True, slots=True)
class Resend:
    """Wait ``delay`` seconds, then send ``request`` again."""

    request: embed_pb2.EmbedStreamRequest
    delay: float


class StreamWindow:
    """The batches under way. Used by one thread or task at a time."""

    def __init__(self, on_error: OnError, timeout: float) -> None:
        self._on_error = on_error
        self._flights: dict[int, _Flight] = {}  # in the order of the inputs
        self._next_id = 0
        self._version = ""
        self._timeout = timeout
        self._was_answered = False
        self._breaks = 0  # in a row, without an answer between them
        self._broken_at = 0.0  # when the first of them came

    @property
    def has_room(self) -> bool:
        """Whether another batch may be sent."""
        return len(self._flights) < WINDOW

    @property
    def is_empty(self) -> bool:
        """Whether all that was added has been taken."""
        return not self._flights

    def add(self, batch: EmbedBatch) -> embed_pb2.EmbedStreamRequest:
        """Takes a batch and returns what to send for it."""
        asked = embed_pb2.EmbedStreamRequest(id=self._next_id, request=batch.request)
        self._flights[asked.id] = _Flight(batch, asked, range(len(batch.inputs)))
        self._next_id += 1
        return asked

    def unanswered(self) -> list[embed_pb2.EmbedStreamRequest]:
        """What to send first over a new stream."""
        return [flight.asked for flight in self._flights.values() if flight.asked is not None]

    def answer(self, message: embed_pb2.EmbedStreamResponse) -> Resend | None:
        """Takes an answer; returns what to ask for again, if anything is worth it."""
        flight = self._flights.get(message.id)
        if flight is None or flight.asked is None:
            raise InternalError(f"the sidecar answered request {message.id}, which is not open")
        self._was_answered = True
        self._breaks = 0
        places: Sequence[int]
        if message.HasField("response"):
            places = _take(flight, Answer(EMBED, flight.asked.request, message.response))
        else:
            flight.error = from_batch(message.error)
            places = flight.places if isinstance(flight.error, _backoff.TRANSIENT) else []
        flight.failures += 1
        if not places or flight.failures == _backoff.ATTEMPTS:
            flight.asked = None
            return None
        flight.places = places
        flight.asked = embed_pb2.EmbedStreamRequest(
            id=message.id, request=EMBED.only(flight.batch.request, places)
        )
        return Resend(flight.asked, _backoff.delay(flight.failures))

    def broken(self, error: EmbercacheError) -> float:
        """Takes the error that ended the stream; returns seconds to wait before a new one.

        Raises the error if a new one is not worth it. A sidecar that has answered before is given
        ``timeout`` seconds to come back, one that never has as many tries as for any call.
        """
        now = time.monotonic()
        if not self._breaks:
            self._broken_at = now
        self._breaks += 1
        delay = _backoff.delay(self._breaks)
        if self._was_answered:
            hopeless = now + delay - self._broken_at > self._timeout
        else:
            hopeless = self._breaks == _backoff.ATTEMPTS
        if hopeless or not isinstance(error, _backoff.TRANSIENT):
            raise error
        return delay

    def landed(self) -> Iterator[EmbedResult]:
        """The results whose turn it is.

        Raises the error of a batch when its turn comes, so that nothing before it is lost.
        """
        while self._flights:
            number, flight = next(iter(self._flights.items()))
            if flight.asked is not None:
                return
            del self._flights[number]
            yield self._result(flight)

    def _result(self, flight: _Flight) -> EmbedResult:
        if flight.answer is None:
            raise flight.error or InternalError("the sidecar gave neither answer nor error")
        result = decode(flight.batch.inputs, [flight.answer])
        if result.model_version:
            self._version = self._version or result.model_version
            one_version([self._version, result.model_version])
        return finish(result, self._on_error)


def _take(
    flight: _Flight, answer: Answer[embed_pb2.EmbedResponse, embed_pb2.Embedding]
) -> list[int]:
    """Keeps what was answered; returns the places that are worth asking for again."""
    if flight.answer is None:
        flight.answer = answer
    else:
        flight.answer.replace(flight.places, answer)
    return flight.answer.transient()


def no_answer_error(timeout: float) -> DeadlineExceededError:
    """The error of a stream on which nothing came for so many seconds."""
    return DeadlineExceededError(f"no answer came on the stream for {timeout} seconds")


def ended_error() -> UnavailableError:
    """The error of a stream that the sidecar ended in good order, but too early."""
    return UnavailableError("the sidecar ended the stream before it had answered all")
