"""The messages of one ``embed`` call, without any I/O.

`embed_calls` is a generator that a client drives: it yields what to send and is sent the answer,
or thrown the error. So the blocking and the asyncio client share all that is decided here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from embercache import _backoff
from embercache._requests import with_inputs
from embercache.errors import DeadlineExceededError, from_item
from embercache.results import check_count

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from embercache.v1 import embed_pb2


@dataclass(frozen=True, slots=True)
class Send:
    """Wait ``delay`` seconds, then send ``request`` and wait ``timeout`` seconds for its answer."""

    request: embed_pb2.EmbedRequest
    timeout: float
    delay: float = 0.0


Exchange: TypeAlias = "Generator[Send, embed_pb2.EmbedResponse, list[embed_pb2.EmbedResponse]]"


def embed_calls(
    template: embed_pb2.EmbedRequest, requests: Sequence[embed_pb2.EmbedRequest], timeout: float
) -> Exchange:
    """Sends the requests one after the other, all within ``timeout`` seconds.

    gRPC repeats a call that failed as a whole. Here, the inputs of an answered call that failed
    for want of room or of an encoder are asked for again, and only they.
    """
    deadline = time.monotonic() + timeout
    responses = []
    for request in requests:
        response = yield Send(request, deadline - time.monotonic())
        check_count(request, response)
        responses.append(response)
        for failures in range(1, _backoff.ATTEMPTS):
            failed = transient_items(response)
            delay = _backoff.delay(failures)
            left = deadline - time.monotonic() - delay
            if not failed or left <= 0:
                break
            again = with_inputs(template, [request.inputs[i] for i in failed])
            try:
                answer = yield Send(again, left, delay)
            except (*_backoff.TRANSIENT, DeadlineExceededError):
                break  # the items keep the errors they have
            check_count(again, answer)
            replace_items(response, failed, answer)
    return responses


def transient_items(response: embed_pb2.EmbedResponse) -> list[int]:
    """The places of the items that may succeed a little later."""
    return [
        i
        for i, item in enumerate(response.embeddings)
        if item.HasField("error") and isinstance(from_item(item.error, i), _backoff.TRANSIENT)
    ]


def replace_items(
    response: embed_pb2.EmbedResponse, places: Sequence[int], answer: embed_pb2.EmbedResponse
) -> None:
    """Puts the items of ``answer`` into their places in ``response``."""
    for place, item in zip(places, answer.embeddings, strict=True):
        response.embeddings[place].CopyFrom(item)
    if answer.dimensions:
        response.dimensions = answer.dimensions
        response.encoding = answer.encoding
