"""Disks that are full, read-only, slow or corrupt, and processes that die while writing."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from sidecar.cache.disk import DiskLockedError, DiskTier
from sidecar.cache.disk_store import MIN_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    OpenDisk = Callable[..., Awaitable[DiskTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

# Writes the numbers in order for ever; says which ones it has flushed.
WRITER = """
import asyncio, sys
from pathlib import Path
from sidecar.cache.disk import DiskLockedError, DiskTier

async def main():
    disk = DiskTier(Path(sys.argv[1]), int(sys.argv[2]))
    await disk.start()
    number = 0
    while True:
        for _ in range(50):
            key = b"%d" % number
            disk.put(key, key * 500, 0, replace=False)
            number += 1
        await disk.flush(60)
        print(number, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
async def open_disk(folder: Path) -> AsyncIterator[OpenDisk]:
    tiers: list[DiskTier] = []

    async def open_tier(**options: Any) -> DiskTier:
        options = {"timeout": 20} | options
        tier = DiskTier(folder, MIN_BYTES, **options)
        tiers.append(tier)
        await tier.start()
        return tier

    yield open_tier
    for tier in tiers:
        await tier.close()


async def store(disk: DiskTier, count: int) -> None:
    for i in range(count):
        disk.put(b"%d" % i, b"value %d " % i * 200, 0, replace=True)
    assert await disk.flush(60)


async def get(disk: DiskTier, count: int) -> list[bytes | None]:
    return await disk.get_many([b"%d" % i for i in range(count)])


def values(count: int) -> list[bytes]:
    return [b"value %d " % i * 200 for i in range(count)]


def write_until_killed(folder: Path) -> int:
    """How many entries a process had flushed when it was killed, or some fewer."""
    command = [sys.executable, "-c", WRITER, str(folder), str(MIN_BYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        flushed = [int(writer.stdout.readline()) for _ in range(5)]
        writer.kill()
    return flushed[-1]


async def test_what_was_flushed_is_there_after_the_process_was_killed_while_writing(
    folder: Path, open_disk: OpenDisk
) -> None:
    for _ in range(3):
        flushed = write_until_killed(folder)
        disk = await open_disk()
        got = await get(disk, flushed)
        assert got == [b"%d" % i * 500 for i in range(flushed)]
        assert disk.corrupt_files == 0
        await disk.close()


CORRUPTIONS = {
    "no database at all": lambda content: b"this is no database" * 1000,
    "the header is gone": lambda content: bytes(100) + content[100:],
    "everything but the header is gone": lambda content: content[:4096] + bytes(len(content)),
    "garbage behind the first pages": lambda content: (
        content[:12288] + bytes(i * 37 % 251 for i in range(len(content)))
    ),
    "cut short": lambda content: content[: len(content) // 3],
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
async def test_a_corrupt_file_is_put_aside_and_replaced_by_an_empty_one(
    corrupt: Callable[[bytes], bytes], folder: Path, open_disk: OpenDisk
) -> None:
    disk = await open_disk()
    await store(disk, 500)
    await disk.close()
    file = folder / "entries.db"
    file.write_bytes(corrupt(file.read_bytes()))
    with structlog.testing.capture_logs() as logs:
        disk = await open_disk()
        got = await get(disk, 500)
        await store(disk, 500)
    # Nothing wrong comes out of it, whenever the damage is found.
    assert all(value in (None, right) for value, right in zip(got, values(500), strict=True))
    assert disk.corrupt_files == 1
    assert (folder / "entries.corrupt").exists()
    assert "disk cache was corrupt and is replaced" in [log["event"] for log in logs]
    await store(disk, 500)
    assert await get(disk, 500) == values(500)


async def test_only_one_corrupt_file_is_kept(folder: Path, open_disk: OpenDisk) -> None:
    for turn in range(3):
        disk = await open_disk()
        await store(disk, 5)
        await disk.close()
        (folder / "entries.db").write_bytes(b"damage %d" % turn * 1000)
    disk = await open_disk()
    assert disk.corrupt_files == 1
    assert [file.name for file in folder.glob("*corrupt*")] == ["entries.corrupt"]
    assert (folder / "entries.corrupt").read_bytes().startswith(b"damage 2")


@contextlib.contextmanager
def hanging(disk: DiskTier) -> Iterator[None]:
    """The disk's thread waits in a call meanwhile, as on a volume that has lost its server."""
    hang = threading.Event()
    patience, disk._timeout = disk._timeout, 0.02
    disk._thread.submit(hang.wait)
    try:
        yield
    finally:
        hang.set()
        disk._timeout = patience


async def until_it_works(disk: DiskTier) -> None:
    async with asyncio.timeout(20):
        while True:
            disk.put(b"k", b"x" * 100_000, 0, replace=False)
            assert await disk.flush(10)
            if await disk.get_many([b"k"]) == [b"x" * 100_000]:
                return
            await asyncio.sleep(0.01)


async def test_a_folder_that_cannot_be_made_is_no_error_and_is_tried_again(
    folder: Path, open_disk: OpenDisk
) -> None:
    folder.write_bytes(b"a file in the way")
    with structlog.testing.capture_logs() as logs:
        disk = await open_disk()
        for _ in range(20):
            disk.put(b"k", b"x", 0, replace=False)
            assert await disk.get_many([b"k"]) == [None]
    assert disk.counters.skipped == disk.counters.writes_dropped == 20
    assert disk.counters.lookups == 0
    assert [log["service"] for log in logs] == ["disk reads", "disk writes"]
    folder.unlink()
    await until_it_works(disk)


async def test_a_folder_that_is_removed_while_it_is_in_use_is_made_again(
    folder: Path, open_disk: OpenDisk, eventually: Eventually
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    shutil.rmtree(folder)
    with structlog.testing.capture_logs() as logs:
        await until_it_works(disk)
    assert (folder / "entries.db").exists()
    assert await get(disk, 5) == [None] * 5
    assert {log["reason"] for log in logs if log["log_level"] == "warning"} == {
        "FileNotFoundError: No such file or directory"
    }
    # It is locked as the one before was.
    await eventually(lambda: (folder / "lock").exists())
    with pytest.raises(DiskLockedError):
        await open_disk()


async def test_what_another_volume_holds_is_not_believed_when_it_takes_the_place_of_the_folder(
    folder: Path, open_disk: OpenDisk
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    await disk.close()
    shutil.copytree(folder, folder.with_name("other"))
    disk = await open_disk()
    disk.delete([b"0"])
    assert await disk.flush(10)
    folder.rename(folder.with_name("before"))
    folder.with_name("other").rename(folder)
    await until_it_works(disk)
    assert await get(disk, 5) == [None] * 5


async def test_a_disk_with_room_for_little_is_left_alone_until_there_is_room_for_an_entry(
    open_disk: OpenDisk,
    eventually: Eventually,
    no_space_beyond: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with no_space_beyond(200_000):
        await fill(disk)
        probes, apply = [], disk._store.apply

        def count(batch: list[Any], now: float) -> list[bool]:
            probes.append(batch)
            return apply(batch, now)

        monkeypatch.setattr(disk._store, "apply", count)
        with structlog.testing.capture_logs() as logs:
            await eventually(lambda: len(probes) == 2)
        assert not disk._writes.closed
        assert logs == []
    await until_it_works(disk)


async def test_a_folder_that_is_read_only_is_no_error(
    open_disk: OpenDisk, without_privileges: Any
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with without_privileges():
            disk = DiskTier(folder / "cache", MIN_BYTES)
            await disk.start()
            for _ in range(5):
                disk.put(b"k", b"x", 0, replace=False)
                assert await disk.get_many([b"k"]) == [None]
            assert disk.counters.skipped == disk.counters.writes_dropped == 5
            await disk.close()


async def test_a_full_disk_refuses_writes_and_can_still_be_read(
    folder: Path, open_disk: OpenDisk, no_space_beyond: Any
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with structlog.testing.capture_logs() as logs:
        with no_space_beyond(200_000):
            for turn in range(40):
                disk.put(b"new %d" % turn, b"x" * 100_000, 0, replace=False)
                assert await disk.flush(10)
                assert await get(disk, 5) == values(5)
            assert disk.counters.writes_dropped > 30
            assert disk.counters.errors == 0
        await until_it_works(disk)
    assert await get(disk, 5) == values(5)
    assert {log["service"] for log in logs} == {"disk writes"}
    assert disk.corrupt_files == 0
    # What was given up has left no trace in the totals.
    await disk.close()
    with contextlib.closing(sqlite3.connect(folder / "entries.db")) as other:
        rows = "SELECT count(*), sum(length(key) + length(value)) FROM entries"
        assert other.execute(rows).fetchone() == (disk.entries, disk.size_bytes)


async def test_an_entry_deleted_while_the_disk_is_full_is_not_found_any_more(
    open_disk: OpenDisk, no_space_beyond: Any
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with no_space_beyond(200_000):
        while not disk.counters.writes_dropped:
            disk.put(b"new", b"x" * 100_000, 0, replace=True)
            disk.delete([b"0"])
            assert await disk.flush(10)
            assert await get(disk, 5) == [None, *values(5)[1:]]
    await until_it_works(disk)
    assert await get(disk, 5) == [None, *values(5)[1:]]


async def fill(disk: DiskTier) -> None:
    """Overwrites an entry until the disk, which has no space, is given up."""
    while disk._writes.closed:
        disk.put(b"4", b"x" * 100_000, 0, replace=True)
        assert await disk.flush(10)


async def test_a_removal_that_a_full_disk_refused_is_made_when_there_is_space(
    open_disk: OpenDisk, eventually: Eventually, no_space_beyond: Any
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with no_space_beyond(200_000):
        await fill(disk)
        disk.delete([b"0", b"1"])
    # Without any other write.
    await eventually(lambda: disk.entries == 3)
    disk.put(b"0", b"anew", 0, replace=False)
    assert await disk.flush(10)
    assert await get(disk, 3) == [b"anew", None, values(3)[2]]


async def test_a_removal_that_failed_once_is_tried_again(
    open_disk: OpenDisk, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    apply = disk._store.apply

    def fail(*_: object) -> list[bool]:
        monkeypatch.setattr(disk._store, "apply", apply)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(disk._store, "apply", fail)
    disk.delete([b"0"])
    await eventually(lambda: disk.entries == 4)
    disk.put(b"0", b"anew", 0, replace=False)
    assert await disk.flush(10)
    assert await get(disk, 2) == [b"anew", values(2)[1]]


async def test_a_removal_that_a_full_disk_refused_to_the_end_is_not_undone_by_a_restart(
    open_disk: OpenDisk, no_space_beyond: Any
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with no_space_beyond(200_000):
        await fill(disk)
        disk.delete([b"0"])
        await disk.close()
    disk = await open_disk()
    assert await get(disk, 1) == [None]
    await until_it_works(disk)


async def test_removals_too_many_to_note_while_the_disk_is_full_cost_all_entries_not_the_tier(
    open_disk: OpenDisk,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
    no_space_beyond: Any,
) -> None:
    monkeypatch.setattr("sidecar.cache.disk._MAX_REMOVED", 3)
    disk = await open_disk()
    await store(disk, 10)
    with no_space_beyond(200_000):
        await fill(disk)
        disk.delete([b"%d" % i for i in range(8)])
        assert await get(disk, 10) == [None] * 10
    await until_it_works(disk)
    assert await get(disk, 10) == [None] * 10
    await store(disk, 10)
    assert await get(disk, 10) == values(10)
    disk.delete([b"0"])
    assert await get(disk, 2) == [None, values(2)[1]]


async def test_removals_too_many_to_note_are_not_undone_by_a_restart(
    open_disk: OpenDisk, monkeypatch: pytest.MonkeyPatch, no_space_beyond: Any
) -> None:
    monkeypatch.setattr("sidecar.cache.disk._MAX_REMOVED", 3)
    disk = await open_disk()
    await store(disk, 10)
    with no_space_beyond(200_000):
        await fill(disk)
        disk.delete([b"%d" % i for i in range(8)])
        await disk.close()
    disk = await open_disk()
    assert await get(disk, 8) == [None] * 8


async def test_a_disk_that_hangs_holds_nobody_up(
    open_disk: OpenDisk, eventually: Eventually
) -> None:
    disk = await open_disk()
    await store(disk, 5)
    with hanging(disk):
        for _ in range(50):
            disk.put(b"queued", b"x", 0, replace=False)
            assert await get(disk, 5) == [None] * 5
        assert not await disk.flush(0.01)
        counters = disk.counters
        assert counters.errors == counters.lookups == 25
        assert counters.skipped == 225
    assert await disk.flush(20)
    await eventually(lambda: disk._reads.closed)
    assert await get(disk, 5) == values(5)


async def test_a_lookup_that_was_cancelled_leaves_nothing_behind(open_disk: OpenDisk) -> None:
    disk = await open_disk()
    await store(disk, 50)
    for turn in range(200):
        doomed = asyncio.create_task(get(disk, turn % 50))
        for _ in range(turn % 4):
            await asyncio.sleep(0)
        doomed.cancel()
        assert await get(disk, 3) == values(3)
        await asyncio.gather(doomed, return_exceptions=True)
    assert disk.counters.errors == 0


async def test_closing_while_the_disk_hangs_comes_to_an_end(open_disk: OpenDisk) -> None:
    disk = await open_disk()
    with hanging(disk):
        disk.put(b"k", b"x", 0, replace=False)
        async with asyncio.timeout(20):
            await disk.close()
