"""Which inputs are refused, and which are dropped, because they would come too late."""

from __future__ import annotations

import asyncio
import math

import pytest

from sidecar.demand import Demand, Priority
from sidecar.models.batcher import BatchLimits
from sidecar.models.input_queue import InputQueue, Job
from sidecar.models.tokenise import Tokens
from sidecar.models.types import (
    LEAST_RETRY_SECONDS,
    ModelCounters,
    QueueFullError,
    TooLateError,
)

LIMITS = BatchLimits(tokens=100, rows=100, run_cost=1)
INTERACTIVE, BACKGROUND = Priority.INTERACTIVE, Priority.BACKGROUND
RUN = 1.0


class Model:
    """A queue, its clock, and a model that takes a second for a full run of 100 tokens."""

    def __init__(self, capacity: int = 1000) -> None:
        self.now = 1000.0
        self.counters = ModelCounters()
        self.shares: dict[str, float] = {}
        self.queue: InputQueue[str, str] = InputQueue(
            LIMITS,
            capacity,
            self.counters,
            lambda name: self.shares.get(name, 1.0),
            lambda: self.now,
        )

    def jobs(self, runs: float, who: Demand) -> list[Job[str, str]]:
        """Inputs of 20 tokens, tokenised."""
        return [
            Job(
                "text",
                asyncio.get_running_loop().create_future(),
                encodable=Tokens([1], truncated=False),
                length=20,
                demand=who,
            )
            for _ in range(round(runs * 5))
        ]

    def put(
        self,
        runs: float,
        *,
        within: float = math.inf,
        namespace: str = "",
        priority: Priority = INTERACTIVE,
    ) -> list[Job[str, str]]:
        jobs = self.jobs(runs, Demand(namespace, priority, self.now + within))
        self.queue.put(jobs)
        return jobs

    def refuses(self, runs: float, **options: object) -> QueueFullError | None:
        try:
            self.put(runs, **options)  # type: ignore[arg-type]
        except QueueFullError as error:
            return error
        return None

    def begin(self) -> list[Job[str, str]]:
        """Begins the next run."""
        self.queue.end_run()
        taken = self.queue.take_batch()
        assert taken is not None
        return taken.batch

    def run(self, runs: int = 1) -> None:
        """Makes so many runs; each is over when the next one begins."""
        for _ in range(runs):
            batch = self.begin()
            self.now += RUN * (sum(job.length for job in batch) + LIMITS.run_cost) / 100


@pytest.fixture
async def model() -> Model:
    """A model whose speed is known, with a run that has just begun, and an empty queue."""
    model = Model()
    model.put(5)
    model.run(4)
    assert len(model.begin()) == 5
    return model


async def test_as_long_as_the_speed_is_not_known_all_are_taken() -> None:
    model = Model()
    model.put(10)
    model.begin()
    assert model.refuses(10, within=0.001) is None
    assert len(model.queue) == 95


async def test_what_would_be_done_after_its_deadline_is_refused_at_once(model: Model) -> None:
    model.put(3)
    error = model.refuses(1, within=10)
    assert isinstance(error, TooLateError)
    assert str(error) == (
        "the model may take 11 s to do these 5 inputs, and the call's deadline is in 10 s: try"
        " again later, or give the call more time"
    )
    assert len(model.queue) == 15
    assert (model.counters.shed, model.counters.refused_late) == (5, 5)


async def test_the_refusal_tells_when_there_would_be_time(model: Model) -> None:
    model.put(3)
    error = model.refuses(1, within=6)
    assert error is not None
    assert error.retry_after == pytest.approx(2, rel=0.01)
    almost = model.refuses(1, within=10.99)
    assert almost is not None
    assert almost.retry_after == LEAST_RETRY_SECONDS


async def test_what_would_be_done_in_time_is_taken(model: Model) -> None:
    model.put(3)
    assert model.refuses(1, within=11.1) is None


async def test_a_short_text_and_a_long_one_are_taken_or_refused_alike(model: Model) -> None:
    model.put(3)
    for runs in (0.2, 1):
        assert model.refuses(runs, within=10.99) is not None
    for runs in (0.2, 0.2):
        assert model.refuses(runs, within=12) is None


async def test_a_short_text_alone_behind_the_run_in_progress_takes_as_long_as_it_does(
    model: Model,
) -> None:
    assert model.refuses(0.2, within=1.6) is None


async def test_who_says_no_deadline_waits_as_long_as_it_takes(model: Model) -> None:
    for _ in range(10):
        model.put(15)
    assert len(model.queue) == 750


async def test_what_the_run_in_progress_has_done_already_need_not_be_waited_for(
    model: Model,
) -> None:
    assert model.refuses(1, within=3.2) is not None
    model.now += 0.5
    assert model.refuses(1, within=3.2) is None


async def test_a_run_that_takes_longer_than_it_should_may_take_as_long_again(model: Model) -> None:
    model.now += 3
    assert model.refuses(1, within=4) is not None
    assert model.refuses(1, within=5) is None


async def test_a_model_with_nothing_to_do_takes_what_it_gets(model: Model) -> None:
    assert model.refuses(50, within=0.1) is not None
    model.now += RUN
    model.queue.end_run()
    assert model.refuses(50, within=0.1) is None


async def test_texts_count_before_they_are_tokenised(model: Model) -> None:
    loop = asyncio.get_running_loop()
    texts = [Job("text", loop.create_future(), length=100) for _ in range(3)]
    model.queue.put(texts)
    assert model.refuses(1, within=4) is not None
    model.queue.take_arrived(10)
    assert model.refuses(1, within=4) is not None
    for job in texts:
        job.encodable, job.length = Tokens([1], truncated=False), 1
    model.queue.put_ready(texts)
    assert model.refuses(1, within=4) is None


async def test_the_queue_tells_how_long_the_model_will_take(model: Model) -> None:
    assert Model().queue.seconds == 0
    model.put(4)
    assert model.queue.seconds == pytest.approx(5, rel=0.01)
    model.now += 0.5
    assert model.queue.seconds == pytest.approx(4.5, rel=0.01)


async def test_a_full_queue_tells_when_there_will_be_room() -> None:
    model = Model(capacity=50)
    model.put(5)
    assert model.refuses(5.2) is not None
    model.run(4)
    model.begin()
    model.put(10)
    error = model.refuses(1)
    assert error is not None
    assert "no room for 5 inputs: 50 wait" in str(error)
    # A tenth of ten runs, after the one in progress.
    assert error.retry_after == pytest.approx(2, rel=0.01)


# Several namespaces and priorities


async def test_what_others_have_queued_counts_only_as_far_as_it_comes_before(model: Model) -> None:
    model.put(100, namespace="bulk")
    assert model.refuses(1, within=6.1, namespace="shop") is None
    assert model.refuses(1, within=6.1, namespace="bulk") is not None


async def test_with_a_larger_share_a_namespace_has_less_to_wait_for(model: Model) -> None:
    model.put(100, namespace="bulk")
    assert model.refuses(4, within=15, namespace="shop") is not None
    model.shares["shop"] = 4
    assert model.refuses(4, within=15, namespace="shop") is None


async def test_the_background_is_nothing_to_wait_for(model: Model) -> None:
    model.put(100, priority=BACKGROUND)
    assert model.refuses(1, within=4) is None
    assert model.refuses(1, within=4, priority=BACKGROUND) is not None


async def test_the_background_waits_for_all_else(model: Model) -> None:
    model.put(100, namespace="shop")
    assert model.refuses(1, within=50, namespace="bulk", priority=BACKGROUND) is not None


# In the queue


async def test_an_input_whose_deadline_passed_while_it_waited_is_dropped_and_told(
    model: Model,
) -> None:
    soon, later = model.put(0.2, within=2), model.put(0.2, within=5)
    model.now += 2
    taken = model.queue.take_batch()
    assert taken is not None
    assert (taken.batch, taken.late) == (later, soon)
    assert model.counters.dropped_late == 1
    assert len(model.queue) == 0


async def test_late_inputs_are_told_even_if_there_is_nothing_else_to_do(model: Model) -> None:
    soon = model.put(1, within=4)
    model.now += 4
    taken = model.queue.take_batch()
    assert taken is not None
    assert (taken.batch, taken.late) == ([], soon)


async def test_an_input_that_is_late_before_it_is_tokenised_is_dropped(model: Model) -> None:
    who = Demand(deadline=model.now + 3)
    text = Job("text", asyncio.get_running_loop().create_future(), demand=who)
    model.queue.put([text])
    model.now += 3
    taken = model.queue.take_batch()
    assert taken is not None
    assert taken.late == [text]
    assert len(model.queue) == 0


async def test_who_joins_keeps_an_input_from_being_late(model: Model) -> None:
    (job,) = model.put(0.2, within=2)
    job.demand.join(Demand(deadline=model.now + 10))
    model.now += 5
    assert model.begin() == [job]


async def test_who_joins_has_an_input_of_the_background_go_first(model: Model) -> None:
    warmed = model.put(0.2, priority=BACKGROUND)
    others = model.put(1, priority=BACKGROUND)
    model.put(1)
    others[0].demand.join(Demand())
    model.now += RUN
    batches = [model.begin() for _ in range(3)]
    assert {job.counted[0] for job in batches[0]} == {INTERACTIVE}
    assert batches[1] == others
    assert batches[2] == warmed
    assert len(model.queue) == 0


async def test_cancelled_inputs_are_nothing_to_wait_for(model: Model) -> None:
    for job in model.put(50):
        job.future.cancel()
    (kept,) = model.put(0.2)
    model.now += RUN
    assert model.begin() == [kept]
    assert model.counters.abandoned == 250
    assert model.refuses(1, within=3) is None


# Tokenising


async def test_a_text_is_not_tokenised_after_all_those_of_another_namespace() -> None:
    model, loop = Model(), asyncio.get_running_loop()
    for namespace, count in (("bulk", 500), ("shop", 1)):
        who = Demand(namespace)
        model.queue.put([Job("text", loop.create_future(), demand=who) for _ in range(count)])
    jobs = model.queue.take_arrived(64)
    assert jobs is not None
    assert [job.demand.namespace for job in jobs] == ["bulk", "shop", *["bulk"] * 62]


async def test_a_full_queue_has_room_for_a_little_of_other_namespaces() -> None:
    model = Model(capacity=40)
    model.put(8, namespace="bulk")
    assert model.refuses(0.2, namespace="bulk") is not None
    assert model.refuses(0.2, namespace="warm", priority=BACKGROUND) is not None
    # Half of the 20 that are kept.
    assert model.refuses(2.2, namespace="other") is not None
    assert model.refuses(2, namespace="other") is None
    assert model.refuses(0.2, namespace="other") is not None
    for each in range(10):
        assert model.refuses(0.2, namespace=f"new {each}") is None
    assert model.refuses(0.2, namespace="last") is not None
    assert len(model.queue) == 60


async def test_what_fills_the_queue_in_the_background_does_not_shut_out_its_own_namespace() -> None:
    model = Model(capacity=40)
    model.put(8, priority=BACKGROUND)
    assert model.refuses(4) is None
    assert model.refuses(0.2) is not None
