"""What is in the queue while it is being tokenised."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.models.batcher import BatchLimits
from sidecar.models.input_queue import InputQueue, Job
from sidecar.models.tokenise import Tokens
from sidecar.models.types import ModelCounters, QueueFullError


@pytest.fixture
def queue() -> InputQueue:
    return InputQueue(BatchLimits(tokens=64, rows=8, run_cost=12), 3, ModelCounters())


def job(text: str) -> Job:
    return Job(text, asyncio.get_running_loop().create_future())


def tokenised(*jobs: Job) -> list[Job]:
    for one in jobs:
        one.encodable = Tokens([1], truncated=False)
    return list(jobs)


async def test_what_is_being_tokenised_takes_room(queue: InputQueue) -> None:
    queue.put([job("a"), job("b"), job("c")])
    assert queue.take_arrived(2) is not None
    assert len(queue) == 3
    with pytest.raises(QueueFullError):
        queue.put([job("d")])


async def test_what_nobody_wants_any_more_makes_room_while_it_is_being_tokenised(
    queue: InputQueue,
) -> None:
    gone, kept, new = job("a"), job("b"), job("c")
    queue.put([gone, kept])
    jobs = queue.take_arrived(2)
    assert jobs == [gone, kept]
    gone.future.cancel()
    queue.put([new, job("d")])
    assert len(queue) == 3
    queue.put_ready(tokenised(*jobs))
    taken = queue.take_batch()
    assert taken is not None
    assert taken.batch == [kept]


async def test_what_cannot_be_tokenised_makes_room(queue: InputQueue) -> None:
    jobs = [job("a"), job("b")]
    queue.put(jobs)
    assert queue.take_arrived(2) == jobs
    queue.put_ready(tokenised(jobs[1]))
    assert len(queue) == 1
    taken = queue.take_batch()
    assert taken is not None
    assert taken.batch == [jobs[1]]
    assert len(queue) == 0


async def test_close_returns_what_is_waiting_being_tokenised_and_ready(queue: InputQueue) -> None:
    ready, tokenising, waiting = job("a"), job("b"), job("c")
    queue.put([ready, tokenising, waiting])
    queue.take_arrived(1)
    queue.put_ready(tokenised(ready))
    queue.take_arrived(1)
    assert set(queue.close()) == {ready, tokenising, waiting}
    queue.put_ready(tokenised(tokenising))
    assert len(queue) == 0
    assert queue.take_arrived(1) is None
    assert queue.take_batch() is None


async def test_a_batch_leaves_out_what_nobody_wants_any_more(queue: InputQueue) -> None:
    kept, gone = tokenised(job("a"), job("b"))
    queue.put([kept, gone])
    gone.future.cancel()
    taken = queue.take_batch()
    assert taken is not None
    assert taken.batch == [kept]
