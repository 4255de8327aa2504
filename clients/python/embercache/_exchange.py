"""The messages of one call that carries many items, without any I/O.

`bulk_calls` is a generator that a client drives: it yields what to send and is sent the answer,
or thrown the error. So the blocking and the asyncio client share all that is decided here.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from google.protobuf.message import Message

from embercache import _backoff
from embercache._answers import Answer
from embercache.errors import DeadlineExceededError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache._batches import Bulk

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Send(Generic[_Request]):
    """Wait ``delay`` seconds, then send ``request`` and wait ``timeout`` seconds for its answer."""

    request: _Request
    timeout: float
    delay: float = 0.0


Exchange: TypeAlias = Generator[Send[_Request], _Response, list[Answer[_Response, _Item]]]


def bulk_calls(
    bulk: Bulk[Any, _Request, _Response, _Item], requests: Sequence[_Request], timeout: float
) -> Exchange[_Request, _Response, _Item]:
    """Sends the requests one after the other, all within ``timeout`` seconds.

    gRPC repeats a call that failed as a whole. Here, the items of an answered call that failed
    for want of room or of an encoder are asked for again, and only they.
    """
    deadline = time.monotonic() + timeout
    answers = []
    for request in requests:
        answer = Answer(bulk, request, (yield Send(request, deadline - time.monotonic())))
        answers.append(answer)
        for failures in range(1, _backoff.ATTEMPTS):
            places = answer.transient()
            if not places:
                break
            delay = _backoff.delay(failures)
            left = deadline - time.monotonic() - delay
            if left <= 0:
                break
            again = bulk.only(request, places)
            try:
                answer.replace(places, Answer(bulk, again, (yield Send(again, left, delay))))
            except (*_backoff.TRANSIENT, DeadlineExceededError):
                break  # the items keep the errors they have
    return answers
