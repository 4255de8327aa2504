"""The documents of one collection in memory, after many changes."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sidecar.index.filters import In
from sidecar.index.memory_table import Stored, Table
from sidecar.index.types import Chunk, Document, Revision


def test_holds_what_was_put_last_through_growth_and_dropping_of_the_dead() -> None:
    rng = random.Random(1)
    table, there, dropped = Table(3), {}, 0
    for step in range(3000):
        some = [stored(f"d{rng.randrange(40)}", step) for _ in range(rng.randrange(3))]
        some = list({one.document.id: one for one in some}.values())
        gone = [f"d{rng.randrange(40)}" for _ in range(rng.randrange(2))]
        table.put(some)
        there |= {one.document.id: one for one in some}
        table.delete(gone)
        for one in gone:
            there.pop(one, None)
        if table.is_sparse:
            table = table.without_dead()
            assert not table.is_sparse
            dropped += 1
    assert dropped > 1
    assert len(table) == len(there)
    assert [one.document.id for one in table.page("", 100)] == sorted(there)
    for one in table.page("", 100):
        assert one.document == there[one.document.id].document
        assert one.vectors.tolist() == there[one.document.id].vectors.tolist()
    hits = table.search(np.ones(3, np.float32), 1000, None)
    assert sorted((hit.document, hit.chunk) for hit in hits) == sorted(
        (one.document.id, chunk.id) for one in there.values() for chunk in one.document.chunks
    )
    for parity in (0.0, 1.0):
        hits = table.search(np.ones(3, np.float32), 1000, In("parity", (parity,)))
        assert {hit.document for hit in hits} == {
            one.document.id for one in there.values() if one.document.metadata["parity"] == parity
        }


def test_a_search_sees_each_document_whole_while_another_thread_changes_it() -> None:
    tables = [Table(3)]
    tables[0].put([stored(f"d{i}", 0) for i in range(50)])
    done = False

    def change() -> None:
        nonlocal done
        for step in range(1, 400):
            tables[0].put([stored(f"d{i}", step) for i in range(0, 50, 1 + step % 3)])
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


def stored(name: str, step: int) -> Stored:
    """A document with one to three chunks that are told by the step."""
    chunks = tuple(Chunk(f"c{i}", f"{step}", None) for i in range(1 + step % 3))
    vectors = np.array([[1, i, step] for i in range(len(chunks))], np.float32)
    metadata = {"step": float(step), "parity": float(step % 2)}
    return Stored(Document(name, chunks, metadata, (), Revision(b"", b"")), vectors)
