"""The bound on staleness, on a clock that only the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.change_log import ChangeLog
from sidecar.cache.contact import Contact
from sidecar.cache.namespace_state import KnownTags, NamespaceState

TAG = b"t" * 16
STALENESS = 5.0


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_contact_is_as_old_as_the_question_not_as_the_answer(clock: Clock) -> None:
    contact = Contact(STALENESS, clock)
    asked_at = clock.now
    clock.now += 3
    contact.heard(asked_at)
    assert contact.ago() == 3
    contact.heard(clock.now)
    assert contact.ago() == 0
    # One that was overtaken by another changes nothing.
    contact.heard(asked_at)
    assert contact.ago() == 0


def test_it_is_time_to_forget_before_the_bound_and_again_after_as_long(clock: Clock) -> None:
    contact = Contact(STALENESS, clock)
    for _ in range(3):
        wait = contact.due()
        assert STALENESS / 2 < wait < STALENESS
        clock.now += wait
        assert contact.due() == 0
        contact.forgot()


def test_contact_puts_it_off(clock: Clock) -> None:
    contact = Contact(STALENESS, clock)
    for _ in range(100):
        clock.now += 1
        contact.heard(clock.now)
        assert contact.due() > STALENESS / 2


class Simulation:
    """A sidecar, a store and the network between them, moved step by step.

    The store counts invalidations of one tag. Reads of the stream and questions about the tag are
    asked, answered by the store some time later, and arrive again later, or never.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.contact = Contact(STALENESS, self.clock)
        self.state = NamespaceState("n", KnownTags(), ChangeLog())
        self.state.merge_base(1)
        self.invalidated_at = [self.clock.now]
        self.position = 0
        self.reading: tuple[float, int | None] | None = None
        self.asking: list[list[Any]] = []

    def invalidate(self) -> None:
        self.invalidated_at.append(self.clock.now)

    def read(self) -> None:
        """A read is asked, answered or taken in, whatever is next."""
        if self.reading is None:
            self.reading = (self.clock.now, None)
        elif self.reading[1] is None:
            self.reading = (self.reading[0], len(self.invalidated_at) - 1)
        else:
            asked_at, newest = self.reading
            while self.position < newest:
                self.position += 1
                self.state.hear(TAG, self.position)
            self.contact.heard(asked_at)
            self.reading = None

    def lose_read(self) -> None:
        self.reading = None

    def ask(self) -> None:
        asking = self.state.asking([TAG])
        self.asking.append([asking, asking.__enter__(), None])

    def answer(self) -> None:
        for question in self.asking:
            if question[2] is None:
                question[2] = len(self.invalidated_at) - 1

    def learn(self) -> None:
        self.asking.sort(key=lambda question: question[2] is None)
        if self.asking and self.asking[0][2] is not None:
            asking, question, generation = self.asking.pop(0)
            self.state.learn(question, {TAG: generation})
            asking.__exit__(None, None, None)

    def pass_time(self, seconds: float) -> None:
        """The watch wakes whenever it is due."""
        end = self.clock.now + seconds
        while self.clock.now + self.contact.due() <= end:
            self.clock.now += self.contact.due()
            self.state.forget_tags()
            self.contact.forgot()
        self.clock.now = end

    def check(self) -> None:
        believed = self.state.generation(TAG)
        over = sum(at <= self.clock.now - STALENESS for at in self.invalidated_at) - 1
        assert believed is None or believed >= over


STEPS = ["invalidate", "read", "read", "read", "lose_read", "ask", "answer", "learn"]


@given(st.lists(st.one_of(st.sampled_from(STEPS), st.floats(0, STALENESS)), max_size=60))
def test_nothing_is_believed_for_longer_than_the_bound_whatever_the_network_does(
    steps: list[str | float],
) -> None:
    simulation = Simulation()
    for step in steps:
        if isinstance(step, str):
            getattr(simulation, step)()
        else:
            simulation.pass_time(step)
        simulation.check()


def test_nothing_is_left_of_the_bound_once_it_has_passed_since_the_question(clock: Clock) -> None:
    contact = Contact(STALENESS, clock)
    contact.heard(clock.now)
    clock.now += 0.9 * STALENESS
    assert contact.left() == pytest.approx(0.1 * STALENESS)
    clock.now += STALENESS
    assert contact.left() == 0
    contact.forgot()
    assert contact.left() == STALENESS
