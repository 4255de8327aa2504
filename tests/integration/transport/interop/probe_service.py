"""A service that does what a test asks for, served by a whole sidecar beside its own services.

It goes past the cache, as streams and misses do. Messages are bytes; what is to be told apart is in
metadata.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SERVICE = "interop.Probe"
COMPRESSIONS = {
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
    "identity": grpc.Compression.NoCompression,
}


class Probe:
    """The methods, and who is in them now."""

    def __init__(self) -> None:
        self._started: Counter[str] = Counter()
        self._running: Counter[str] = Counter()

    def handlers(self) -> grpc.GenericRpcHandler:
        """What serves them."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
                "Metadata": grpc.unary_unary_rpc_method_handler(self._metadata),
                "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
                "FailAfter": grpc.unary_stream_rpc_method_handler(self._fail_after),
                "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
                "Pieces": grpc.unary_stream_rpc_method_handler(self._pieces),
                "Collect": grpc.stream_unary_rpc_method_handler(self._collect),
                "Chat": grpc.stream_stream_rpc_method_handler(self._chat),
                "EndEarly": grpc.stream_stream_rpc_method_handler(self._end_early),
                "Counts": grpc.unary_unary_rpc_method_handler(self._counts),
            },
        )

    async def _echo(self, request: bytes, context: Any) -> bytes:
        """The request; metadata ``initial-`` and ``trailing-`` come back where they say."""
        sent = context.invocation_metadata()
        if compression := dict(sent).get("compress"):
            context.set_compression(COMPRESSIONS[compression])
        # Without it, no answer of grpcio's is compressed.
        await context.send_initial_metadata(
            [each for each in sent if each[0].startswith("initial-")]
        )
        context.set_trailing_metadata([each for each in sent if each[0].startswith("trailing-")])
        return request

    async def _metadata(self, _request: bytes, context: Any) -> bytes:
        """All metadata that came, as JSON; bytes as hexadecimal digits."""
        return json.dumps(
            [
                [key, value.hex() if isinstance(value, bytes) else value]
                for key, value in context.invocation_metadata()
            ]
        ).encode()

    async def _fail(self, request: bytes, context: Any) -> bytes:
        """Ends with the code of that number, the message that is the request, and metadata."""
        sent = context.invocation_metadata()
        trailers = [each for each in sent if each[0].startswith(("trailing-", "grpc-retry-"))]
        await context.abort(_code(sent), request.decode(), tuple(trailers))

    async def _fail_after(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """The same, behind one message."""
        yield request
        await self._fail(request, context)

    async def _hold(self, request: bytes, _context: Any) -> bytes:
        """Never answers; the request is the name under which it is counted."""
        with self._counted(request):
            await asyncio.Event().wait()
        return b""

    async def _pieces(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """So many messages of so many bytes; counted under the name, as long as they are sent."""
        asked = json.loads(request)
        with self._counted(asked["name"].encode()):
            piece = bytes(asked["size"])
            for _ in range(asked["count"]):
                yield piece

    async def _collect(self, requests: AsyncIterator[bytes], _context: Any) -> bytes:
        """How many messages came, and how many bytes they had, when the stream had ended."""
        sizes = [len(request) async for request in requests]
        return json.dumps([len(sizes), sum(sizes)]).encode()

    async def _chat(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Each message; when the caller has said his last, three more."""
        name = dict(context.invocation_metadata()).get("name", "").encode()
        with self._counted(name):
            async for request in requests:
                yield request
            for number in range(3):
                yield b"after the end: %d" % number

    async def _end_early(
        self, requests: AsyncIterator[bytes], _context: Any
    ) -> AsyncIterator[bytes]:
        """The first message, and the end, whatever else comes."""
        async for request in requests:
            yield request
            return

    async def _counts(self, request: bytes, _context: Any) -> bytes:
        """How many calls of a name have begun, and how many of them have not ended."""
        name = request.decode()
        return json.dumps([self._started[name], self._running[name]]).encode()

    @contextlib.contextmanager
    def _counted(self, name: bytes) -> Iterator[None]:
        key = name.decode()
        self._started[key] += 1
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1


def _code(metadata: Any) -> grpc.StatusCode:
    number = int(dict(metadata)["code"])
    return next(code for code in grpc.StatusCode if code.value[0] == number)
