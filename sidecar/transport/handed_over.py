"""Handlers for calls of the front door alone."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterable

SECRET = "embercache-front"  # noqa: S105 - the name of the metadata
"""The metadata that the front door shows its secret in."""


class HandedOver(grpc.GenericRpcHandler):
    """The methods of ``inner``, for calls that show the ``secret``; others are refused.

    What the front door says of a caller is believed. Others who reach its socket must not say it.
    """

    def __init__(self, inner: grpc.GenericRpcHandler, secret: str) -> None:
        self._inner = inner
        self._secret = secret.encode()

    def service(self, handler_call_details: Any) -> grpc.RpcMethodHandler[Any, Any] | None:
        """See `grpc.GenericRpcHandler.service`."""
        found: grpc.RpcMethodHandler[Any, Any] | None
        found = self._inner.service(handler_call_details)
        if found is None or self._is_shown(handler_call_details.invocation_metadata):
            return found
        return _REFUSED

    def _is_shown(self, metadata: Iterable[tuple[str, str | bytes]]) -> bool:
        shown = [value for key, value in metadata if key == SECRET]
        return (
            len(shown) == 1
            and isinstance(shown[0], str)
            and hmac.compare_digest(shown[0].encode(), self._secret)
        )


async def _refuse(_messages: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "this socket is for the sidecar's own front door: call on server.address or server.socket",
    )


# Of a stream, so that it waits for no message.
_REFUSED: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(_refuse)
