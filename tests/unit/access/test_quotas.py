"""Quotas of items a second and of computations under way."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.access import quotas as module
from sidecar.access.caller import Caller, Right, enter, enter_nobody
from sidecar.access.policy import Policy
from sidecar.access.quotas import OTHERS, QuotaExceededError, Quotas
from sidecar.demand import in_background


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Limited(Quotas):
    """Quotas as given, of the namespaces named, and a clock that stands still."""

    def __init__(self, **namespaces: dict[str, float]) -> None:
        self.clock = Clock()
        super().__init__(self.clock)
        self.change(**namespaces)

    def change(self, **namespaces: dict[str, float]) -> None:
        quotas = {"*" if name == "every" else name: quota for name, quota in namespaces.items()}
        self.apply(Policy.model_validate({"quotas": quotas}))

    def retry_after(self, namespace: str, items: int) -> float:
        """Charges, and says when to try again; 0 if it was taken."""
        try:
            self.charge(namespace, items)
        except QuotaExceededError as error:
            return error.retry_after
        return 0.0

    def counts(self) -> dict[tuple[str, str], int]:
        return {(each.namespace, each.quota): each.calls for each in self.refused()}


# Items a second


def test_without_a_quota_everything_is_taken() -> None:
    quotas = Limited(shop={"items_per_second": 1})
    for _ in range(100):
        quotas.charge("blog", 1000)
    assert quotas.counts() == {}


def test_a_second_s_worth_may_come_at_once_and_no_more() -> None:
    quotas = Limited(shop={"items_per_second": 10})
    assert [quotas.retry_after("shop", 1) > 0 for _ in range(12)] == [False] * 10 + [True] * 2
    assert quotas.counts() == {("shop", "items_per_second"): 2}


def test_what_was_not_taken_is_not_saved_beyond_a_second() -> None:
    quotas = Limited(shop={"items_per_second": 10})
    quotas.charge("shop", 1)
    quotas.clock.now += 3600
    assert [quotas.retry_after("shop", 5) > 0 for _ in range(3)] == [False, False, True]


def test_a_call_of_more_items_than_a_second_s_worth_is_taken_whole_and_paid_for_afterwards() -> (
    None
):
    quotas = Limited(shop={"items_per_second": 10})
    quotas.charge("shop", 40)
    assert quotas.retry_after("shop", 1) == pytest.approx(3, abs=0.002)
    quotas.clock.now += 2.9
    assert quotas.retry_after("shop", 1) == pytest.approx(0.1, abs=0.002)


def test_who_is_refused_is_told_which_quota_it_was_and_when_to_try_again() -> None:
    quotas = Limited(shop={"items_per_second": 2.5})
    quotas.charge("shop", 5)
    with pytest.raises(QuotaExceededError) as error:
        quotas.charge("shop", 1)
    assert str(error.value) == (
        "the namespace shop asks for more than its 2.5 items a second: try again in 1.001 s, or"
        " have its quota items_per_second raised in the policy of this sidecar"
    )


def test_a_refused_call_costs_nothing() -> None:
    quotas = Limited(shop={"items_per_second": 10})
    quotas.charge("shop", 20)
    for _ in range(100):
        assert quotas.retry_after("shop", 1000) == pytest.approx(1, abs=0.002)


def test_a_quota_below_one_item_a_second_lets_one_pass_at_its_time() -> None:
    quotas = Limited(shop={"items_per_second": 0.1})
    assert quotas.retry_after("shop", 1) == 0
    quotas.clock.now += quotas.retry_after("shop", 1)
    assert quotas.retry_after("shop", 1) == 0


def test_namespaces_do_not_pay_for_each_other() -> None:
    quotas = Limited(every={"items_per_second": 1})
    quotas.charge("shop", 100)
    assert quotas.retry_after("shop", 1) > 0
    assert quotas.retry_after("blog", 1) == 0


def test_a_namespace_that_is_named_goes_by_its_own_quota_alone() -> None:
    quotas = Limited(every={"items_per_second": 1}, shop={"computations": 1})
    for _ in range(100):
        quotas.charge("shop", 100)


@given(
    rate=st.floats(0.01, 1e5),
    steps=st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 5)), max_size=50),
)
def test_over_any_time_no_more_is_taken_than_the_rate_a_second_s_worth_and_one_call(
    rate: float, steps: list[tuple[int, float]]
) -> None:
    quotas = Limited(shop={"items_per_second": rate})
    began, taken, largest = quotas.clock.now, 0, 0
    for items, seconds in steps:
        again = quotas.retry_after("shop", items)
        if not again:
            taken, largest = taken + items, max(largest, items)
        assert taken <= rate * (1 + quotas.clock.now - began) * (1 + 1e-9) + largest
        quotas.clock.now += seconds


@given(
    rate=st.floats(0.01, 1e5),
    debt=st.integers(1, 10_000),
    waits=st.lists(st.floats(0, 1e4), max_size=5),
)
def test_who_waits_as_long_as_he_is_told_in_milliseconds_is_taken(
    rate: float, debt: int, waits: list[float]
) -> None:
    quotas = Limited(shop={"items_per_second": rate})
    for wait in [0.0, *waits]:
        quotas.clock.now += wait
        quotas.retry_after("shop", debt + math.ceil(rate))
        again = quotas.retry_after("shop", 1)
        assert again > 0
        quotas.clock.now += round(again * 1000) / 1000
        assert quotas.retry_after("shop", 1) == 0


# A policy that changes


def test_another_rate_is_in_force_at_once_and_a_debt_is_paid_at_it() -> None:
    quotas = Limited(shop={"items_per_second": 1})
    quotas.charge("shop", 101)
    assert quotas.retry_after("shop", 1) == pytest.approx(100, abs=0.01)
    quotas.change(shop={"items_per_second": 50})
    assert quotas.retry_after("shop", 1) == pytest.approx(2, abs=0.01)


def test_a_lower_rate_cuts_what_may_come_at_once() -> None:
    quotas = Limited(shop={"items_per_second": 100})
    quotas.charge("shop", 1)
    quotas.change(shop={"items_per_second": 2})
    assert [quotas.retry_after("shop", 1) > 0 for _ in range(3)] == [False, False, True]


def test_a_quota_that_is_new_begins_with_a_second_s_worth_and_one_that_is_gone_limits_no_more() -> (
    None
):
    quotas = Limited()
    quotas.charge("shop", 1000)
    quotas.change(shop={"items_per_second": 5})
    assert [quotas.retry_after("shop", 5) > 0 for _ in range(2)] == [False, True]
    quotas.change()
    assert quotas.retry_after("shop", 1000) == 0


def test_the_share_is_that_of_the_policy_in_force() -> None:
    quotas = Limited(shop={"share": 2}, every={"share": 0.5})
    assert (quotas.share("shop"), quotas.share("blog")) == (2, 0.5)
    quotas.change(shop={"share": 3})
    assert (quotas.share("shop"), quotas.share("blog")) == (3, 1)


# Computations under way


def works(count: int) -> list[asyncio.Future[Any]]:
    return [asyncio.get_running_loop().create_future() for _ in range(count)]


async def done(futures: list[asyncio.Future[Any]]) -> None:
    for future in futures:
        future.set_result(None)
    await asyncio.sleep(0)


def is_admitted(quotas: Quotas, namespace: str, computations: int) -> bool:
    try:
        quotas.meter(namespace).admit(computations)
    except QuotaExceededError:
        return False
    return True


async def test_computations_are_taken_while_they_fit_beside_those_under_way() -> None:
    quotas = Limited(shop={"computations": 4})
    first, second = works(3), works(1)
    quotas.meter("shop").watch(first)
    assert [is_admitted(quotas, "shop", count) for count in (1, 2)] == [True, False]
    quotas.meter("shop").watch(second)
    assert not is_admitted(quotas, "shop", 1)
    await done(first)
    assert [is_admitted(quotas, "shop", count) for count in (3, 4)] == [True, False]
    assert quotas.counts() == {("shop", "computations"): 3}


async def test_more_than_the_limit_are_taken_together_when_nothing_is_under_way() -> None:
    quotas = Limited(shop={"computations": 4})
    assert is_admitted(quotas, "shop", 100)
    batch = works(100)
    quotas.meter("shop").watch(batch)
    assert not is_admitted(quotas, "shop", 1)
    await done(batch)
    assert is_admitted(quotas, "shop", 100)


async def test_computations_that_fail_or_are_cancelled_are_under_way_no_more() -> None:
    quotas = Limited(shop={"computations": 1})
    failed, cancelled = works(2)
    quotas.meter("shop").watch([failed, cancelled])
    failed.set_exception(ValueError())
    cancelled.cancel()
    await asyncio.sleep(0)
    quotas.meter("shop").watch(works(0))
    assert is_admitted(quotas, "shop", 1)
    assert is_admitted(quotas, "shop", 2)
    failed.exception()


async def test_others_are_not_held_up_by_the_computations_of_a_namespace() -> None:
    quotas = Limited(every={"computations": 1})
    quotas.meter("shop").watch(works(1))
    assert [is_admitted(quotas, name, 1) for name in ("shop", "blog")] == [False, True]


async def test_what_is_under_way_counts_for_a_limit_that_comes_later() -> None:
    quotas = Limited()
    quotas.meter("shop").watch(works(5))
    quotas.change(shop={"computations": 5})
    assert not is_admitted(quotas, "shop", 1)


async def test_when_to_try_again_is_about_as_long_as_computations_take() -> None:
    quotas = Limited(shop={"computations": 1})
    for _ in range(100):
        work = works(1)
        quotas.meter("shop").watch(work)
        quotas.clock.now += 2
        await done(work)
    quotas.meter("shop").watch(works(1))
    with pytest.raises(QuotaExceededError) as error:
        quotas.meter("shop").admit(1)
    assert error.value.retry_after == pytest.approx(2, rel=0.01)


# What nobody asked for


@pytest.mark.parametrize("asks", ["nobody", "shop", "whoever it is"])
async def test_what_the_sidecar_does_of_its_own_accord_is_free_and_what_callers_warm_is_not(
    asks: str,
) -> None:
    quotas = Limited(shop={"items_per_second": 1, "computations": 1})
    quotas.charge("shop", 100)
    quotas.meter("shop").watch(works(1))

    async def work() -> tuple[bool, bool]:
        in_background()
        if asks == "shop":
            enter(Caller("shop", ("shop",), frozenset([Right.WRITE])))
        elif asks == "nobody":
            enter_nobody()
        return quotas.retry_after("shop", 1) == 0, is_admitted(quotas, "shop", 1)

    assert await asyncio.create_task(work()) == (asks == "nobody",) * 2


async def test_computations_that_nobody_asked_for_take_no_place() -> None:
    quotas = Limited(shop={"computations": 1})

    async def work() -> None:
        enter_nobody()
        quotas.meter("shop").watch(works(5))

    await asyncio.create_task(work())
    assert is_admitted(quotas, "shop", 100)
    assert quotas.meter("shop")._running == 0


# Many namespaces


@pytest.mark.threat("A caller makes the sidecar hold ever more state")
def test_namespaces_beyond_the_bound_share_a_meter_but_those_with_a_quota_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_METERS", 10)
    quotas = Limited(every={"items_per_second": 1}, shop={"items_per_second": 5})
    for number in range(10):
        quotas.charge(f"n{number}", 1)
    quotas.charge("late", 1)
    assert quotas.retry_after("later", 1) > 0
    assert quotas.counts() == {(OTHERS, "items_per_second"): 1}
    assert quotas.retry_after("n0", 1) > 0
    assert [quotas.retry_after("shop", 1) for _ in range(5)] == [0] * 5
    assert len(quotas._meters) == 12


def test_refusals_are_counted_for_a_bounded_number_of_namespaces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_COUNTED", 3)
    quotas = Limited(every={"items_per_second": 1})
    for number in range(6):
        for _ in range(3):
            quotas.retry_after(f"n{number}", 1)
    assert quotas.counts() == {
        ("n0", "items_per_second"): 2,
        ("n1", "items_per_second"): 2,
        ("n2", "items_per_second"): 2,
        (OTHERS, "items_per_second"): 6,
    }
