"""Which inputs share a run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.models.batcher import Batcher, BatchLimits, cheapest_window

CPU = BatchLimits(tokens=512, rows=128, run_cost=12)


@dataclass(frozen=True)
class Input:
    number: int
    length: int
    kind: str = ""
    unwanted: bool = False


def filled(limits: BatchLimits, inputs: list[Input]) -> Batcher[Input]:
    batcher: Batcher[Input] = Batcher(limits)
    for item in inputs:
        batcher.add(item, item.length, item.kind)
    return batcher


def lengths(batcher: Batcher[Input]) -> list[int]:
    return [item.length for item in batcher.take()]


def inputs(*sizes: int) -> list[Input]:
    return [Input(number, size) for number, size in enumerate(sizes)]


limits_strategy = st.builds(
    BatchLimits, tokens=st.integers(1, 600), rows=st.integers(1, 20), run_cost=st.integers(0, 2000)
)
sizes_strategy = st.one_of(st.integers(0, 5), st.integers(0, 300))
inputs_strategy = st.lists(
    st.tuples(sizes_strategy, st.sampled_from("ab"), st.booleans()), max_size=60
).map(lambda rows: [Input(number, *row) for number, row in enumerate(rows)])


@given(limits_strategy, inputs_strategy)
def test_every_input_is_in_exactly_one_batch(limits: BatchLimits, waiting: list[Input]) -> None:
    batcher = filled(limits, waiting)
    taken: list[Input] = []
    while batch := batcher.take():
        taken += batch
        assert len(batcher) == len(waiting) - len(taken)
    assert sorted(item.number for item in taken) == [item.number for item in waiting]


@given(limits_strategy, inputs_strategy)
def test_no_batch_exceeds_the_limits(limits: BatchLimits, waiting: list[Input]) -> None:
    batcher = filled(limits, waiting)
    while batch := batcher.take():
        padded = len(batch) * max(item.length for item in batch)
        assert len(batch) == 1 or (padded <= limits.tokens and len(batch) <= limits.rows)
        assert len({item.kind for item in batch}) == 1


@given(limits_strategy, inputs_strategy, st.lists(st.integers(0, 10), max_size=10))
def test_the_oldest_input_is_always_in_the_next_batch(
    limits: BatchLimits, waiting: list[Input], arrivals: list[int]
) -> None:
    batcher = filled(limits, waiting)
    left = {item.number for item in waiting}
    number = len(waiting)
    while batch := batcher.take():
        taken = {item.number for item in batch}
        assert min(left) in taken
        left -= taken
        if arrivals:  # newcomers keep coming while batches run
            for _ in range(arrivals.pop()):
                batcher.add(Input(number, 1), 1, "")
                left.add(number)
                number += 1


@given(limits_strategy, inputs_strategy)
def test_what_is_discarded_is_in_no_batch(limits: BatchLimits, waiting: list[Input]) -> None:
    batcher = filled(limits, waiting)
    discarded = batcher.discard(lambda item: item.unwanted)
    assert discarded == [item for item in waiting if item.unwanted]
    taken: list[Input] = []
    while batch := batcher.take():
        taken += batch
    assert {item.number for item in taken} == {i.number for i in waiting if not i.unwanted}


@given(limits_strategy, st.lists(st.integers(0, 300), min_size=1, max_size=25), st.data())
def test_no_other_window_is_cheaper(
    limits: BatchLimits, sizes: list[int], data: st.DataObject
) -> None:
    sizes.sort()
    anchor = data.draw(st.integers(0, len(sizes) - 1))

    def cost(begin: int, end: int) -> float:
        padded = (end - begin) * sizes[end - 1]
        singly = (end - begin) * limits.run_cost + sum(sizes[begin:end])
        return (limits.run_cost + padded) / max(singly, 1)

    def fits(begin: int, end: int) -> bool:
        rows = end - begin
        return rows == 1 or (rows <= limits.rows and rows * sizes[end - 1] <= limits.tokens)

    begin, end = cheapest_window(sizes, anchor, limits)
    assert begin <= anchor < end
    windows = [(b, e) for b in range(anchor + 1) for e in range(anchor + 1, len(sizes) + 1)]
    assert fits(begin, end)
    assert cost(begin, end) == pytest.approx(min(cost(b, e) for b, e in windows if fits(b, e)))


def test_inputs_of_like_length_share_a_batch() -> None:
    batcher = filled(CPU, inputs(200, 10, 199, 11, 12))
    assert lengths(batcher) == [199, 200]
    assert lengths(batcher) == [10, 11, 12]


def test_the_more_a_run_costs_the_more_padding_is_taken() -> None:
    costly = BatchLimits(tokens=16384, rows=256, run_cost=4000)
    assert lengths(filled(costly, inputs(200, 10, 199, 11, 12))) == [10, 11, 12, 199, 200]


def test_equal_inputs_fill_the_token_budget() -> None:
    batcher = filled(CPU, inputs(*[64] * 20))
    assert [len(batcher.take()) for _ in range(4)] == [8, 8, 4, 0]


def test_an_input_longer_than_the_budget_runs_alone() -> None:
    batcher = filled(CPU, inputs(600, 600))
    assert [lengths(batcher), lengths(batcher)] == [[600], [600]]
