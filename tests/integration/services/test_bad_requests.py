"""Requests that are wrong: each gets the right status, and a message that says what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2
from google.protobuf.duration_pb2 import Duration

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

EMBED = "/embercache.v1.EmbedService/Embed"
HANG_GUARD = 30.0
Code = grpc.StatusCode


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    """The status that a call ends with, and its message."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code(), error.value.details()


BAD_REQUESTS: dict[str, tuple[dict[str, Any], grpc.StatusCode, str]] = {
    "unknown model": ({"model": "x"}, Code.NOT_FOUND, "choose one of tiny, or add it"),
    "other version": (
        {"model_version": "x"},
        Code.FAILED_PRECONDITION,
        "leave the version empty",
    ),
    "slash in namespace": ({"namespace": "a/b"}, Code.INVALID_ARGUMENT, "a namespace has 1 to 64"),
    "colon in namespace": ({"namespace": "a:b"}, Code.INVALID_ARGUMENT, "a namespace has 1 to 64"),
    "newline in namespace": ({"namespace": "a\n"}, Code.INVALID_ARGUMENT, "a namespace has"),
    "long namespace": ({"namespace": "a" * 65}, Code.INVALID_ARGUMENT, "a namespace has 1 to 64"),
    "letter outside ASCII": ({"namespace": "é"}, Code.INVALID_ARGUMENT, "a namespace has"),
    "unknown input type": (
        {"input_type": 77},
        Code.INVALID_ARGUMENT,
        "input_type has the unknown value 77",
    ),
    "unknown encoding": ({"encoding": 77}, Code.INVALID_ARGUMENT, "encoding has the unknown value"),
    "unknown truncation": ({"truncation": -1}, Code.INVALID_ARGUMENT, "truncation has the unknown"),
    "unknown mode": ({"mode": 77}, Code.INVALID_ARGUMENT, "cache.mode has the unknown value 77"),
    "ttl of zero": ({"ttl": Duration()}, Code.INVALID_ARGUMENT, "cache.ttl must be positive"),
    "negative ttl": (
        {"ttl": Duration(seconds=-1)},
        Code.INVALID_ARGUMENT,
        "leave it out for the default, or use CACHE_MODE_NO_STORE",
    ),
    "endless ttl": ({"ttl": Duration(seconds=2**62)}, Code.INVALID_ARGUMENT, "at most ten years"),
    "17 tags": (
        {"tags": [str(number) for number in range(17)]},
        Code.INVALID_ARGUMENT,
        "17 tags, more than the 16 allowed",
    ),
    "empty tag": ({"tags": ["good", ""]}, Code.INVALID_ARGUMENT, "a tag has 1 to 256 bytes"),
    "long tag": ({"tags": ["é" * 129]}, Code.INVALID_ARGUMENT, "a tag has 1 to 256 bytes"),
}


@pytest.mark.parametrize(
    ("fields", "code", "message"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys()
)
async def test_a_bad_field_ends_the_call_with_a_word_on_what_to_do(
    fields: dict[str, Any], code: grpc.StatusCode, message: str, start: Start
) -> None:
    sidecar = await start()
    got, details = await failure(sidecar.embed("a text", **fields))
    assert got == code
    assert message in details
    assert await sidecar.computed() == 0


async def test_the_limits_themselves_are_allowed(start: Start) -> None:
    sidecar = await start()
    response = await sidecar.embed(
        "a text",
        namespace="aZ0._-" + "n" * 58,
        tags=[*map(str, range(15)), "é" * 128],
        ttl=Duration(nanos=1),
    )
    assert response.embeddings[0].vector


async def test_an_empty_batch_is_refused(start: Start) -> None:
    sidecar = await start()
    assert await failure(sidecar.embed()) == (
        Code.INVALID_ARGUMENT,
        "the batch is empty: put at least one input into it",
    )


async def test_a_batch_of_more_than_ten_thousand_is_refused(start: Start) -> None:
    sidecar = await start()
    assert len((await sidecar.embed(*["same"] * 10_000)).embeddings) == 10_000
    code, details = await failure(sidecar.embed(*["same"] * 10_001))
    assert code == Code.INVALID_ARGUMENT
    assert "10001 inputs, more than the 10000 allowed: split it" in details


async def test_a_text_of_five_megabytes_fails_beside_a_good_one(start: Start) -> None:
    sidecar = await start()
    huge, good = (await sidecar.embed("x" * 5_000_000, "good")).embeddings
    assert huge.error.code == Code.INVALID_ARGUMENT.value[0]
    assert "split it into chunks, or raise server.max_text_bytes" in huge.error.message
    assert good.vector


async def test_the_longest_text_is_measured_in_utf_8(start: Start) -> None:
    sidecar = await start(server={"address": "127.0.0.1:0", "max_text_bytes": 6})
    embeddings = (await sidecar.embed("123456", "éée", "1234567", "éééé")).embeddings
    assert [bool(e.vector) for e in embeddings] == [True, True, False, False]


async def test_an_input_that_holds_nothing_fails_alone(start: Start) -> None:
    sidecar = await start()
    nothing, good = (await sidecar.embed(embed_pb2.Input(), "good")).embeddings
    assert nothing.error.code == Code.INVALID_ARGUMENT.value[0]
    assert "set its text, entity or tensor" in nothing.error.message
    assert good.vector


async def test_an_empty_text_is_a_text(start: Start) -> None:
    sidecar = await start()
    embeddings = (await sidecar.embed("", "good")).embeddings
    assert [len(e.vector) for e in embeddings] == [32, 32]
    assert await sidecar.tiers("") == ["HOT"]


async def test_a_text_longer_than_the_model_reads_is_truncated_or_refused(start: Start) -> None:
    sidecar = await start()
    for _ in range(2):  # computed, then hot
        long, short = (await sidecar.embed("x" * 65, "x" * 64)).embeddings
        assert (long.truncated, short.truncated) == (True, False)
        assert long.tokens == short.tokens == 64
        request = {"truncation": embed_pb2.TRUNCATION_ERROR}
        long, short = (await sidecar.embed("x" * 65, "x" * 64, **request)).embeddings
        assert long.error.code == Code.INVALID_ARGUMENT.value[0]
        assert "split it, or use TRUNCATION_END" in long.error.message
        assert not long.vector
        assert short.vector


async def test_bytes_that_are_no_request_are_refused(start: Start) -> None:
    sidecar = await start()
    raw = sidecar.channel.unary_unary(EMBED)
    for garbage in (b"\xff", b"\x0a\x05", b"\x08", b"\x0b" * 200):
        code, details = await failure(raw(garbage, timeout=HANG_GUARD))
        assert code == Code.INVALID_ARGUMENT
        assert "the bytes are not a embercache.v1.EmbedRequest: use the published protos" in details


async def test_a_text_that_is_not_utf_8_is_refused(start: Start) -> None:
    sidecar = await start()
    raw = sidecar.channel.unary_unary(EMBED)
    good = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="ab")]).SerializeToString()
    for bad in (b"\xff\xfe", b"\xc0\x80", b"\xed\xa0"):
        code, details = await failure(raw(good.replace(b"ab", bad), timeout=HANG_GUARD))
        assert code == Code.INVALID_ARGUMENT
        assert "UTF-8 in every string" in details
    assert await raw(good, timeout=HANG_GUARD)


async def test_a_message_over_the_limit_is_told_what_to_do(start: Start) -> None:
    sidecar = await start(server={"address": "127.0.0.1:0", "max_message_bytes": 4096})
    assert await sidecar.embed("x" * 4000)
    code, details = await failure(sidecar.embed("x" * 5000))
    assert code == Code.RESOURCE_EXHAUSTED
    assert "more than the 4096 allowed: split the batch, or raise" in details


async def test_a_message_over_twice_the_limit_is_refused_by_grpc_itself(start: Start) -> None:
    sidecar = await start(server={"address": "127.0.0.1:0", "max_message_bytes": 4096})
    code, _ = await failure(sidecar.embed("x" * 9000))
    assert code == Code.RESOURCE_EXHAUSTED
    assert await sidecar.embed("a text")


async def test_a_method_that_does_not_exist_is_unimplemented(start: Start) -> None:
    sidecar = await start()
    call = sidecar.channel.unary_unary("/embercache.v1.EmbedService/Nonsense")
    assert (await failure(call(b"", timeout=HANG_GUARD)))[0] == Code.UNIMPLEMENTED


BAD_INVALIDATIONS = {
    "no target": (cache_pb2.InvalidateRequest(), "say what to invalidate: tags, inputs"),
    "no tags": (
        cache_pb2.InvalidateRequest(tags=cache_pb2.InvalidateRequest.Tags()),
        "name at least one tag",
    ),
    "no inputs": (
        cache_pb2.InvalidateRequest(inputs=cache_pb2.InvalidateRequest.Inputs()),
        "name at least one input",
    ),
    "bad namespace": (
        cache_pb2.InvalidateRequest(
            namespace="a b", whole_namespace=cache_pb2.InvalidateRequest.WholeNamespace()
        ),
        "a namespace has",
    ),
    "an input that is nothing": (
        cache_pb2.InvalidateRequest(
            inputs=cache_pb2.InvalidateRequest.Inputs(inputs=[embed_pb2.Input()])
        ),
        "the input is empty",
    ),
    "too many tags": (
        cache_pb2.InvalidateRequest(
            tags=cache_pb2.InvalidateRequest.Tags(tags=[str(n) for n in range(1001)])
        ),
        "more than the 1000 allowed",
    ),
}


@pytest.mark.parametrize(
    ("request_", "message"), BAD_INVALIDATIONS.values(), ids=BAD_INVALIDATIONS.keys()
)
async def test_a_bad_invalidation_is_refused(
    request_: cache_pb2.InvalidateRequest, message: str, start: Start
) -> None:
    sidecar = await start()
    code, details = await failure(sidecar.caches.Invalidate(request_, timeout=HANG_GUARD))
    assert code == Code.INVALID_ARGUMENT
    assert message in details


@pytest.mark.parametrize("tier", [common_pb2.TIER_WARM, common_pb2.TIER_COMPUTED, 0, 77])
async def test_only_tiers_of_this_sidecar_can_be_flushed(tier: int, start: Start) -> None:
    sidecar = await start()
    await sidecar.embed("a text")
    code, details = await failure(sidecar.flush(common_pb2.TIER_HOT, tier))
    assert code == Code.INVALID_ARGUMENT
    assert "use Invalidate with whole_namespace" in details
    assert await sidecar.tiers("a text") == ["HOT"]
