"""Which failures count."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from embercache.errors import InternalError, UnavailableError

from tests.chaos.caller import ENCODER, INDEX, Caller
from tests.chaos.parts import ENCODERS, REDIS, link
from tests.chaos.record import FAILED, Record
from tests.chaos.timeline import Circumstances, Timeline

A, B = "sidecar-a", "sidecar-b"


class Calls:
    """A caller whose sidecars answer or fail as they are told, by name."""

    def __init__(self) -> None:
        self.timeline = Timeline(time.time())
        self.record = Record()
        self.fails: dict[str, Exception] = {}
        self.asked: list[str] = []
        servers: Any = [SimpleNamespace(name=name, starts=1) for name in (A, B)]
        clients: Any = {A: A, B: B}
        circumstances = Circumstances(self.timeline)
        self._caller = Caller(servers, clients, circumstances, self.record)

    async def call(self, *needs: str, hot: bool = False) -> str | None:
        """Who answered."""

        async def ask(client: Any) -> str:
            self.asked.append(client)
            if client in self.fails:
                raise self.fails[client]
            return str(client)

        reply = await self._caller.call(
            "embed", ask, needs=frozenset(needs), is_hot=lambda sidecar, starts: hot
        )
        return reply.value if reply else None


@pytest.fixture
def calls() -> Calls:
    return Calls()


async def test_a_call_is_answered_by_its_own_sidecar(calls: Calls) -> None:
    assert await calls.call(ENCODER) == A
    assert calls.asked == [A]


async def test_a_call_to_a_sidecar_that_was_killed_is_repeated_with_the_other_one(
    calls: Calls,
) -> None:
    calls.timeline.begin(A, "kill")
    calls.fails[A] = UnavailableError("gone")
    assert await calls.call(ENCODER) == B
    assert calls.record.moved["embed"] == 1
    assert not calls.record.violations


async def test_a_call_that_fails_though_its_sidecar_was_left_alone_is_a_violation(
    calls: Calls,
) -> None:
    calls.fails[A] = UnavailableError("gone")
    assert await calls.call(ENCODER) is None
    assert calls.asked == [A]
    (violation,) = calls.record.violations
    assert violation.kind == FAILED
    assert A in violation.words


@pytest.mark.parametrize(
    ("parts", "is_excused"),
    [
        (ENCODERS, True),
        ((ENCODERS[0], link(A, ENCODERS[1])), True),
        (ENCODERS[:1], False),
        ((ENCODERS[0], link(B, ENCODERS[1])), False),
        ((REDIS,), False),
    ],
)
async def test_a_vector_may_fail_only_without_an_encoder_in_reach(
    calls: Calls, parts: tuple[str, ...], is_excused: bool
) -> None:
    for part in parts:
        calls.timeline.begin(part, "freeze")
    calls.fails[A] = UnavailableError("no encoder")
    assert await calls.call(ENCODER) is None
    assert bool(calls.record.violations) != is_excused


async def test_a_vector_that_was_in_memory_may_not_fail_even_then(calls: Calls) -> None:
    for encoder in ENCODERS:
        calls.timeline.begin(encoder, "kill")
    calls.fails[A] = UnavailableError("no encoder")
    assert await calls.call(ENCODER, hot=True) is None
    assert len(calls.record.violations) == 1


async def test_an_encoder_behind_a_slow_link_is_in_reach(calls: Calls) -> None:
    for encoder in ENCODERS:
        calls.timeline.begin(link(A, encoder), "latency")
    calls.fails[A] = InternalError("late")
    assert await calls.call(ENCODER) is None
    assert len(calls.record.violations) == 1


@pytest.mark.parametrize(("needs", "is_excused"), [((INDEX,), True), ((), False)])
async def test_what_needs_redis_may_fail_while_it_is_out_of_reach(
    calls: Calls, needs: tuple[str, ...], is_excused: bool
) -> None:
    calls.timeline.begin(link(A, REDIS), "black hole")
    calls.fails[A] = UnavailableError("no Redis")
    assert await calls.call(*needs) is None
    assert bool(calls.record.violations) != is_excused


async def test_what_needs_redis_may_not_fail_when_that_was_long_ago(calls: Calls) -> None:
    note = calls.timeline.begin(link(A, REDIS), "cut")
    note.start, note.end = time.time() - 40, time.time() - 30
    calls.fails[A] = UnavailableError("no Redis")
    assert await calls.call(INDEX) is None
    assert len(calls.record.violations) == 1


async def test_a_call_that_finds_every_sidecar_down_again_and_again_is_a_violation(
    calls: Calls,
) -> None:
    for sidecar in (A, B):
        calls.timeline.begin(sidecar, "kill")
        calls.fails[sidecar] = UnavailableError("gone")
    assert await calls.call() is None
    assert len(calls.record.violations) == 1
