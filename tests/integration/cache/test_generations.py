from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.generations import (
    Generations,
    InvalidationNotSharedError,
    InvalidationRefusedError,
)
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.namespace_state import WHOLE_NAMESPACE

if TYPE_CHECKING:
    from pathlib import Path

    Breakable = Any

TAG, OTHER = b"t" * 16, b"o" * 16


async def stamped(generations: Generations, tag: bytes = TAG) -> tuple[tuple[bytes, int], ...]:
    """What an entry with this tag would carry now."""
    state = await generations.state("n")
    await generations.resolve(state, [tag])
    generation = state.generation(tag)
    assert generation is not None
    return ((tag, generation),)


async def test_an_entry_is_current_until_one_of_its_tags_is_invalidated(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    one, two = await stamped(generations), await stamped(generations, OTHER)
    await generations.invalidate_tags("n", [OTHER])
    assert state.is_current(one)
    assert not state.is_current(two)
    assert not state.is_current(one + two)
    assert state.is_current(await stamped(generations, OTHER))


async def test_namespaces_are_invalidated_apart(store: Breakable) -> None:
    generations = Generations(store)
    here, there = await generations.state("n"), await generations.state("m")
    tags = await stamped(generations)
    epoch = here.epoch
    await generations.invalidate_tags("m", [TAG])
    await generations.invalidate_namespace("m")
    assert here.is_current(tags)
    assert here.epoch == epoch
    assert there.epoch > 0


async def test_epochs_and_generations_only_grow(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    seen = []
    for _ in range(5):
        await generations.invalidate_namespace("n")
        await generations.invalidate_tags("n", [TAG])
        seen.append((state.epoch, state.generation(TAG) or 0))
    for before, after in itertools.pairwise(seen):
        assert after[0] > before[0]
        assert after[1] > before[1]


async def test_another_sidecar_on_the_same_store_sees_the_same_state(store: Breakable) -> None:
    one, two = Generations(store), Generations(store)
    await one.invalidate_namespace("n")
    await one.invalidate_tags("n", [TAG])
    assert (await one.state("n")).epoch == (await two.state("n")).epoch
    assert await stamped(one) == await stamped(two)


async def test_every_invalidation_changes_the_stamp(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    stamps = [state.stamp]
    await generations.invalidate_tags("n", [TAG])
    stamps.append(state.stamp)
    await generations.invalidate_namespace("n")
    stamps.append(state.stamp)
    await generations.remove_shared(state, [b"key"])
    stamps.append(state.stamp)
    generations.forget_tags()
    stamps.append(state.stamp)
    assert len(set(stamps)) == 5


async def test_stamps_of_two_namespaces_are_never_the_same(store: Breakable) -> None:
    generations = Generations(store)
    states = [await generations.state(name) for name in "abc"]
    await generations.invalidate_tags("b", [TAG])
    assert len({state.stamp for state in states}) == 3


async def test_an_invalidation_that_the_store_did_not_take_is_in_force_here(
    store: Breakable,
) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    tags, epoch, stamp = await stamped(generations), state.epoch, state.stamp
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await generations.invalidate_tags("n", [TAG])
    with pytest.raises(InvalidationNotSharedError):
        await generations.invalidate_namespace("n")
    assert not state.is_current(tags)
    assert state.epoch > epoch
    assert state.stamp != stamp


@pytest.mark.parametrize("ahead_us", [-3_600_000_000, 0, 3_600_000_000])
async def test_tags_that_the_store_did_not_take_are_shared_when_it_is_back_whatever_our_clock(
    store: Breakable, ahead_us: int
) -> None:
    one = Generations(store, now_us=lambda: time.time_ns() // 1000 + ahead_us)
    two = Generations(store)
    before = await stamped(two)
    await stamped(one)
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await one.invalidate_tags("n", [TAG])
    store.down = False
    await one.synchronise()
    other = Generations(store)
    assert await stamped(other) != before
    assert await stamped(one) == await stamped(other)
    # And invalidations that come later are heard of again.
    await other.invalidate_tags("n", [TAG])
    state = await one.state("n")
    state.hear(TAG, dict(await stamped(other))[TAG])
    assert await stamped(one) == await stamped(other)


async def test_an_invalidation_of_ours_is_shared_even_if_another_one_is_heard_of_first(
    store: Breakable,
) -> None:
    one, two = Generations(store), Generations(store)
    state = await one.state("n")
    await stamped(one)
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await one.invalidate_tags("n", [TAG])
    store.down = False
    await two.invalidate_tags("n", [TAG])
    heard = dict(await stamped(two))
    state.hear(TAG, heard[TAG])
    await one.synchronise()
    assert dict(await stamped(Generations(store)))[TAG] > heard[TAG]


async def test_agreeing_learns_an_epoch_that_was_not_heard_of(store: Breakable) -> None:
    one, two = Generations(store), Generations(store)
    await one.state("n")
    await two.invalidate_namespace("n")
    state, is_agreed = await one.agree("n")
    assert is_agreed
    assert state.epoch == (await two.state("n")).epoch
    store.down = True
    assert not (await one.agree("n"))[1]


async def test_the_memory_of_the_store_is_bounded_and_what_it_forgets_is_invalid(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("generations", "redis_generations", "local_generations"):
        monkeypatch.setattr(f"sidecar.cache.{module}.MAX_STORED_TAGS", 20, raising=False)
    generations, other = Generations(store), Generations(store)
    never, once = await stamped(generations, OTHER), await stamped(generations)
    await generations.invalidate_tags("n", [TAG])
    once = await stamped(generations)
    for number in range(60):
        await generations.invalidate_tags("n", [b"%016d" % number])
    state = await generations.state("n")
    for seen in (state, await other.state("n")):
        await generations.resolve(seen, [TAG, OTHER])
        assert not seen.is_current(never)
        assert not seen.is_current(once)
    assert state.is_current(await stamped(generations))


async def test_an_epoch_that_the_store_did_not_take_is_shared_when_it_is_back(
    store: Breakable,
) -> None:
    one, two = Generations(store), Generations(store)
    state = await one.state("n")
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await one.invalidate_namespace("n")
    store.down = False
    await one.synchronise()
    assert (await two.state("n")).epoch == state.epoch


async def test_a_namespace_first_used_during_an_outage_adopts_the_shared_epoch_afterwards(
    store: Breakable,
) -> None:
    shared = (await Generations(store).state("n")).epoch
    generations = Generations(store)
    store.down = True
    state = await generations.state("n")
    alone = state.epoch
    assert alone != shared
    store.down = False
    await generations.synchronise()
    assert (await generations.state("n")).epoch == shared
    assert (await Generations(store).state("n")).epoch == shared


async def test_tags_that_cannot_be_looked_up_make_nothing_current(store: Breakable) -> None:
    generations = Generations(store)
    state = await generations.state("n")
    store.down = True
    await generations.resolve(state, [TAG])
    assert state.generation(TAG) is None
    assert not state.is_current([(TAG, state.base)])


async def test_a_state_that_fell_out_of_memory_validates_nothing_any_more(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.generations.MAX_NAMESPACES", 2)
    generations = Generations(store)
    old = await generations.state("a")
    stamp = old.stamp
    await generations.state("b")
    await generations.state("c")
    assert old.stamp != stamp
    assert await generations.state("a") is not old


async def test_a_namespace_with_something_to_share_does_not_fall_out_of_memory(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.generations.MAX_NAMESPACES", 2)
    generations = Generations(store)
    await generations.state("a")
    before = (await Generations(store).state("a")).epoch
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await generations.invalidate_namespace("a")
    store.down = False
    for name in ("b", "c", "d"):
        await generations.state(name)
    await generations.synchronise()
    assert (await Generations(store).state("a")).epoch > before


@pytest.mark.threat("A caller makes the sidecar hold ever more state")
async def test_an_invalidation_is_refused_when_too_many_namespaces_wait_to_be_shared(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.generations.MAX_UNSHARED_NAMESPACES", 2)
    generations = Generations(store)
    states = {name: await generations.state(name) for name in "abc"}
    store.down = True
    for name in "ab":
        with pytest.raises(InvalidationNotSharedError):
            await generations.invalidate_tags(name, [TAG])
    stamp = states["c"].stamp
    for refused in (
        generations.invalidate_tags("c", [TAG]),
        generations.invalidate_namespace("c"),
        generations.announce("c", TAG, b"change"),
    ):
        with pytest.raises(InvalidationRefusedError, match=r"nothing was invalidated.* repeat"):
            await refused
    assert states["c"].stamp == stamp
    # Those that wait already take more.
    with pytest.raises(InvalidationNotSharedError) as error:
        await generations.invalidate_namespace("a")
    assert not isinstance(error.value, InvalidationRefusedError)
    store.down = False
    await generations.synchronise()
    await generations.invalidate_tags("c", [TAG])


async def test_when_too_many_tags_wait_to_be_shared_the_namespace_with_most_is_invalidated_whole(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.generations.MAX_ALL_UNSHARED_TAGS", 10)
    generations = Generations(store)
    many, few = await generations.state("many"), await generations.state("few")
    epochs = many.epoch, few.epoch
    store.down = True
    for number in range(9):
        with pytest.raises(InvalidationNotSharedError):
            await generations.invalidate_tags("many", [b"%016d" % number])
    for number in range(2):
        with pytest.raises(InvalidationNotSharedError):
            await generations.invalidate_tags("few", [b"%016d" % number])
    assert (len(many.unshared), len(few.unshared)) == (0, 2)
    assert (many.epoch > epochs[0], few.epoch) == (True, epochs[1])
    store.down = False
    await generations.synchronise()
    assert (await Generations(store).state("many")).epoch == many.epoch


async def test_a_change_does_not_hide_an_earlier_one_that_others_were_not_told_of(
    store: Breakable,
) -> None:
    generations, others = Generations(store), Generations(store)
    for each in (generations, others):
        state = await each.state("n")
        await each.resolve(state, [TAG])
    before = state.generation(TAG)
    assert before is not None
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await generations.announce("n", TAG, b"first")
    store.down = False
    await generations.announce("n", TAG, b"second")
    mine = await generations.state("n")
    assert mine.changes_since(TAG, before) is None


async def test_the_memory_for_tags_is_bounded(
    store: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.namespace_state.MAX_KNOWN_TAGS", 3)
    generations = Generations(store)
    state = await generations.state("n")
    tags = [bytes([number]) * 16 for number in range(5)]
    await generations.resolve(state, tags)
    assert [state.generation(tag) is not None for tag in tags] == [False, False, True, True, True]


async def test_local_state_survives_a_restart(tmp_path: Path) -> None:
    first = LocalGenerations(tmp_path / "g.db")
    generations = Generations(first)
    await generations.invalidate_tags("n", [TAG])
    await generations.invalidate_namespace("n")
    before, epoch = await stamped(generations), (await generations.state("n")).epoch
    first.close()
    second = LocalGenerations(tmp_path / "g.db")
    generations = Generations(second)
    assert (await generations.state("n")).epoch == epoch
    assert await stamped(generations) == before
    second.close()


async def test_an_invalidation_that_is_heard_of_while_a_namespace_is_loaded_is_not_missed(
    store: Breakable,
) -> None:
    one, two = Generations(store), Generations(store)
    await one.state("n")
    answered, heard = asyncio.Event(), asyncio.Event()
    load = store.load

    async def slow(*arguments: Any) -> Any:
        stored = await load(*arguments)
        answered.set()
        await heard.wait()
        return stored

    store.load = slow
    loading = asyncio.create_task(two.state("n"))
    await answered.wait()
    await one.invalidate_namespace("n")
    listener = two.listener("n")
    assert listener is not None
    listener.raise_scope(WHOLE_NAMESPACE, (await one.state("n")).epoch)
    heard.set()
    assert (await loading).epoch == (await one.state("n")).epoch
    assert two.listener("n") is await loading


async def test_a_sidecar_that_missed_an_epoch_learns_of_it_with_the_tags(
    store: Breakable,
) -> None:
    """So that entries with tags are never older than what is heard about tags."""
    one, two = Generations(store), Generations(store)
    state = await two.state("n")
    for invalidate in (one.invalidate_namespace("n"), one.invalidate_scope("n", b"kind:search")):
        await invalidate
        shared = await one.state("n")
        await two.resolve(state, [TAG])
        # What is being looked up has a key of an epoch that is over.
        assert state.generation(TAG) is None
        assert state.epoch_of("search", "m", "v") == shared.epoch_of("search", "m", "v")
        await two.resolve(state, [TAG])
        assert state.generation(TAG) is not None
        two.forget_tags()


# --- What is expected --------------------------------------------------------------------------


async def test_who_expects_a_change_is_known_to_all_until_it_is_settled(store: Breakable) -> None:
    one, other = Generations(store), Generations(store)
    first = await one.expect("n", TAG, [b"a", b"b"])
    await one.expect("n", OTHER, [b"c"])
    await one.expect("m", TAG, [b"c"])
    assert await other.expected("n", TAG, [b"a", b"b", b"c"]) == first
    await other.settle(await other.expected("n", TAG, [b"b", b"c"]))
    assert (await one.expected("n", TAG, [b"a", b"b", b"c"])).changes == {
        token: [b"a"] for token in first.changes
    }
    await one.settle(first)
    assert not (await one.expected("n", TAG, [b"a", b"b"])).changes
    assert (await one.expected("n", OTHER, [b"c"])).changes


async def test_who_settles_leaves_what_another_has_come_to_expect(store: Breakable) -> None:
    one, other = Generations(store), Generations(store)
    first = await one.expect("n", TAG, [b"a"])
    second = await other.expect("n", TAG, [b"a"])
    await one.settle(first)
    assert await one.expected("n", TAG, [b"a"]) == second


async def test_nothing_can_be_expected_while_the_store_is_down(store: Breakable) -> None:
    generations = Generations(store)
    expectation = await generations.expect("n", TAG, [b"a"])
    store.down = True
    with pytest.raises(InvalidationNotSharedError):
        await generations.expect("n", TAG, [b"b"])
    with pytest.raises(InvalidationNotSharedError):
        await generations.expected("n", TAG, [b"a"])
    assert not (await generations.expected("n", TAG, [])).changes, "nobody needs to be asked"
    await generations.settle(expectation)
    store.down = False
    assert await generations.expected("n", TAG, [b"a"]) == expectation
