"""The schedule is a function of the seed, and leaves somebody alone at all times."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.parts import ENCODERS, REDIS, SIDECARS
from tests.chaos.proxy import LINK_KINDS
from tests.chaos.schedule import POOL, plan

seeds = st.integers(0, 2**32)


@given(seeds)
def test_the_same_seed_gives_the_same_faults_and_another_seed_others(seed: int) -> None:
    assert plan(seed, 100) == plan(seed, 100)
    assert plan(seed, 100) != plan(seed + 1, 100)


@given(seeds)
def test_a_longer_run_begins_as_a_shorter_one(seed: int) -> None:
    longer = plan(seed, 100)
    for name, faults in plan(seed, 50).items():
        assert longer[name][: len(faults)] == faults


@given(seeds)
def test_no_part_is_in_two_lanes(seed: int) -> None:
    """In a lane faults come one after the other, so that one sidecar is always left alone."""
    lanes = [{fault.part for fault in faults} for faults in plan(seed, 200).values()]
    for one in lanes:
        assert sum(bool(one & other) for other in lanes) == 1
    lane = {fault.part for fault in plan(seed, 200)["sidecars"]}
    assert lane <= set(SIDECARS)


@given(seeds)
def test_two_minutes_have_every_kind_of_fault_at_every_kind_of_place(seed: int) -> None:
    faults = list(chain.from_iterable(plan(seed, 120).values()))
    servers = {fault.kind for fault in faults if fault.part in (*SIDECARS, *ENCODERS)}
    assert servers == {"kill", "freeze", "restart"}
    assert {fault.kind for fault in faults if fault.part == REDIS} == {"kill", "freeze"}
    assert any(fault.part == POOL for fault in faults)
    to_redis = {f.kind for f in faults if f.part.startswith("link ") and f.part.endswith(REDIS)}
    assert to_redis == set(LINK_KINDS)


@given(seeds)
def test_a_fault_of_the_whole_pool_is_short_and_all_faults_end(seed: int) -> None:
    for fault in chain.from_iterable(plan(seed, 200).values()):
        assert 0 < fault.lasts <= (3 if fault.part == POOL else 8)
        assert fault.after > 0
        assert (fault.link is not None) == fault.part.startswith("link ")
