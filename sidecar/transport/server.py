"""The gRPC server: listeners, health, reflection, drain."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from sidecar.transport.handed_over import HandedOver
from sidecar.transport.listening import cannot_listen
from sidecar.transport.socket_access import bound_to, give_access
from sidecar.transport.timely import Messages, TimelyHandlers
from sidecar.transport.tls import grpc_credentials

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Iterable

    from sidecar.config import ServerSettings
    from sidecar.transport.certificate import ServerCertificate

HEALTH = "grpc.health.v1.Health"
_LAST_WORD_SECONDS = 0.1
_MAX_PENDING = 100_000
_HANDSHAKE_MS = 10_000
_NEVER = 2**31 - 1
# What the front door takes from a caller, and beside it the names in his certificate.
_MOST_METADATA = 128 * 1024
_BEHIND_FRONT_DOOR = (
    ("grpc.max_metadata_size", _MOST_METADATA),
    # The same: between the two gRPC would refuse calls at random.
    ("grpc.absolute_max_metadata_size", _MOST_METADATA),
)
# On one connection; clients hold back the rest until others have ended.
_MOST_OPEN_TO_ALL = 64


class _OpenToAll:
    """Bounds the calls that last as long as the caller likes, and that need no token.

    Else a stranger would take all calls there may be. One call too many fails at once.
    """

    def __init__(self, most: int) -> None:
        self._left = most

    @contextlib.asynccontextmanager
    async def place(self, context: Any) -> AsyncIterator[None]:
        if not self._left:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "too many watch the server's health or read its schema: try again later",
            )
        self._left -= 1
        try:
            yield
        finally:
            self._left += 1


class _Reflection(reflection.aio.ReflectionServicer):
    """Tells of services, to some at once."""

    def __init__(self, names: Iterable[str], open_to_all: _OpenToAll) -> None:
        super().__init__(names)
        self._open_to_all = open_to_all

    # Its types say that it is a coroutine, which it is not.
    async def ServerReflectionInfo(  # type: ignore[override]  # noqa: N802
        self, request_iterator: AsyncIterable[Any], context: Any
    ) -> AsyncIterator[Any]:
        """See reflection.proto."""
        answers: Any = super().ServerReflectionInfo(request_iterator, context)
        async with self._open_to_all.place(context):
            async for answer in answers:
                yield answer


class _Health(health.aio.HealthServicer):
    """A health service whose watchers can be sent away: else a drain would wait for them."""

    def __init__(self, open_to_all: _OpenToAll) -> None:
        super().__init__()
        self._open_to_all = open_to_all
        self._no_watches = asyncio.Event()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Those of the service's methods."""
        codec = (
            health_pb2.HealthCheckRequest.FromString,
            health_pb2.HealthCheckResponse.SerializeToString,
        )
        return grpc.method_handlers_generic_handler(
            HEALTH,
            {
                "Check": grpc.unary_unary_rpc_method_handler(self.Check, *codec),
                "Watch": grpc.unary_stream_rpc_method_handler(self.Watch, *codec),
            },
        )

    def end_watches(self) -> None:
        """Ends the calls that watch, once they have heard of the last change."""
        self._no_watches.set()

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        """See health.proto."""
        async with self._open_to_all.place(context):
            await self._watch(request, context)

    async def _watch(self, request: Any, context: Any) -> None:
        watch = asyncio.create_task(super().Watch(request, context))
        end = asyncio.create_task(self._no_watches.wait())
        try:
            done, _ = await asyncio.wait({watch, end}, return_when=asyncio.FIRST_COMPLETED)
            if watch not in done:
                done, _ = await asyncio.wait({watch}, timeout=_LAST_WORD_SECONDS)
            for task in done:
                task.result()
        finally:
            watch.cancel()
            end.cancel()


class GrpcServer:
    """Serves generic handlers on a TCP address, a Unix socket or both.

    With a ``certificate``, TCP is encrypted; the socket never is. With a ``secret``, only calls are
    taken that a front door hands over.
    """

    def __init__(
        self,
        settings: ServerSettings,
        handlers: Iterable[grpc.GenericRpcHandler],
        certificate: ServerCertificate | None = None,
        *,
        secret: str = "",
    ) -> None:
        self._settings = settings
        self._secret = secret
        self._certificate = certificate
        self._handlers = list(handlers)
        self._names = [handler.service_name() for handler in self._handlers]  # type: ignore[attr-defined]
        # Half of the calls at most, where there are few.
        self._open_to_all = _OpenToAll(min(_MOST_OPEN_TO_ALL, (settings.max_calls + 1) // 2))
        self._health = _Health(self._open_to_all)
        self._server: grpc.aio.Server | None = None
        self._watch: asyncio.Task[None] | None = None
        # Whether calls are taken, and health says so.
        self.is_serving = False
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Listens, and says so on the health service. Raises `ListenError`."""
        self._server = grpc.aio.server(
            # Each holds its request, and perhaps an answer: without a bound memory has none.
            maximum_concurrent_rpcs=self._settings.max_calls,
            options=[
                # A request between one and two times the limit gets our own, clearer message.
                ("grpc.max_receive_message_length", 2 * self._settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                # Two sidecars on one port would share its calls at random.
                ("grpc.so_reuseport", 0),
                # Above 1,000 calls that wait to be taken up, gRPC would cancel some at random; each
                # has a deadline of its own to end by.
                ("grpc.server.max_pending_requests", _MAX_PENDING),
                ("grpc.server.max_pending_requests_hard_limit", _MAX_PENDING),
                ("grpc.max_connection_age_ms", _milliseconds(self._settings.max_connection_age)),
                # Sidecars ask an encoder that computes for them every two seconds whether it is
                # still there; by default that would end the connection, and all calls on it.
                ("grpc.http2.min_ping_interval_without_data_ms", 1000),
                ("grpc.max_allowed_incoming_connections", self._settings.most_connections),
                # Then a connection ends on which nobody has said anything.
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
                *(_BEHIND_FRONT_DOOR if self._secret else ()),
            ],
        )
        services = (*self._handlers, self._health.handlers())
        messages = Messages()
        timely: list[grpc.GenericRpcHandler] = [TimelyHandlers(each, messages) for each in services]
        if self._secret:
            timely = [HandedOver(each, self._secret) for each in timely]
        self._server.add_generic_rpc_handlers(timely)
        names = (*self._names, HEALTH, reflection.SERVICE_NAME)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(  # type: ignore[no-untyped-call]
            _Reflection(names, self._open_to_all), self._server
        )
        if self._settings.address:
            self._listen_tcp(self._server, self._settings.address)
        if self._settings.socket:
            self._listen_unix(self._server, self._settings.socket)
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await self._server.start()
        self._watch = asyncio.create_task(messages.watch())
        self.is_serving = True

    async def drain(self) -> None:
        """Ends so that no call fails: says it is going, waits, lets calls in progress end."""
        await self.retire()
        await self.stop()

    async def retire(self) -> None:
        """Says that it is going, and gives callers time to hear of it."""
        if self._server is None:
            return
        was_serving, self.is_serving = self.is_serving, False
        await self._health.enter_graceful_shutdown()
        if was_serving:
            await asyncio.sleep(self._settings.drain_delay)
        self._health.end_watches()

    async def stop(self) -> None:
        """Lets calls in progress end, and takes none any more."""
        if self._server is None:
            return
        await self._server.stop(self._settings.drain_timeout)
        if self._watch is not None:
            self._watch.cancel()
        self._server = None

    def _listen_tcp(self, server: grpc.aio.Server, address: str) -> None:
        try:
            if self._certificate is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, grpc_credentials(self._certificate))
        except RuntimeError:
            raise cannot_listen(address) from None
        self.addresses.append(f"{address.rpartition(':')[0]}:{port}")

    def _listen_unix(self, server: grpc.aio.Server, path: str) -> None:
        path = os.path.abspath(path)
        with bound_to(path):
            server.add_insecure_port(f"unix:{path}")
        give_access(path, self._settings.socket_mode, self._settings.socket_group)
        self.addresses.append(f"unix:{path}")


def _milliseconds(age: float) -> int:
    """As gRPC wants it, for which never is the largest number that it takes."""
    return max(1, int(min(age * 1000, _NEVER))) if age else _NEVER
