"""What a sidecar says of itself while what it depends on is away."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]


async def test_metrics_tell_what_is_left_alone_and_readiness_that_calls_are_taken(
    start_front: Start, unused_tcp_port: int, redis_server: DevRedis
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = {"address": "127.0.0.1:0", "metrics_address": address, "drain_delay": 0}
    await start_front(
        f"127.0.0.1:{unused_tcp_port}", model="absent", server=server, redis=redis_server
    )

    def read(path: str) -> str:
        with urllib.request.urlopen(f"http://{address}/{path}", timeout=20) as response:
            text: str = response.read().decode()
        return text

    # Hits are served: taken out of service, it would serve nothing.
    assert await asyncio.to_thread(read, "readyz") == "calls are taken\n"
    lines = (await asyncio.to_thread(read, "metrics")).splitlines()
    assert 'embercache_breaker_open{upstream="encoder absent"} 1.0' in lines
    assert any(line.startswith('embercache_breaker_open{upstream="redis"} ') for line in lines)
