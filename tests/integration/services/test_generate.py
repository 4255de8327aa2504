"""Generate by way of the cache; the model is a service that speaks OpenAI's protocol."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, generate_pb2
from google.protobuf.duration_pb2 import Duration

from sidecar.cache.items import CacheMode
from sidecar.models.generation import Sampling
from sidecar.services.generate_request import ParsedGeneration
from sidecar.services.requests import CacheChoices

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]

CHAT = [("system", "Be brief."), ("user", "Is it warm?")]


@pytest.fixture
def start_generating(start: Start, openai_server: Any) -> Start:
    """Starts sidecars whose generator is the service of the test. It answers with the prompt."""

    def echo(body: dict[str, Any]) -> list[str]:
        said = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        return [f"{len(openai_server.calls)}: ", *said.partition(" ")]

    openai_server.says = echo

    async def start_sidecar(**sections: Any) -> Any:
        generator = {"target": openai_server.target, "packs": ["echo", "other=theirs"]}
        sections["generator"] = generator | sections.get("generator", {})
        return await start(**sections)

    return start_sidecar


async def status(call: Awaitable[object]) -> tuple[str, str]:
    """How a call ends, and what it says."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code().name, raised.value.details() or ""


# --- What a hit is -----------------------------------------------------------------------------


async def test_the_same_call_is_answered_from_memory(start_generating: Start) -> None:
    sidecar = await start_generating()
    assert await sidecar.generated("a prompt", temperature=0) == ("COMPUTED", "1: a prompt")
    assert await sidecar.generated("a prompt", temperature=0) == ("HOT", "1: a prompt")
    # Now the whole response is stored.
    assert await sidecar.generated("a prompt", temperature=0) == ("HOT", "1: a prompt")
    assert (await sidecar.stats()).response_hits == 1


async def test_another_sidecar_finds_the_answer_in_redis(
    start_generating: Start, redis_server: DevRedis, openai_server: Any
) -> None:
    first = await start_generating(redis=redis_server)
    await first.generated(CHAT, temperature=0)
    await first.stop()
    second = await start_generating(redis=redis_server)
    assert await second.generated(CHAT, temperature=0) == ("WARM", "1: Is it warm?")
    assert len(openai_server.calls) == 1


async def test_a_restarted_sidecar_finds_the_answer_on_disk(
    start_generating: Start, tmp_path: Any
) -> None:
    first = await start_generating(disk=tmp_path)
    await first.generated(CHAT, temperature=0)
    await first.stop()
    second = await start_generating(disk=tmp_path)
    assert await second.generated(CHAT, temperature=0) == ("DISK", "1: Is it warm?")


# For each field of Sampling two values that make another answer.
SAMPLINGS: dict[str, tuple[Any, Any]] = {
    "max_tokens": (5, 6),
    "temperature": (0.5, 0.6),
    "top_k": (2, 3),
    "top_p": (0.5, 0.6),
    "min_p": (0.1, 0.2),
    "repetition_penalty": (1.1, 1.2),
    "seed": (0, 1),
    "stop": (["a"], ["b"]),
    "stop_tokens": ([], [1]),
}


@pytest.mark.parametrize("field", generate_pb2.Sampling.DESCRIPTOR.fields_by_name)
def test_every_option_of_sampling_is_part_of_the_key(field: str) -> None:
    sampling = Sampling(max_tokens=9, temperature=0.9, seed=9)
    one, two = SAMPLINGS[field]
    values = [each if not isinstance(each, list) else tuple(each) for each in (one, two)]
    keys = {_scope(replace(sampling, **{field: value})) for value in values}
    assert len(keys) == 2


def test_what_is_left_open_is_not_the_same_as_zero() -> None:
    sampling = Sampling(max_tokens=9)
    assert _scope(replace(sampling, seed=None)) != _scope(replace(sampling, seed=0))
    assert _scope(replace(sampling, temperature=None)) != _scope(replace(sampling, temperature=0))


def test_a_text_and_a_conversation_have_keys_of_their_own() -> None:
    sampling = Sampling(max_tokens=9)
    assert _scope(sampling, "a") != _scope(sampling, (("user", "a"),))


def _scope(sampling: Sampling, prompt: Any = "a") -> tuple[bytes, ...]:
    choices = CacheChoices(CacheMode.DEFAULT, None, ())
    fields: Any = {"generator": None, "info": None, "namespace": "n", "semantic": None}
    parsed = ParsedGeneration(
        prompt=prompt, sampling=sampling, cache=choices, is_repeatable=True, **fields
    )
    return tuple(parsed.scope_parts())


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        ("another prompt", {}),
        ([("user", "a prompt")], {}),
        ("a prompt", {"max_tokens": 7}),
        ("a prompt", {"stop": ["x"]}),
        ("a prompt", {"repetition_penalty": 1.5}),
        ("a prompt", {"temperature": 0.5, "seed": 1}),
        ("a prompt", {"tags": ["t"]}),
        ("a prompt", {"namespace": "n"}),
        ("a prompt", {"model": "other"}),
    ],
)
async def test_what_changes_the_answer_is_another_entry(
    start_generating: Start, prompt: Any, fields: dict[str, Any]
) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0)
    tier, _ = await sidecar.generated(prompt, **{"temperature": 0} | fields)
    assert tier == "COMPUTED"


@pytest.mark.parametrize(
    "other",
    [
        [("user", "Be brief."), ("user", "Is it warm?")],
        [("system", "Be brief"), ("user", ".Is it warm?")],
        [("user", "Is it warm?")],
        [("system", "Be brief."), ("assistant", "Is it warm?")],
        [("user", "Is it warm?"), ("system", "Be brief.")],
    ],
)
async def test_a_conversation_is_its_roles_and_its_messages_in_their_order(
    start_generating: Start, other: Sequence[tuple[str, str]]
) -> None:
    sidecar = await start_generating()
    await sidecar.generated(CHAT, temperature=0)
    assert (await sidecar.generated(other, temperature=0))[0] == "COMPUTED"


async def test_options_that_only_matter_to_sampling_do_not_matter_without_it(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0)
    same = {"temperature": 0, "seed": 7, "top_k": 3, "top_p": 0.5, "min_p": 0.1}
    assert (await sidecar.generated("a prompt", **same))[0] == "HOT"


async def test_the_order_and_number_of_stop_strings_does_not_matter(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0, stop=["x", "y"])
    again = await sidecar.generated("a prompt", temperature=0, stop=["y", "x", "y"])
    assert again[0] == "HOT"


# --- What is drawn at random -------------------------------------------------------------------


async def test_an_answer_drawn_at_random_is_not_given_again(start_generating: Start) -> None:
    sidecar = await start_generating()
    for count in (1, 2):
        said = await sidecar.generated("a prompt", temperature=0.8)
        assert said == ("COMPUTED", f"{count}: a prompt")
    assert (await sidecar.stats()).tiers[0].entries == 0


async def test_a_service_elsewhere_is_taken_to_draw_at_random_unless_told_otherwise(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    for count in (1, 2):
        assert await sidecar.generated("a prompt") == ("COMPUTED", f"{count}: a prompt")


async def test_a_seed_or_the_callers_word_makes_it_repeatable(start_generating: Start) -> None:
    sidecar = await start_generating()
    for fields in ({"seed": 3}, {"store_sampled": True}):
        await sidecar.generated("a prompt", temperature=0.8, **fields)
        assert (await sidecar.generated("a prompt", temperature=0.8, **fields))[0] == "HOT"


async def test_what_another_call_allowed_to_be_stored_is_not_given_to_one_that_did_not(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0.8, store_sampled=True)
    assert (await sidecar.generated("a prompt", temperature=0.8))[0] == "COMPUTED"


async def test_two_calls_at_once_that_draw_at_random_draw_each_their_own(
    start_generating: Start, openai_server: Any
) -> None:
    sidecar = await start_generating()
    calls = [sidecar.generated("a prompt", temperature=0.8) for _ in range(2)]
    assert {tier for tier, _ in await asyncio.gather(*calls)} == {"COMPUTED"}
    assert len(openai_server.calls) == 2


async def test_only_if_cached_says_why_chance_is_never_cached(start_generating: Start) -> None:
    sidecar = await start_generating()
    mode = common_pb2.CACHE_MODE_ONLY_IF_CACHED
    code, text = await status(sidecar.generate("a prompt", temperature=1, mode=mode))
    assert (code, "store_sampled" in text) == ("NOT_FOUND", True)


# --- Modes, lifetimes, invalidation ------------------------------------------------------------


async def test_modes_say_what_is_read_and_stored(start_generating: Start) -> None:
    sidecar = await start_generating()

    async def ask(mode: common_pb2.CacheMode.ValueType) -> tuple[str, str]:
        said: tuple[str, str] = await sidecar.generated("a prompt", temperature=0, mode=mode)
        return said

    assert await ask(common_pb2.CACHE_MODE_NO_STORE) == ("COMPUTED", "1: a prompt")
    assert await ask(common_pb2.CACHE_MODE_BYPASS) == ("COMPUTED", "2: a prompt")
    assert await ask(common_pb2.CACHE_MODE_DEFAULT) == ("COMPUTED", "3: a prompt")
    assert await ask(common_pb2.CACHE_MODE_BYPASS) == ("COMPUTED", "4: a prompt")
    assert await ask(common_pb2.CACHE_MODE_ONLY_IF_CACHED) == ("HOT", "3: a prompt")
    assert await ask(common_pb2.CACHE_MODE_REFRESH) == ("COMPUTED", "5: a prompt")
    assert await ask(common_pb2.CACHE_MODE_NO_STORE) == ("HOT", "5: a prompt")


async def test_what_is_not_cached_is_not_found(start_generating: Start) -> None:
    sidecar = await start_generating()
    mode = common_pb2.CACHE_MODE_ONLY_IF_CACHED
    assert (await status(sidecar.generate("a", temperature=0, mode=mode)))[0] == "NOT_FOUND"


async def test_a_refresh_is_not_undone_by_a_call_that_began_before(
    start_generating: Start, openai_server: Any, redis_server: DevRedis
) -> None:
    sidecar = await start_generating(redis=redis_server)
    openai_server.hold_after = 0
    before = asyncio.ensure_future(sidecar.generated("a prompt", temperature=0))
    await openai_server.held.wait()
    openai_server.hold_after = None
    mode = common_pb2.CACHE_MODE_REFRESH
    assert await sidecar.generated("a prompt", temperature=0, mode=mode) == (
        "COMPUTED",
        "2: a prompt",
    )
    openai_server.release.set()
    assert (await before)[1] == "1: a prompt"
    assert await sidecar.generated("a prompt", temperature=0) == ("HOT", "2: a prompt")
    await sidecar.flush()
    assert await sidecar.generated("a prompt", temperature=0) == ("WARM", "2: a prompt")


async def test_a_stored_response_ends_with_its_entry(start_generating: Start) -> None:
    sidecar = await start_generating()
    asked = {"temperature": 0, "ttl": Duration(nanos=300_000_000)}
    for _ in range(3):
        await sidecar.generated("a prompt", **asked)
    async with asyncio.timeout(20):
        while (await sidecar.generated("a prompt", **asked))[1] == "1: a prompt":
            await asyncio.sleep(0.02)


async def test_no_store_keeps_no_whole_response(start_generating: Start) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0)
    for _ in range(3):
        mode = common_pb2.CACHE_MODE_NO_STORE
        assert (await sidecar.generated("a prompt", temperature=0, mode=mode))[0] == "HOT"
    assert (await sidecar.stats()).response_hits == 0


async def test_the_lifetime_is_that_of_the_setting_or_of_the_call(
    start_generating: Start, redis_server: DevRedis, view: Callable[[DevRedis], Any]
) -> None:
    sidecar = await start_generating(redis=redis_server, cache={"generate_ttl": 500})
    await sidecar.generate("a", temperature=0)
    await sidecar.generate("b", temperature=0, ttl=Duration(seconds=50))
    await sidecar.stop()
    client = view(redis_server).client
    left = sorted(client.ttl(key) for key in client.keys("embercache:generate:*"))
    assert 40 <= left[0] <= 50
    assert 490 <= left[1] <= 500


def _targets(sidecar: Any) -> dict[str, cache_pb2.InvalidateRequest]:
    request = cache_pb2.InvalidateRequest
    asked = sidecar.prompt("a prompt", temperature=0, tags=["t"])
    return {
        "tag": request(tags=request.Tags(tags=["t"])),
        "namespace": request(whole_namespace=request.WholeNamespace()),
        "kind": request(kind="generate"),
        "version": request(model_version=request.ModelVersion(model="echo")),
        "prompt": request(generations=request.Generations(requests=[asked])),
    }


@pytest.mark.parametrize("what", ["tag", "namespace", "kind", "version", "prompt"])
async def test_an_answer_is_invalidated_on_every_sidecar(
    start_generating: Start, redis_server: DevRedis, what: str
) -> None:
    one, two = [await start_generating(redis=redis_server) for _ in range(2)]
    asked = {"temperature": 0, "tags": ["t"]}
    for sidecar in (one, two):
        await sidecar.generated("a prompt", **asked)
    assert (await two.generated("a prompt", **asked))[0] == "HOT"
    await one.caches.Invalidate(_targets(one)[what])
    assert (await one.generated("a prompt", **asked))[0] == "COMPUTED"
    async with asyncio.timeout(20):
        while (await two.generated("a prompt", **asked))[1] != "2: a prompt":
            pass


@pytest.mark.parametrize("kind", ["embed", "search", "prefix"])
async def test_other_kinds_leave_answers_alone(start_generating: Start, kind: str) -> None:
    sidecar = await start_generating()
    await sidecar.generated("a prompt", temperature=0)
    await sidecar.caches.Invalidate(cache_pb2.InvalidateRequest(kind=kind))
    assert (await sidecar.generated("a prompt", temperature=0))[0] == "HOT"


# --- What a caller is told ---------------------------------------------------------------------


async def test_the_summary_says_what_it_took(start_generating: Start) -> None:
    sidecar = await start_generating()
    first = (await sidecar.generate("a prompt", temperature=0)).summary
    assert first.finish_reason == generate_pb2.FINISH_REASON_STOP
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (7, 8)
    assert (first.model, len(first.model_version)) == ("echo", 32)
    assert 0 < first.timings.first_token <= first.timings.total
    again = (await sidecar.generate("a prompt", temperature=0)).summary
    assert (again.usage.prompt_tokens, again.usage.completion_tokens) == (7, 8)
    # Nothing was generated for this call.
    assert not again.HasField("timings")


async def test_the_statistics_count_generations_and_what_they_saved(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    for _ in range(3):
        await sidecar.generate("a prompt", temperature=0)
    stats = await sidecar.stats()
    assert [(each.name, each.generated) for each in stats.generators] == [("echo", 1), ("other", 0)]
    (usage,) = stats.usage
    assert (usage.kind, usage.model, usage.tokens_saved) == ("generate", "echo", 30)


async def test_generators_are_listed(start_generating: Start) -> None:
    sidecar = await start_generating()
    listed = await sidecar.generators.ListGenerators(generate_pb2.ListGeneratorsRequest())
    assert [each.name for each in listed.generators] == ["echo", "other"]
    assert all(each.accepts_chat and len(each.version) == 32 for each in listed.generators)


async def test_a_sidecar_without_generators_says_how_to_get_one(start: Start) -> None:
    sidecar = await start()
    code, text = await status(sidecar.generate("a prompt"))
    assert (code, "generator.packs" in text) == ("NOT_FOUND", True)


# --- Bad input ---------------------------------------------------------------------------------

BAD = {
    "no prompt": ({}, {}, "text or chat"),
    "an empty prompt": ({"text": ""}, {}, "empty"),
    "no message": ({"chat": generate_pb2.Chat()}, {}, "messages"),
    "an unknown role": (
        {"chat": generate_pb2.Chat(messages=[generate_pb2.ChatMessage(role="king")])},
        {},
        "system, user, assistant",
    ),
    "a negative temperature": ({"text": "a"}, {"temperature": -0.1}, "temperature"),
    "a temperature that is no number": ({"text": "a"}, {"temperature": float("nan")}, "temper"),
    "too high a temperature": ({"text": "a"}, {"temperature": 2.1}, "temperature"),
    "no tokens": ({"text": "a"}, {"max_tokens": 0}, "max_tokens"),
    "no probability": ({"text": "a"}, {"top_p": 0}, "top_p"),
    "too much probability": ({"text": "a"}, {"top_p": 1.1}, "top_p"),
    "a negative share": ({"text": "a"}, {"min_p": -1}, "min_p"),
    **{
        f"a penalty of {penalty}": (
            {"text": "a"},
            {"repetition_penalty": penalty},
            "sampling.repetition_penalty must be from 0.01 to 10",
        )
        for penalty in (0, 1e-40, 0.0099, 10.1, float("nan"))
    },
    "an empty stop string": ({"text": "a"}, {"stop": [""]}, "stop string"),
    "a long stop string": ({"text": "a"}, {"stop": ["x" * 257]}, "stop string"),
    "many stop strings": ({"text": "a"}, {"stop": list(map(str, range(17)))}, "sampling.stop"),
    "many stop tokens": ({"text": "a"}, {"stop_tokens": range(17)}, "stop_tokens"),
    "a threshold of semantics": (
        {"text": "a", "semantic": common_pb2.SemanticOptions(threshold=2)},
        {},
        "semantic.threshold",
    ),
    "a lifetime": (
        {"text": "a", "cache": common_pb2.CacheOptions(ttl=Duration(seconds=-1))},
        {},
        "cache.ttl",
    ),
}


@pytest.mark.parametrize("penalty", [0.01, 10])
async def test_the_ends_of_a_range_belong_to_it(start_generating: Start, penalty: float) -> None:
    sidecar = await start_generating()
    sampling = generate_pb2.Sampling(repetition_penalty=penalty, max_tokens=2)
    answer = await sidecar.generators.Generate(
        generate_pb2.GenerateRequest(text="a", sampling=sampling)
    )
    assert answer.summary.usage.completion_tokens > 0


@pytest.mark.parametrize("what", BAD)
async def test_bad_input_is_told_what_was_wrong(start_generating: Start, what: str) -> None:
    fields, sampling, word = BAD[what]
    sidecar = await start_generating()
    request = generate_pb2.GenerateRequest(sampling=generate_pb2.Sampling(**sampling), **fields)
    for call in (sidecar.generators.Generate, sidecar.generators.GenerateStream):
        answer = call(request)
        if call is sidecar.generators.GenerateStream:
            answer = answer.read()
        code, text = await status(answer)
        assert (code, word in text) == ("INVALID_ARGUMENT", True), text


async def test_unknown_models_and_versions_are_told_apart(start_generating: Start) -> None:
    sidecar = await start_generating()
    code, text = await status(sidecar.generate("a", model="nobody"))
    assert (code, "echo, other" in text) == ("NOT_FOUND", True)
    code, _ = await status(sidecar.generate("a", model_version="old"))
    assert code == "FAILED_PRECONDITION"


async def test_a_failure_of_the_service_is_not_cached(
    start_generating: Start, openai_server: Any
) -> None:
    sidecar = await start_generating()
    openai_server.fail(500, times=3)
    assert (await status(sidecar.generate("a", temperature=0)))[0] == "UNAVAILABLE"
    assert (await sidecar.generated("a", temperature=0))[0] == "COMPUTED"
