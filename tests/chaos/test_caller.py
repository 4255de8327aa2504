"""Which failures count."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from embercache import PartialFailureError
from embercache.errors import (
    ClientClosedError,
    DeadlineExceededError,
    EmbercacheError,
    InternalError,
    InvalidArgumentError,
    OverloadedError,
    UnavailableError,
)

from tests.chaos.caller import DEADLINE, Caller
from tests.chaos.excuse import NO_ENCODER, NO_REDIS
from tests.chaos.parts import ENCODERS, REDIS, link
from tests.chaos.record import FAILED, Record
from tests.chaos.timeline import ENCODER, INDEX, NEWS, STILL_TAKEN, Circumstances, Timeline

A, B = "sidecar-a", "sidecar-b"
NEVER = (
    InternalError("a fault"),
    EmbercacheError("it broke", code="UNKNOWN"),
    InvalidArgumentError("no such thing"),
    ClientClosedError("ended"),
)
"""What excuses nothing, whatever was away."""


def partial(*texts: str, failed: dict[int, EmbercacheError]) -> EmbercacheError:
    """What a client raises if some inputs of a call have failed."""

    class Result(SimpleNamespace):
        def __len__(self) -> int:
            return len(texts)

    return PartialFailureError(Result(inputs=texts, errors=failed))


class Calls:
    """A caller whose sidecars answer or fail as they are told, by name."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.timeline = Timeline(self._now)
        self.record = Record()
        self.fails: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.takes = 0.0
        servers: Any = [SimpleNamespace(name=name, starts=1) for name in (A, B)]
        clients: Any = {A: A, B: B}
        circumstances = Circumstances(self.timeline)
        self._caller = Caller(servers, clients, circumstances, self.record)

    async def call(self, *needs: str, texts: str = "", hot: str = "") -> str | None:
        """Who answered. Each letter is a text."""

        async def ask(client: Any) -> str:
            self.asked.append(client)
            if self.takes:
                self.advance(self.takes)
            if client in self.fails:
                raise self.fails[client]
            return str(client)

        reply = await self._caller.call(
            "embed",
            ask,
            needs=frozenset(needs),
            batches=[list(texts)] if texts else [],
            hot=lambda sidecar, starts: set(hot),
        )
        if reply is not None:
            self.record.calls["embed"] += 1
        return reply.value if reply else None

    def now(self) -> float:
        """The time, which passes with each look at it."""
        self._now += 0.001
        return self._now

    @property
    def held(self) -> int:
        return self.record.held["embed"]

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += seconds


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr(time, "time", calls.now)
    return calls


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
    assert calls.held == 1


@pytest.mark.parametrize("error", NEVER)
async def test_a_call_to_a_sidecar_that_was_killed_fails_as_the_contract_says(
    calls: Calls, error: EmbercacheError
) -> None:
    calls.timeline.begin(A, "kill")
    calls.fails[A] = error
    assert await calls.call(ENCODER) is None
    assert len(calls.record.violations) == 1


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
    assert await calls.call(ENCODER, texts="ab", hot="ab") is None
    assert len(calls.record.violations) == 1
    assert calls.held == 1


UNAVAILABLE, OVERLOADED = UnavailableError("no encoder"), OverloadedError("too late")
LATE, FAULT = DeadlineExceededError("late"), InternalError("a fault")


@pytest.mark.parametrize(
    ("error", "is_excused"),
    [
        pytest.param(partial("a", "b", failed={1: UNAVAILABLE}), True, id="those not in memory"),
        pytest.param(partial("a", "b", failed={1: OVERLOADED}), True, id="no time for them"),
        pytest.param(partial("a", "b", failed={0: UNAVAILABLE}), False, id="one in memory"),
        pytest.param(partial("b", "a", failed={0: UNAVAILABLE, 1: UNAVAILABLE}), False, id="both"),
        pytest.param(partial("a", "b", failed={1: FAULT}), False, id="a fault of the sidecar"),
        pytest.param(partial("a", "b", failed={1: LATE}), False, id="no status of an item"),
        pytest.param(UNAVAILABLE, False, id="all, though one was in memory"),
        pytest.param(LATE, True, id="all, but for want of time"),
    ],
)
async def test_of_a_batch_only_what_has_to_be_computed_may_fail(
    calls: Calls, error: EmbercacheError, is_excused: bool
) -> None:
    for encoder in ENCODERS:
        calls.timeline.begin(encoder, "kill")
    calls.fails[A] = error
    assert await calls.call(ENCODER, texts="ab", hot="a") is None
    assert bool(calls.record.violations) != is_excused


@pytest.mark.parametrize(("part", "need"), [("pool", ENCODER), (REDIS, INDEX), (REDIS, NEWS)])
@pytest.mark.parametrize("error", NEVER)
async def test_an_outage_excuses_no_fault(
    calls: Calls, part: str, need: str, error: EmbercacheError
) -> None:
    for each in ENCODERS if part == "pool" else (part,):
        calls.timeline.begin(each, "kill")
    calls.fails[A] = error
    assert await calls.call(need) is None
    assert len(calls.record.violations) == 1
    assert calls.held == 0


@pytest.mark.parametrize(
    ("part", "need", "excuse", "error", "is_excused"),
    [
        ("pool", ENCODER, NO_ENCODER, UNAVAILABLE, True),
        ("pool", ENCODER, NO_ENCODER, LATE, True),
        ("pool", ENCODER, NO_ENCODER, OVERLOADED, True),
        (REDIS, INDEX, NO_REDIS, UNAVAILABLE, True),
        (REDIS, INDEX, NO_REDIS, LATE, True),
        (REDIS, INDEX, NO_REDIS, OVERLOADED, False),
    ],
)
async def test_an_outage_excuses_the_statuses_that_are_documented_for_it(
    calls: Calls, part: str, need: str, excuse: str, error: EmbercacheError, is_excused: bool
) -> None:
    for each in ENCODERS if part == "pool" else (part,):
        calls.timeline.begin(each, "kill")
    calls.fails[A] = error
    assert await calls.call(need) is None
    assert bool(calls.record.violations) != is_excused
    assert calls.record.excused["embed", error.code, excuse] == is_excused


@pytest.mark.parametrize("is_answered", [True, False])
@pytest.mark.parametrize(("more", "is_late"), [(0.9, False), (1.1, True)])
async def test_a_call_must_end_by_its_deadline_whatever_was_away(
    calls: Calls, is_answered: bool, more: float, is_late: bool
) -> None:
    for encoder in ENCODERS:
        calls.timeline.begin(encoder, "kill")
    calls.takes = DEADLINE + more
    if not is_answered:
        calls.fails[A] = DeadlineExceededError("late")
    await calls.call(ENCODER)
    assert bool(calls.record.violations) == is_late


async def test_an_encoder_behind_a_slow_link_is_in_reach(calls: Calls) -> None:
    for encoder in ENCODERS:
        calls.timeline.begin(link(A, encoder), "latency")
    calls.fails[A] = UnavailableError("late")
    assert await calls.call(ENCODER) is None
    assert len(calls.record.violations) == 1


@pytest.mark.parametrize(
    ("needs", "is_excused"), [((INDEX,), True), ((NEWS,), True), ((ENCODER,), False), ((), False)]
)
async def test_what_needs_redis_may_fail_while_it_is_out_of_reach(
    calls: Calls, needs: tuple[str, ...], is_excused: bool
) -> None:
    calls.timeline.begin(link(A, REDIS), "black hole")
    calls.fails[A] = UnavailableError("no Redis")
    assert await calls.call(*needs) is None
    assert bool(calls.record.violations) != is_excused


async def test_what_needs_redis_may_not_fail_when_it_is_back(calls: Calls) -> None:
    note = calls.timeline.begin(link(A, REDIS), "cut")
    note.start, note.end = calls.now() - 2, calls.now() - 0.1
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


# --- A sidecar that is asked to end ------------------------------------------------------------


@pytest.mark.parametrize(
    ("after_sigterm", "must_answer"),
    [(-1.0, True), (0.0, True), (STILL_TAKEN - 0.05, True), (STILL_TAKEN + 0.05, False)],
)
async def test_what_a_sidecar_has_taken_before_it_ends_must_be_answered(
    calls: Calls, after_sigterm: float, must_answer: bool
) -> None:
    note = calls.timeline.begin(A, "restart")
    note.start = calls.now() - after_sigterm
    calls.takes = 3.0
    calls.fails[A] = UnavailableError("ended")
    assert await calls.call() == (None if must_answer else B)
    assert bool(calls.record.violations) == must_answer


async def test_a_kill_excuses_what_had_begun_before(calls: Calls) -> None:
    calls.timeline.begin(A, "kill").start = calls.now() + 1
    calls.takes = 3.0
    calls.fails[A] = UnavailableError("gone")
    assert await calls.call() == B


async def test_calls_that_a_sidecar_answered_though_it_was_ending_are_counted(
    calls: Calls,
) -> None:
    calls.timeline.begin(A, "restart").start = calls.now() + 1
    assert await calls.call() == A
    assert (calls.record.drained, calls.held) == (0, 1)
    calls.takes = 3.0
    assert await calls.call() == A
    assert (calls.record.drained, calls.held) == (1, 2)
    assert await calls.call() == A
    assert (calls.record.drained, calls.held) == (1, 2)


# --- How much a run says -----------------------------------------------------------------------


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("is_away", [True, False])
async def test_a_call_is_held_if_nothing_would_have_excused_it_whether_it_failed_or_not(
    calls: Calls, fails: bool, is_away: bool
) -> None:
    if is_away:
        calls.timeline.begin(REDIS, "kill")
    if fails:
        calls.fails[A] = UnavailableError("no Redis")
    await calls.call(INDEX)
    assert (calls.held, calls.record.calls["embed"]) == (not is_away, 1)


async def test_a_call_to_a_sidecar_that_is_down_is_not_held(calls: Calls) -> None:
    calls.timeline.begin(A, "freeze")
    assert await calls.call() == A
    assert calls.held == 0
