"""Encoders as processes, one of which is killed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Launch = Callable[..., Any]
    Start = Callable[..., Awaitable[Any]]


async def test_no_call_fails_when_an_encoder_is_killed(
    launch: Launch, client_of: Callable[[str], Any], start: Start
) -> None:
    processes = [launch(), launch()]
    addresses = [process.wait_until_it_serves()[0] for process in processes]
    one, two = (client_of(address) for address in addresses)
    front = await start(model={"packs": ["tiny"]}, encoder={"target": ",".join(addresses)})
    done = asyncio.Event()

    async def call(worker: int) -> int:
        turn = 0
        while not done.is_set():
            response = await front.embed(*(f"{worker} {turn} {i}" for i in range(5)))
            assert [e.error.message for e in response.embeddings] == [""] * 5
            turn += 1
        return turn

    workers = [asyncio.create_task(call(worker)) for worker in range(8)]
    while min(await one.computed(), await two.computed()) < 50:
        pass
    processes[0].popen.kill()
    before = await two.computed()
    while await two.computed() < before + 200:
        pass
    # It comes back, and is used again.
    processes.append(launch(server_address=addresses[0]))
    processes[-1].wait_until_it_serves()
    again = client_of(addresses[0])
    while await again.computed() < 50:
        pass
    done.set()
    assert min(await asyncio.gather(*workers)) > 0


async def test_sidecars_of_two_processes_share_a_redis_and_an_invalidation(
    launch: Launch,
    client_of: Callable[[str], Any],
    redis_server: DevRedis,
    view: Callable[[DevRedis], Any],
    eventually: Callable[[Callable[[], object]], Awaitable[None]],
    tmp_path: Path,
) -> None:
    environment = {"EMBERCACHE_REDIS_URL": redis_server.url, "EMBERCACHE_REDIS_TIMEOUT": "5s"}
    processes = [launch(environment=environment) for _ in range(2)]
    one, two = (client_of(process.wait_until_it_serves()[0]) for process in processes)
    vectors = await one.vectors("one", "two", tags=["a tag"])
    await eventually(lambda: len(view(redis_server).entries()) == 2)
    response = await two.embed("one", "two", tags=["a tag"])
    assert [e.vector for e in response.embeddings] == vectors
    assert await two.computed() == 0
    await one.invalidate(tags=["a tag"])
    async with asyncio.timeout(20):
        while not await two.computed():
            await two.embed("one", "two", tags=["a tag"])
