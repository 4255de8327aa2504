"""What EmbedStream reads ahead, as the transport sees it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from embercache.v1 import embed_pb2

from sidecar.access.quotas import Quotas
from sidecar.cache.generations import Generations
from sidecar.cache.keys import UNSALTED
from sidecar.cache.local_generations import LocalGenerations
from sidecar.config import ServerSettings
from sidecar.services.embed import STREAM_WINDOW, EmbedService
from sidecar.services.embed_request import RequestReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def test_a_request_is_read_only_when_fewer_than_a_window_are_unanswered() -> None:
    unused: Any = None
    service = EmbedService(
        models=unused,
        reader=RequestReader(unused, ServerSettings(), (), "default", UNSALTED),
        vectors=unused,
        responses=unused,
        generations=Generations(LocalGenerations(None)),
        quotas=Quotas(),
    )
    read = 0

    async def requests() -> AsyncIterator[bytes]:
        nonlocal read
        while read < 20:
            read += 1
            yield b""  # an empty batch, which is answered with an error

    answers = service.embed_stream(requests())
    taken = 0
    async for answer in answers:
        assert embed_pb2.EmbedStreamResponse.FromString(answer).error.message
        for _ in range(50):  # time in which it could read more
            await asyncio.sleep(0)
        # The transport has not taken this one yet.
        assert read == min(taken + STREAM_WINDOW, 20)
        taken += 1
    assert taken == 20
