"""Sends the commands of the Redis index, and says what failed in words for the caller."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from sidecar.cache.breaker import Breaker
from sidecar.cache.redis_connect import connect
from sidecar.cache.redis_link import RedisLink, WarmUnavailableError
from sidecar.index.types import IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from sidecar.cache.redis_connect import Client
    from sidecar.index.redis_layout import Keys

T = TypeVar("T")
Command = tuple[str | bytes | int, ...]

READ_SECONDS = 2.0
WRITE_SECONDS = 5.0

_CONNECT_SECONDS = 2.0
_CONNECTIONS = 2


class RedisCommands:
    """A link to one Redis. ``when_down`` is called each time that Redis goes down."""

    def __init__(self, url: str, password_file: Path | None, when_down: Callable[[], None]) -> None:
        client: Any = connect(url, connect_timeout=_CONNECT_SECONDS, password_file=password_file)
        # What redis-py makes of this reply depends on its version.
        client.set_response_callback("VSIM", lambda reply, **options: reply)
        self.link = RedisLink(
            client,
            Breaker("index"),
            timeout=READ_SECONDS,
            probe_timeout=_CONNECT_SECONDS,
            connections=_CONNECTIONS,
            when_down=when_down,
        )

    async def run(self, operation: Callable[[Client], Awaitable[T]], seconds: float) -> T:
        """What ``operation`` gives. Raises `IndexUnavailableError`."""
        try:
            return await self.link.run(operation, seconds)
        except WarmUnavailableError as error:
            raise IndexUnavailableError(
                f"the index cannot be reached, or takes no more: {error}; try again later"
            ) from error

    async def one(self, command: Command, seconds: float) -> Any:
        """The reply to a command. Raises `IndexUnavailableError`."""

        async def send(client: Any) -> Any:
            return await client.execute_command(*command)

        return await self.run(send, seconds)

    async def many(self, commands: Sequence[Command], seconds: float) -> list[Any]:
        """The replies to commands that are sent together. Raises `IndexUnavailableError`."""
        if not commands:
            return []

        async def send(client: Any) -> list[Any]:
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute()
            return replies

        return await self.run(send, seconds)


def script(text: str, where: Keys, *arguments: str | bytes | int) -> Command:
    """A script as a command."""
    return ("EVAL", text, len(where.all), *where.all, *arguments)
