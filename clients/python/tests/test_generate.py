"""``generate``, ``generate_stream`` and ``generators`` with both clients."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import fields

import pytest

from embercache import (
    AsyncClient,
    ChatMessage,
    Client,
    DeadlineExceededError,
    Generated,
    GenerateTimings,
    GeneratorModel,
    InvalidArgumentError,
    ModelNotFoundError,
    NotCachedError,
    OverloadedError,
    UnavailableError,
    VersionMismatchError,
)
from embercache._generate_requests import generate_request
from embercache.v1 import common_pb2, generate_pb2

HANG_GUARD = 30.0
SUMMARY = generate_pb2.GenerateSummary(
    finish_reason=generate_pb2.FINISH_REASON_LENGTH,
    usage=generate_pb2.GenerateUsage(
        prompt_tokens=1024,
        completion_tokens=4,
        reused_tokens=[
            common_pb2.TierCount(tier=common_pb2.TIER_HOT, count=1000),
            common_pb2.TierCount(tier=common_pb2.TIER_WARM, count=8),
        ],
    ),
    tier=common_pb2.TIER_COMPUTED,
    age_ms=1500,
    model="smollm2",
    model_version="v1",
    timings=generate_pb2.GenerateTimings(queued=1, loading=2, first_token=40, total=500),
    similarity=0.75,
)
GENERATED = Generated(
    text="An ember glows.",
    tokens=[3, 4, 5, 6],
    finish_reason="length",
    prompt_tokens=1024,
    completion_tokens=4,
    reused_tokens={"hot": 1000, "warm": 8},
    tier="computed",
    age=1.5,
    model="smollm2",
    model_version="v1",
    timings=GenerateTimings(queued=0.001, loading=0.002, first_token=0.04, total=0.5),
    similarity=0.75,
)


def test_a_generation_gives_all_that_the_answer_tells(client, sidecar):
    sidecar.summary = SUMMARY
    assert client.generate("p") == GENERATED


def test_nothing_that_the_contract_tells_of_an_answer_is_left_out():
    messages = (
        generate_pb2.GenerateResponse,
        generate_pb2.GenerateSummary,
        generate_pb2.GenerateUsage,
    )
    told = {each.name for message in messages for each in message.DESCRIPTOR.fields}
    renamed = {"age_ms": "age"}
    assert {each.name for each in fields(Generated)} == {
        renamed.get(name, name) for name in told - {"summary", "usage"}
    }
    assert {each.name for each in fields(GenerateTimings)} == {
        each.name for each in generate_pb2.GenerateTimings.DESCRIPTOR.fields
    }


def test_a_summary_that_says_little_is_read_all_the_same(client, sidecar):
    sidecar.summary = generate_pb2.GenerateSummary(finish_reason=99, tier=99)
    result = client.generate("p")
    assert (result.finish_reason, result.tier, result.similarity) == (
        "unspecified",
        "unspecified",
        None,
    )
    assert result.timings == GenerateTimings(0, 0, 0, 0)


@pytest.mark.parametrize("reason", generate_pb2.FinishReason.keys())
def test_every_finish_reason_of_the_contract_has_a_name(client, sidecar, reason):
    sidecar.summary.finish_reason = generate_pb2.FinishReason.Value(reason)
    assert client.generate("p").finish_reason == reason.removeprefix("FINISH_REASON_").lower()


@pytest.mark.parametrize(
    ("tier", "is_hit"),
    [("HOT", True), ("DISK", True), ("WARM", True), ("COMPUTED", False), ("COALESCED", False)],
)
def test_an_answer_from_a_tier_is_a_hit(client, sidecar, tier, is_hit):
    sidecar.summary.tier = common_pb2.Tier.Value(f"TIER_{tier}")
    assert client.generate("p").is_hit is is_hit


def test_options_of_a_generation_reach_the_sidecar(client, sidecar):
    chat = [ChatMessage("system", "be brief"), {"role": "user", "content": "what glows?"}]
    given = {"max_tokens": 3, "temperature": 0.5, "seed": 7, "stop": ["\n"], "tags": ["t"]}
    client.generate(chat, **given)
    list(client.generate_stream(chat, **given))
    assert sidecar.requests == [generate_request(chat, **given)] * 2


def test_an_unknown_option_of_a_generation_is_refused(client):
    with pytest.raises(TypeError, match="colour"):
        client.generate("p", colour="red")
    with pytest.raises(TypeError, match="colour"):
        client.generate_stream("p", colour="red")


def test_a_wrong_argument_is_refused_before_a_stream_is_read(client):
    with pytest.raises(InvalidArgumentError, match="max_tokens is -1"):
        client.generate_stream("p", max_tokens=-1)


@pytest.mark.parametrize(
    "call",
    [
        lambda client, **options: client.generate("p", **options),
        lambda client, **options: list(client.generate_stream("p", **options)),
    ],
    ids=["generate", "generate_stream"],
)
@pytest.mark.parametrize(
    ("code", "options", "error"),
    [
        ("INVALID_ARGUMENT", {}, InvalidArgumentError),
        ("NOT_FOUND", {}, ModelNotFoundError),
        ("NOT_FOUND", {"mode": "only_if_cached"}, NotCachedError),
        ("FAILED_PRECONDITION", {}, VersionMismatchError),
        ("RESOURCE_EXHAUSTED", {}, OverloadedError),
    ],
)
def test_errors_are_those_of_other_calls(client, sidecar, call, code, options, error):
    sidecar.call_faults = [code] * 5
    with pytest.raises(error, match="told to fail") as caught:
        call(client, **options)
    assert type(caught.value) is error


def test_a_stream_gives_texts_and_at_its_end_what_generate_gives(client, sidecar):
    sidecar.summary = SUMMARY
    stream = client.generate_stream("p")
    assert list(stream) == ["An ember", " glows."]
    assert stream.result == GENERATED


def test_a_stream_has_no_result_before_its_end(client):
    stream = client.generate_stream("p")
    with pytest.raises(RuntimeError, match="to its end"):
        _ = stream.result
    next(stream)
    with pytest.raises(RuntimeError, match="to its end"):
        _ = stream.result


def test_a_stream_that_is_not_read_asks_for_nothing(client, sidecar):
    client.generate_stream("p").close()
    assert not sidecar.requests


def test_closing_a_stream_early_ends_the_generation(client, sidecar):
    sidecar.written = itertools.repeat(("more", [1]))
    stream = client.generate_stream("p")
    next(stream)
    stream.close()
    assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)
    assert list(stream) == []


def test_dropping_a_stream_early_ends_the_generation(sidecar):
    sidecar.written = itertools.repeat(("more", [1]))
    with Client(sidecar.address) as client:
        for _ in client.generate_stream("p"):
            break
        assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)


async def test_leaving_an_asynchronous_loop_early_ends_the_generation(sidecar):
    sidecar.written = itertools.repeat(("more", [1]))
    async with AsyncClient(sidecar.address) as client:
        async with contextlib.aclosing(client.generate_stream("p")) as stream:
            async for _ in stream:
                break
        assert sidecar.stream_ended.acquire(timeout=HANG_GUARD)


def test_a_stream_that_breaks_is_not_begun_anew(client, sidecar):
    sidecar.break_off = "UNAVAILABLE"
    stream = client.generate_stream("p")
    assert [next(stream), next(stream)] == ["An ember", " glows."]
    with pytest.raises(UnavailableError, match="told to break"):
        next(stream)
    assert len(sidecar.requests) == 1
    with pytest.raises(RuntimeError, match="no result"):
        _ = stream.result


def test_a_stream_that_ends_without_a_summary_was_cut_short(client, sidecar):
    sidecar.break_off = "OK"
    with pytest.raises(UnavailableError, match="ended the stream"):
        list(client.generate_stream("p"))


def test_a_stream_that_says_nothing_is_given_up_after_the_timeout(client, sidecar):
    sidecar.gate.clear()
    with pytest.raises(DeadlineExceededError, match=r"0\.1 seconds"):
        list(client.generate_stream("p", timeout=0.1))


def test_a_generation_ends_at_its_own_deadline(client, sidecar):
    sidecar.gate.clear()
    with pytest.raises(DeadlineExceededError):
        client.generate("p", timeout=0.1)


def test_generators_are_listed(client):
    assert client.generators() == [GeneratorModel("fake", "version-1", 8192, True, "cpu")]
