"""Entries that answer for some calls only, and what a product says of how it is stored."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.cache.accounts import Account
from sidecar.cache.codec import Codec, Entry, Value, encode_vector
from sidecar.cache.generations import Generations, NamespaceState
from sidecar.cache.hot import HotTier
from sidecar.cache.items import Answer, CacheMode, Policy, Product, Tier, Want
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.read_through import ReadThrough

if TYPE_CHECKING:
    from collections.abc import Sequence

TAG, OTHER_TAG = b"t" * 16, b"o" * 16


class Length:
    """Wants an entry of at least so many tokens; lives on through changes that say ``b"keep"``."""

    def __init__(self, tokens: int) -> None:
        self.name = tokens

    def suffices(self, entry: Entry) -> bool:
        return entry.value.tokens >= self.name

    def renewed(self, state: NamespaceState, entry: Entry) -> Entry | None:
        tags = []
        for tag, generation in entry.tags:
            changes = state.changes_since(tag, generation)
            current = state.generation(tag)
            if changes is None or current is None or any(c != b"keep" for c in changes):
                return None
            tags.append((tag, current))
        return replace(entry, tags=tuple(tags))


class Lists:
    """Makes entries of as many tokens as are asked for."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}
        self.waiting: list[asyncio.Future[int]] | None = None

    def submit(self, sources: Sequence[int]) -> list[asyncio.Future[int]]:

        futures = [asyncio.get_running_loop().create_future() for _ in sources]
        if self.waiting is not None:
            self.waiting += futures
            return futures
        for future, source in zip(futures, sources, strict=True):
            future.set_result(source)
        return futures

    def product(self, result: int) -> Product:
        payload = encode_vector(np.zeros(2, np.float32), Codec.FLOAT32)
        return Product(Value(payload, Codec.FLOAT32, 2, result, False), **self.made)


class Rig:
    def __init__(self) -> None:
        self.now = 1000.0
        self.generations = Generations(LocalGenerations(None))
        self.account = Account("kind", "n", "m")
        self.lists = Lists()
        self.cache = ReadThrough(
            HotTier(2**20, lambda: self.now),
            self.generations,
            disk=None,
            warm=None,
            ttl_jitter=0,
            clock=lambda: self.now,
        )

    async def fetch(self, tokens: int, tags: tuple[bytes, ...] = (), **fields: Any) -> Answer:
        want = Want(b"key", b"", tokens, fields.pop("ttl", None), Length(tokens))
        policy = Policy(CacheMode.DEFAULT, tags, self.account)
        state = await self.generations.state("n")
        (answer,) = await self.cache.fetch(state, [want], policy, self.lists)
        assert isinstance(answer, Answer)
        return answer

    async def tier(self, tokens: int, tags: tuple[bytes, ...] = (), **fields: Any) -> Tier:
        return (await self.fetch(tokens, tags, **fields)).tier


@pytest.fixture
async def rig() -> Rig:
    return Rig()


async def test_an_entry_that_is_not_enough_is_computed_again_and_replaced(rig: Rig) -> None:
    assert await rig.tier(5) is Tier.COMPUTED
    assert await rig.tier(3) is Tier.HOT
    assert await rig.tier(8) is Tier.COMPUTED
    assert await rig.tier(7) is Tier.HOT


async def test_an_entry_lives_on_through_changes_that_leave_it_right(rig: Rig) -> None:
    await rig.fetch(5, (TAG,))
    await rig.generations.announce("n", TAG, b"keep")
    await rig.generations.announce("n", TAG, b"keep")
    assert await rig.tier(5, (TAG,)) is Tier.HOT
    await rig.generations.announce("n", TAG, b"touched")
    assert await rig.tier(5, (TAG,)) is Tier.COMPUTED


async def test_an_entry_lived_on_is_as_good_as_a_new_one(rig: Rig) -> None:
    await rig.fetch(5, (TAG,))
    await rig.generations.announce("n", TAG, b"keep")
    await rig.fetch(5, (TAG,))
    state = await rig.generations.state("n")
    assert state.is_current((await rig.fetch(5, (TAG,))).entry.tags)


async def test_a_plain_invalidation_spares_no_entry(rig: Rig) -> None:
    await rig.fetch(5, (TAG,))
    await rig.generations.announce("n", TAG, b"keep")
    await rig.generations.invalidate_tags("n", [TAG])
    assert await rig.tier(5, (TAG,)) is Tier.COMPUTED


async def test_tags_of_the_product_invalidate_it_too(rig: Rig) -> None:
    state = await rig.generations.state("n")
    await rig.generations.resolve(state, [OTHER_TAG])
    rig.lists.made = {"tags": (OTHER_TAG,)}
    await rig.fetch(5, (TAG,))
    assert await rig.tier(5, (TAG,)) is Tier.HOT
    await rig.generations.invalidate_tags("n", [OTHER_TAG])
    assert await rig.tier(5, (TAG,)) is Tier.COMPUTED


async def test_a_product_with_a_tag_that_is_not_known_is_not_stored(rig: Rig) -> None:
    rig.lists.made = {"tags": (OTHER_TAG,)}
    assert await rig.tier(5) is Tier.COMPUTED
    assert await rig.tier(5) is Tier.COMPUTED


async def test_a_product_can_shorten_its_lifetime_but_not_prolong_it(rig: Rig) -> None:
    rig.lists.made = {"most_ttl": 10.0}
    assert (await rig.fetch(1, ttl=60.0)).entry.expires_ms == 1_010_000
    assert (await rig.fetch(2, ttl=5.0)).entry.expires_ms == 1_005_000
    assert (await rig.fetch(3)).entry.expires_ms == 1_010_000


async def test_a_product_that_another_tier_had_is_only_answered(rig: Rig) -> None:
    rig.lists.made = {"tier": Tier.WARM}
    assert await rig.tier(5) is Tier.WARM
    rig.lists.made = {}
    assert await rig.tier(5) is Tier.COMPUTED


async def test_the_account_says_what_answered_and_what_that_saved(rig: Rig) -> None:
    await rig.fetch(5)
    await rig.fetch(4)
    await rig.fetch(4)
    account = rig.account
    assert (account.answered[Tier.COMPUTED], account.answered[Tier.HOT]) == (1, 2)
    assert account.tokens_saved == 2 * 5
    assert account.timed_hits == 2
    assert account.compute_seconds > 0
    assert (account.hot_entries, account.hot_bytes > 0) == (1, True)


async def test_who_asks_after_an_invalidation_does_not_get_what_was_begun_before_it(
    rig: Rig,
) -> None:
    waiting = rig.lists.waiting = []
    first = asyncio.create_task(rig.fetch(5, (TAG,)))
    while len(waiting) < 1:
        await asyncio.sleep(0)
    same = asyncio.create_task(rig.fetch(5, (TAG,)))
    await rig.generations.invalidate_tags("n", [TAG])
    second = asyncio.create_task(rig.fetch(5, (TAG,)))
    while len(waiting) < 2:
        await asyncio.sleep(0)
    for future in waiting:
        future.set_result(5)
    tiers = [(await task).tier for task in (first, same, second)]
    assert tiers == [Tier.COMPUTED, Tier.COALESCED, Tier.COMPUTED]


async def test_an_entry_in_memory_whose_tags_were_forgotten_is_looked_at_again(rig: Rig) -> None:
    await rig.fetch(5, (TAG,))
    rig.generations.forget_tags()
    assert await rig.tier(5, (TAG,)) is Tier.HOT
