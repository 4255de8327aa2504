"""A disk that cannot be used, of a sidecar that keeps its invalidations there."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from sidecar.cache.local_generations import LocalGenerations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]


def fail(*_: Any) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def tags_kept(file: Path) -> int:
    with contextlib.closing(sqlite3.connect(file)) as db:
        rows = db.execute(
            "SELECT count(*) FROM generations WHERE field NOT IN (?, ?)", (b"epoch", b"base")
        )
        return int(rows.fetchone()[0])


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every access to the file of epochs and generations fails, as it does on a full disk."""
    with monkeypatch.context() as patch:
        patch.setattr(LocalGenerations, "_transaction", fail)
        yield


async def test_calls_are_answered_when_the_disk_fails(
    start: Start, tmp_path: Path, broken: None
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]
    assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]


@pytest.mark.parametrize("target", [{"tags": ["a tag"]}, {}], ids=["tags", "namespace"])
async def test_an_invalidation_that_cannot_be_kept_is_in_force_and_the_caller_is_told(
    target: dict[str, Any], start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    await sidecar.embed("a text", tags=["a tag"])
    with monkeypatch.context() as patch:
        patch.setattr(LocalGenerations, "_transaction", fail)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sidecar.invalidate(**target)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]


async def test_a_folder_that_cannot_be_made_keeps_no_call_from_being_answered(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    sidecar = await start(disk=tmp_path / "file" / "disk")
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]


async def test_a_damaged_file_of_invalidations_orphans_what_is_on_disk(
    start: Start, tmp_path: Path
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    await sidecar.embed("a text")
    await sidecar.on_disk(1)
    await sidecar.stop()
    (tmp_path / "disk" / "generations.db").write_bytes(b"no database" * 1000)
    sidecar = await start(disk=tmp_path / "disk")
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["HOT"]


async def test_an_invalidation_that_could_not_be_kept_is_kept_when_the_disk_is_back(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.open_tiers.SYNCHRONISE_SECONDS", 0.01)
    sidecar = await start(disk=tmp_path / "disk")
    await sidecar.embed("a text", tags=["a tag"])
    await sidecar.on_disk(1)
    with monkeypatch.context() as patch:
        patch.setattr(LocalGenerations, "_transaction", fail)
        with pytest.raises(grpc.aio.AioRpcError):
            await sidecar.invalidate(tags=["a tag"])
    async with asyncio.timeout(20):
        while not tags_kept(tmp_path / "disk" / "generations.db"):
            await asyncio.sleep(0.005)
    await sidecar.stop()
    sidecar = await start(disk=tmp_path / "disk")
    assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]
