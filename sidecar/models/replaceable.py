"""Something that calls use, and that can be replaced while they do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Held(Generic[T]):
    value: T
    users: int = 0


class Replaceable(Generic[T]):
    """What is in use now. What is replaced is closed when the last call that uses it has ended.

    For one event loop. ``close`` closes one value.
    """

    def __init__(self, value: T, close: Callable[[T], Awaitable[None]]) -> None:
        self._now = _Held(value)
        self._before: set[_Held[T]] = set()
        self._close = close
        self._closing: set[asyncio.Task[None]] = set()

    @contextlib.contextmanager
    def use(self) -> Iterator[T]:
        """The value, which is not closed while the context lasts."""
        held = self._now
        held.users += 1
        try:
            yield held.value
        finally:
            held.users -= 1
            self._close_if_done(held)

    def replace(self, value: T) -> None:
        """Puts another value in place."""
        before, self._now = self._now, _Held(value)
        self._before.add(before)
        self._close_if_done(before)

    async def close(self) -> None:
        """Closes all values, and breaks off who uses them."""
        for held in (self._now, *self._before):
            await self._close(held.value)
        self._before.clear()
        await asyncio.gather(*self._closing)

    def _close_if_done(self, held: _Held[T]) -> None:
        if held.users == 0 and held in self._before:
            self._before.remove(held)
            task = asyncio.create_task(_run(self._close(held.value)))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _run(work: Awaitable[None]) -> None:
    await work
