"""The documents of one collection in memory, after many changes."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sidecar.index.filters import In
from sidecar.index.memory_documents import Packed, memory_of, pack, unpack
from sidecar.index.memory_table import Table
from sidecar.index.types import Chunk, Document, Revision


def test_holds_what_was_put_last_through_growth_and_dropping_of_the_dead() -> None:
    rng = random.Random(1)
    table, there, dropped = Table(3), {}, 0
    for step in range(3000):
        some = [packed(f"d{rng.randrange(40)}", step) for _ in range(rng.randrange(1, 4))]
        some = list({one.id: one for one in some}.values())
        gone = [f"d{rng.randrange(40)}" for _ in range(rng.randrange(3))]
        table.put(some)
        there |= {one.id: one for one in some}
        table.delete(gone)
        for one in gone:
            there.pop(one, None)
        if table.is_sparse:
            table = table.without_dead()
            assert not table.is_sparse
            check(table, there)
            dropped += 1
    check(table, there)
    assert dropped > 1


def check(table: Table, there: dict[str, Packed]) -> None:
    """The table has these documents and nothing else."""
    assert len(table) == len(there)
    assert table.bytes == sum(memory_of(one, fields=2) for one in there.values())
    page = table.page("", 1000)
    assert [one.id for one in page] == sorted(there)
    for one in page:
        assert one.body == there[one.id].body
        assert one.revision == there[one.id].revision
        assert one.vectors.tolist() == there[one.id].vectors.tolist()
    for where in (None, In("parity", (0.0,)), In("parity", (1.0,))):
        hits = table.search(np.ones(3, np.float32), 1000, where)
        assert sorted((hit.document, hit.chunk, hit.text) for hit in hits) == sorted(
            (one.id, chunk.id, chunk.text)
            for one in map(unpack, there.values())
            if where is None or one.metadata["parity"] in where.values
            for chunk in one.chunks
        )


def test_a_table_without_the_dead_is_one_of_its_own() -> None:
    table = Table(3)
    table.put([packed(f"d{i}", i) for i in range(5)])
    other = table.without_dead()
    other.delete(["d1", "d3"])
    other.put([packed("d2", 7), packed("d9", 9)])
    check(table, {f"d{i}": packed(f"d{i}", i) for i in range(5)})


def test_a_search_sees_each_document_whole_while_another_thread_changes_it() -> None:
    tables = [Table(3)]
    tables[0].put([packed(f"d{i}", 0) for i in range(50)])
    done = False

    def change() -> None:
        nonlocal done
        for step in range(1, 400):
            tables[0].put([packed(f"d{i}", step) for i in range(0, 50, 1 + step % 3)])
            if tables[0].is_sparse:
                tables[0] = tables[0].without_dead()
        done = True

    def look() -> int:
        looks = 0
        while not done:
            hits = tables[0].search(np.ones(3, np.float32), 1000, None)
            steps: dict[str, set[float]] = {}
            for hit in hits:
                steps.setdefault(hit.document, set()).add(hit.metadata["step"])
            assert len(steps) == 50
            assert all(len(seen) == 1 for seen in steps.values())
            assert len(hits) == sum(1 + int(step) % 3 for [step] in steps.values())
            looks += 1
        return looks

    with ThreadPoolExecutor(3) as threads:
        looking = [threads.submit(look), threads.submit(look)]
        threads.submit(change).result()
        assert all(one.result() for one in looking)


def packed(name: str, step: int) -> Packed:
    """A document with one to three chunks that are told by the step."""
    chunks = tuple(Chunk(f"c{i}", f"{step}", None) for i in range(1 + step % 3))
    vectors = np.array([[1, i, step] for i in range(len(chunks))], np.float32)
    metadata = {"step": float(step), "parity": float(step % 2)}
    revision = Revision(b"%d" % (step % 7), b"%d" % step)
    return pack(Document(name, chunks, metadata, (), revision), vectors)
