"""The invalidations of a sidecar without Redis, on disks that are full, read-only or corrupt."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.generations import (
    Generations,
    InvalidationNotSharedError,
    StoreUnavailableError,
)
from sidecar.cache.local_generations import LocalGenerations

if TYPE_CHECKING:
    from collections.abc import Callable

TAG = b"t" * 16

Opened = contextlib.closing[LocalGenerations]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "generations.db"


def opened(file: Path) -> Opened:
    return contextlib.closing(LocalGenerations(file))


def tags(count: int) -> list[bytes]:
    return [b"%016d" % number for number in range(count)]


async def answers_without_a_store(store: LocalGenerations) -> None:
    """Calls have a state to go on with; who invalidates is told that it will not last."""
    generations = Generations(store)
    state = await generations.state("new")
    assert state.epoch > 0
    await generations.resolve(state, [TAG])
    with pytest.raises(InvalidationNotSharedError, match=r"generations\.db cannot be used"):
        await generations.invalidate_tags("new", [TAG])
    with pytest.raises(InvalidationNotSharedError, match="has space"):
        await generations.invalidate_namespace("new")


CORRUPTIONS = {
    "no database at all": lambda content: b"garbage" * 1000,
    "the header is gone": lambda content: bytes(100) + content[100:],
    "everything but the header is gone": lambda content: content[:100] + bytes(len(content)),
    "garbage behind the first page": lambda content: (
        content[:4096] + bytes(i * 37 % 251 for i in range(len(content)))
    ),
    "cut short": lambda content: content[: len(content) // 3],
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS.keys())
async def test_a_corrupt_file_is_moved_aside_and_nothing_from_before_is_valid(
    corrupt: Callable[[bytes], bytes], file: Path
) -> None:
    with opened(file) as store:
        epoch, base = await store.load("n", 0)
        _, bumped = await store.bump_tags("n", tags(500))
    file.write_bytes(corrupt(file.read_bytes()))
    with opened(file) as store:
        # The damage may be found by any of the calls, hence the last of them is what counts.
        await store.generations("n", tags(500))
        assert (await store.bump_tags("n", [TAG]))[0] > base
        new_epoch, new_base = await store.load("n", 0)
        assert new_epoch > epoch
        assert new_base > max(bumped.values())
        assert set((await store.generations("n", tags(500))).values()) == {new_base}
    assert file.with_suffix(".corrupt").exists()
    with opened(file) as store:
        assert await store.load("n", 0) == (new_epoch, new_base)


async def test_a_file_that_becomes_corrupt_in_use_is_replaced_as_well(file: Path) -> None:
    with opened(file) as store:
        before = await store.load("n", 0)
        file.write_bytes(b"garbage" * 10_000)
        after = await store.load("n", 0)
        assert after[0] > before[0]
        assert after[1] > before[1]
        assert await store.load("n", 0) == after


async def test_a_folder_that_cannot_be_made_ends_no_call_and_is_tried_again(file: Path) -> None:
    file.parent.write_bytes(b"a file in the way")
    with opened(file) as store:
        await answers_without_a_store(store)
        file.parent.unlink()
        state = await store.load("n", 0)
    with opened(file) as store:
        assert await store.load("n", 0) == state


async def test_a_read_only_folder_ends_no_call_and_what_it_holds_is_in_force(
    without_privileges: Any,
) -> None:
    # Not under pytest's own folder, which others may not enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder / "generations.db") as store:
            state = await store.load("n", 0)
            _, bumped = await store.bump_tags("n", [TAG])
        (folder / "generations.db").chmod(0o444)
        folder.chmod(0o555)
        with without_privileges():
            with opened(folder / "generations.db") as store:
                assert await store.load("n", 0) == state
                assert await store.generations("n", [TAG]) == bumped
                await answers_without_a_store(store)
            with opened(folder / "none" / "generations.db") as store:
                await answers_without_a_store(store)


async def test_a_full_disk_ends_no_call_and_what_it_holds_is_in_force(
    file: Path, no_space_beyond: Any
) -> None:
    with opened(file) as store:
        state = await store.load("n", 0)
        _, bumped = await store.bump_tags("n", tags(5000))
        with no_space_beyond(file.stat().st_size):
            generations = Generations(store)
            with pytest.raises(InvalidationNotSharedError, match=r"is full|I/O error"):
                await generations.invalidate_tags("new", tags(5000))
            for number in range(500):
                assert (await generations.state(f"n{number}")).epoch > 0
            assert await store.load("n", 0) == state
            assert await store.generations("n", tags(5000)) == bumped
        _, again = await store.bump_tags("n", tags(5000))
        assert await store.generations("n", tags(5000)) == again


async def test_only_this_user_can_read_the_files(file: Path) -> None:
    with opened(file) as store:
        await store.load("n", 0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_too_many_tags_are_forgotten_and_none_of_their_entries_is_valid_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.local_generations.MAX_STORED_TAGS", 10)
    with opened(file) as store:
        epoch, base = await store.load("n", 0)
        elsewhere = await store.bump_tags("m", tags(11))
        first = await store.bump_tags("n", tags(11))
        assert first[0] == base
        new_base, bumped = await store.bump_tags("n", [TAG])
        assert new_base > max(base, *first[1].values())
        assert bumped[TAG] > new_base
        assert await store.load("n", 0) == (epoch, new_base)
        assert set((await store.generations("n", tags(11))).values()) == {new_base}
        # Other namespaces have not noticed.
        assert await store.generations("m", tags(11)) == elsewhere[1]
    with contextlib.closing(sqlite3.connect(file)) as db:
        query = "SELECT count(*) FROM generations WHERE namespace = 'n'"
        assert db.execute(query).fetchone() == (3,)


async def test_an_invalidation_is_one_even_if_the_clock_was_set_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.local_generations.MAX_STORED_TAGS", 10)
    with opened(file) as store:
        epoch, base = await store.load("n", 0)
        monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
        assert await store.bump_epoch("n") > epoch
        _, bumped = await store.bump_tags("n", tags(11))
        assert min(bumped.values()) > base
        new_base, again = await store.bump_tags("n", [TAG])
        assert new_base > max(bumped.values())
        assert again[TAG] > new_base


async def test_a_call_after_the_end_is_refused(file: Path) -> None:
    store = LocalGenerations(file)
    store.close()
    with pytest.raises(StoreUnavailableError, match="stopped"):
        await store.load("n", 0)
