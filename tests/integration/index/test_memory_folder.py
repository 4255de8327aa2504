"""The embedded index with a folder: what outlives what, and what a bad folder does."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import structlog

from sidecar.index.memory import MemoryIndex
from sidecar.index.types import Collection, IndexSetupError, IndexUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sidecar.index.types import Document, Vector

    MakeDocument = Callable[..., Document]

QUERY = np.array([1, 0, 0, 0], np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


async def test_documents_outlive_a_restart(
    folder: Path, collection: Collection, document: MakeDocument, clusters: Callable[..., Vector]
) -> None:
    other = Collection("team", "other", "model", "v2", 7)
    index = MemoryIndex(folder)
    await index.start()
    await index.upsert(collection, [document("gone", [1, 0, 0, 0]), document("b", [1, 0, 0, 0])])
    await index.upsert(collection, [document("b", [3, 1, 4, 1], [1, 5, 9, 2], tags=("t",))])
    await index.upsert(collection, [document("ä\0\n", [1, 1, 1, 1], metadata={"a": True, "b": 1})])
    await index.upsert(other, [document(f"d{i}", v) for i, v in enumerate(clusters(2500, 7, 1))])
    await index.delete(collection, ["gone"])
    before = await everything(index)
    identity = index.identity
    await index.close()

    index = MemoryIndex(folder)
    await index.start()
    assert index.identity == identity
    assert await everything(index) == before
    [hit] = await index.search(collection, QUERY, 1, None)
    assert hit.document == "b"
    await index.close()


async def everything(index: MemoryIndex) -> list[object]:
    """All collections with their documents, with vectors that can be compared."""
    return [
        (
            collection,
            one.id,
            [(chunk.id, chunk.text, chunk.vector.tobytes()) for chunk in one.chunks],
            one.metadata,
            one.tags,
            one.revision,
        )
        for collection in sorted(await index.collections(), key=repr)
        for one in await index.documents(collection, "", 10_000)
    ]


WRITER = """
import asyncio, sys
from pathlib import Path
import numpy as np
from sidecar.index.memory import MemoryIndex
from sidecar.index.types import Chunk, Collection, Document, Revision

async def main():
    index = MemoryIndex(Path(sys.argv[1]))
    await index.start()
    collection = Collection("default", "articles", "minilm", "v1", 4)
    for number in range(10_000):
        chunks = tuple(Chunk(f"c{i}", "text", np.ones(4, np.float32)) for i in range(3))
        revision = Revision(b"content", b"%d" % number)
        document = Document(f"d{number:05}", chunks, {"number": number}, (), revision)
        await index.upsert(collection, [document])
        if number % 3 == 2:
            await index.delete(collection, [f"d{number - 1:05}"])
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_outlives_a_kill(folder: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        for _ in range(200):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = max([last, *map(int, writer.stdout.read().split())])
    index = MemoryIndex(folder)
    await index.start()
    collection = Collection("default", "articles", "minilm", "v1", 4)
    stored = {one.id: one for one in await index.documents(collection, "", 20_000)}
    expected = {f"d{number:05}" for number in range(last + 1) if number % 3 != 1 or number == last}
    # The one in progress may be there or not, but nothing of it by half.
    unsure = {f"d{number:05}" for number in (last + 1, last)}
    assert set(stored) - unsure == expected - unsure
    assert all(len(one.chunks) == 3 for one in stored.values())
    await index.close()


async def test_every_index_has_an_identity_of_its_own(tmp_path: Path) -> None:
    indexes = [
        MemoryIndex(),
        MemoryIndex(),
        MemoryIndex(tmp_path / "one"),
        MemoryIndex(tmp_path / "two"),
    ]
    for index in indexes:
        await index.start()
    assert len({index.identity for index in indexes}) == 4
    for index in indexes:
        await index.close()


async def test_a_copied_folder_is_another_index_and_the_original_the_same(
    folder: Path, collection: Collection, document: MakeDocument, tmp_path: Path
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    await index.upsert(collection, [document("d", QUERY)])
    identity = index.identity
    await index.close()
    subprocess.run(["cp", "-r", folder, tmp_path / "copy"], check=True)

    copy, index = MemoryIndex(tmp_path / "copy"), MemoryIndex(folder)
    for one in (copy, index):
        await one.start()
        assert [hit.document for hit in await one.search(collection, QUERY, 1, None)] == ["d"]
    assert index.identity == identity
    assert copy.identity != identity
    for one in (copy, index):
        await one.close()

    again = MemoryIndex(tmp_path / "copy")
    await again.start()
    assert again.identity == copy.identity
    await again.close()


async def test_a_folder_that_is_moved_is_the_same_index(folder: Path, tmp_path: Path) -> None:
    index = MemoryIndex(folder)
    await index.start()
    identity = index.identity
    await index.close()
    moved = MemoryIndex(folder.rename(tmp_path / "moved"))
    await moved.start()
    assert moved.identity == identity
    await moved.close()


async def test_an_index_that_is_started_again_stays_as_it_is(
    folder: Path, collection: Collection, document: MakeDocument
) -> None:
    for index in (MemoryIndex(), MemoryIndex(folder)):
        await index.start()
        identity = index.identity
        await index.upsert(collection, [document("d", QUERY)])
        await index.start()
        assert index.identity == identity
        assert await index.collections() == [collection]
        await index.close()


async def test_files_are_for_this_user_only(
    folder: Path, collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    await index.upsert(collection, [document("d", QUERY)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == dict.fromkeys(["index.db", "index.db-wal", "lock"], 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    await index.close()


async def test_a_folder_belongs_to_one_index_at_a_time(folder: Path) -> None:
    first = MemoryIndex(folder)
    await first.start()
    second = MemoryIndex(folder)
    with pytest.raises(IndexSetupError, match=f"{folder} is used by another process; give every"):
        await second.start()
    await first.close()
    await second.start()
    await second.close()


@pytest.mark.parametrize("damage", ["header", "page", "vector", "text", "cut", "foreign"])
async def test_a_damaged_file_is_refused_and_left_as_it_is(
    folder: Path, collection: Collection, document: MakeDocument, damage: str
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    vector = np.arange(1, 5, dtype=np.float32)
    await index.upsert(collection, [document(f"d{i}", vector) for i in range(1000)])
    await index.close()
    file = folder / "index.db"
    content = bytearray(file.read_bytes())
    if damage == "header":
        content[:100] = os.urandom(100)
    elif damage == "page":
        middle = len(content) // 2 // 16384 * 16384
        content[middle : middle + 16384] = bytes(16384)
    elif damage == "vector":
        content[content.index(vector.tobytes()) + 3] ^= 1
    elif damage == "text":
        content[content.index(b"text 0 of d500")] = 0xFF
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        file.unlink()
        with sqlite3.connect(file) as connection:
            connection.execute("PRAGMA user_version = 1")
        connection.close()
        content = bytearray(file.read_bytes())
    file.write_bytes(content)

    index = MemoryIndex(folder)
    with pytest.raises(IndexSetupError, match=f"index file {file}"):
        await index.start()
    assert file.read_bytes() == content
    # It has let go of the folder.
    file.unlink()
    await index.start()
    await index.close()


async def test_a_file_of_another_format_is_refused(folder: Path) -> None:
    index = MemoryIndex(folder)
    await index.start()
    await index.close()
    with sqlite3.connect(folder / "index.db") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    index = MemoryIndex(folder)
    with pytest.raises(IndexSetupError, match="of format 9, and this version of the sidecar reads"):
        await index.start()


async def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    folder.write_text("a file")
    index = MemoryIndex(folder)
    with pytest.raises(IndexSetupError, match=f"cannot use the index folder {folder}"):
        await index.start()


async def test_a_full_disk_changes_nothing_and_is_no_end(
    folder: Path, collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    await index.upsert(collection, [document("old", [1, 0, 0, 0], metadata={"a": "b"})])
    before = await everything(index)
    many = [document(f"d{i}", *np.ones((50, 4))) for i in range(200)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, hard))
    try:
        with structlog.testing.capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(IndexUnavailableError, match="nothing was changed"):
                    await index.upsert(collection, [document("old", [0, 1, 0, 0]), *many])
        assert [log["event"] for log in logs] == ["index cannot write"]
        assert await everything(index) == before
        [hit] = await index.search(collection, QUERY, 10, None)
        assert hit.metadata == {"a": "b"}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    await index.upsert(collection, [document("new", [0, 1, 0, 0])])
    after = await everything(index)
    await index.close()
    index = MemoryIndex(folder)
    await index.start()
    assert await everything(index) == after
    await index.close()


async def test_an_upsert_that_fails_halfway_changes_nothing_and_is_no_end(
    folder: Path, collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    await index.upsert(collection, [document("a", [1, 0, 0, 0])])
    before = await everything(index)
    changed = document("a", [0, 1, 0, 0])
    with pytest.raises(UnicodeEncodeError):
        await index.upsert(collection, [changed, replace(changed, id="half of a \ud83d")])
    with pytest.raises(ValueError, match="do not fit"):
        await index.upsert(collection, [document("a", [0, 1, 0])])
    assert await everything(index) == before
    await index.upsert(collection, [document("b", [1, 0, 0, 0])])
    assert len(await everything(index)) == 2
    await index.close()


async def test_documents_that_are_replaced_again_and_again_take_no_more_memory(
    collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex()
    await index.start()
    wide = replace(collection, dimensions=500)
    tracemalloc.start()
    try:
        for _ in range(20):
            await index.upsert(wide, [document(f"d{i}", np.ones(500)) for i in range(600)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * 600 * 500 * 4
    await index.close()


async def test_an_upsert_whose_caller_has_gone_is_done_whole_or_not_at_all(
    folder: Path, collection: Collection, document: MakeDocument
) -> None:
    index = MemoryIndex(folder)
    await index.start()
    tasks = [
        asyncio.create_task(index.upsert(collection, [document(f"d{i}", *np.ones((3, 4)))]))
        for i in range(50)
    ]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await index.close()
    in_memory = await everything(index)
    assert in_memory
    again = MemoryIndex(folder)
    await again.start()
    assert await everything(again) == in_memory
    await again.close()
