"""Handlers of calls for callers whom the policy names: see `sidecar.transport.handlers`.

They stand before those that count, and perhaps trace, calls. What they refuse is counted as an
error like others, but begins no span: a stranger is not to fill the traces.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeVar, cast

from sidecar.access.rights import RIGHTS
from sidecar.services.errors import CallError
from sidecar.transport.admission import admit
from sidecar.transport.handlers import Handlers, abort, failure_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from sidecar.access.caller import Right
    from sidecar.access.live import Access
    from sidecar.access.table import CallerTable
    from sidecar.transport.handlers import Context, Unary

R = TypeVar("R")


class GuardedHandlers(Handlers):
    """Puts the policy before the handlers that ``inner`` makes."""

    def __init__(self, inner: Handlers, access: Access) -> None:
        super().__init__(inner.metrics)
        self._inner = inner
        self._access = access

    def unary(
        self, service: str, name: str, method: Unary
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """See `Handlers.unary`."""
        access, metrics, right = self._access, self.metrics, _right(service, name)
        answer = self._inner.unary(service, name, method)

        async def handle(request: bytes, context: Context) -> bytes:
            try:
                admit(access, _GrpcCall(context), right, name)
            except CallError as error:
                await abort(context, failure_of(error, name, metrics))
            return await answer(request, context)

        return handle

    def streaming(
        self, service: str, name: str, answer: Callable[[R], AsyncIterator[bytes]]
    ) -> Callable[[R, Context], AsyncIterator[bytes]]:
        """See `Handlers.streaming`."""
        access, metrics, right = self._access, self.metrics, _right(service, name)
        stream = self._inner.streaming(service, name, answer)

        async def handle(request: R, context: Context) -> AsyncIterator[bytes]:
            table = access.table
            try:
                admit(access, _GrpcCall(context), right, name)
            except CallError as error:
                await abort(context, failure_of(error, name, metrics))
            if not isinstance(request, bytes):
                requests = cast("AsyncIterator[bytes]", request)
                request = cast("R", _readmitted(access, table, context, right, name, requests))
            responses = cast("AsyncGenerator[bytes, None]", stream(request, context))
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response

        return handle


class _GrpcCall:
    """A call: see `sidecar.transport.admission.Shown`."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def authorization(self) -> list[str]:
        metadata = self._context.invocation_metadata() or ()
        return [str(value) for key, value in metadata if key == "authorization"]

    def certificate_names(self) -> list[str]:
        found = self._context.auth_context()
        names = [*found.get("peer_uri", ()), *found.get("peer_dns", ())]
        names = names or [*found.get("x509_common_name", ())]
        return [name.decode(errors="replace") for name in names]

    def is_on_socket(self) -> bool:
        return self._context.peer().startswith("unix:")


def _right(service: str, name: str) -> Right:
    return RIGHTS[f"{service}/{name}"]


async def _readmitted(
    access: Access,
    table: CallerTable,
    context: Context,
    right: Right,
    name: str,
    requests: AsyncIterator[bytes],
) -> AsyncIterator[bytes]:
    """The requests of a stream, which may outlive the ``table`` under which it was admitted."""
    async for request in requests:
        if access.table is not table:
            table = access.table
            admit(access, _GrpcCall(context), right, name)
        yield request
