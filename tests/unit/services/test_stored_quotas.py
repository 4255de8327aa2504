"""What quotas are to responses that are given again whole."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import pytest

from sidecar.access.policy import Policy
from sidecar.access.quotas import Meter, QuotaExceededError, Quotas
from sidecar.cache.accounts import Account
from sidecar.cache.hot import HotTier
from sidecar.services.stored import StoredResponse, StoredResponses
from sidecar.services.wire import AgedBytes


@dataclass
class State:
    name: str = "shop"
    stamp: int = 7


class Model:
    def __init__(self) -> None:
        self.info = object()


@pytest.fixture
def responses() -> StoredResponses:
    hot: HotTier[Any] = HotTier(2**20, time.monotonic)
    return StoredResponses("Embed", hot, lambda *_: None)


def keep(responses: StoredResponses, meter: Meter) -> StoredResponse:
    """Keeps a response of three items under the bytes "request"."""
    state: Any = State()
    model = Model()
    stored = StoredResponse(
        state=state,
        model=model,
        info=model.info,
        response=AgedBytes(b"answer", []),
        items=3,
        tokens=5,
        account=Account("embed", "shop", "model"),
        meter=meter,
        popular=False,
    )
    responses.keep(b"request", stored, ttl=60, stamp=7)
    return stored


def test_without_a_quota_a_stored_response_is_not_metered(
    responses: StoredResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(responses, Quotas().meter("shop"))
    monkeypatch.delattr(Meter, "take")
    assert responses.get(b"request") == b"answer"


def test_one_that_is_refused_counts_as_nothing(responses: StoredResponses) -> None:
    quotas = Quotas(lambda: 0.0)
    quotas.apply(Policy.model_validate({"quotas": {"shop": {"items_per_second": 5}}}))
    account = keep(responses, quotas.meter("shop")).account
    assert [responses.get(b"request") for _ in range(2)] == [b"answer"] * 2
    with pytest.raises(QuotaExceededError):
        responses.get(b"request")
    assert (responses.hits, account.whole, account.tokens_saved) == (2, 6, 10)


def test_one_that_is_no_longer_good_is_not_charged(responses: StoredResponses) -> None:
    quotas = Quotas(lambda: 0.0)
    quotas.apply(Policy.model_validate({"quotas": {"shop": {"items_per_second": 1}}}))
    model: Any = keep(responses, quotas.meter("shop")).model
    model.info = object()
    for _ in range(3):
        assert responses.get(b"request") is None
    quotas.charge("shop", 1)
