"""Whatever bytes a client sends, it gets a status other than INTERNAL and the sidecar goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2
from google.protobuf.duration_pb2 import Duration
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sidecar = Any

HANG_GUARD = 30.0
METHODS = (
    "/embercache.v1.EmbedService/Embed",
    "/embercache.v1.EmbedService/ListModels",
    "/embercache.v1.CacheService/Stats",
    "/embercache.v1.CacheService/Invalidate",
    "/embercache.v1.CacheService/Flush",
)
OURS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
OUR_NUMBERS = [code.value[0] for code in OURS]

any_number = st.integers(-(2**31), 2**31 - 1)
small = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
async def sidecar(start: Callable[..., Awaitable[Any]]) -> Sidecar:
    return await start()


@st.composite
def requests(draw: st.DrawFn) -> embed_pb2.EmbedRequest:
    """Requests that can be parsed, most of them wrong in one way or another."""
    text = st.text(max_size=80)
    inputs = st.one_of(
        st.builds(lambda value: embed_pb2.Input(text=value), text),
        st.builds(
            lambda *values: embed_pb2.Input(
                entity=embed_pb2.Entity(id=values[0], chunk_id=values[1], text=values[2])
            ),
            *(text, text, text),
        ),
        st.builds(
            lambda dtype, shape, data: embed_pb2.Input(
                tensor=embed_pb2.Tensor(dtype=dtype, shape=shape, data=data)
            ),
            st.integers(-1, 8),
            st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3), max_size=9),
            st.binary(max_size=24),
        ),
        st.just(embed_pb2.Input()),
    )
    request = embed_pb2.EmbedRequest(inputs=draw(st.lists(inputs, max_size=5)))
    if draw(st.booleans()):
        request.cache.mode = draw(st.integers(-1, 6))
        request.cache.tags.extend(draw(st.lists(text, max_size=3)))
        if draw(st.booleans()):
            request.cache.ttl.CopyFrom(
                Duration(
                    seconds=draw(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3)),
                    nanos=draw(any_number),
                )
            )
    request.namespace = draw(st.sampled_from(["", "a", "b"]) | text)
    request.model = draw(st.sampled_from(["", "tiny"]) | text)
    request.input_type = draw(st.sampled_from([0, 1, 2]) | any_number)
    request.encoding = draw(st.sampled_from([0, 1, 2, 3]) | any_number)
    request.truncation = draw(st.sampled_from([0, 1, 2]) | any_number)
    return request


def mutate(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for position, value in changes:
        if changed:
            changed[position % len(changed)] = value
    return bytes(changed)


async def send(sidecar: Sidecar, method: str, raw: bytes) -> bytes | None:
    """The answer to the bytes, None if they are refused; a fault of the sidecar fails the test."""
    call = sidecar.channel.unary_unary(method)(raw, timeout=HANG_GUARD)
    code = await call.code()
    if code == grpc.StatusCode.OK:
        return await call
    assert code not in OURS, await call.details()
    assert await call.details()
    return None


def check_answer(request: embed_pb2.EmbedRequest, answer: embed_pb2.EmbedResponse) -> None:
    assert len(answer.embeddings) == len(request.inputs)
    for embedding in answer.embeddings:
        assert bool(embedding.vector) != embedding.HasField("error")
        assert embedding.error.code not in OUR_NUMBERS
        if embedding.HasField("error"):
            assert embedding.error.message
            assert embedding.tier == common_pb2.TIER_UNSPECIFIED


@small
@given(method=st.sampled_from(METHODS), raw=st.binary(max_size=60))
async def test_random_bytes_never_hurt(sidecar: Sidecar, method: str, raw: bytes) -> None:
    await send(sidecar, method, raw)
    assert (await sidecar.embed("a text")).embeddings[0].vector


@small
@given(request_=requests())
@pytest.mark.threat("A caller sends hostile bytes")
async def test_every_request_that_can_be_parsed_is_answered_or_refused(
    sidecar: Sidecar, request_: embed_pb2.EmbedRequest
) -> None:
    for _ in range(3):  # computed, then of items, then whole
        answer = await send(sidecar, METHODS[0], request_.SerializeToString())
        if answer is not None:
            check_answer(request_, embed_pb2.EmbedResponse.FromString(answer))


@small
@given(
    request_=requests(),
    changes=st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 255)), max_size=4),
)
@pytest.mark.threat("A caller sends hostile bytes")
async def test_requests_with_broken_bytes_never_hurt(
    sidecar: Sidecar, request_: embed_pb2.EmbedRequest, changes: list[tuple[int, int]]
) -> None:
    raw = mutate(request_.SerializeToString(), changes)
    answer = await send(sidecar, METHODS[0], raw)
    if answer is not None:
        check_answer(
            embed_pb2.EmbedRequest.FromString(raw), embed_pb2.EmbedResponse.FromString(answer)
        )


@small
@given(raws=st.lists(st.binary(max_size=40), max_size=12))
async def test_random_bytes_on_a_stream_are_answered_one_by_one(
    sidecar: Sidecar, raws: list[bytes]
) -> None:
    call = sidecar.channel.stream_stream("/embercache.v1.EmbedService/EmbedStream")
    answers = [
        embed_pb2.EmbedStreamResponse.FromString(answer)
        async for answer in call(iter(raws), timeout=HANG_GUARD)
    ]
    assert len(answers) == len(raws)
    for answer in answers:
        assert answer.error.code not in OUR_NUMBERS


@small
@given(
    namespace=st.sampled_from(["", "a"]) | st.text(max_size=5),
    tags=st.lists(st.text(max_size=5), max_size=3),
    tiers=st.lists(any_number, max_size=3),
)
async def test_administration_survives_whatever_can_be_parsed(
    sidecar: Sidecar, namespace: str, tags: list[str], tiers: list[int]
) -> None:
    target = cache_pb2.InvalidateRequest.Tags(tags=tags)
    request = cache_pb2.InvalidateRequest(namespace=namespace, tags=target)
    await send(sidecar, METHODS[3], request.SerializeToString())
    await send(sidecar, METHODS[4], cache_pb2.FlushRequest(tiers=tiers).SerializeToString())
