"""/v1/embeddings, as the openai client sees it."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import openai
import pytest
from embercache.v1 import common_pb2, embed_pb2

from sidecar.models.types import ModelUnavailableError, QueueFullError
from sidecar.services.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Front = Any
    FakeServices = Any


def embedding(
    *values: float, tier: int = common_pb2.TIER_HOT, age_ms: int = 0
) -> embed_pb2.Embedding:
    vector = np.array(values, "<f4").tobytes()
    return embed_pb2.Embedding(
        vector=vector, tier=tier, model_version="v3", tokens=4, age_ms=age_ms
    )


async def test_a_string_gets_one_vector(front: Front, services: FakeServices) -> None:
    services.embeddings = [embedding(0.25, -1)]
    answer = await front.openai.embeddings.create(model="tiny", input="a text")
    assert answer.data[0].embedding == [0.25, -1]
    assert answer.model == "tiny"
    assert [i.text for i in services.embeds[0].inputs] == ["a text"]


async def test_vectors_of_a_list_come_in_its_order(front: Front, services: FakeServices) -> None:
    services.embeddings = [embedding(1, 2), embedding(3, 4)]
    answer = await front.openai.embeddings.create(model="tiny", input=["one", "two"])
    assert [item.embedding for item in answer.data] == [[1, 2], [3, 4]]
    assert [item.index for item in answer.data] == [0, 1]
    assert [i.text for i in services.embeds[0].inputs] == ["one", "two"]


async def test_a_large_batch_is_whole(front: Front, services: FakeServices) -> None:
    services.embeddings = [embedding(number, 0) for number in range(10_000)]
    answer = await front.openai.embeddings.create(
        model="tiny", input=["a"] * 10_000, encoding_format="float"
    )
    assert [item.embedding[0] for item in answer.data] == list(range(10_000))


async def test_a_batch_of_more_than_the_service_takes_is_refused(
    open_front: Callable[..., Awaitable[Front]], services: FakeServices
) -> None:
    front = await open_front(max_batch_items=2)
    with pytest.raises(openai.BadRequestError, match="3, more than 2") as caught:
        await front.openai.embeddings.create(model="tiny", input=["a", "b", "c"])
    assert caught.value.param == "input"
    assert services.embeds == []
    assert len((await front.openai.embeddings.create(model="tiny", input=["a", "b"])).data) == 2


async def test_base64_is_the_vectors_own_bytes(front: Front, services: FakeServices) -> None:
    services.embeddings = [embedding(0.1, 0.2)]
    body = {"model": "tiny", "input": "a", "encoding_format": "base64"}
    _, answer, _ = await front.post("embeddings", body)
    assert base64.b64decode(answer["data"][0]["embedding"]) == services.embeddings[0].vector


async def test_floats_are_exact_unless_base64_is_asked_for(
    front: Front, services: FakeServices
) -> None:
    services.embeddings = [embedding(0.1, 0.2)]
    _, answer, _ = await front.post("embeddings", {"model": "tiny", "input": "a"})
    vector = np.array(answer["data"][0]["embedding"], "<f4")
    assert vector.tobytes() == services.embeddings[0].vector


async def test_usage_counts_the_tokens_of_all_texts(front: Front) -> None:
    answer = await front.openai.embeddings.create(model="tiny", input=["one", "two"])
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (8, 8)


async def test_headers_tell_what_answered(front: Front, services: FakeServices) -> None:
    services.embeddings = [embedding(1, 2, age_ms=40)]
    answer = await front.openai.embeddings.with_raw_response.create(model="tiny", input="a")
    assert answer.headers["x-embercache-tier"] == "hot"
    assert answer.headers["x-embercache-age-ms"] == "40"
    assert answer.headers["x-embercache-model-version"] == "v3"


async def test_headers_of_a_batch_tell_its_costliest_tier_and_its_hits(
    front: Front, services: FakeServices
) -> None:
    tiers = (common_pb2.TIER_HOT, common_pb2.TIER_COMPUTED, common_pb2.TIER_WARM)
    services.embeddings = [embedding(1, 2, tier=tier, age_ms=tier) for tier in tiers]
    answer = await front.openai.embeddings.with_raw_response.create(model="tiny", input=["a"] * 3)
    assert answer.headers["x-embercache-tier"] == "computed"
    assert answer.headers["x-embercache-hits"] == "2/3"
    assert answer.headers["x-embercache-age-ms"] == "4"


async def test_a_stored_response_needs_no_service(front: Front, services: FakeServices) -> None:
    services.stored = embed_pb2.EmbedResponse(
        embeddings=[embedding(1, 2)], model="tiny", dimensions=2
    ).SerializeToString()
    answer = await front.openai.embeddings.create(model="tiny", input="a")
    assert answer.data[0].embedding == [1, 2]
    assert services.embeds == []


async def test_extra_body_chooses_how_the_cache_is_used(
    front: Front, services: FakeServices
) -> None:
    extra = {
        "embercache": {
            "mode": "refresh",
            "ttl": 1.5,
            "tags": ["a", "b"],
            "namespace": "team",
            "input_type": "query",
        }
    }
    await front.openai.embeddings.create(model="tiny", input="a", extra_body=extra)
    (request,) = services.embeds
    assert request.cache.mode == common_pb2.CACHE_MODE_REFRESH
    assert request.cache.ttl.ToMilliseconds() == 1500
    assert list(request.cache.tags) == ["a", "b"]
    assert request.namespace == "team"
    assert request.input_type == embed_pb2.INPUT_TYPE_QUERY


async def test_without_extra_body_nothing_is_set_but_model_and_texts(
    front: Front, services: FakeServices
) -> None:
    await front.openai.embeddings.create(model="tiny", input="a", user="somebody")
    assert services.embeds == [
        embed_pb2.EmbedRequest(model="tiny", inputs=[embed_pb2.Input(text="a")])
    ]


async def test_the_models_own_dimensions_may_be_asked_for(front: Front) -> None:
    answer = await front.openai.embeddings.create(model="tiny", input="a", dimensions=2)
    assert len(answer.data[0].embedding) == 2


@pytest.mark.parametrize("is_stored", [True, False])
async def test_other_dimensions_are_refused(
    front: Front, services: FakeServices, is_stored: bool
) -> None:
    if is_stored:
        services.stored = embed_pb2.EmbedResponse(embeddings=[embedding(1, 2)]).SerializeToString()
    with pytest.raises(openai.BadRequestError, match=r"vectors .* have 2") as caught:
        await front.openai.embeddings.create(model="tiny", input="a", dimensions=1)
    assert caught.value.param == "dimensions"
    assert services.embeds == []


async def test_an_unknown_model_is_not_found(front: Front) -> None:
    with pytest.raises(openai.NotFoundError, match="choose one of tiny") as caught:
        await front.openai.embeddings.create(model="huge", input="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("tokens", [[1, 2], [[1, 2], [3]]])
async def test_tokens_are_refused_with_the_option_that_helps(front: Front, tokens: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        await front.openai.embeddings.create(model="tiny", input=tokens)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", None),
        ("input", 7),
        ("input", []),
        ("input", {"text": "a"}),
        ("input", ["a", None]),
        ("input", "\ud800"),
        ("model", None),
        ("model", ""),
        ("model", 7),
        ("encoding_format", "int8"),
        ("dimensions", 0),
        ("dimensions", "2"),
        ("dimensions", True),
        ("embercache", "refresh"),
        ("embercache.mode", "often"),
        ("embercache.ttl", -1),
        ("embercache.ttl", "1h"),
        ("embercache.ttl", 1e300),
        ("embercache.tags", "a"),
        ("embercache.tags", [1]),
        ("embercache.tags", ["a"] * 17),
        ("embercache.namespace", ["a"]),
        ("embercache.input_type", "song"),
        ("embercache.semantic", True),
        ("truncate", 5),
    ],
)
async def test_a_field_that_is_wrong_is_named(front: Front, field: str, value: Any) -> None:
    body: dict[str, Any] = {"model": "tiny", "input": "a"}
    outer, _, inner = field.partition(".")
    body[outer] = {inner: value} if inner else value
    status, answer, _ = await front.post("embeddings", json.dumps(body).encode())
    assert status == 400
    assert answer["error"]["param"].partition("[")[0] == field
    assert answer["error"]["type"] == "invalid_request_error"
    assert front.failures("embeddings", "INVALID_ARGUMENT") == 1


@pytest.mark.parametrize(
    ("error", "kind", "status"),
    [
        (CallError(grpc.StatusCode.INVALID_ARGUMENT, "why"), openai.BadRequestError, 400),
        (CallError(grpc.StatusCode.NOT_FOUND, "why"), openai.NotFoundError, 404),
        (CallError(grpc.StatusCode.FAILED_PRECONDITION, "why"), openai.ConflictError, 409),
        (QueueFullError("why"), openai.RateLimitError, 429),
        (ModelUnavailableError("why"), openai.InternalServerError, 503),
        (CallError(grpc.StatusCode.INTERNAL, "why"), openai.InternalServerError, 500),
    ],
)
async def test_errors_of_the_service_are_those_of_the_client(
    front: Front, services: FakeServices, error: Exception, kind: type[Exception], status: int
) -> None:
    services.error = error
    with pytest.raises(kind, match="why") as caught:
        await front.openai.embeddings.create(model="tiny", input="a")
    assert caught.value.status_code == status


async def test_a_fault_of_ours_keeps_its_message_to_itself(
    front: Front, services: FakeServices
) -> None:
    services.error = RuntimeError("the text of a user")
    status, answer, _ = await front.post("embeddings", {"model": "tiny", "input": "a"})
    assert status == 500
    assert "user" not in answer["error"]["message"]
    assert answer["error"]["type"] == "server_error"


async def test_who_is_refused_by_a_full_queue_is_told_when_to_return(
    front: Front, services: FakeServices
) -> None:
    services.error = QueueFullError("why")
    _, answer, headers = await front.post("embeddings", {"model": "tiny", "input": "a"})
    assert headers["Retry-After"] == "1"
    assert answer["error"]["type"] == "rate_limit_error"


async def test_the_first_error_of_an_item_is_that_of_the_call(
    front: Front, services: FakeServices
) -> None:
    failed = embed_pb2.Embedding(error=common_pb2.ItemError(code=3, message="too long"))
    services.embeddings = [embedding(1, 2), failed]
    with pytest.raises(openai.BadRequestError, match="too long"):
        await front.openai.embeddings.create(model="tiny", input=["a", "b"])


async def test_what_is_not_cached_has_a_code_of_its_own(
    front: Front, services: FakeServices
) -> None:
    failed = embed_pb2.Embedding(error=common_pb2.ItemError(code=5, message="nothing is cached"))
    services.embeddings = [failed]
    with pytest.raises(openai.NotFoundError) as caught:
        await front.openai.embeddings.create(
            model="tiny", input="a", extra_body={"embercache": {"mode": "only_if_cached"}}
        )
    assert caught.value.code == "not_cached"


async def test_calls_and_failures_are_counted(front: Front, services: FakeServices) -> None:
    await front.openai.embeddings.create(model="tiny", input="a")
    services.error = QueueFullError("why")
    await front.post("embeddings", {"model": "tiny", "input": "a"})
    assert front.calls("embeddings") == 1
    assert front.failures("embeddings", "RESOURCE_EXHAUSTED") == 1


async def test_a_request_that_is_too_large_is_refused(
    open_front: Callable[..., Awaitable[Front]],
) -> None:
    front = await open_front(max_message_bytes=1024)
    status, answer, _ = await front.post("embeddings", {"model": "tiny", "input": "a" * 1024})
    assert status == 413
    assert "server.max_message_bytes" in answer["error"]["message"]
    assert front.failures("embeddings", "RESOURCE_EXHAUSTED") == 1


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b" " * 1024 + b'{"model": "tiny", "input": "a"}', id="as JSON"),
        pytest.param(b'{"model":"tiny","input":[%s]}' % b",".join([b'"a"'] * 240), id="inside"),
    ],
)
async def test_a_request_is_measured_as_it_comes_and_as_the_service_gets_it(
    open_front: Callable[..., Awaitable[Front]], services: FakeServices, body: bytes
) -> None:
    front = await open_front(max_message_bytes=1024)
    status, _, _ = await front.post("embeddings", body)
    assert status == 413
    assert services.embeds == []
