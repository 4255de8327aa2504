"""The embedded index when its memory is used up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from sidecar.index.memory import MemoryIndex
from sidecar.index.types import IndexFullError
from sidecar.telemetry.index_metrics import IndexCollector

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.index.types import Collection, Document

    MakeDocument = Callable[..., Document]

VECTOR = [1.0, 0.0, 0.0, 0.0]
CAPACITY = 100_000


async def fill(index: MemoryIndex, collection: Collection, document: MakeDocument) -> list[str]:
    """Stores documents until one is refused; the ids of those that are there."""
    stored: list[str] = []
    while True:
        name = f"d{len(stored):04}"
        try:
            await index.upsert(collection, [document(name, VECTOR)])
        except IndexFullError:
            return stored
        stored.append(name)


async def test_what_has_no_room_is_refused_as_a_whole_and_nothing_is_lost(
    collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(capacity_bytes=CAPACITY)
    stored = await fill(index, collection, document)
    held = index.bytes
    assert held <= CAPACITY < held * (len(stored) + 1) / len(stored)
    with pytest.raises(IndexFullError, match=r"may take 100000 bytes, and would take 100\d{3};"):
        await index.upsert(collection, [document(stored[0], [2, 0, 0, 0]), document("x", VECTOR)])
    assert [one.id for one in await index.documents(collection, "", 1000)] == stored
    (first,) = await index.documents(collection, "", 1)
    assert first.chunks[0].vector is not None
    assert first.chunks[0].vector.tolist() == VECTOR
    assert index.bytes == held
    await index.close()


async def test_in_a_full_index_documents_can_be_replaced_and_removed(
    collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(capacity_bytes=CAPACITY)
    stored = await fill(index, collection, document)
    await index.upsert(collection, [document(name, [2, 0, 0, 0]) for name in stored])
    with pytest.raises(IndexFullError):
        await index.upsert(collection, [document(stored[0], VECTOR, VECTOR, VECTOR, VECTOR)])
    await index.delete(collection, stored[:1])
    await index.upsert(collection, [document("other", VECTOR)])
    await index.delete(collection, [*stored, "other"])
    assert index.bytes == 0
    await index.close()


async def test_what_is_in_a_folder_is_there_even_if_it_is_too_much(
    collection: Collection, document: MakeDocument, tmp_path: Path
) -> None:
    index = MemoryIndex(tmp_path, CAPACITY)
    await index.start()
    stored = await fill(index, collection, document)
    await index.close()
    index = MemoryIndex(tmp_path, 1)
    await index.start()
    assert await index.count(collection) == len(stored)
    await index.upsert(collection, [document(stored[0], [2, 0, 0, 0])])
    with pytest.raises(IndexFullError):
        await index.upsert(collection, [document("x", VECTOR)])
    await index.close()


async def test_how_much_is_used_is_measured(collection: Collection, document: MakeDocument) -> None:
    index, registry = MemoryIndex(capacity_bytes=CAPACITY), CollectorRegistry()
    registry.register(IndexCollector(index))
    await index.upsert(collection, [document("a", VECTOR)])
    assert registry.get_sample_value("embercache_index_bytes") == index.bytes > 0
    assert registry.get_sample_value("embercache_index_capacity_bytes") == CAPACITY
    await index.close()
