"""Addresses of indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.index.memory import MemoryIndex
from sidecar.index.open import IndexUrlError, open_index

if TYPE_CHECKING:
    from pathlib import Path


def test_memory_is_an_embedded_index() -> None:
    assert isinstance(open_index("memory://"), MemoryIndex)


async def test_a_path_names_the_folder_to_keep_it_in(tmp_path: Path) -> None:
    index = open_index(f"memory://{tmp_path}/with%20space")
    assert list(tmp_path.iterdir()) == []
    await index.start()
    await index.close()
    assert (tmp_path / "with space" / "index.db").is_file()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "memory",
        "memory:",
        "memory:/var/lib",
        "memory://folder",
        "memory://folder/below",
        "memory:///",
        "memory:///folder?size=1",
        "memory://[",
        "qdrant://localhost",
        "http://localhost",
        "/var/lib/index",
        "redis+memory://localhost",
        "redis://localhost/index",
    ],
)
def test_an_address_that_names_no_index_is_refused(url: str) -> None:
    with pytest.raises(IndexUrlError, match="use "):
        open_index(url)


@pytest.mark.parametrize(
    "url",
    [
        "qdrant://user:Secret1@host",
        "memory://user:Secret1@host/folder",
        "memory:///folder?key=Secret1",
        "user:Secret1@host",
        "redis://user:Secret1@host/x",
        "redis://user:Se/cret1@host/x",
        "redis://user:Secret1@host?nonsense=1",
        "redis+cluster://:Secret1@host:port",
        "postgresql://user:Secret1@host/index?nonsense=1",
        "postgresql://user:Secret1%@host/index",
        "postgres://user:Secret1@[host/index",
    ],
)
def test_a_refusal_never_quotes_a_password(url: str) -> None:
    with pytest.raises(IndexUrlError) as raised:
        open_index(url)
    assert "cret1" not in str(raised.value)
