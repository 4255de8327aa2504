from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

import pytest

from sidecar.models.engine import Engine
from sidecar.models.types import InputRejectedError, ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Turns:
    """A job of some turns, which are noted in a list that jobs share."""

    def __init__(self, name: str, turns: int, noted: list[tuple[str, bool]]) -> None:
        self.name = name
        self.left = turns
        self.noted = noted
        self.is_wanted = True
        self.fails: Exception | None = None
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.has_begun = threading.Event()

    def is_unwanted(self) -> bool:
        return not self.is_wanted

    def turn(self, *, alone: bool) -> bool:
        self.has_begun.set()
        self.may_go_on.wait(10)
        self.noted.append((self.name, alone))
        if self.fails is not None:
            raise self.fails
        self.left -= 1
        return self.left == 0


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    engine = Engine("tiny")
    yield engine
    await engine.close()


@pytest.fixture
def noted() -> list[tuple[str, bool]]:
    return []


async def test_jobs_take_turns_and_a_long_one_stops_nobody(
    engine: Engine, noted: list[tuple[str, bool]]
) -> None:
    long, short, one = Turns("long", 6, noted), Turns("short", 3, noted), Turns("one", 1, noted)
    long.may_go_on.clear()
    futures = [engine.run(job) for job in (long, short, one)]
    long.may_go_on.set()
    assert await asyncio.gather(*futures) == [True, True, True]
    order = [name for name, _ in noted if name != "long"]
    assert order == ["short", "one", "short", "short"]
    places = [place for place, (name, _) in enumerate(noted) if name == "long"]
    assert places == [0, 3, 5, 7, 8, 9]


async def test_a_job_is_told_whether_it_is_alone(
    engine: Engine, noted: list[tuple[str, bool]]
) -> None:
    first, second = Turns("first", 3, noted), Turns("second", 1, noted)
    first.may_go_on.clear()
    done = engine.run(first)
    await asyncio.to_thread(first.has_begun.wait, 10)
    await_second = engine.run(second)
    first.may_go_on.set()
    await asyncio.gather(done, await_second)
    assert noted == [("first", True), ("second", False), ("first", True), ("first", True)]


async def test_a_job_that_nobody_wants_has_no_more_turns(
    engine: Engine, noted: list[tuple[str, bool]]
) -> None:
    job, other = Turns("job", 1000, noted), Turns("other", 3, noted)
    job.may_go_on.clear()
    futures = engine.run(job), engine.run(other)
    await asyncio.to_thread(job.has_begun.wait, 10)
    job.is_wanted = False
    job.may_go_on.set()
    assert await asyncio.gather(*futures) == [False, True]
    assert [name for name, _ in noted] == ["job", "other", "other", "other"]


async def test_a_failure_is_that_of_one_job(engine: Engine, noted: list[tuple[str, bool]]) -> None:
    bad, good = Turns("bad", 5, noted), Turns("good", 5, noted)
    bad.fails = InputRejectedError("no")
    failing, going_on = engine.run(bad), engine.run(good)
    with pytest.raises(InputRejectedError, match="no"):
        await failing
    assert await going_on


async def test_an_unforeseen_failure_is_told_without_its_message(
    engine: Engine, noted: list[tuple[str, bool]], caplog: pytest.LogCaptureFixture
) -> None:
    job = Turns("job", 1, noted)
    job.fails = KeyError("the text of a user")
    with caplog.at_level(logging.DEBUG), pytest.raises(ModelError) as raised:
        await engine.run(job)
    assert str(raised.value) == "model tiny gave no answer (KeyError)"
    assert "KeyError" in caplog.text
    assert "user" not in caplog.text


async def test_closing_ends_the_turn_and_fails_what_is_not_done(
    noted: list[tuple[str, bool]],
) -> None:
    engine = Engine("tiny")
    job, waiting = Turns("job", 1000, noted), Turns("waiting", 1, noted)
    job.may_go_on.clear()
    futures = engine.run(job), engine.run(waiting)
    await asyncio.to_thread(job.has_begun.wait, 10)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    job.may_go_on.set()
    await closing
    for future in (*futures, engine.run(Turns("late", 1, noted))):
        with pytest.raises(ModelUnavailableError, match="shutting down"):
            await future
    assert [name for name, _ in noted] == ["job"]


async def test_an_engine_that_had_no_job_can_be_closed() -> None:
    await Engine("tiny").close()
