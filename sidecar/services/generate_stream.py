"""One call of GenerateStream: its messages, and what answers it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.cache.items import Tier
from sidecar.models.generation import Generation
from sidecar.services.generate_wire import write_piece

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sidecar.services.generate import Answered

    Watch = Callable[[asyncio.Future[Any]], None]


class GenerateStream:
    """A stream of pieces on its way.

    ``answer`` fetches the whole answer; it is begun at once, and shows the generation that will
    answer, if there is to be one. Used from one task; `close` it whatever happens.
    """

    def __init__(self, answer: Callable[[Watch], Awaitable[Answered]]) -> None:
        self._generation: asyncio.Future[Generation | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._answer = asyncio.ensure_future(answer(self._watch))
        self._answer.add_done_callback(lambda _: self._show(None))

    async def tier(self) -> Tier:
        """What answers, as soon as that is known, which is before the first message.

        `Tier.COMPUTED` also for a generation that another call began. Raises what the call fails
        with, if it fails before its first piece.
        """
        generation = await asyncio.shield(self._generation)
        if generation is not None and await generation.begun():
            return Tier.COMPUTED
        return (await asyncio.shield(self._answer)).tier

    async def messages(self) -> AsyncGenerator[bytes, None]:
        """The messages as GenerateStreamResponse. Raises what the call fails with."""
        generation = await asyncio.shield(self._generation)
        told = 0
        if generation is not None:
            async for piece in generation.follow():
                yield write_piece(piece)
                told += 1
        answered = await asyncio.shield(self._answer)
        for piece in answered.completion.pieces[told:]:
            yield write_piece(piece)
        yield answered.last_message()

    async def close(self) -> None:
        """Ends the call; what nobody else waits for is not generated any further."""
        self._answer.cancel()
        await asyncio.wait({self._answer})

    def _watch(self, work: asyncio.Future[Any]) -> None:
        if isinstance(work, Generation):
            self._show(work)

    def _show(self, generation: Generation | None) -> None:
        if not self._generation.done():
            self._generation.set_result(generation)
