"""Stores and disks that fail when a test wants it, and followers of a real stream."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cache.follower import InvalidationFollower
from sidecar.cache.generations import StoreUnavailableError
from sidecar.cache.local_generations import LocalGenerations
from sidecar.cache.redis_generations import RedisGenerations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from sidecar.cache.generations import Bumped, Generations, GenerationStore, Stored
    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis


@pytest.fixture
async def follow(
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> AsyncIterator[Callable[..., Awaitable[InvalidationFollower]]]:
    """Has the states of a sidecar follow a Redis; the follower runs until the test ends."""
    running: list[asyncio.Task[None]] = []

    async def start(url: str, generations: Generations, **options: Any) -> InvalidationFollower:
        async def nothing() -> None:
            """There are no tiers to empty."""

        async def settled() -> bool:
            return True

        tiers = {"remove": lambda keys: None, "lost": nothing, "settle": settled, "file": None}
        warm = await open_warm(url)
        stream = RedisGenerations(warm, "test").stream
        follower = InvalidationFollower(warm, stream, generations, **(tiers | options))
        await follower.start()
        running.append(asyncio.create_task(follower.run()))
        return follower

    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


class Breakable:
    """A store that is down while it is told to be: an outage that a real one only has by chance."""

    def __init__(self, store: GenerationStore) -> None:
        self._store = store
        self.down = False

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailableError("down")

    async def load(self, namespace: str, epoch: int, scopes: Mapping[bytes, int]) -> Stored:
        self._check()
        return await self._store.load(namespace, epoch, scopes)

    async def generations(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]] | None:
        self._check()
        return await self._store.generations(namespace, tags)

    async def bump_tags(self, namespace: str, tags: Sequence[bytes], change: bytes) -> Bumped:
        self._check()
        return await self._store.bump_tags(namespace, tags, change)

    async def bump_scope(self, namespace: str, scope: bytes, known: int) -> int:
        self._check()
        return await self._store.bump_scope(namespace, scope, known)

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        self._check()
        await self._store.remove(namespace, keys)

    async def expect(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        self._check()
        await self._store.expect(namespace, tag, changes, token)

    async def expected(
        self, namespace: str, tag: bytes, changes: Sequence[bytes]
    ) -> list[bytes | None]:
        self._check()
        return await self._store.expected(namespace, tag, changes)

    async def settle(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        self._check()
        await self._store.settle(namespace, tag, changes, token)


@pytest.fixture(params=["local", "redis"])
async def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> AsyncIterator[Breakable]:
    if request.param == "redis":
        yield Breakable(RedisGenerations(await open_warm(redis_server.url), "test"))
    else:
        local = LocalGenerations(tmp_path / "generations.db")
        yield Breakable(local)
        local.close()


@pytest.fixture
def no_space_beyond() -> Callable[[int], AbstractContextManager[None]]:
    """No file of this process can grow beyond so many bytes, inside the context."""

    @contextlib.contextmanager
    def limited(file_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture
def without_privileges() -> Callable[[], AbstractContextManager[None]]:
    """Root may write to a read-only folder, so be somebody else inside the context."""

    @contextlib.contextmanager
    def somebody_else() -> Iterator[None]:
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield
        finally:
            if root:
                os.seteuid(0)

    return somebody_else
