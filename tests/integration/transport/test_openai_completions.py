"""/v1/completions and /v1/chat/completions that are answered at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import openai
import pytest
from embercache.v1 import common_pb2, generate_pb2

from sidecar.models.types import QueueFullError
from sidecar.services.errors import CallError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Front = Any
    FakeServices = Any

HELLO = [{"role": "user", "content": "Hello"}]


async def test_a_chat_is_answered(front: Front, services: FakeServices) -> None:
    answer = await front.openai.chat.completions.create(
        model="small",
        messages=[{"role": "system", "content": "Be brief."}, *HELLO],
    )
    assert answer.object == "chat.completion"
    assert answer.model == "small"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello you")
    assert choice.finish_reason == "stop"
    (request,) = services.generates
    assert [(m.role, m.content) for m in request.chat.messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
    ]


async def test_a_prompt_is_completed(front: Front, services: FakeServices) -> None:
    answer = await front.openai.completions.create(model="small", prompt="Say")
    assert answer.object == "text_completion"
    assert answer.choices[0].text == "Hello you"
    assert services.generates[0].text == "Say"


async def test_several_prompts_are_completed_in_their_order(
    front: Front, services: FakeServices
) -> None:
    answer = await front.openai.completions.with_raw_response.create(
        model="small", prompt=["one", "two"], max_tokens=3
    )
    assert [choice.index for choice in answer.parse().choices] == [0, 1]
    assert [request.text for request in services.generates] == ["one", "two"]
    assert {request.sampling.max_tokens for request in services.generates} == {3}
    assert answer.parse().usage.total_tokens == 14
    assert answer.headers["x-embercache-hits"] == "0/2"


@pytest.mark.parametrize(
    ("reason", "name"),
    [
        (generate_pb2.FINISH_REASON_STOP, "stop"),
        (generate_pb2.FINISH_REASON_LENGTH, "length"),
        (generate_pb2.FINISH_REASON_FILTERED, "content_filter"),
    ],
)
async def test_the_reason_why_a_text_ended_has_openais_name(
    front: Front, services: FakeServices, reason: Any, name: str
) -> None:
    services.summary.finish_reason = reason
    answer = await front.openai.chat.completions.create(model="small", messages=HELLO)
    assert answer.choices[0].finish_reason == name


async def test_usage_tells_the_tokens_of_the_prompt_that_were_reused(front: Front) -> None:
    usage = (await front.openai.chat.completions.create(model="small", messages=HELLO)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (5, 2, 7)
    assert usage.prompt_tokens_details.cached_tokens == 3


async def test_headers_tell_what_answered(front: Front, services: FakeServices) -> None:
    services.summary.tier = common_pb2.TIER_WARM
    services.summary.age_ms = 40
    answer = await front.openai.chat.completions.with_raw_response.create(
        model="small", messages=HELLO
    )
    assert answer.headers["x-embercache-tier"] == "warm"
    assert answer.headers["x-embercache-age-ms"] == "40"
    assert answer.headers["x-embercache-model-version"] == "v7"
    assert "x-embercache-similarity" not in answer.headers


async def test_the_answer_to_another_prompt_says_how_similar_that_is(
    front: Front, services: FakeServices
) -> None:
    services.summary.similarity = 0.975
    answer = await front.openai.chat.completions.with_raw_response.create(
        model="small", messages=HELLO
    )
    assert answer.headers["x-embercache-similarity"] == "0.9750"


@pytest.mark.parametrize("similarities", [(None, 0.75, 0.5), (0.75, 0.5, None), (0.5, None, 0.75)])
async def test_of_several_answers_the_least_similarity_is_told(
    front: Front, services: FakeServices, similarities: tuple[float | None, ...]
) -> None:
    services.similarities = dict(zip("abc", similarities, strict=True))
    answer = await front.openai.completions.with_raw_response.create(
        model="small", prompt=["a", "b", "c"]
    )
    assert answer.headers["x-embercache-similarity"] == "0.5000"


async def test_a_stored_response_needs_no_service(front: Front, services: FakeServices) -> None:
    services.stored = generate_pb2.GenerateResponse(
        text="as before", summary=services.summary
    ).SerializeToString()
    answer = await front.openai.chat.completions.create(model="small", messages=HELLO)
    assert answer.choices[0].message.content == "as before"
    assert services.generates == []


async def test_every_option_of_sampling_is_passed_on(front: Front, services: FakeServices) -> None:
    await front.openai.chat.completions.create(
        model="small",
        messages=HELLO,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=2**63,
        stop=["\n", "end"],
        extra_body={
            "top_k": 7,
            "min_p": 0.125,
            "repetition_penalty": 1.5,
            "stop_token_ids": [1, 2],
        },
    )
    assert services.generates[0].sampling == generate_pb2.Sampling(
        max_tokens=9,
        temperature=0.5,
        top_p=0.25,
        seed=2**63,
        stop=["\n", "end"],
        top_k=7,
        min_p=0.125,
        repetition_penalty=1.5,
        stop_tokens=[1, 2],
    )


async def test_options_that_are_left_out_are_left_to_the_sidecar(
    front: Front, services: FakeServices
) -> None:
    await front.openai.completions.create(model="small", prompt="Say")
    assert services.generates == [
        generate_pb2.GenerateRequest(model="small", text="Say", sampling=generate_pb2.Sampling())
    ]


async def test_options_of_no_effect_are_accepted(front: Front, services: FakeServices) -> None:
    await front.openai.chat.completions.create(
        model="small",
        messages=HELLO,
        n=1,
        logprobs=False,
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        tools=[],
        user="somebody",
        metadata={"a": "b"},
        store=True,
    )
    assert len(services.generates) == 1


async def test_a_temperature_of_zero_is_not_one_that_is_left_out(
    front: Front, services: FakeServices
) -> None:
    await front.openai.completions.create(model="small", prompt="Say", temperature=0)
    assert services.generates[0].sampling.HasField("temperature")


async def test_one_stop_string_need_not_be_in_a_list(front: Front, services: FakeServices) -> None:
    await front.openai.completions.create(model="small", prompt="Say", stop="\n")
    assert list(services.generates[0].sampling.stop) == ["\n"]


async def test_extra_body_chooses_how_the_cache_is_used(
    front: Front, services: FakeServices
) -> None:
    await front.openai.completions.create(
        model="small",
        prompt="Say",
        extra_body={
            "embercache": {
                "mode": "no_store",
                "namespace": "team",
                "tags": ["a"],
                "store_sampled": True,
            }
        },
    )
    (request,) = services.generates
    assert request.cache.mode == common_pb2.CACHE_MODE_NO_STORE
    assert list(request.cache.tags) == ["a"]
    assert request.namespace == "team"
    assert request.store_sampled


@pytest.mark.parametrize(
    ("value", "options"),
    [
        (True, common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON)),
        (False, common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_OFF)),
        (
            0.5,
            common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.5),
        ),
    ],
)
async def test_semantic_answers_are_asked_for_with_or_without_a_threshold(
    front: Front, services: FakeServices, value: Any, options: Any
) -> None:
    extra = {"embercache": {"semantic": value}}
    await front.openai.completions.create(model="small", prompt="Say", extra_body=extra)
    assert services.generates[0].semantic == options


@pytest.mark.parametrize(("asked", "seed"), [(-1, 2**64 - 1), (-(2**63), 2**63), (0, 0), (7, 7)])
async def test_a_seed_may_be_negative(
    front: Front, services: FakeServices, asked: int, seed: int
) -> None:
    await front.openai.chat.completions.create(model="small", messages=HELLO, seed=asked)
    assert services.generates[0].sampling.seed == seed
    assert services.generates[0].sampling.HasField("seed")


async def test_reasoning_may_be_switched_off(front: Front, services: FakeServices) -> None:
    await front.openai.chat.completions.create(
        model="small", messages=HELLO, reasoning_effort="none"
    )
    assert len(services.generates) == 1


@pytest.mark.parametrize("turn", [{"content": None}, {}, {"content": ""}])
async def test_an_assistant_may_have_said_nothing(
    front: Front, services: FakeServices, turn: Any
) -> None:
    messages = [*HELLO, {"role": "assistant"} | turn, *HELLO]
    await front.openai.chat.completions.create(model="small", messages=messages)
    (_, said, _) = services.generates[0].chat.messages
    assert (said.role, said.content) == ("assistant", "")


async def test_the_name_of_who_says_a_message_changes_nothing(
    front: Front, services: FakeServices
) -> None:
    for name in ({}, {"name": "Ann"}, {"name": "Ben"}):
        messages = [HELLO[0] | name]
        await front.openai.chat.completions.create(model="small", messages=messages)
    assert services.generates[0] == services.generates[1] == services.generates[2]


async def test_developers_are_the_system(front: Front, services: FakeServices) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, *HELLO]
    await front.openai.chat.completions.create(model="small", messages=messages)
    assert services.generates[0].chat.messages[0].role == "system"


async def test_parts_of_text_are_one_text(front: Front, services: FakeServices) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}]
    await front.openai.chat.completions.create(model="small", messages=messages)
    assert services.generates[0].chat.messages[0].content == "Hello"


async def test_an_answer_may_be_sent_back_as_it_came(front: Front, services: FakeServices) -> None:
    answer = await front.openai.chat.completions.create(model="small", messages=HELLO)
    messages = [*HELLO, answer.choices[0].message.model_dump(), *HELLO]
    await front.openai.chat.completions.create(model="small", messages=messages)
    assert services.generates[1].chat.messages[1].content == "Hello you"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"5": 1}),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("response_format", {"type": "json_object"}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("functions", [{"name": "f"}]),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
    ],
)
async def test_what_would_change_the_answer_and_is_not_there_is_refused(
    front: Front, services: FakeServices, field: str, value: Any
) -> None:
    body = {"model": "small", "messages": HELLO, field: value}
    status, answer, _ = await front.post("chat/completions", body)
    assert status == 400
    assert answer["error"]["param"] == field
    assert "not supported" in answer["error"]["message"]
    assert services.generates == []


@pytest.mark.parametrize(
    ("field", "value"), [("echo", True), ("suffix", "end"), ("best_of", 2), ("logprobs", 0)]
)
async def test_so_is_what_only_completions_have(front: Front, field: str, value: Any) -> None:
    body = {"model": "small", "prompt": "Say", field: value}
    status, answer, _ = await front.post("completions", body)
    assert (status, answer["error"]["param"]) == (400, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", None),
        ("messages", None),
        ("messages", []),
        ("messages", "Hello"),
        ("messages[0]", ["Hello"]),
        ("messages[0]", [{"role": "user", "content": "a"}, "Hello"]),
        ("messages[0].role", [{"content": "a"}]),
        ("messages[0].role", [{"role": "tool", "content": "a"}]),
        ("messages[0].content", [{"role": "user"}]),
        ("messages[0].content", [{"role": "user", "content": 7}]),
        ("messages[0].content[0].type", [{"role": "user", "content": [{"type": "image_url"}]}]),
        ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "user", "content": "a"}] * 10_001),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": ""}] * 5_001}] * 2),
        ("messages[0].content", [{"role": "user", "content": None}]),
        ("messages[0].content", [{"role": "user", "content": "\ud83d"}]),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("max_tokens", 2**32),
        ("temperature", "hot"),
        ("temperature", True),
        ("temperature", 10**400),
        ("seed", -(2**63) - 1),
        ("seed", 2**64),
        ("stop", 5),
        ("stop", [5]),
        ("stop", ["a"] * 17),
        ("stream", "yes"),
        ("stream_options", True),
        ("stream_options.include_all", {"include_all": True}),
        ("top_k", -1),
        ("stop_token_ids", [2**32]),
        ("stop_token_ids", [1] * 17),
        ("embercache.semantic", {"semantic": 1.5}),
        ("embercache.store_sampled", {"store_sampled": 1}),
    ],
)
async def test_a_field_that_is_wrong_is_named(
    front: Front, services: FakeServices, field: str, value: Any
) -> None:
    body: dict[str, Any] = {"model": "small", "messages": HELLO}
    body[field.partition(".")[0].partition("[")[0]] = value
    # Unlike the client's, this JSON can hold half of a surrogate pair.
    status, answer, _ = await front.post("chat/completions", json.dumps(body).encode())
    assert status == 400
    named = answer["error"]["param"]
    assert named == field or named.rpartition("[")[0] in (field, field.removesuffix("[0]"))
    assert services.generates == []


@pytest.mark.parametrize("prompt", [None, [], 7, [1, 2], [[1]], ["a", None], ["a"] * 129])
async def test_a_prompt_is_a_string_or_some_strings(front: Front, prompt: Any) -> None:
    status, answer, _ = await front.post("completions", {"model": "small", "prompt": prompt})
    assert status == 400
    assert answer["error"]["param"].startswith("prompt")


async def test_two_limits_of_tokens_must_agree(front: Front) -> None:
    with pytest.raises(openai.BadRequestError, match="max_completion_tokens"):
        await front.openai.chat.completions.create(
            model="small", messages=HELLO, max_tokens=3, max_completion_tokens=4
        )


async def test_an_unknown_model_is_not_found(front: Front) -> None:
    with pytest.raises(openai.NotFoundError, match="choose one of small") as caught:
        await front.openai.chat.completions.create(model="tiny", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("told", "field", "message"),
    [
        ("sampling.top_p is 0: use temperature 0", "top_p", "top_p is 0: use temperature 0"),
        ("sampling.stop_tokens has more", "stop_token_ids", "stop_token_ids has more"),
        ("the prompt is too long", None, "the prompt is too long"),
    ],
)
async def test_what_the_service_refuses_has_the_name_that_the_caller_gave_it(
    front: Front, services: FakeServices, told: str, field: str | None, message: str
) -> None:
    services.error = CallError(grpc.StatusCode.INVALID_ARGUMENT, told)
    with pytest.raises(openai.BadRequestError) as caught:
        await front.openai.chat.completions.create(model="small", messages=HELLO)
    assert caught.value.param == field
    assert caught.value.body["message"] == message


async def test_when_one_of_several_prompts_fails_the_others_are_ended(
    front: Front, services: FakeServices, eventually: Callable[..., Awaitable[None]]
) -> None:
    services.errors["bad"] = QueueFullError("too many wait")
    services.hangs_on = {"slow", "slower"}
    with pytest.raises(openai.RateLimitError, match="too many wait"):
        await front.openai.completions.create(model="small", prompt=["slow", "bad", "slower"])
    await eventually(lambda: services.cancelled == {"slow", "slower"})


async def test_when_one_of_several_prompts_fails_the_call_does(
    front: Front, services: FakeServices
) -> None:
    services.error = QueueFullError("too many wait")
    with pytest.raises(openai.RateLimitError, match="too many wait"):
        await front.openai.completions.create(model="small", prompt=["one", "two"])
    assert front.failures("completions", "RESOURCE_EXHAUSTED") == 1
