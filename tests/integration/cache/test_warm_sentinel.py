"""The warm tier behind a real Sentinel: when the primary dies, the replica takes over."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from sidecar.dev_redis import DevRedis, find_redis_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from sidecar.cache.warm import WarmTier

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

CONFIG = """
port {port}
dir {folder}
logfile {folder}/sentinel.log
sentinel monitor main 127.0.0.1 {primary} 1
sentinel down-after-milliseconds main 300
sentinel failover-timeout main 2000
"""


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not holds(condition):
        assert time.monotonic() < give_up
        time.sleep(0.01)


def holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except (RedisConnectionError, ResponseError):
        return False


@pytest.fixture
def primary() -> Iterator[DevRedis]:
    at_once = ("--repl-diskless-sync-delay", "0")
    with DevRedis(port=free_port(), arguments=at_once) as server:
        yield server


@pytest.fixture
def replica(primary: DevRedis) -> Iterator[DevRedis]:
    follow = ("--replicaof", f"127.0.0.1 {primary.port}")
    with DevRedis(port=free_port(), arguments=follow) as server:
        with Redis(unix_socket_path=str(server.socket_path)) as client:
            wait_for(lambda: client.info("replication")["master_link_status"] == "up")
        yield server


@pytest.fixture
def sentinel(primary: DevRedis, replica: DevRedis, tmp_path: Path) -> Iterator[Redis]:
    """A Sentinel that knows of the replica."""
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(CONFIG.format(port=port, folder=tmp_path, primary=primary.port))
    process = subprocess.Popen([find_redis_server(), config, "--sentinel"])
    try:
        with Redis(port=port) as client:
            # It asks the servers how they are every ten seconds otherwise.
            wait_for(lambda: client.execute_command("SENTINEL", "DEBUG", "info-period", "100"))
            wait_for(lambda: client.sentinel_slaves("main"))
            yield client
    finally:
        process.kill()
        process.wait()


def url(sentinel: Redis, dead: int | None = None) -> str:
    port = sentinel.connection_pool.connection_kwargs["port"]
    others = f"127.0.0.1:{dead}," if dead else ""
    return f"redis+sentinel://{others}127.0.0.1:{port}/main/1"


async def test_values_are_kept_on_the_primary_that_sentinel_names(
    primary: DevRedis, sentinel: Redis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(url(sentinel))
    warm.put(b"k", b"x", 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"k", b"missing"]) == [b"x", None]
    with Redis(unix_socket_path=str(primary.socket_path), db=1) as client:
        assert client.get(b"k") == b"x"


async def test_a_sentinel_that_is_down_is_passed_over(sentinel: Redis, open_warm: OpenWarm) -> None:
    warm = await open_warm(url(sentinel, dead=free_port()))
    assert warm.state == "up"


async def test_an_unknown_service_is_an_outage_and_no_crash(
    sentinel: Redis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(url(sentinel).replace("/main/", "/other/"))
    assert warm.state == "down"
    assert await warm.get_many([b"k"]) == [None]


async def test_the_replica_is_used_once_sentinel_has_promoted_it(
    primary: DevRedis,
    replica: DevRedis,
    sentinel: Redis,
    open_warm: OpenWarm,
    eventually: Eventually,
) -> None:
    warm = await open_warm(url(sentinel))
    warm.put(b"before", b"x", 0, replace=False)
    assert await warm.flush(10)
    await warm.run(lambda redis: redis.wait(1, 5000))
    primary.kill()
    while warm.state == "up":
        await warm.get_many([b"before"])
    await eventually(lambda: warm.state == "up")
    assert sentinel.sentinel_get_master_addr_by_name("main")[1] == replica.port
    assert await warm.get_many([b"before"]) == [b"x"]
    warm.put(b"after", b"y", 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"after"]) == [b"y"]


async def test_a_primary_that_became_a_replica_is_left_at_the_first_write(
    primary: DevRedis,
    replica: DevRedis,
    sentinel: Redis,
    open_warm: OpenWarm,
    eventually: Eventually,
) -> None:
    warm = await open_warm(url(sentinel))
    with Redis(unix_socket_path=str(replica.socket_path), db=1) as promoted:
        # Refused until Sentinel has heard from the replica.
        await eventually(lambda: holds(lambda: sentinel.sentinel_failover("main")))
        await eventually(lambda: promoted.role()[0] == b"master")
        with Redis(unix_socket_path=str(primary.socket_path)) as demoted:
            # Sentinel would do the same, some seconds later.
            demoted.replicaof("127.0.0.1", replica.port)
        turn = 0

        def written() -> bool:
            nonlocal turn
            turn += 1
            warm.put(b"%d" % turn, b"x", 0, replace=True)
            return bool(promoted.dbsize())

        await eventually(written)
    assert await warm.flush(10)
    warm.put(b"k", b"x", 0, replace=False)
    assert await warm.flush(10)
    assert await warm.get_many([b"k"]) == [b"x"]
