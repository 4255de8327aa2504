"""A sidecar that has no file descriptor left: what is open goes on, and all is well afterwards."""

from __future__ import annotations

import asyncio
import resource
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from embercache.v1 import cache_pb2, common_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.dev_redis import DevRedis

    Launch = Callable[..., Any]
    ClientOf = Callable[[str], Any]

HANG_GUARD = 30.0
UP, DOWN = cache_pb2.WarmState.STATE_UP, cache_pb2.WarmState.STATE_DOWN
NOFILE = resource.RLIMIT_NOFILE


@pytest.fixture
def ports() -> list[int]:
    """Ports that nobody listens on."""
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
        return [one.getsockname()[1], two.getsockname()[1]]


@pytest.fixture
def connect() -> Iterator[Callable[[int], socket.socket]]:
    """Connects to ports of this machine, and says nothing."""
    made: list[socket.socket] = []

    def to(port: int) -> socket.socket:
        made.append(socket.create_connection(("127.0.0.1", port), timeout=HANG_GUARD))
        return made[-1]

    yield to
    for each in made:
        each.close()


async def ready(port: int) -> int:
    """The status of /readyz; 0 if nobody answers."""

    def ask() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                return int(answer.status)
        except OSError as error:
            return getattr(error, "code", 0)

    return await asyncio.to_thread(ask)


async def test_without_descriptors_open_connections_are_served_and_the_rest_comes_back_later(
    launch: Launch,
    client_of: ClientOf,
    own_redis: DevRedis,
    ports: list[int],
    connect: Callable[[int], socket.socket],
) -> None:
    process = launch(
        environment={"EMBERCACHE_REDIS_URL": own_redis.url},
        server_metrics_address=f"127.0.0.1:{ports[0]}",
        server_openai_address=f"127.0.0.1:{ports[1]}",
    )
    address = process.wait_until_it_serves()[0]
    client, pid = client_of(address), process.popen.pid
    await client.embed("old")
    assert await ready(ports[0]) == 200
    seen = psutil.Process(pid)
    before = resource.prlimit(pid, NOFILE)
    # What is open stays open, and nothing more can be opened.
    resource.prlimit(pid, NOFILE, (3, before[1]))
    for port in (int(address.rpartition(":")[2]), *ports):
        for _ in range(20):
            connect(port)
    assert await ready(ports[0]) != 200
    own_redis.kill()
    own_redis.start()
    lines = len(process.events)
    async with asyncio.timeout(HANG_GUARD):
        number = 0
        while (await client.stats()).warm.state != DOWN:
            assert await client.tiers("old", f"new {number}") == ["HOT", "COMPUTED"]
            number += 1
    # It neither spins nor tells of each connection that it could not take.
    idle = seen.cpu_times()
    await asyncio.sleep(0.5)
    used = seen.cpu_times()
    assert used.user + used.system - idle.user - idle.system < 0.25
    assert len(process.events) - lines < 20

    resource.prlimit(pid, NOFILE, before)
    async with asyncio.timeout(HANG_GUARD):
        while (await client.stats()).warm.state != UP:
            await asyncio.sleep(0.01)
        while await ready(ports[0]) != 200:
            pass
    # Over a new connection.
    await client_of(address).embed("old")


@pytest.mark.threat("A stranger takes every connection there is")
async def test_idle_connections_leave_descriptors_for_what_the_sidecar_needs_itself(
    launch: Launch,
    client_of: ClientOf,
    own_redis: DevRedis,
    ports: list[int],
    connect: Callable[[int], socket.socket],
) -> None:
    process = launch(
        behind=["prlimit", "--nofile=256:256"],
        environment={"EMBERCACHE_REDIS_URL": own_redis.url},
        server_metrics_address=f"127.0.0.1:{ports[0]}",
        server_openai_address=f"127.0.0.1:{ports[1]}",
    )
    address = process.wait_until_it_serves()[0]
    client = client_of(address)
    await client.embed("old")
    for port in (int(address.rpartition(":")[2]), ports[1]):
        for _ in range(300):
            connect(port)
    assert await ready(ports[0]) == 200
    own_redis.kill()
    while (await client.stats()).warm.state == UP:
        await client.embed("new", mode=common_pb2.CACHE_MODE_REFRESH)
    own_redis.start()
    async with asyncio.timeout(HANG_GUARD):
        while (await client.stats()).warm.state != UP:
            await asyncio.sleep(0.01)
    assert psutil.Process(process.popen.pid).num_fds() < 256
