"""The native front door as what listens for gRPC, with gRPC's own server behind it.

It answers on its own threads what was answered before, and hands all else over: see
`embercache_native`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sidecar.transport.front_sockets import UnixListener, listen_tcp
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable

    import grpc
    from embercache_native import Front

    from sidecar.config import ServerSettings
    from sidecar.transport.private_socket import PrivateSocket

METHODS = {
    "/embercache.v1.EmbedService/Embed": "Embed",
    "/embercache.v1.SearchService/Search": "Search",
    "/embercache.v1.GenerateService/Generate": "Generate",
}
"""The methods that have stored responses: paths of calls, and what they are called here."""


class FrontDoor:
    """Serves as `GrpcServer` does, by way of a front door that is not open yet.

    The server behind it listens on the ``private`` socket. ``drained`` is called at the end, when
    no call is answered any more.
    """

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Iterable[grpc.GenericRpcHandler],
        front: Front,
        private: PrivateSocket,
        *,
        is_encrypted: bool,
        drained: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._front = front
        self._private = private
        self._is_encrypted = is_encrypted
        self._drained = drained
        self._server = GrpcServer(_behind(settings, private.path), handlers, secret=private.secret)
        self._unix: UnixListener | None = None
        self.addresses: list[str] = []

    @property
    def is_serving(self) -> bool:
        """Whether calls are taken, and health says so."""
        return bool(self.addresses) and self._server.is_serving

    async def start(self) -> None:
        """Listens, and says so on the health service. Raises `ListenError`."""
        sockets: list[socket.socket] = []
        addresses: list[str] = []
        try:
            if self._settings.address:
                sockets, address = await listen_tcp(self._settings.address)
                addresses.append(address)
            if self._settings.socket:
                self._unix = UnixListener(
                    self._settings.socket, self._settings.socket_mode, self._settings.socket_group
                )
                addresses.append(f"unix:{self._unix.path}")
            await self._server.start()
            self._private.hide()
        except BaseException:
            for each in sockets:
                each.close()
            if self._unix is not None:
                self._unix.close()
            raise
        for each in sockets:
            self._front.listen(each.detach(), "tls" if self._is_encrypted else "tcp")
        if self._unix is not None:
            self._front.listen(self._unix.detach(), "unix")
        self.addresses = addresses

    async def drain(self) -> None:
        """Ends so that no call fails: says it is going, waits, lets calls in progress end."""
        await self._server.retire()
        if self._unix is not None:
            self._unix.remove()
        # First the front door: it takes no new calls, and knows of all that are in progress.
        await asyncio.to_thread(self._front.drain, self._settings.drain_timeout)
        await self._server.stop()
        self._drained()


def _behind(settings: ServerSettings, path: str) -> ServerSettings:
    """The settings of the server behind, whose connections are the front door's."""
    return settings.model_copy(
        update={
            "transport": "grpcio",
            "address": "",
            "socket": path,
            "socket_mode": "0600",
            "socket_group": "",
            "max_connection_age": 0.0,
        }
    )
