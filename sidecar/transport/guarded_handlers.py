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
from sidecar.transport.shown import GrpcCall

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from sidecar.access.caller import Right
    from sidecar.access.live import Access
    from sidecar.access.table import CallerTable
    from sidecar.transport.admission import Shown
    from sidecar.transport.handlers import Context, Unary

R = TypeVar("R")


class GuardedHandlers(Handlers):
    """Puts the policy before the handlers that ``inner`` makes.

    ``shown`` makes what tells who makes a call.
    """

    def __init__(
        self, inner: Handlers, access: Access, shown: Callable[[Context], Shown] = GrpcCall
    ) -> None:
        super().__init__(inner.metrics)
        self._inner = inner
        self._access = access
        self._shown = shown

    def unary(
        self, service: str, name: str, method: Unary
    ) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """See `Handlers.unary`."""
        access, metrics, right = self._access, self.metrics, _right(service, name)
        shown = self._shown
        answer = self._inner.unary(service, name, method)

        async def handle(request: bytes, context: Context) -> bytes:
            try:
                admit(access, shown(context), right, name)
            except CallError as error:
                await abort(context, failure_of(error, name, metrics))
            return await answer(request, context)

        return handle

    def streaming(
        self, service: str, name: str, answer: Callable[[R], AsyncIterator[bytes]]
    ) -> Callable[[R, Context], AsyncIterator[bytes]]:
        """See `Handlers.streaming`."""
        access, metrics, right = self._access, self.metrics, _right(service, name)
        shown = self._shown
        stream = self._inner.streaming(service, name, answer)

        async def handle(request: R, context: Context) -> AsyncIterator[bytes]:
            table = access.table
            try:
                admit(access, shown(context), right, name)
            except CallError as error:
                await abort(context, failure_of(error, name, metrics))
            if not isinstance(request, bytes):
                requests = cast("AsyncIterator[bytes]", request)
                request = cast(
                    "R", _readmitted(access, table, shown(context), right, name, requests)
                )
            responses = cast("AsyncGenerator[bytes, None]", stream(request, context))
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response

        return handle


def _right(service: str, name: str) -> Right:
    return RIGHTS[f"{service}/{name}"]


async def _readmitted(
    access: Access,
    table: CallerTable,
    shown: Shown,
    right: Right,
    name: str,
    requests: AsyncIterator[bytes],
) -> AsyncIterator[bytes]:
    """The requests of a stream, which may outlive the ``table`` under which it was admitted."""
    async for request in requests:
        if access.table is not table:
            table = access.table
            admit(access, shown, right, name)
        yield request
