"""What was handed to a pool of encoders ends, whatever goes wrong with the call."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import embed_pb2, embed_pb2_grpc

from sidecar.models.remote import RemoteEmbedder
from sidecar.models.remote_model import BYTES_A_CALL
from sidecar.models.types import ModelError, ModelUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HANG_GUARD = 20.0


class Encoders(embed_pb2_grpc.EmbedServiceServicer):
    """One encoder, which refuses as many calls as a test wants."""

    def __init__(self) -> None:
        self.address = ""
        self.refusals = 0
        self.request_sizes: list[int] = []

    async def ListModels(self, request: Any, context: Any) -> embed_pb2.ListModelsResponse:  # noqa: N802
        model = embed_pb2.Model(name="tiny", version="1", dimensions=2, accepts_text=True)
        return embed_pb2.ListModelsResponse(models=[model])

    async def Embed(self, request: Any, context: Any) -> embed_pb2.EmbedResponse:  # noqa: N802
        self.request_sizes.append(request.ByteSize())
        if len(self.request_sizes) <= self.refusals:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going")
        vector = np.zeros(2, "<f4").tobytes()
        return embed_pb2.EmbedResponse(
            embeddings=[embed_pb2.Embedding(vector=vector) for _ in request.inputs]
        )


@pytest.fixture
async def encoders() -> AsyncIterator[tuple[Encoders, RemoteEmbedder]]:
    service = Encoders()
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    embed_pb2_grpc.add_EmbedServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    service.address = f"127.0.0.1:{port}"
    embedder = RemoteEmbedder("tiny", service.address, queue_inputs=10, timeout=HANG_GUARD)
    await embedder.start()
    yield service, embedder
    await embedder.close()
    await server.stop(0)


async def ended(futures: list[asyncio.Future[Any]]) -> list[BaseException | None]:
    """How each future ended; they must end."""
    async with asyncio.timeout(HANG_GUARD):
        await asyncio.wait(futures)
    return [future.exception() for future in futures]


@pytest.mark.parametrize("size", [1_000, 300_000, 5_000_000])
async def test_a_call_that_an_encoder_refuses_is_sent_again_whatever_its_size(
    size: int, encoders: tuple[Encoders, RemoteEmbedder]
) -> None:
    service, embedder = encoders
    service.refusals = 1
    assert await ended(embedder.submit(["x" * size])) == [None]
    assert len(service.request_sizes) == 2


async def test_calls_are_bounded_in_bytes_not_in_characters(
    encoders: tuple[Encoders, RemoteEmbedder],
) -> None:
    service, embedder = encoders
    texts = ["\N{GRINNING FACE}" * (BYTES_A_CALL // 12)] * 6
    assert await ended(embedder.submit(texts)) == [None] * 6
    assert max(service.request_sizes) <= BYTES_A_CALL + 1000
    assert len(service.request_sizes) == 2


async def test_inputs_end_and_leave_the_queue_when_their_call_cannot_even_be_built(
    encoders: tuple[Encoders, RemoteEmbedder],
) -> None:
    _, embedder = encoders
    # A type that the protocol does not have.
    (error,) = await ended(embedder.submit([np.zeros(2, np.complex64)]))
    assert type(error) is ModelError
    assert "complex" not in str(error)
    assert embedder.queued == 0
    assert await ended(embedder.submit(["x"] * 10)) == [None] * 10


async def test_inputs_end_and_leave_the_queue_when_their_answer_cannot_be_handled(
    encoders: tuple[Encoders, RemoteEmbedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, embedder = encoders

    def fault(*arguments: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(embedder, "_deliver", fault)
    errors = await ended(embedder.submit(["one", "two"]))
    assert [type(error) for error in errors] == [ModelError, ModelError]
    assert embedder.queued == 0


async def test_inputs_whose_call_was_not_begun_end_when_the_embedder_closes(
    encoders: tuple[Encoders, RemoteEmbedder],
) -> None:
    _, embedder = encoders
    futures = embedder.submit(["one", "two"])
    await embedder.close()
    errors = await ended(futures)
    assert [type(error) for error in errors] == [ModelUnavailableError] * 2
    assert embedder.queued == 0


async def test_bytes_that_are_none_of_an_encoder_are_as_if_it_were_not_there(
    encoders: tuple[Encoders, RemoteEmbedder],
) -> None:
    """It is another program that listens, or the network that changed what was sent."""
    service, _ = encoders
    connections = 0

    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.write(bytes.fromhex("000000040000000000"))  # settings, which HTTP/2 begins with
        with contextlib.suppress(OSError):
            while await reader.read(2**16):
                writer.write(b"\xff" * 64)
        writer.transport.abort()

    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pool = f"{service.address},127.0.0.1:{port}"
    mixed = RemoteEmbedder("tiny", pool, queue_inputs=10, timeout=HANG_GUARD)
    async with server:
        await mixed.start()
        for _ in range(20):
            assert await ended(mixed.submit(["a text"])) == [None]
        assert connections
        await mixed.close()
    alone = RemoteEmbedder("tiny", f"127.0.0.1:{port}", queue_inputs=10, timeout=1)
    await alone.start()
    with pytest.raises(ModelUnavailableError):
        alone.submit(["a text"])
    await alone.close()
