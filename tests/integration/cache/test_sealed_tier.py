"""Entries and blocks of prompts, sealed, in a real Redis and on a real disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.cache.disk import DiskTier
from sidecar.cache.disk_store import MIN_BYTES
from sidecar.cache.key_ring import KeyRing
from sidecar.cache.prefix_tiers import DiskBlocks, WarmBlocks
from sidecar.cache.sealed_tier import SealedBlocks, SealedTier
from sidecar.cache.sealing import Sealer
from sidecar.cache.seals import Seals
from sidecar.models.prefix_codec import encode_block, stored_name
from sidecar.models.prefix_store import BlockLayout
from sidecar.models.prefixes import Prefixes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
A, B = b"embercache:embed:n:m:1:7:aa", b"embercache:embed:n:m:1:7:bb"
VALUE = b"the value of a text" * 10


@dataclass
class Keys:
    """Keys that a test changes."""

    ring: KeyRing


class Place:
    """A tier with two faces: that of a sidecar, and that of somebody who writes to the store."""

    def __init__(self, tier: DiskTier | WarmTier, name: Any) -> None:
        self.keys = Keys(KeyRing("one", {"one": ONE}))
        self.seals = Seals(Sealer(self.keys))
        self.tier = tier
        self.sealed = SealedTier(tier, self.seals.of(name, "entries"))

    async def raw(self, key: bytes) -> bytes | None:
        await self.tier.flush(20)
        return (await self.tier.get_many([key]))[0]

    async def set_raw(self, key: bytes, value: bytes) -> None:
        self.tier.put(key, value, 0, replace=True)
        assert await self.tier.flush(20)

    async def get(self, *keys: bytes) -> list[bytes | None]:
        await self.tier.flush(20)
        return await self.sealed.get_many(keys)

    def refused(self) -> dict[str, int]:
        """By reason, leaving out those that never happened."""
        (refusals,) = self.seals.refusals()
        return {reason: count for reason, count in refusals.counts.items() if count}


@pytest.fixture(params=["disk", "warm"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: DevRedis, open_warm: OpenWarm
) -> AsyncIterator[Place]:
    if request.param == "warm":
        yield Place(await open_warm(redis_server.url), "warm")
        return
    disk = DiskTier(tmp_path / "disk", 2 * MIN_BYTES, timeout=20)
    await disk.start()
    yield Place(disk, "disk")
    await disk.close()


async def test_a_value_comes_back_and_cannot_be_read_where_it_is(place: Place) -> None:
    place.sealed.put(A, VALUE, 0, replace=True)
    assert await place.get(A, B) == [VALUE, None]
    assert VALUE[:8] not in (await place.raw(A) or b"")
    assert place.refused() == {}
    place.sealed.delete([A])
    assert await place.get(A) == [None]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda sealed, other: VALUE, "unsealed"),
        (lambda sealed, other: b"", "unsealed"),
        (lambda sealed, other: b"garbage", "unsealed"),
        (lambda sealed, other: sealed[:-1], "forged"),
        (lambda sealed, other: sealed[:3], "forged"),
        (lambda sealed, other: other, "forged"),
        (lambda sealed, other: sealed[:2] + b"two" + sealed[5:], "unknown_key"),
    ],
    ids=["plain", "empty", "garbage", "cut", "cut to nothing", "of another key", "of another id"],
)
async def test_what_does_not_open_is_a_miss_is_counted_and_is_removed(
    place: Place, change: Callable[[bytes, bytes], bytes], reason: str
) -> None:
    place.sealed.put(A, VALUE, 0, replace=True)
    place.sealed.put(B, b"another value", 0, replace=True)
    sealed, other = await place.raw(A), await place.raw(B)
    assert sealed is not None
    assert other is not None
    await place.set_raw(A, change(sealed, other))
    assert await place.get(A, B) == [None, b"another value"]
    assert place.refused() == {reason: 1}
    assert await place.raw(A) is None
    # The first writer wins, but not one who forges.
    await place.set_raw(A, change(sealed, other))
    assert await place.sealed.get_many([A]) == [None]
    place.sealed.put(A, VALUE, 0, replace=False)
    assert await place.get(A) == [VALUE]


async def test_keys_are_rotated_while_values_are_in_use(place: Place) -> None:
    place.sealed.put(A, b"old", 0, replace=True)
    # First every sidecar learns the new key, then it seals with it, then the old one goes.
    for ring in (
        KeyRing("one", {"one": ONE, "two": TWO}),
        KeyRing("two", {"two": TWO, "one": ONE}),
    ):
        place.keys.ring = ring
        assert await place.get(A) == [b"old"]
    place.sealed.put(B, b"new", 0, replace=True)
    place.keys.ring = KeyRing("two", {"two": TWO})
    assert await place.get(A, B) == [None, b"new"]
    assert place.refused() == {"unknown_key": 1}


KEYS = [b"block %d" % number for number in range(12)]
LAYOUT = BlockLayout((4, 3, 16, 8), np.dtype(np.float32))
NAMES = [stored_name(key, "exact") for key in KEYS]


def of_blocks(place: Place) -> tuple[SealedBlocks, Prefixes]:
    """Blocks of prompts in a place, and a generator's memory over them."""
    name: Any = "disk" if isinstance(place.tier, DiskTier) else "warm"
    tier = place.tier
    blocks = DiskBlocks(tier) if isinstance(tier, DiskTier) else WarmBlocks(tier)
    sealed = SealedBlocks(blocks, place.seals.of(name, "prompts"))
    return sealed, Prefixes(2**26, [(name, sealed)], ttl=3600.0)


def values() -> list[Any]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(LAYOUT.shape).astype(np.float32) for _ in KEYS]


async def test_blocks_of_prompts_are_shared_sealed(place: Place) -> None:
    (_, one), (_, two) = of_blocks(place), of_blocks(place)
    expected = values()
    assert one.keep(KEYS, 0, expected) == len(KEYS)
    assert await one.flush(20)
    assert (await place.raw(NAMES[0]) or b"")[:1] == b"\xe5"
    with await two.take(KEYS, LAYOUT, 0) as lease:
        assert [block.tobytes() for block in lease.blocks] == [b.tobytes() for b in expected]
    await asyncio.gather(one.close(), two.close())


@pytest.mark.parametrize("how", ["of another name", "plain", "cut short"])
async def test_a_prompt_is_read_from_a_forged_block_on(place: Place, how: str) -> None:
    (_, one), (_, two) = of_blocks(place), of_blocks(place)
    expected = values()
    one.keep(KEYS, 0, expected)
    assert await one.flush(20)
    there = await place.raw(NAMES[7])
    plain = encode_block(expected[7], NAMES[3], "exact", 0)
    assert there is not None
    assert plain is not None
    forged = {"of another name": there, "plain": plain, "cut short": there[:-1]}[how]
    await place.set_raw(NAMES[3], forged)
    with await two.take(KEYS, LAYOUT, 0) as lease:
        assert [block.tobytes() for block in lease.blocks] == [b.tobytes() for b in expected[:3]]
    refused = {each.what: sum(each.counts.values()) for each in place.seals.refusals()}
    assert refused["prompts"] == 1
    assert await place.raw(NAMES[3]) is None
    await asyncio.gather(one.close(), two.close())
