"""What the front calls: the methods of the services, which take and give the bytes of gRPC."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from sidecar.cache.items import Tier

    Unary = Callable[[bytes], Awaitable[bytes]]
    Stored = Callable[[bytes], bytes | None]


class Stream(Protocol):
    """A call of GenerateStream on its way: see `sidecar.services.generate_stream`."""

    async def tier(self) -> Tier:
        """What answers. Raises what the call fails with before its first message."""
        ...

    def messages(self) -> AsyncGenerator[bytes, None]:
        """The messages as GenerateStreamResponse. Raises what the call fails with."""
        ...

    async def close(self) -> None:
        """Ends the call."""
        ...


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods by the names of their RPCs; ``stored_`` is asked first for a ready response.

    Each takes the bytes of a request and gives those of the response, and raises what
    `sidecar.services.errors.as_call_error` turns into a status.
    """

    embed: Unary
    stored_embed: Stored
    list_models: Unary
    generate: Unary
    stored_generate: Stored
    open_stream: Callable[[bytes], Stream]
    list_generators: Unary
