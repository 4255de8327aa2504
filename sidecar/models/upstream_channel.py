"""A channel to a gRPC server whose certificates and token are replaced while calls are made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import grpc
import structlog

from sidecar.models.replaceable import Replaceable
from sidecar.models.upstream_faults import fault

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.models.upstream_tls import UpstreamTls
    from sidecar.models.upstream_token import UpstreamToken

    Options = Sequence[tuple[str, str | int]]

_PATIENCE_SECONDS = 10.0
# A proxy that the environment names for the web would get the token and the texts.
_NO_PROXY = ("grpc.enable_http_proxy", 0)

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class UpstreamAccess:
    """How servers that are called are checked, and what they are shown; None for nothing."""

    tls: UpstreamTls | None = None
    token: UpstreamToken | None = None


class _Opened:
    """A channel and its methods. gRPC registers a method with each object made for it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    def method(
        self, name: str, serialisers: tuple[Any, ...], more: dict[str, Any]
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        if name not in self._methods:
            self._methods[name] = self.channel.unary_unary(name, *serialisers, **more)
        return self._methods[name]

    async def close(self) -> None:
        await self.channel.close()


class UpstreamChannel:
    """Makes unary calls, over TLS and with a token if there are such.

    With other certificates, another connection is made beside the one in use, and takes its place
    once it stands; the one before is closed when its last call has ended. What is wrong with
    certificates or the token is logged once, until a call succeeds.

    Used from one event loop. A Unix socket, ``unix:PATH``, is never encrypted.
    """

    def __init__(self, target: str, options: Options, access: UpstreamAccess) -> None:
        self._target = target
        self._options = options
        self._tls = None if target.startswith("unix:") else access.tls
        self._token = access.token
        self._fault = ""
        self._renewal: asyncio.Task[None] | None = None
        self._inner = Replaceable(self._open(), _Opened.close)
        if self._tls is not None:
            self._tls.subscribe(self._renew)

    def unary_unary(
        self, method: str, *serialisers: Any, **more: Any
    ) -> Callable[..., Awaitable[Any]]:
        """See `grpc.aio.Channel`; but a call is a coroutine, and has fewer options."""

        async def call(
            request: Any,
            *,
            timeout: float | None = None,  # noqa: ASYNC109 - as gRPC's own calls have it
            metadata: Sequence[tuple[str, str]] = (),
        ) -> Any:
            shown = self._token.metadata if self._token is not None else ()
            with self._inner.use() as opened:
                make = opened.method(method, serialisers, more)
                try:
                    answer = await make(request, timeout=timeout, metadata=(*metadata, *shown))
                except grpc.aio.AioRpcError as error:
                    self._failed(error)
                    raise
            self._fault = ""
            return answer

        return call

    def unary_stream(self, *_: Any, **__: Any) -> None:
        """Not offered: stubs ask for it, but nothing here streams."""

    stream_unary = stream_stream = unary_stream

    def for_stubs(self) -> grpc.aio.Channel:
        """This channel as the type that stubs take."""
        return cast("grpc.aio.Channel", self)

    async def close(self) -> None:
        """Closes the connections, and ends the calls under way."""
        if self._tls is not None:
            self._tls.unsubscribe(self._renew)
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait({self._renewal})
        await self._inner.close()

    def _open(self) -> _Opened:
        options = [*self._options, _NO_PROXY]
        if self._tls is None:
            return _Opened(grpc.aio.insecure_channel(self._target, options=options))
        if self._tls.server_name:
            options.append(("grpc.ssl_target_name_override", self._tls.server_name))
        credentials = self._tls.credentials
        return _Opened(grpc.aio.secure_channel(self._target, credentials, options=options))

    def _renew(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        self._renewal = asyncio.create_task(self._take_over(self._open()))

    async def _take_over(self, new: _Opened) -> None:
        ready = asyncio.ensure_future(new.channel.channel_ready())
        try:
            await asyncio.wait({ready}, timeout=_PATIENCE_SECONDS)
            if not ready.done():
                _log.warning(
                    "no connection with the new certificates yet: those before stay in use",
                    target=self._target,
                )
            await ready
        except BaseException:
            ready.cancel()
            await new.close()
            raise
        self._inner.replace(new)
        self._fault = ""
        _log.info("new certificates are in use", target=self._target)

    def _failed(self, error: grpc.aio.AioRpcError) -> None:
        found = fault(error.code(), error.details() or "")
        if found and found != self._fault:
            self._fault = found
            _log.warning("calls to an upstream fail", target=self._target, reason=found)
