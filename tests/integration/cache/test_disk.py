"""The disk tier: what it keeps, for how long, in how much space, and in what order it forgets."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.cache.disk import DiskLockedError, DiskTier
from sidecar.cache.disk_store import MIN_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    OpenDisk = Callable[..., Awaitable[DiskTier]]

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def ms(self, seconds: float) -> int:
        """``seconds`` from now, as an expiry."""
        return int((self.now + seconds) * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def open_disk(tmp_path: Path, clock: Clock) -> AsyncIterator[OpenDisk]:
    tiers: list[DiskTier] = []

    async def open_tier(max_bytes: int = MIN_BYTES, **options: Any) -> DiskTier:
        options = {"clock": clock, "timeout": 20} | options
        tier = DiskTier(tmp_path / "cache", max_bytes, **options)
        tiers.append(tier)
        await tier.start()
        return tier

    yield open_tier
    for tier in tiers:
        await tier.close()


@pytest.fixture
async def disk(open_disk: OpenDisk) -> DiskTier:
    return await open_disk()


async def store(disk: DiskTier, entries: dict[bytes, bytes], expires_ms: int = 0) -> None:
    for key, value in entries.items():
        disk.put(key, value, expires_ms, replace=True)
    assert await disk.flush(60)


async def fill(disk: DiskTier, name: bytes, total: int) -> list[bytes]:
    """Puts entries of about 10 kB until they are ``total`` bytes; returns their keys."""
    keys = [b"%s %d" % (name, i) for i in range(total // 10_000)]
    rng = random.Random(name)
    for start in range(0, len(keys), 100):
        await store(disk, {key: rng.randbytes(10_000) for key in keys[start : start + 100]})
    return keys


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


async def test_values_come_in_the_order_of_the_keys_with_none_for_a_miss(disk: DiskTier) -> None:
    await store(disk, {b"a": b"1", b"b": b"2"})
    assert await disk.get_many([b"b", b"missing", b"a", b"b"]) == [b"2", None, b"1", b"2"]
    counters = disk.counters
    assert (counters.lookups, counters.found, counters.errors) == (4, 3, 0)
    assert counters.writes == 2


async def test_no_keys_no_values(disk: DiskTier) -> None:
    assert await disk.get_many([]) == []
    assert disk.counters.lookups == 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(entries=st.dictionaries(st.binary(), st.binary(), max_size=20))
async def test_any_bytes_are_a_key_and_any_bytes_a_value(
    entries: dict[bytes, bytes], disk: DiskTier
) -> None:
    await store(disk, entries)
    assert await disk.get_many(list(entries)) == list(entries.values())


async def test_a_lookup_may_have_very_many_keys(disk: DiskTier) -> None:
    keys = [b"key %d" % i for i in range(40_000)]
    await store(disk, {key: key for key in keys[::1000]})
    got = await disk.get_many(keys)
    assert [value for value in got if value is not None] == keys[::1000]


async def test_the_first_writer_wins_unless_told_to_replace(disk: DiskTier) -> None:
    disk.put(b"k", b"first", 0, replace=False)
    disk.put(b"k", b"second", 0, replace=False)
    assert await disk.flush(10)
    assert await disk.get_many([b"k"]) == [b"first"]
    disk.put(b"k", b"third", 0, replace=True)
    assert await disk.flush(10)
    assert await disk.get_many([b"k"]) == [b"third"]


async def test_puts_and_deletes_of_a_key_take_effect_in_order(disk: DiskTier) -> None:
    for turn in range(100):
        disk.put(b"stays", b"%d" % turn, 0, replace=False)
        disk.put(b"goes", b"%d" % turn, 0, replace=False)
        if turn < 99:
            disk.delete([b"stays", b"goes"])
    disk.delete([b"goes", b"was never there"])
    assert await disk.flush(10)
    assert await disk.get_many([b"stays", b"goes"]) == [b"99", None]
    assert disk.entries == 1


async def test_a_deleted_entry_is_not_found_even_before_the_disk_knows(disk: DiskTier) -> None:
    await store(disk, {b"goes": b"old", b"stays": b"x"})
    disk.delete([b"goes"])
    assert await disk.get_many([b"goes", b"stays"]) == [None, b"x"]
    await store(disk, {b"goes": b"new"})
    assert await disk.get_many([b"goes"]) == [b"new"]


async def test_an_expired_entry_is_a_miss_and_gives_way_to_a_new_one(
    disk: DiskTier, clock: Clock
) -> None:
    disk.put(b"k", b"old", clock.ms(10), replace=False)
    assert await disk.flush(10)
    clock.now += 9.9
    assert await disk.get_many([b"k"]) == [b"old"]
    clock.now += 0.1
    assert await disk.get_many([b"k"]) == [None]
    disk.put(b"k", b"new", clock.ms(10), replace=False)
    assert await disk.flush(10)
    assert await disk.get_many([b"k"]) == [b"new"]


async def test_expired_entries_are_removed_when_others_are_written(
    disk: DiskTier, clock: Clock
) -> None:
    await store(disk, {b"%d" % i: b"x" for i in range(100)}, clock.ms(10))
    await store(disk, {b"stays": b"x"}, clock.ms(20))
    assert disk.entries == 101
    clock.now += 10
    await store(disk, {b"new": b"x"})
    assert disk.entries == 2
    assert disk.evictions == 0


async def test_the_size_is_that_of_the_keys_and_values(disk: DiskTier) -> None:
    await store(disk, {b"ab": b"cdef", b"g": b""})
    assert (disk.entries, disk.size_bytes) == (2, 7)
    await store(disk, {b"ab": b"c"})
    assert (disk.entries, disk.size_bytes) == (2, 4)
    disk.delete([b"ab"])
    assert await disk.flush(10)
    assert (disk.entries, disk.size_bytes) == (1, 1)


@pytest.mark.parametrize("value_bytes", [200, 1600, 5000, 300_000])
async def test_the_files_stay_within_the_bound(
    value_bytes: int, open_disk: OpenDisk, tmp_path: Path
) -> None:
    disk = await open_disk(MIN_BYTES)
    rng = random.Random(value_bytes)
    # Twice the bound, or enough of the small ones to have some evicted.
    count = min(2 * MIN_BYTES // value_bytes, 50_000)
    at_once = 20 if value_bytes > 100_000 else 100
    biggest = 0
    for start in range(0, count, at_once):
        for _ in range(min(at_once, count - start)):
            disk.put(rng.randbytes(32), rng.randbytes(value_bytes), 0, replace=False)
        assert await disk.flush(60)
        biggest = max(biggest, folder_bytes(tmp_path / "cache"))
    assert biggest <= MIN_BYTES
    assert disk.evictions > 0
    assert disk.entries + disk.evictions == disk.counters.writes == count
    # The bound is made use of.
    assert disk.entries * (value_bytes + 32) == disk.size_bytes
    assert biggest > MIN_BYTES // 2


async def test_a_smaller_bound_after_a_restart_gives_space_back(
    open_disk: OpenDisk, tmp_path: Path
) -> None:
    disk = await open_disk(2 * MIN_BYTES)
    await fill(disk, b"old", 2 * MIN_BYTES)
    await disk.close()
    assert folder_bytes(tmp_path / "cache") > MIN_BYTES
    disk = await open_disk(MIN_BYTES)
    await fill(disk, b"new", 4_000_000)
    assert folder_bytes(tmp_path / "cache") <= MIN_BYTES


async def test_the_least_recently_used_goes_first(open_disk: OpenDisk, clock: Clock) -> None:
    disk = await open_disk(MIN_BYTES)
    first = await fill(disk, b"first", 3_000_000)
    clock.now += HOUR
    second = await fill(disk, b"second", 3_000_000)
    clock.now += HOUR
    used = first[::3]
    assert None not in await disk.get_many(used)
    assert await disk.flush(10)
    clock.now += 1
    await fill(disk, b"third", 7_000_000)
    kept = {
        key
        for key, value in zip(first, await disk.get_many(first), strict=True)
        if value is not None
    }
    assert kept == set(used)
    assert None not in await disk.get_many(second[-100:])


async def test_reading_notes_an_entry_at_most_once_an_hour(
    open_disk: OpenDisk, clock: Clock, tmp_path: Path
) -> None:
    disk = await open_disk()
    await store(disk, {b"k": b"x"})
    noted = []
    for _ in range(4):
        clock.now += HOUR / 2
        await disk.get_many([b"k"])
        assert await disk.flush(10)
        await disk.close()
        with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "entries.db")) as other:
            noted.append(other.execute("SELECT used_s FROM entries").fetchone()[0])
        disk = await open_disk()
    start = int(clock.now - 2 * HOUR)
    assert [at - start for at in noted] == [0, HOUR, HOUR, 2 * HOUR]


async def test_a_value_of_more_than_a_sixteenth_of_the_bound_is_dropped(disk: DiskTier) -> None:
    disk.put(b"largest", bytes(MIN_BYTES // 16), 0, replace=False)
    disk.put(b"too large", bytes(MIN_BYTES // 16 + 1), 0, replace=False)
    assert await disk.flush(10)
    assert [v is None for v in await disk.get_many([b"largest", b"too large"])] == [False, True]
    assert (disk.counters.writes, disk.counters.writes_dropped) == (1, 1)


async def test_what_does_not_fit_the_queue_is_dropped_and_counted(open_disk: OpenDisk) -> None:
    disk = await open_disk(queue_bytes=100_000)
    for turn in range(200):
        disk.put(b"%03d" % turn, b"x" * 1000, 0, replace=False)
    assert await disk.flush(10)
    assert 0 < disk.counters.writes < 100
    assert disk.counters.writes + disk.counters.writes_dropped == 200
    assert disk.entries == disk.counters.writes


async def test_clearing_removes_everything_and_gives_the_space_back(
    disk: DiskTier, tmp_path: Path
) -> None:
    await fill(disk, b"old", 4_000_000)
    disk.put(b"queued", b"x", 0, replace=False)
    assert await disk.clear() == 400
    assert (disk.entries, disk.size_bytes) == (0, 0)
    assert await disk.get_many([b"old 1", b"queued"]) == [None, None]
    assert folder_bytes(tmp_path / "cache") < 200_000
    await store(disk, {b"new": b"x"})
    assert await disk.get_many([b"new"]) == [b"x"]


async def test_entries_are_there_after_a_restart(open_disk: OpenDisk, clock: Clock) -> None:
    disk = await open_disk()
    await store(disk, {b"k": b"x", b"other": b"yy"})
    disk.put(b"timed", b"x", clock.ms(10), replace=False)
    assert await disk.flush(10)
    before = (disk.entries, disk.size_bytes)
    await disk.close()
    disk = await open_disk()
    assert (disk.entries, disk.size_bytes) == before
    assert await disk.get_many([b"k", b"other", b"timed"]) == [b"x", b"yy", b"x"]
    clock.now += 10
    assert await disk.get_many([b"timed"]) == [None]


async def test_only_this_user_may_read_the_files(open_disk: OpenDisk, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        disk = await open_disk()
        await store(disk, {b"k": b"x"})
    finally:
        os.umask(before)
    folder = tmp_path / "cache"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}
    assert {"entries.db", "entries.db-wal", "lock"} <= set(modes)
    assert set(modes.values()) == {0o600}


async def test_a_folder_is_for_one_user_at_a_time(open_disk: OpenDisk, tmp_path: Path) -> None:
    first = await open_disk()
    second = DiskTier(tmp_path / "cache", MIN_BYTES)
    with pytest.raises(DiskLockedError, match="a folder of its own"):
        await second.start()
    await second.close()
    await store(first, {b"k": b"x"})
    await first.close()
    third = await open_disk()
    assert await third.get_many([b"k"]) == [b"x"]


def test_a_bound_that_is_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(MIN_BYTES)):
        DiskTier(tmp_path, MIN_BYTES - 1)


async def test_a_file_of_another_version_is_discarded(open_disk: OpenDisk, tmp_path: Path) -> None:
    disk = await open_disk()
    await store(disk, {b"k": b"x"})
    await disk.close()
    with sqlite3.connect(tmp_path / "cache" / "entries.db") as other:
        other.execute("PRAGMA user_version = 999")
    other.close()
    disk = await open_disk()
    assert disk.entries == 0
    assert await disk.get_many([b"k"]) == [None]
    await store(disk, {b"k": b"y"})
    assert await disk.get_many([b"k"]) == [b"y"]
    assert disk.corrupt_files == 0
