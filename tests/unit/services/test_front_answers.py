"""Stored responses that a front door knows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.access.policy import Policy
from sidecar.access.quotas import Quotas
from sidecar.cache.accounts import Account
from sidecar.cache.hot import HotTier
from sidecar.cells import Cell, model_changed
from sidecar.services.stored import StoredResponse
from sidecar.services.wire import AgedBytes

native: Any = pytest.importorskip("embercache_native")
front_answers: Any = pytest.importorskip("sidecar.services.front_answers")

AGES = st.lists(st.integers(0, 2**63), max_size=4)
NOW = st.integers(0, 2**63)


class Tier(HotTier[Any]):
    """A hot tier that takes note of the answers for the front door."""

    def __init__(self) -> None:
        super().__init__(2**20, time.monotonic)
        self.answers: dict[bytes, Any] = {}

    def answer(self, key: bytes, answer: Any) -> None:
        assert self.get(key) is not None
        self.answers[key] = answer


@dataclass
class State:
    name: str = "shop"
    stamp: int = 7
    cell: Cell = field(default_factory=lambda: Cell(7))

    def restamp(self) -> None:
        self.stamp = self.cell.value = self.stamp + 1


class Model:
    def __init__(self) -> None:
        self.info = object()


@pytest.fixture
def tier() -> Tier:
    return Tier()


@pytest.fixture
def responses(tier: Tier) -> Any:
    return front_answers.FrontAnswers("Embed", tier, lambda *_: None)


def stored(**changes: Any) -> StoredResponse:
    model, state = Model(), State()
    response = StoredResponse(
        state=state,  # type: ignore[arg-type]
        model=model,
        info=model.info,
        response=AgedBytes(b"answer" + bytes(8), [(6, 1000)]),
        items=3,
        tokens=5,
        account=Account("embed", "shop", "model"),
        meter=Quotas().meter("shop"),
        popular=False,
    )
    return replace(response, **changes)


def keep(responses: Any, response: StoredResponse) -> None:
    responses.keep(b"request", response, ttl=60, stamp=7)


@given(
    pieces=st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**62)), max_size=5),
    end=st.binary(max_size=20),
    now_ms=st.integers(0, 2**63 - 1),
)
def test_both_ways_give_the_same_bytes(
    pieces: list[tuple[bytes, int]], end: bytes, now_ms: int
) -> None:
    data, ages = b"", []
    for piece, created_ms in pieces:
        ages.append((len(data + piece), created_ms))
        data += piece + bytes(8)
    response = AgedBytes(data + end, ages)
    answer = native.Answer(response.data, response.ages, [], native.Tally(), 1, 0)
    assert answer.at(now_ms) == response.at(now_ms)


def test_what_is_kept_is_told_to_the_front_door_and_found_here(responses: Any, tier: Tier) -> None:
    keep(responses, stored())
    (answer,) = tier.answers.values()
    given = responses.get(b"request")
    assert given.startswith(b"answer")
    assert answer.at(1002) == b"answer\x02" + bytes(7)
    assert responses.hits == 1


def test_calls_that_are_charged_are_answered_here_alone(responses: Any, tier: Tier) -> None:
    quotas = Quotas(lambda: 0.0)
    quotas.apply(Policy.model_validate({"quotas": {"shop": {"items_per_second": 5}}}))
    keep(responses, stored(meter=quotas.meter("shop")))
    assert not tier.answers
    assert responses.get(b"request") is not None


@pytest.mark.parametrize("which", ["model", "second_model"])
def test_an_answer_of_a_model_that_is_another_by_now_is_not_told(
    responses: Any, tier: Tier, which: str
) -> None:
    model = Model()
    response = stored(second_model=model, second_info=model.info)
    getattr(response, which).info = object()
    keep(responses, response)
    assert not tier.answers


def test_what_is_invalidated_is_good_for_neither(responses: Any, tier: Tier) -> None:
    response = stored()
    keep(responses, response)
    response.state.restamp()
    (answer,) = tier.answers.values()
    assert (answer.at(0), responses.get(b"request")) == (None, None)


def test_what_was_invalidated_while_it_was_looked_up_is_good_for_neither(
    responses: Any, tier: Tier
) -> None:
    response = stored()
    response.state.restamp()
    keep(responses, response)
    (answer,) = tier.answers.values()
    assert (answer.at(0), responses.get(b"request")) == (None, None)


def test_when_any_model_is_another_nothing_is_given_or_counted(responses: Any, tier: Tier) -> None:
    response = stored()
    keep(responses, response)
    model_changed()
    (answer,) = tier.answers.values()
    assert (answer.at(0), responses.get(b"request")) == (None, None)
    assert (responses.hits, response.account.whole) == (0, 0)
    keep(responses, response)
    assert responses.get(b"request") is not None


def test_the_bytes_of_a_popular_request_take_memory_too(responses: Any, tier: Tier) -> None:
    keep(responses, stored())
    plain = tier.bytes
    keep(responses, stored(popular=True))
    assert tier.bytes == plain + len(b"shop\0request")
