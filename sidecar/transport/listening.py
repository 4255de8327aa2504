"""What the listeners have in common: errors, and sockets of both families of addresses."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import ssl
    from collections.abc import Container

    from aiohttp.web_runner import BaseRunner


class ListenError(Exception):
    """An address cannot be listened on. The message says which and what to do."""


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


async def serve_http(
    runner: BaseRunner, host: str, port: int, context: ssl.SSLContext | None = None
) -> None:
    """Serves an application; the host may be in brackets. Raises `OSError`."""
    host = host.strip("[]")
    every = socket_of_every_address(host, port)
    if every:
        await web.SockSite(runner, every, ssl_context=context).start()
    else:
        await web.TCPSite(runner, host, port, ssl_context=context).start()


def make_room(server: web.Server, most: int, busy: Container[web.RequestHandler]) -> None:
    """Ends the oldest idle connection if there are ``most``; those that are ``busy`` stay."""
    if len(server.connections) < most:
        return
    for each in server.connections:
        if each not in busy and each.transport and not each.transport.is_closing():
            each.transport.abort()
            return


def _is_every(host: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    except ValueError:
        return False
