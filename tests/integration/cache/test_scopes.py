"""Invalidation of a kind of entries, or of a version of a model, in one namespace."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.generations import (
    Generations,
    InvalidationNotSharedError,
    kind_scope,
    model_scope,
)
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.namespace_state import WHOLE_NAMESPACE

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.cache.generations import NamespaceState

    Breakable = Any

KINDS = ("embed", "search", "rerank")
VERSIONS = (("small", "v1"), ("small", "v2"), ("large", "v1"))
ENTRIES = [(kind, *version) for kind in KINDS for version in VERSIONS]
NAMES = st.text(st.sampled_from("ab-_.1"), min_size=1, max_size=5)


def epochs(state: NamespaceState) -> dict[tuple[str, str, str], int]:
    return {entry: state.epoch_of(*entry) for entry in ENTRIES}


def moved(before: dict[Any, int], after: dict[Any, int]) -> list[Any]:
    assert all(after[entry] >= before[entry] for entry in before)
    return [entry for entry in before if after[entry] != before[entry]]


async def test_without_scopes_every_epoch_is_that_of_the_namespace(store: Breakable) -> None:
    state = await Generations(store).state("n")
    assert set(epochs(state).values()) == {state.epoch}


async def test_a_kind_is_invalidated_and_no_other(store: Breakable) -> None:
    generations = Generations(store)
    state, elsewhere = await generations.state("n"), await generations.state("m")
    before, there = epochs(state), epochs(elsewhere)
    await generations.invalidate_scope("n", kind_scope("search"))
    assert moved(before, epochs(state)) == [entry for entry in ENTRIES if entry[0] == "search"]
    assert epochs(elsewhere) == there


async def test_a_version_of_a_model_is_invalidated_and_no_other(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    before = epochs(state)
    await generations.invalidate_scope("n", model_scope("small", "v1"))
    assert moved(before, epochs(state)) == [e for e in ENTRIES if e[1:] == ("small", "v1")]


async def test_every_invalidation_moves_all_that_it_concerns_whatever_came_before(
    store: Breakable,
) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    chance = random.Random(0)
    for _ in range(60):
        before, kind, version = epochs(state), chance.choice(KINDS), chance.choice(VERSIONS)
        scope, concerned = chance.choice(
            [
                (kind_scope(kind), [e for e in ENTRIES if e[0] == kind]),
                (model_scope(*version), [e for e in ENTRIES if e[1:] == version]),
                (WHOLE_NAMESPACE, ENTRIES),
            ]
        )
        await generations.invalidate_scope("n", scope)
        assert moved(before, epochs(state)) == concerned


async def test_after_the_whole_namespace_no_scope_is_left(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    await generations.invalidate_scope("n", kind_scope("search"))
    assert len(state.scopes) == 1
    await generations.invalidate_namespace("n")
    for each in (state, await Generations(store).state("n")):
        assert not each.scopes
        assert each.epoch == state.epoch


async def test_a_scope_changes_the_stamp(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    stamp = state.stamp
    await generations.invalidate_scope("n", kind_scope("search"))
    assert state.stamp != stamp


async def test_another_sidecar_on_the_same_store_sees_the_same_scopes(store: Breakable) -> None:
    one, two = Generations(store), Generations(store)
    early = await two.state("n")
    for scope in (kind_scope("search"), model_scope("small", "v1")):
        await one.invalidate_scope("n", scope)
    await two.synchronise()
    late = await Generations(store).state("n")
    assert epochs(await one.state("n")) == epochs(early) == epochs(late)


async def test_scopes_survive_a_restart_without_redis(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        store = LocalGenerations(tmp_path / "g.db")
        generations = Generations(store)
        if not seen:
            await generations.invalidate_scope("n", kind_scope("search"))
        seen.append(epochs(await generations.state("n")))
        store.close()
    assert seen[0] == seen[1]
    assert len(set(seen[0].values())) == 2


@pytest.mark.parametrize("limit", [1, 3])
async def test_of_too_many_scopes_the_oldest_becomes_that_of_all(
    store: Breakable, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    for module in ("namespace_state", "redis_generations", "local_generations"):
        monkeypatch.setattr(f"sidecar.cache.{module}.MAX_SCOPES", limit)
    generations, other = Generations(store), Generations(store)
    state, follower = await generations.state("n"), await other.state("n")
    numbers = []
    for kind in ("a", "b", "c", "d", "e"):
        await generations.invalidate_scope("n", kind_scope(kind))
        numbers.append(state.epoch_of(kind, "m", "v"))
    assert list(state.scopes.values()) == numbers[-limit:]
    assert state.epoch == numbers[-limit - 1]
    await other.synchronise()
    late = await Generations(store).state("n")
    for each in (follower, late):
        assert each.epoch == state.epoch
        assert dict(each.scopes) == dict(state.scopes)


@pytest.mark.parametrize("ahead_us", [-3_600_000_000, 0, 3_600_000_000])
async def test_a_scope_that_the_store_did_not_take_is_in_force_here_and_shared_later(
    store: Breakable, ahead_us: int
) -> None:
    one = Generations(store, now_us=lambda: time.time_ns() // 1000 + ahead_us)
    two = Generations(store)
    state, other = await one.state("n"), await two.state("n")
    before = epochs(state)
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await one.invalidate_scope("n", kind_scope("search"))
    concerned = [entry for entry in ENTRIES if entry[0] == "search"]
    assert moved(before, epochs(state)) == concerned
    store.down = False
    # The other one has computed under a later number, which is over as well.
    await two.invalidate_scope("n", model_scope("small", "v1"))
    there = epochs(other)
    await one.synchronise()
    await two.synchronise()
    assert epochs(state) == epochs(other) == epochs(await Generations(store).state("n"))
    assert moved(there, epochs(other)) == concerned
    # It is not shared a second time.
    await one.synchronise()
    assert epochs(state) == epochs(other)


async def test_more_scopes_than_are_kept_apart_during_an_outage_are_all_in_force_and_shared(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("namespace_state", "redis_generations", "local_generations"):
        monkeypatch.setattr(f"sidecar.cache.{module}.MAX_SCOPES", 2)
    one, two = Generations(store), Generations(store)
    state, other = await one.state("n"), await two.state("n")
    kinds = [f"kind{number}" for number in range(6)]
    before = {kind: state.epoch_of(kind, "m", "v") for kind in kinds}
    store.down = True
    for kind in kinds:
        with pytest.raises(InvalidationNotSharedError):
            await one.invalidate_scope("n", kind_scope(kind))
    assert all(state.epoch_of(kind, "m", "v") > before[kind] for kind in kinds)
    assert len(state.scopes) <= 2
    assert len(state.unshared_scopes) <= 3
    store.down = False
    await one.synchronise()
    await two.synchronise()
    assert all(other.epoch_of(kind, "m", "v") > before[kind] for kind in kinds)


async def test_a_namespace_first_used_during_an_outage_shares_its_scopes_afterwards(
    store: Breakable,
) -> None:
    shared = await Generations(store).state("n")
    before = epochs(shared)
    generations = Generations(store)
    store.down = True
    state = await generations.state("n")
    with pytest.raises(InvalidationNotSharedError):
        await generations.invalidate_scope("n", kind_scope("search"))
    store.down = False
    await generations.synchronise()
    assert state.epoch == shared.epoch
    assert moved(before, epochs(state)) == [entry for entry in ENTRIES if entry[0] == "search"]


@given(one=st.tuples(NAMES, NAMES), two=st.tuples(NAMES, NAMES), kinds=st.tuples(NAMES, NAMES))
def test_no_two_scopes_have_the_same_bytes(
    one: tuple[str, str], two: tuple[str, str], kinds: tuple[str, str]
) -> None:
    scopes = {("kind", kind): kind_scope(kind) for kind in kinds}
    scopes |= {("model", *pair): model_scope(*pair) for pair in (one, two)}
    assert len(set(scopes.values())) == len(scopes)
    assert WHOLE_NAMESPACE not in scopes.values()
