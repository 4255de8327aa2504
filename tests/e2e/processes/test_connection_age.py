"""Connections of a certain age end, so that callers find new replicas, and no call fails by it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable

    Process = Any
    Sidecar = Any


async def test_an_old_connection_is_replaced_and_no_call_fails(
    launch: Callable[..., Process], client_of: Callable[[str], Sidecar]
) -> None:
    process = launch(server_max_connection_age="200ms")
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address)
    ports: set[int] = set()
    while len(ports) < 4:
        # Each raises if it fails; the client does not repeat them.
        await sidecar.vectors("a text")
        connections = psutil.Process(process.popen.pid).net_connections("tcp")
        ports |= {each.raddr.port for each in connections if each.status == psutil.CONN_ESTABLISHED}
