"""What the listeners have in common: errors, and sockets of both families of addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Container

    from aiohttp import web

_HANDSHAKE_SECONDS = 5.0


class ListenError(Exception):
    """An address cannot be listened on. The message says which and what to do."""


def cannot_listen(address: str) -> ListenError:
    """What is said where gRPC cannot listen on a TCP address."""
    return ListenError(
        f"cannot listen on {address}: is another process using it? Set server.address"
    )


def socket_of_every_address(host: str, port: int) -> socket.socket | None:
    """For the host ``::``, a socket that listens on all addresses, those of IPv4 too; else None.

    That is what gRPC takes the host for; asyncio would leave IPv4 out. Where the kernel has no
    IPv6, it is one of IPv4 alone. Raises `OSError`.
    """
    if not _is_every(host):
        return None
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


async def listen(
    connection: Callable[[], asyncio.Protocol],
    host: str,
    port: int,
    context: ssl.SSLContext | None = None,
) -> asyncio.Server:
    """Takes connections, each served by a new ``connection``; the host may be in brackets.

    One that is to be encrypted has five seconds for that. Raises `OSError`.
    """
    options = {} if context is None else {"ssl_handshake_timeout": _HANDSHAKE_SECONDS}
    create = partial(asyncio.get_running_loop().create_server, connection, ssl=context, **options)
    host = host.strip("[]")
    every = socket_of_every_address(host, port)
    return await (create(sock=every) if every else create(host, port))


class TurnedAway(asyncio.Protocol):
    """Serves a connection for which there is no room: ends it at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        cast("asyncio.Transport", transport).abort()


def make_room(server: web.Server, most: int, busy: Container[web.RequestHandler]) -> bool:
    """Ends the oldest idle connections until there are fewer than ``most``; ``busy`` ones stay.

    Returns whether there are fewer then. There may be more for a moment: those that come together
    are all taken before the first counts.
    """
    surplus = len(server.connections) - most + 1
    for each in server.connections if surplus > 0 else ():
        if each.transport is None or each.transport.is_closing():
            surplus -= 1
        elif each not in busy:
            each.transport.abort()
            surplus -= 1
        if surplus <= 0:
            break
    return surplus <= 0


def _is_every(host: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    except ValueError:
        return False
