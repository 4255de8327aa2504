"""Encoders whose answers are wrong, or that drop calls: no wrong vector, and nothing hangs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

Code = grpc.StatusCode


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status that a call ends with, and its message."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


class Liar:
    """An encoder whose answers a test makes up."""

    def __init__(self) -> None:
        self.answer: Callable[[embed_pb2.EmbedRequest], embed_pb2.EmbedResponse] | None = None
        self.refusals: list[grpc.StatusCode] = []

    async def list_models(self, request: bytes, context: Any) -> bytes:
        model = embed_pb2.Model(name="tiny", version="1", dimensions=2, accepts_text=True)
        return embed_pb2.ListModelsResponse(models=[model]).SerializeToString()

    async def embed(self, request: bytes, context: Any) -> bytes:
        if self.refusals:
            await context.abort(self.refusals.pop(0), "refused")
        assert self.answer is not None
        return self.answer(embed_pb2.EmbedRequest.FromString(request)).SerializeToString()


@pytest.fixture
async def liar(start_front: Start) -> Any:
    liar = Liar()
    server = grpc.aio.server()
    methods = {"Embed": liar.embed, "ListModels": liar.list_models}
    handlers = {n: grpc.unary_unary_rpc_method_handler(m) for n, m in methods.items()}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("embercache.v1.EmbedService", handlers)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield liar, await start_front(f"127.0.0.1:{port}")
    await server.stop(0)


def made_of(*vectors: list[float]) -> embed_pb2.EmbedResponse:
    return embed_pb2.EmbedResponse(
        embeddings=[
            embed_pb2.Embedding(vector=np.array(vector, "<f4").tobytes()) for vector in vectors
        ]
    )


LIES = {
    "one vector too few": made_of([1, 0]),
    "one vector too many": made_of([1, 0], [1, 0], [0, 1]),
    "no vectors": made_of(),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
@pytest.mark.threat("An encoder answers with NaN or the wrong number of vectors")
async def test_a_wrong_number_of_vectors_fails_every_input_and_none_is_stored(
    lie: embed_pb2.EmbedResponse, liar: tuple[Liar, Sidecar]
) -> None:
    encoder, front = liar
    encoder.answer = lambda request: lie
    for _ in range(2):
        response = await front.embed("one", "two")
        assert [e.error.code for e in response.embeddings] == [Code.INTERNAL.value[0]] * 2
        assert "wrong number of results" in response.embeddings[0].error.message
    encoder.answer = lambda request: made_of([1, 0], [0, 1])
    assert await front.tiers("one", "two") == ["COMPUTED", "COMPUTED"]


@pytest.mark.parametrize(
    "bad",
    [[np.nan, 0], [0, np.inf], [1, 2, 3], [1], []],
    ids=["nan", "infinity", "too long", "too short", "empty"],
)
@pytest.mark.threat("A caller spoils the batch of others")
async def test_a_vector_that_is_none_fails_its_input_alone_and_is_not_stored(
    bad: list[float], liar: tuple[Liar, Sidecar]
) -> None:
    encoder, front = liar
    encoder.answer = lambda request: made_of(*[[1, 0], bad, [0, 1]][: len(request.inputs)])
    one, two, three = (await front.embed("one", "two", "three")).embeddings
    assert np.frombuffer(one.vector, "<f4").tolist() == [1, 0]
    assert two.error.code == Code.INTERNAL.value[0]
    assert np.frombuffer(three.vector, "<f4").tolist() == [0, 1]
    encoder.answer = lambda request: made_of([0.5, 0.5])
    assert await front.tiers("one", "two", "three") == ["HOT", "COMPUTED", "HOT"]


@pytest.mark.threat("An encoder answers with NaN or the wrong number of vectors")
async def test_bytes_of_a_vector_that_are_no_floats_fail_their_input(
    liar: tuple[Liar, Sidecar],
) -> None:
    encoder, front = liar
    encoder.answer = lambda request: embed_pb2.EmbedResponse(
        embeddings=[embed_pb2.Embedding(vector=b"1234567")]
    )
    (embedding,) = (await front.embed("a text")).embeddings
    assert embedding.error.code == Code.INTERNAL.value[0]
    # The call ended, and so did its share of the queue.
    assert (await front.stats()).models[0].queued == 0


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.CANCELLED])
async def test_a_call_that_an_encoder_drops_as_it_ends_is_sent_again(
    code: grpc.StatusCode, liar: tuple[Liar, Sidecar]
) -> None:
    encoder, front = liar
    encoder.answer = lambda request: made_of([1, 0])
    encoder.refusals = [code, code]
    assert await front.tiers("a text") == ["COMPUTED"]
    encoder.refusals = [code] * 4
    assert (await failure(front.embed("another")))[0] == Code.UNAVAILABLE
