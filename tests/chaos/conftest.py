"""A cluster that nothing is done to, and something that lies in its place."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import pytest_asyncio

from tests.chaos.parts import Cluster
from tests.chaos.run import Options, Run, Subjects, packs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

CALM = Options(seconds=0, seed=7, clients=6, pause=0.002, texts=40, prompts=2, show=False)


class Liar:
    """A server in front of a sidecar that passes calls on and changes what is answered.

    ``lie`` takes the name of the method, the request and the answer, as bytes, and gives the answer
    that is sent, or None to fail the call.
    """

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.address = f"unix:{folder / name}-liar.sock"
        self.lie: Callable[[str, bytes, bytes], bytes | None] = lambda method, request, true: true
        self._channel = grpc.aio.insecure_channel(address)
        self._server = grpc.aio.server()

    async def start(self) -> None:
        self._server.add_generic_rpc_handlers((_Handlers(self),))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)
        await self._channel.close()

    async def answer(self, method: str, request: bytes, context: Any) -> bytes:
        try:
            true = await self._channel.unary_unary(method)(request)
        except grpc.aio.AioRpcError as error:
            # The client calls again.
            await context.abort(error.code(), error.details() or "")
        told = self.lie(method.rpartition("/")[2], request, true)
        if told is None:
            await context.abort(grpc.StatusCode.INTERNAL, "a lie")
        assert told is not None
        return told

    async def stream(self, method: str, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        async for message in self._channel.unary_stream(method)(request):
            yield message

    async def streams(self, method: str, requests: Any, _context: Any) -> AsyncIterator[bytes]:
        async for message in self._channel.stream_stream(method)(requests):
            yield message


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, liar: Liar) -> None:
        self._liar = liar

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method.endswith("/EmbedStream"):
            return grpc.stream_stream_rpc_method_handler(partial(self._liar.streams, method))
        if method.endswith("/GenerateStream"):
            return grpc.unary_stream_rpc_method_handler(partial(self._liar.stream, method))
        return grpc.unary_unary_rpc_method_handler(partial(self._liar.answer, method))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def start_run() -> AsyncIterator[Callable[[], Run]]:
    """Makes runs of one cluster, without faults."""
    minilm, generator = packs()
    subjects = Subjects.make(CALM)
    truth = await subjects.truth(minilm, generator)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        async with Cluster(Path(folder), minilm, generator, CALM.seed) as cluster:
            names = (f"run-{number}" for number in itertools.count())
            yield lambda: Run(cluster, subjects, truth, replace(CALM, name=next(names)))


@pytest.fixture
def make_liars(tmp_path: Path) -> Callable[[Run], Awaitable[dict[str, Liar]]]:
    """Starts a liar in front of each sidecar."""

    async def make(run: Run) -> dict[str, Liar]:
        liars = {
            name: Liar(tmp_path, name, server.address)
            for name, server in run.cluster.sidecars.items()
        }
        for liar in liars.values():
            await liar.start()
        return liars

    return make
