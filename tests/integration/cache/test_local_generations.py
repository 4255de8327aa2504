"""The invalidations of a sidecar without Redis, on disks that are full, read-only or corrupt."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import sidecar.cache.local_generations
from sidecar.cache.generations import (
    Generations,
    InvalidationNotSharedError,
    StoreUnavailableError,
    kind_scope,
)
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.namespace_state import WHOLE_NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.generations import Stored

TAG = b"t" * 16

Opened = contextlib.closing[LocalGenerations]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "generations.db"


def opened(file: Path) -> Opened:
    return contextlib.closing(LocalGenerations(file))


def tags(count: int) -> list[bytes]:
    return [b"%016d" % number for number in range(count)]


async def loaded(store: LocalGenerations, namespace: str = "n") -> Stored:
    return await store.load(namespace, 0, {})


async def bump(
    store: LocalGenerations, tags: list[bytes], namespace: str = "n"
) -> dict[bytes, int]:
    steps = (await store.bump_tags(namespace, tags, b"")).steps
    return {tag: generation for tag, (_, generation) in steps.items()}


async def generations(
    store: LocalGenerations, tags: list[bytes], namespace: str = "n"
) -> dict[bytes, int]:
    answer = await store.generations(namespace, tags)
    assert answer is not None
    return answer[1]


async def answers_without_a_store(store: LocalGenerations) -> None:
    """Calls have a state to go on with; who invalidates is told that it will not last."""
    states = Generations(store)
    state = await states.state("new")
    assert state.epoch > 0
    await states.resolve(state, [TAG])
    with pytest.raises(InvalidationNotSharedError, match=r"generations\.db cannot be used"):
        await states.invalidate_tags("new", [TAG])
    with pytest.raises(InvalidationNotSharedError, match="has space"):
        await states.invalidate_namespace("new")


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
        epoch, base, _ = await loaded(store)
        bumped = await bump(store, tags(500))
    file.write_bytes(corrupt(file.read_bytes()))
    with opened(file) as store:
        # The damage may be found by any of the calls, hence the last of them is what counts.
        await generations(store, tags(500))
        assert (await store.bump_tags("n", [TAG], b"")).base > base
        state = await loaded(store)
        assert state.epoch > epoch
        assert state.base > max(bumped.values())
        assert set((await generations(store, tags(500))).values()) == {state.base}
    assert file.with_suffix(".corrupt").exists()
    with opened(file) as store:
        assert await loaded(store) == state


async def test_a_file_that_becomes_corrupt_in_use_is_replaced_as_well(file: Path) -> None:
    with opened(file) as store:
        before = await loaded(store)
        file.write_bytes(b"garbage" * 10_000)
        after = await loaded(store)
        assert after.epoch > before.epoch
        assert after.base > before.base
        assert await loaded(store) == after


async def test_a_sidecar_that_knows_the_epoch_of_a_corrupt_file_gets_a_later_one(
    file: Path,
) -> None:
    """Whatever it knows may be less than what was lost."""
    with opened(file) as store:
        epoch = (await loaded(store)).epoch
        file.write_bytes(b"garbage" * 10_000)
        ahead = epoch + 3_600_000_000
        assert (await store.load("n", ahead, {})).epoch > ahead


async def test_a_folder_that_cannot_be_made_ends_no_call_and_is_tried_again(file: Path) -> None:
    file.parent.write_bytes(b"a file in the way")
    with opened(file) as store:
        await answers_without_a_store(store)
        file.parent.unlink()
        state = await loaded(store)
    with opened(file) as store:
        assert await loaded(store) == state


async def test_a_read_only_folder_ends_no_call_and_what_it_holds_is_in_force(
    without_privileges: Any,
) -> None:
    # Not under pytest's own folder, which others may not enter.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with opened(folder / "generations.db") as store:
            state = await loaded(store)
            bumped = await bump(store, [TAG])
        (folder / "generations.db").chmod(0o444)
        folder.chmod(0o555)
        with without_privileges():
            with opened(folder / "generations.db") as store:
                assert await loaded(store) == state
                assert await generations(store, [TAG]) == bumped
                await answers_without_a_store(store)
            with opened(folder / "none" / "generations.db") as store:
                await answers_without_a_store(store)


async def test_a_full_disk_ends_no_call_and_what_it_holds_is_in_force(
    file: Path, no_space_beyond: Any
) -> None:
    with opened(file) as store:
        state = await loaded(store)
        bumped = await bump(store, tags(5000))
        with no_space_beyond(file.stat().st_size):
            states = Generations(store)
            with pytest.raises(InvalidationNotSharedError, match=r"is full|I/O error"):
                await states.invalidate_tags("new", tags(5000))
            for number in range(500):
                assert (await states.state(f"n{number}")).epoch > 0
            assert await loaded(store) == state
            assert await generations(store, tags(5000)) == bumped
        again = await bump(store, tags(5000))
        assert await generations(store, tags(5000)) == again


async def test_only_this_user_can_read_the_files(file: Path) -> None:
    with opened(file) as store:
        await loaded(store)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_too_many_tags_are_forgotten_and_none_of_their_entries_is_valid_again(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.local_generations.MAX_STORED_TAGS", 10)
    with opened(file) as store:
        epoch, base, _ = await loaded(store)
        elsewhere = await bump(store, tags(11), "m")
        first = await store.bump_tags("n", tags(11), b"")
        assert first.base == base
        new_base, steps = await store.bump_tags("n", [TAG], b"")
        assert new_base > max(base, *(generation for _, generation in first.steps.values()))
        assert steps[TAG][0] == new_base
        assert steps[TAG][1] > new_base
        assert await loaded(store) == (epoch, new_base, {})
        assert set((await generations(store, tags(11))).values()) == {new_base}
        # Other namespaces have not noticed.
        assert await generations(store, tags(11), "m") == elsewhere
    with contextlib.closing(sqlite3.connect(file)) as db:
        query = "SELECT count(*) FROM generations WHERE namespace = 'n'"
        assert db.execute(query).fetchone() == (3,)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.threat("A caller makes the sidecar hold ever more state")
async def test_when_there_are_too_many_namespaces_the_oldest_go_and_nothing_of_them_is_valid_again(
    file: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    monkeypatch.setattr(sidecar.cache.local_generations, "MAX_ROWS", 100)
    names = [f"n{number}" for number in range(60)]
    with contextlib.closing(LocalGenerations(None if in_memory else file)) as store:
        known = Generations(store)
        first = await known.state("first")
        await known.invalidate_tags("first", [TAG])
        await known.invalidate_scope("first", kind_scope("search"))
        await known.resolve(first, [TAG])
        before = (first.epoch, first.generation(TAG), first.stamp)
        states = {name: await loaded(store, name) for name in names}
        assert store._db is not None
        assert sidecar.cache.local_generations._count(store._db) <= 100
        # The last ones are as they were, the first one began anew, later.
        assert await loaded(store, "n59") == states["n59"]
        assert (await loaded(store, "n0")).epoch > states["n0"].epoch
        await known.synchronise()
        assert first.epoch > before[0]
        assert first.generation(TAG) is None
        assert first.stamp != before[2]


async def test_the_rows_of_a_file_count_after_a_restart(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(file) as store:
        epochs = [(await loaded(store, f"n{number}")).epoch for number in range(10)]
        for number in range(10):
            await bump(store, tags(10), f"n{number}")
    monkeypatch.setattr(sidecar.cache.local_generations, "MAX_ROWS", 100)
    with opened(file) as store:
        bumped = await bump(store, tags(10), "last")
        assert store._db is not None
        assert sidecar.cache.local_generations._count(store._db) <= 100
        assert await generations(store, tags(10), "last") == bumped
        assert (await loaded(store, "n9")).epoch == epochs[9]
        assert (await loaded(store, "n0")).epoch > epochs[0]


async def test_an_invalidation_is_one_even_if_the_clock_was_set_back(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cache.local_generations.MAX_STORED_TAGS", 10)
    with opened(file) as store:
        epoch, base, _ = await loaded(store)
        monkeypatch.setattr("time.time_ns", lambda: 1_000_000_000)
        scoped = await store.bump_scope("n", kind_scope("search"), 0)
        assert scoped > epoch
        assert await store.bump_scope("n", WHOLE_NAMESPACE, 0) > scoped
        bumped = await bump(store, tags(11))
        assert min(bumped.values()) > base
        new_base, steps = await store.bump_tags("n", [TAG], b"")
        assert new_base > max(bumped.values())
        assert steps[TAG][1] > new_base


async def test_a_call_after_the_end_is_refused(file: Path) -> None:
    store = LocalGenerations(file)
    store.close()
    with pytest.raises(StoreUnavailableError, match="stopped"):
        await loaded(store)
