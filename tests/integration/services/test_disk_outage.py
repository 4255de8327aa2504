"""A disk that cannot be used, of a sidecar that keeps its invalidations there."""

from __future__ import annotations

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


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every access to the file of epochs and generations fails, as it does on a full disk."""
    with monkeypatch.context() as patch:
        patch.setattr(LocalGenerations, "_value", fail)
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
        patch.setattr(LocalGenerations, "_value", fail)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await sidecar.invalidate(**target)
        assert error.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]


async def test_a_folder_that_cannot_be_made_is_named_at_start(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"set disk\.folder to a folder that this user may write to"):
        await start(disk=tmp_path / "file" / "disk")


async def test_a_damaged_file_of_invalidations_is_named_at_start(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "generations.db").write_bytes(b"no database" * 1000)
    with pytest.raises(OSError, match="if the file is damaged, empty the folder"):
        await start(disk=tmp_path / "disk")
