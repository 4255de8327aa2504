"""When what is replaced is closed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.models.replaceable import Replaceable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]


class Closing:
    """Takes note of what is closed."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    async def close(self, value: str) -> None:
        await asyncio.sleep(0)
        self.closed.append(value)


async def test_what_nobody_uses_is_closed_when_it_is_replaced(eventually: Eventually) -> None:
    closing = Closing()
    things = Replaceable("one", closing.close)
    with things.use() as used:
        assert used == "one"
    things.replace("two")
    await eventually(lambda: closing.closed == ["one"])
    with things.use() as used:
        assert used == "two"


async def test_what_is_in_use_is_closed_when_its_last_user_has_gone(eventually: Eventually) -> None:
    closing = Closing()
    things = Replaceable("one", closing.close)
    with things.use() as first:
        with things.use():
            things.replace("two")
            with things.use() as later:
                assert (first, later) == ("one", "two")
        await asyncio.sleep(0)
        assert closing.closed == []
    await eventually(lambda: closing.closed == ["one"])


async def test_the_end_closes_what_is_in_use_and_what_was_each_once() -> None:
    closing = Closing()
    things = Replaceable("one", closing.close)
    with things.use():
        things.replace("two")
        things.replace("three")
        await things.close()
    await asyncio.sleep(0)
    assert sorted(closing.closed) == ["one", "three", "two"]
