"""Sockets that the front door listens on, as gRPC's own server would open them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
from typing import TYPE_CHECKING

from sidecar.transport.listening import cannot_listen, socket_of_every_address
from sidecar.transport.socket_access import bound_to, give_access

if TYPE_CHECKING:
    from collections.abc import Iterable

# As many as the kernel allows: callers that come together are not to come again.
_BACKLOG = 65535
_EVERY_ADDRESS = ("::", "0.0.0.0")  # noqa: S104
# So it is with ::1 on machines without IPv6 whose file of hosts has it.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def listen_tcp(address: str) -> tuple[list[socket.socket], str]:
    """Sockets that listen on an address ``HOST:PORT``, and the address with the port bound.

    A name like ``localhost`` may stand for several addresses, which then have one port.

    Raises:
        ListenError: one of them cannot be listened on.
    """
    host, _, port = address.rpartition(":")
    try:
        sockets = await _open(host.strip("[]"), int(port))
    except (OSError, UnicodeError):
        raise cannot_listen(address) from None
    for each in sockets:
        each.listen(_BACKLOG)
    return sockets, f"{host}:{sockets[0].getsockname()[1]}"


class UnixListener:
    """A Unix socket that listens on a path, which is given to whom mode and group say.

    Raises:
        ListenError: that cannot be done.
    """

    def __init__(self, path: str, mode: str, group: str) -> None:
        self.path = os.path.abspath(path)
        self._file: tuple[int, int] | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            with bound_to(self.path):
                _remove_socket(self.path)
                self._socket.bind(self.path)
                self._file = _file(self.path)
                self._socket.listen(_BACKLOG)
            give_access(self.path, mode, group)
        except BaseException:
            self.close()
            raise

    def detach(self) -> int:
        """The descriptor, which is the caller's own from now on."""
        return self._socket.detach()

    def close(self) -> None:
        """Ends it, if it was not given away."""
        self._socket.close()
        self.remove()

    def remove(self) -> None:
        """Takes the path away, unless it is another's by now."""
        with contextlib.suppress(OSError):
            if _file(self.path) == self._file:
                os.unlink(self.path)


async def _open(host: str, port: int) -> list[socket.socket]:
    if host in _EVERY_ADDRESS:
        # gRPC takes the one of IPv4 for those of both families, too.
        every = socket_of_every_address("::", port)
        return [every] if every is not None else []
    if host == "localhost":
        # Both, whatever the file of hosts says (RFC 6761), as gRPC's own resolver has it.
        return _bind([(socket.AF_INET6, ("::1", port)), (socket.AF_INET, ("127.0.0.1", port))])
    found = await asyncio.get_running_loop().getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return _bind(dict.fromkeys((family, place) for family, _, _, _, place in found))


def _bind(places: Iterable[tuple[int, tuple[object, ...]]]) -> list[socket.socket]:
    """A socket for each place; without a port of its own, the others have that of the first."""
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, (host, port, *more) in places:
            if sockets and not port:
                port = sockets[0].getsockname()[1]
            try:
                sockets.append(socket.create_server((host, port, *more), family=family))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except BaseException:
        for each in sockets:
            each.close()
        raise
    return sockets


def _remove_socket(path: str) -> None:
    """Takes away a socket that a process has left behind; nothing else."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)


def _file(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
