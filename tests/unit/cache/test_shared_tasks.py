"""What is done for all calls is of no call, not even of the one that happened to begin it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from sidecar.cache.generations import Generations, Stored
from sidecar.cache.warm import WarmCounters
from sidecar.cache.warm_lookups import WarmLookups
from sidecar.cache.write_queue import Delete, WriteQueue
from sidecar.shared_task import create_shared_task
from sidecar.spans import UNTRACED, Span, current, enter, leave

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.cache.write_queue import Write


class CallSpan(Span):
    """The span of a call."""


@pytest.fixture(autouse=True)
def call() -> Iterator[Span]:
    """The call that begins what is shared."""
    span = CallSpan()
    token = enter(span)
    yield span
    leave(token)


async def note() -> Span:
    return current()


async def test_a_shared_task_has_no_span(call: Span) -> None:
    assert current() is call
    assert await create_shared_task(note()) is UNTRACED


async def test_writes_are_of_no_call() -> None:
    seen: list[Span] = []

    async def apply(writes: list[Write]) -> Sequence[bool]:
        seen.append(current())
        return [True] * len(writes)

    queue = WriteQueue(apply, SimpleNamespace(writes=0, writes_dropped=0), max_bytes=10_000)
    queue.add(Delete(b"key"))
    assert await queue.flush(30)
    assert seen == [UNTRACED]


async def test_the_state_of_a_namespace_is_loaded_for_no_call() -> None:
    seen: list[Span] = []

    class Store:
        async def load(self, *_: object) -> Stored:
            seen.append(current())
            return Stored(1, 1, {})

    await Generations(Store()).state("shop")  # type: ignore[arg-type]
    assert seen == [UNTRACED]


async def test_lookups_in_redis_that_calls_share_are_of_no_call() -> None:
    seen: list[Span] = []

    class Link:
        up = True

        async def run(self, _: object) -> list[None]:
            seen.append(current())
            return [None]

    lookups = WarmLookups(Link(), WarmCounters(), timeout=30)  # type: ignore[arg-type]
    assert await lookups.get_many([b"key"]) == [None]
    assert seen == [UNTRACED]
