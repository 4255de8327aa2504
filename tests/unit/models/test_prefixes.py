"""Taking and keeping blocks of prompts, over tiers below whose speed a test decides."""

from __future__ import annotations

import asyncio
import itertools
import logging
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from sidecar.models.prefix_bandwidth import RETRY_SECONDS
from sidecar.models.prefix_codec import encode_block, stored_name
from sidecar.models.prefix_loads import FIRST_ROUND
from sidecar.models.prefix_store import BLOCK_OVERHEAD_BYTES, Block, BlockLayout
from sidecar.models.prefix_writes import MAX_WAITING
from sidecar.models.prefixes import COPIED_BLOCKS, Prefixes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sidecar.models.generation import PrefixTier

    Make = Callable[..., Prefixes]

SHAPE = (2, 1, 4, 8)
LAYOUT = BlockLayout(SHAPE, np.dtype(np.float32))
BLOCK_BYTES = LAYOUT.n_bytes
HOUR = 3600.0
LONG = [b"key %05d" % number for number in range(100)]
KEYS = LONG[:6]
SIZE = BLOCK_BYTES + len(LONG[0]) + BLOCK_OVERHEAD_BYTES


def block(key: bytes) -> Block:
    """The block that belongs to a key."""
    return np.random.default_rng(list(key)).standard_normal(SHAPE).astype(np.float32)


def blocks(keys: Sequence[bytes]) -> list[Block]:
    return [block(key) for key in keys]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lower:
    """A tier in a dictionary. Every lookup takes ``seconds`` and as much as each value takes."""

    def __init__(self, clock: Clock) -> None:
        self.values: dict[bytes, bytes] = {}
        self.expiries: dict[bytes, int] = {}
        self.asked: list[list[bytes]] = []
        self.seconds = 0.0
        self.seconds_each = 0.0
        self.takes = True
        self.answers = asyncio.Event()
        self.answers.set()
        self._clock = clock

    def have(self, keys: Sequence[bytes], codec: Any = "exact", expires_ms: int = 0) -> None:
        for key in keys:
            name = stored_name(key, codec)
            value = encode_block(block(key), name, codec, expires_ms)
            assert value is not None
            self.values[name] = value

    def has(self, keys: Sequence[bytes], codec: Any = "exact") -> list[bool]:
        return [stored_name(key, codec) in self.values for key in keys]

    async def get_many(self, names: Sequence[bytes], seconds: float) -> list[bytes | None]:
        self.asked.append(list(names))
        await self.answers.wait()
        times = itertools.count(self.seconds + self.seconds_each, self.seconds_each)
        ready = [next(times) for _ in names]
        self._clock.now += min(ready[-1], seconds)
        return [
            self.values.get(name) if at < seconds else None
            for name, at in zip(names, ready, strict=True)
        ]

    async def put(self, name: bytes, value: bytes, expires_ms: int) -> bool:
        if self.takes:
            self.values.setdefault(name, value)
            self.expiries[name] = expires_ms
        return self.takes

    def delete(self, names: Sequence[bytes]) -> None:
        for name in names:
            del self.values[name]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def disk(clock: Clock) -> Lower:
    return Lower(clock)


@pytest.fixture
def redis(clock: Clock) -> Lower:
    return Lower(clock)


@pytest.fixture
async def make(clock: Clock, disk: Lower, redis: Lower) -> AsyncIterator[Make]:
    """Makes prefixes over disk and Redis; at the end, nothing of them may be in use."""
    made: list[Prefixes] = []

    def prefixes(capacity_bytes: int = 10**6, *, shares: bool = True, **options: Any) -> Prefixes:
        tiers: list[tuple[PrefixTier, Lower]] = [("disk", disk), ("warm", redis)]
        lower = tiers if shares else []
        options = {"clock": clock, "wall_clock": clock} | options
        made.append(Prefixes(capacity_bytes, lower, **options))
        return made[-1]

    yield prefixes
    for each in made:
        await each.close()
        assert each.report(1).pinned_blocks == 0


async def take(
    prefixes: Prefixes, keys: Sequence[bytes] = KEYS, compute_seconds: float = 1.0
) -> dict[PrefixTier, int]:
    """Takes the blocks, checks that they are the right ones, and lets them go."""
    with await prefixes.take(keys, LAYOUT, compute_seconds) as lease:
        assert len(lease.blocks) == sum(lease.reused.values())
        for key, found in zip(keys, lease.blocks, strict=False):
            assert np.array_equal(found, block(key))
        return dict(lease.reused)


async def test_what_was_kept_is_taken_from_memory(make: Make) -> None:
    prefixes = make(shares=False)
    assert await take(prefixes) == {}
    prefixes.keep(KEYS, 0, blocks(KEYS[:4]))
    assert await take(prefixes) == {"hot": 4}
    assert await take(prefixes, [*KEYS[:2], b"another"]) == {"hot": 2}
    assert prefixes.report(16).reused_tokens == {"hot": 96}


async def test_what_was_computed_behind_a_lease_is_kept_with_it(make: Make) -> None:
    prefixes = make(shares=False)
    prefixes.keep(KEYS, 0, blocks(KEYS[:2]))
    with await prefixes.take(KEYS, LAYOUT, 0) as lease:
        prefixes.keep(KEYS, len(lease.blocks), blocks(KEYS[2:]))
    assert await take(prefixes) == {"hot": 6}


async def test_blocks_are_not_kept_without_those_before_them(make: Make) -> None:
    prefixes = make(shares=False)
    prefixes.keep(KEYS, 2, blocks(KEYS[2:]))
    assert prefixes.report(1).blocks == 0
    prefixes.keep(KEYS, 0, blocks(KEYS[:2]))
    with await prefixes.take(KEYS, LAYOUT, 0):
        prefixes.clear()
        prefixes.keep(KEYS, 2, blocks(KEYS[2:]))
    assert (prefixes.report(1).blocks, prefixes.report(1).bytes) == (0, 0)
    assert prefixes.keep(KEYS, 2, blocks(KEYS[2:])) == 0


async def test_blocks_are_copied_a_few_at_a_time_and_none_that_is_kept(make: Make) -> None:
    prefixes = make(shares=False)
    assert prefixes.lacking(LONG, LAYOUT) == range(COPIED_BLOCKS)
    assert prefixes.keep(LONG, 0, blocks(LONG[:90])) == 90
    assert prefixes.lacking(LONG, LAYOUT) == range(90, 100)
    assert prefixes.keep(LONG, 80, blocks(LONG[80:])) == 20
    assert not prefixes.lacking(LONG, LAYOUT)
    assert prefixes.report(1).pinned_blocks == 0


async def test_no_more_blocks_are_copied_than_there_is_room_for(make: Make) -> None:
    prefixes = make(10 * SIZE, shares=False)
    assert prefixes.reserve(2 * SIZE)
    assert prefixes.lacking(KEYS[:4], LAYOUT) == range(4)
    prefixes.keep([b"another %d" % number for number in range(8)], 0, blocks(KEYS))
    assert prefixes.lacking(LONG, LAYOUT) == range(8)
    assert prefixes.keep(LONG, 0, blocks(LONG[:10])) == 8
    assert not prefixes.lacking(LONG, LAYOUT)
    prefixes.free(2 * SIZE)
    assert prefixes.lacking(LONG, LAYOUT) == range(8, 10)


async def test_it_is_told_when_there_is_more_room(make: Make) -> None:
    prefixes = make(10 * SIZE, shares=False)
    told: list[int] = []
    assert prefixes.reserve(4 * SIZE)
    prefixes.keep(KEYS, 0, blocks(KEYS[:2]))
    lease = await prefixes.take(KEYS, LAYOUT, 0)
    prefixes.on_room(lambda: told.append(prefixes.room))
    lease.release()
    prefixes.free(4 * SIZE)
    assert told == [6 * SIZE, 10 * SIZE]


async def test_blocks_in_use_are_not_evicted_and_those_let_go_are(make: Make) -> None:
    prefixes = make(2 * SIZE, shares=False)
    prefixes.keep(KEYS, 0, blocks(KEYS[:2]))
    lease = await prefixes.take(KEYS, LAYOUT, 0)
    assert (prefixes.report(1).pinned_blocks, prefixes.reserve(1)) == (2, False)
    lease.release()
    lease.release()
    assert (prefixes.report(1).pinned_blocks, prefixes.reserve(1)) == (0, True)
    assert (prefixes.report(1).blocks, prefixes.report(1).evictions) == (1, 1)
    prefixes.free(1)


async def test_kept_blocks_are_read_only_and_keep_nothing_else_alive(make: Make) -> None:
    prefixes = make(shares=False)
    buffer = np.zeros((2, *SHAPE), np.float32)
    prefixes.keep(KEYS, 0, [buffer[0], buffer[1]])
    buffer[:] = 1
    with await prefixes.take(KEYS, LAYOUT, 0) as lease:
        assert [found.sum() for found in lease.blocks] == [0, 0]
        assert not any(found.flags.writeable or found.base is not None for found in lease.blocks)


async def test_what_is_kept_is_written_to_every_tier_and_found_there_by_another(
    make: Make, disk: Lower, redis: Lower
) -> None:
    one = make()
    one.keep(KEYS, 0, blocks(KEYS))
    assert await one.flush(20)
    assert disk.has(KEYS) == redis.has(KEYS) == [True] * 6
    disk.values.clear()
    assert await take(make()) == {"warm": 6}


async def test_what_is_found_below_is_kept_above(make: Make, disk: Lower, redis: Lower) -> None:
    redis.have(KEYS)
    prefixes = make()
    assert await take(prefixes) == {"warm": 6}
    assert await take(prefixes) == {"hot": 6}
    assert await prefixes.flush(20)
    assert disk.values == redis.values
    assert redis.expiries == {}
    assert await take(make()) == {"disk": 6}


async def test_a_chain_goes_on_in_the_tier_below_where_it_ends_in_the_one_above(
    make: Make, disk: Lower, redis: Lower
) -> None:
    disk.have(KEYS[:3])
    redis.have(KEYS[2:5])
    prefixes = make()
    prefixes.keep(KEYS, 0, blocks(KEYS[:1]))
    assert await take(prefixes) == {"hot": 1, "disk": 2, "warm": 2}
    assert prefixes.report(16).reused_tokens == {"hot": 16, "disk": 32, "warm": 32}


async def test_nothing_is_loaded_behind_a_gap(make: Make, redis: Lower) -> None:
    redis.have(KEYS[:2])
    redis.have(KEYS[3:])
    assert await take(make()) == {"warm": 2}


async def test_of_a_long_prompt_that_is_not_there_only_a_few_blocks_are_asked_for(
    make: Make, redis: Lower
) -> None:
    assert await take(make(), LONG) == {}
    assert [len(names) for names in redis.asked] == [FIRST_ROUND]


async def test_of_a_long_prompt_that_is_there_more_are_asked_for_each_time(
    make: Make, redis: Lower
) -> None:
    redis.have(LONG)
    assert await take(make(), LONG) == {"warm": 100}
    asked = [len(names) for names in redis.asked]
    assert asked == sorted(asked[:-1]) + asked[-1:]
    assert (sum(asked), len(asked)) == (100, 5)


async def assert_is_corrupt(make: Make, redis: Lower, value: bytes, layout: BlockLayout) -> None:
    """The value is a miss in place of the fourth block, is removed, and ends the chain."""
    redis.have(KEYS)
    redis.values[stored_name(KEYS[3], "exact")] = value
    with await make().take(KEYS, layout, 1.0) as lease:
        assert lease.reused == {"warm": 3}
    assert redis.has(KEYS) == [True] * 3 + [False] + [True] * 2


@pytest.mark.parametrize("corrupt", [b"", b"nonsense", "other key"])
async def test_a_corrupt_block_is_a_miss_and_is_removed(
    make: Make, redis: Lower, corrupt: bytes | str
) -> None:
    redis.have(KEYS)
    value = redis.values[stored_name(KEYS[0], "exact")] if isinstance(corrupt, str) else corrupt
    await assert_is_corrupt(make, redis, value, LAYOUT)


@pytest.mark.parametrize(
    "other",
    [
        np.full((2, 1, 3, 4), 0.1, np.float32),
        # As many bytes.
        np.full((2, 1, 8, 4), 0.1, np.float32),
        # As many as the block would have in float16.
        np.full((2, 1, 2, 8), 0.1, np.float32),
        np.zeros((0, 1, 4, 8), np.float32),
        np.zeros((0, 0, 0, 0), np.float32),
    ],
    ids=lambda other: str(other.shape),
)
async def test_a_block_of_another_shape_is_a_miss_and_is_removed(
    make: Make, redis: Lower, other: Block
) -> None:
    value = encode_block(other, stored_name(KEYS[3], "exact"), "exact", 0)
    assert value is not None
    await assert_is_corrupt(make, redis, value, LAYOUT)


async def test_a_model_in_float16_takes_no_blocks_in_float32(make: Make, redis: Lower) -> None:
    redis.have(KEYS)
    layout = BlockLayout(SHAPE, np.dtype(np.float16))
    with await make().take(KEYS, layout, 1.0) as lease:
        assert lease.reused == {}
    assert redis.has(KEYS) == [False] + [True] * 5


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
async def test_a_block_with_a_number_that_is_not_finite_is_a_miss_and_is_removed(
    make: Make, redis: Lower, dtype: type, number: float
) -> None:
    name = stored_name(KEYS[3], "exact")
    good = encode_block(np.full(SHAPE, 0.1).astype(dtype), name, "exact", 0)
    assert good is not None
    elements = np.frombuffer(good, dtype, offset=32).copy()
    elements[7] = number
    checksum = zlib.crc32(name + good[:28] + elements.tobytes()).to_bytes(4, "little")
    await assert_is_corrupt(make, redis, good[:28] + checksum + elements.tobytes(), LAYOUT)


async def test_an_expired_block_is_a_miss_and_one_from_below_keeps_its_expiry(
    make: Make, clock: Clock, disk: Lower, redis: Lower
) -> None:
    soon = int(clock.now * 1000) + 5000
    redis.have(KEYS, expires_ms=soon)
    prefixes = make()
    assert await take(prefixes) == {"warm": 6}
    assert await prefixes.flush(20)
    assert set(disk.expiries.values()) == {soon}
    clock.now += 5
    assert await take(make()) == {}


async def test_a_block_that_is_used_when_what_was_shared_of_it_expires_is_shared_again(
    make: Make, clock: Clock, redis: Lower
) -> None:
    prefixes = make(ttl=HOUR)
    prefixes.keep(KEYS, 0, blocks(KEYS))
    assert await prefixes.flush(20)
    redis.values.clear()
    clock.now += HOUR - 1
    assert await take(prefixes) == {"hot": 6}
    assert await prefixes.flush(20)
    assert redis.values == {}
    clock.now += 1
    assert await take(prefixes) == {"hot": 6}
    assert await prefixes.flush(20)
    assert redis.has(KEYS) == [True] * 6
    assert set(redis.expiries.values()) == {int((clock.now + HOUR) * 1000)}


async def test_a_block_that_a_tier_did_not_take_is_offered_again_later(
    make: Make, clock: Clock, redis: Lower
) -> None:
    prefixes = make()
    redis.takes = False
    prefixes.keep(KEYS, 0, blocks(KEYS))
    assert await prefixes.flush(20)
    redis.takes = True
    clock.now += 300
    assert await take(prefixes) == {"hot": 6}
    assert await prefixes.flush(20)
    assert redis.has(KEYS) == [True] * 6


async def test_blocks_that_cannot_be_written_stop_no_others_and_are_offered_again(
    make: Make,
    clock: Clock,
    redis: Lower,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put = redis.put

    async def fail_for_two(name: bytes, value: bytes, expires_ms: int) -> bool:
        if name in [stored_name(key, "exact") for key in KEYS[1:3]]:
            raise MemoryError("the text of a user")
        return await put(name, value, expires_ms)

    monkeypatch.setattr(redis, "put", fail_for_two)
    prefixes = make()
    with caplog.at_level(logging.DEBUG):
        prefixes.keep(KEYS, 0, blocks(KEYS))
        assert await prefixes.flush(20)
    assert redis.has(KEYS) == [True, False, False, True, True, True]
    assert [record.getMessage() for record in caplog.records] == [
        "blocks of prompts are not shared (MemoryError)"
    ]
    monkeypatch.undo()
    clock.now += 300
    assert await take(prefixes) == {"hot": 6}
    assert await prefixes.flush(20)
    assert redis.has(KEYS) == [True] * 6


async def test_a_block_that_is_not_finite_is_kept_in_memory_only(make: Make, redis: Lower) -> None:
    prefixes = make()
    prefixes.keep(KEYS, 0, [np.full(SHAPE, np.inf, np.float32), block(KEYS[1])])
    assert await prefixes.flush(20)
    assert redis.has(KEYS[:2]) == [False, True]


async def test_sidecars_with_other_codecs_do_not_read_each_others_blocks(
    make: Make, redis: Lower
) -> None:
    redis.have(KEYS, codec="int8")
    assert await take(make()) == {}
    with await make(codec="int8").take(KEYS, LAYOUT, 1) as lease:
        assert lease.reused == {"warm": 6}


async def test_blocks_that_were_evicted_before_their_turn_are_not_written(
    make: Make, redis: Lower
) -> None:
    prefixes = make(3 * SIZE)
    prefixes.keep(KEYS, 0, blocks(KEYS[:3]))
    prefixes.clear()
    assert await prefixes.flush(20)
    assert redis.values == {}


async def test_no_more_than_a_bounded_number_of_blocks_wait_to_be_written(
    make: Make, disk: Lower, redis: Lower
) -> None:
    prefixes = make(10**9)
    keys = [b"key %05d" % number for number in range(MAX_WAITING + 10)]
    same = block(b"")
    prefixes.keep(keys, 0, [same] * len(keys))
    assert await prefixes.flush(60)
    assert sum(redis.has(keys)) == MAX_WAITING


async def test_a_tier_that_is_slower_than_computing_is_given_up_and_found_again_when_fast(
    make: Make, clock: Clock, redis: Lower
) -> None:
    prefixes = make()
    redis.have(LONG)
    redis.seconds = 1000.0
    assert await take(prefixes, LONG, compute_seconds=0.01) == {}
    assert prefixes.report(1).not_worth_loading == 1
    asked = len(redis.asked)
    for _ in range(3):
        assert await take(prefixes, LONG, compute_seconds=0.01) == {}
    assert len(redis.asked) == asked
    assert prefixes.report(1).not_worth_loading == 4
    redis.seconds = 0.0001
    clock.now += RETRY_SECONDS
    assert await take(prefixes, LONG, compute_seconds=0.01) == {"warm": 100}
    assert prefixes.report(1).not_worth_loading == 4


async def test_a_load_has_as_long_as_computing_its_blocks_takes(
    make: Make, clock: Clock, redis: Lower
) -> None:
    redis.have(LONG)
    redis.seconds = 1000.0
    before = clock.now
    with await make().take(LONG, LAYOUT, 0.01) as lease:
        assert clock.now - before == pytest.approx(FIRST_ROUND * 0.01)
        assert lease.seconds == pytest.approx(FIRST_ROUND * 0.01)


async def test_what_came_before_time_ran_out_is_used(make: Make, redis: Lower) -> None:
    redis.have(LONG)
    redis.seconds_each = 0.015
    prefixes = make()
    assert await take(prefixes, LONG, compute_seconds=0.01) == {"warm": 5}
    assert prefixes.report(1).not_worth_loading == 1
    assert prefixes.report(1).bandwidths["warm"] == pytest.approx(5 * BLOCK_BYTES / 0.08)


async def test_that_a_tier_has_nothing_says_nothing_of_its_speed(make: Make, redis: Lower) -> None:
    prefixes = make()
    redis.seconds = 0.01
    assert await take(prefixes, LONG, compute_seconds=0.01) == {}
    assert (prefixes.report(1).bandwidths, prefixes.report(1).not_worth_loading) == ({}, 0)


async def test_a_fast_tier_is_used_though_the_one_above_it_is_slow(
    make: Make, disk: Lower, redis: Lower
) -> None:
    for tier in (disk, redis):
        tier.have(LONG)
    disk.seconds = 1000.0
    prefixes = make()
    assert await take(prefixes, LONG, compute_seconds=0.01) == {"warm": 100}
    assert set(prefixes.report(1).bandwidths) == {"disk", "warm"}


async def test_without_an_estimate_of_computing_a_slow_tier_is_used(
    make: Make, redis: Lower
) -> None:
    redis.have(KEYS)
    redis.seconds = 0.9
    prefixes = make()
    assert await take(prefixes, KEYS, compute_seconds=0) == {"warm": 6}
    prefixes.clear()
    assert await take(prefixes, KEYS, compute_seconds=0) == {"warm": 6}


async def test_two_that_want_the_same_load_it_once(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS)
    redis.answers.clear()
    prefixes = make()
    takes = [asyncio.create_task(take(prefixes)) for _ in range(5)]
    await eventually(lambda: redis.asked)
    redis.answers.set()
    assert await asyncio.gather(*takes) == [{"warm": 6}] * 5
    assert len(redis.asked) == 1


async def test_two_that_want_different_blocks_do_not_wait_for_each_other(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(LONG)
    redis.answers.clear()
    prefixes = make()
    prompts = (LONG[:3], LONG[50:53], LONG[:3], LONG[50:53])
    takes = [asyncio.create_task(take(prefixes, keys)) for keys in prompts]
    await eventually(lambda: len(redis.asked) == 2)
    redis.answers.set()
    assert await asyncio.gather(*takes) == [{"warm": 3}] * 4
    assert len(redis.asked) == 2


async def test_two_that_part_later_share_the_load_up_to_there(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    one, other = [*KEYS, b"one"], [*KEYS, b"other"]
    redis.have(one)
    redis.have(other)
    redis.answers.clear()
    prefixes = make()
    takes = [asyncio.create_task(take(prefixes, keys)) for keys in (one, other)]
    await eventually(lambda: redis.asked)
    redis.answers.set()
    assert await asyncio.gather(*takes) == [{"warm": 7}] * 2
    assert [len(names) for names in redis.asked] == [7, 1]


async def test_one_that_waits_does_not_ask_again_for_what_was_not_there(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS[:4])
    redis.answers.clear()
    prefixes = make()
    takes = [asyncio.create_task(take(prefixes)) for _ in range(3)]
    await eventually(lambda: redis.asked)
    redis.answers.set()
    assert await asyncio.gather(*takes) == [{"warm": 4}] * 3
    assert len(redis.asked) == 1


async def test_one_that_is_cancelled_takes_the_load_from_nobody(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS)
    redis.answers.clear()
    prefixes = make()
    first, second = (asyncio.create_task(take(prefixes)) for _ in range(2))
    await eventually(lambda: redis.asked)
    first.cancel()
    await asyncio.wait({first})
    redis.answers.set()
    assert await second == {"warm": 6}


async def test_a_load_that_everyone_has_left_leaves_nothing_in_use(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS)
    redis.answers.clear()
    prefixes = make()
    prefixes.keep(KEYS, 0, blocks(KEYS[:1]))
    alone = asyncio.create_task(take(prefixes))
    await eventually(lambda: redis.asked)
    alone.cancel()
    await asyncio.wait({alone})
    redis.answers.set()
    await eventually(lambda: prefixes.report(1).blocks == 6)
    await eventually(lambda: prefixes.report(1).pinned_blocks == 0)


async def test_what_was_loaded_is_not_evicted_before_those_who_wait_have_it(
    make: Make, redis: Lower
) -> None:
    redis.have(KEYS)
    prefixes = make(12 * SIZE)
    takes = [asyncio.create_task(take(prefixes)) for _ in range(3)]
    while not all(task.done() for task in takes):
        # Somebody else wants all the memory that there is, whenever it can be had.
        if prefixes.report(1).blocks == 6 and prefixes.reserve(12 * SIZE):
            prefixes.free(12 * SIZE)
        await asyncio.sleep(0)
    assert [task.result() for task in takes] == [{"warm": 6}] * 3


async def test_memory_for_what_is_loaded_is_taken_before_it_comes(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS)
    redis.answers.clear()
    prefixes = make(4 * SIZE)
    taking = asyncio.create_task(take(prefixes))
    await eventually(lambda: redis.asked)
    assert prefixes.report(1).bytes == len(redis.asked[-1]) * BLOCK_BYTES
    redis.answers.set()
    taken = await taking
    assert taken["warm"] <= 4
    assert prefixes.report(1).bytes == taken["warm"] * SIZE


async def test_without_memory_to_spare_nothing_is_loaded(make: Make, redis: Lower) -> None:
    redis.have(KEYS)
    prefixes = make(4 * SIZE)
    assert prefixes.reserve(4 * SIZE)
    assert await take(prefixes) == {}
    assert redis.asked == []


async def test_what_is_loaded_while_all_is_forgotten_is_not_built_upon(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.have(KEYS)
    redis.answers.clear()
    prefixes = make()
    prefixes.keep(KEYS, 0, blocks(KEYS[:2]))
    taking = asyncio.create_task(take(prefixes))
    await eventually(lambda: redis.asked)
    prefixes.clear()
    redis.answers.set()
    assert await taking == {"hot": 2}
    assert prefixes.report(1).blocks == 0


async def test_closing_ends_a_load_under_way(
    make: Make, redis: Lower, eventually: Callable[..., Any]
) -> None:
    redis.answers.clear()
    prefixes = make()
    taking = asyncio.create_task(take(prefixes))
    await eventually(lambda: redis.asked)
    await prefixes.close()
    assert await taking == {}


async def test_the_report_tells_what_is_kept(make: Make) -> None:
    prefixes = make(10 * SIZE, shares=False)
    prefixes.keep(KEYS, 0, blocks(KEYS))
    assert prefixes.reserve(100)
    report = prefixes.report(16)
    assert (report.blocks, report.pinned_blocks, report.evictions) == (6, 0, 0)
    assert (report.bytes, report.capacity_bytes) == (6 * SIZE + 100, 10 * SIZE)
    assert (report.bandwidths, report.not_worth_loading) == ({}, 0)
    prefixes.free(100)
