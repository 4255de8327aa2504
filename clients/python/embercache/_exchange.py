"""The messages of one ``embed`` call, without any I/O.

`embed_calls` is a generator that a client drives: it yields what to send and is sent the answer,
or thrown the error. So the blocking and the asyncio client share all that is decided here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embercache import _backoff
from embercache._answers import Answer
from embercache._requests import only
from embercache.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from embercache.v1 import embed_pb2


@dataclass(frozen=True, slots=True)
class Send:
    """Wait ``delay`` seconds, then send ``request`` and wait ``timeout`` seconds for its answer."""

    request: embed_pb2.EmbedRequest
    timeout: float
    delay: float = 0.0


Exchange: TypeAlias = "Generator[Send, embed_pb2.EmbedResponse, list[Answer]]"


def embed_calls(requests: Sequence[embed_pb2.EmbedRequest], timeout: float) -> Exchange:
    """Sends the requests one after the other, all within ``timeout`` seconds.

    gRPC repeats a call that failed as a whole. Here, the inputs of an answered call that failed
    for want of room or of an encoder are asked for again, and only they.
    """
    deadline = time.monotonic() + timeout
    answers = []
    for request in requests:
        answer = Answer(request, (yield Send(request, deadline - time.monotonic())))
        answers.append(answer)
        for failures in range(1, _backoff.ATTEMPTS):
            places = answer.transient()
            if not places:
                break
            delay = _backoff.delay(failures)
            left = deadline - time.monotonic() - delay
            if left <= 0:
                break
            again = only(request, places)
            try:
                answer.replace(places, Answer(again, (yield Send(again, left, delay))))
            except (*_backoff.TRANSIENT, DeadlineExceededError):
                break  # the items keep the errors they have
    return answers
