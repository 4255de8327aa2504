"""Answers to other prompts that mean the same."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]

ON = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.5)
SYSTEM = ("system", "Be brief.")
ONE, SAME, OTHER = "how do I mute a chat?", "how do I mute a chat please?", "zzzz"


@pytest.fixture
def start_generating(start: Start, openai_server: Any) -> Start:
    """Starts sidecars whose generator counts its answers."""
    openai_server.says = lambda body: [str(len(openai_server.calls))]

    async def start_sidecar(**sections: Any) -> Any:
        generator = {"target": openai_server.target, "packs": ["counts"]}
        return await start(generator=generator, **sections)

    return start_sidecar


async def ask(sidecar: Any, question: str, *before: tuple[str, str], **fields: Any) -> Any:
    """The answer to a question after other messages."""
    messages = [*before, ("user", question)]
    return await sidecar.generate(messages, **{"temperature": 0, "semantic": ON} | fields)


async def test_the_answer_to_a_prompt_that_means_the_same_is_given(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    assert (await ask(sidecar, ONE, SYSTEM)).text == "1"
    said = await ask(sidecar, SAME, SYSTEM)
    assert (said.text, said.summary.tier) == ("1", common_pb2.TIER_HOT)
    assert 0.5 <= said.summary.similarity <= 1
    own = await ask(sidecar, ONE, SYSTEM)
    assert not own.summary.HasField("similarity")


async def test_it_is_given_in_pieces_too(start_generating: Start) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    stream = sidecar.stream([("user", SAME)], temperature=0, semantic=ON)
    messages = [message async for message in stream]
    assert [message.text for message in messages] == ["1", ""]
    assert messages[-1].summary.HasField("similarity")


async def test_another_sidecar_hears_of_it(start_generating: Start, redis_server: DevRedis) -> None:
    one, two = [await start_generating(redis=redis_server) for _ in range(2)]
    await ask(one, ONE)
    for _ in range(200):
        said = await ask(two, SAME, mode=common_pb2.CACHE_MODE_NO_STORE)
        if said.text == "1":
            break
    assert said.summary.tier in (common_pb2.TIER_WARM, common_pb2.TIER_HOT)


@pytest.mark.parametrize(
    ("before", "fields"),
    [
        ([], {}),
        ([("system", "Be long.")], {}),
        ([SYSTEM, ("user", "hi"), ("assistant", "yes?")], {}),
        ([SYSTEM], {"max_tokens": 3}),
        ([SYSTEM], {"namespace": "other"}),
        ([SYSTEM], {"tags": ["t"]}),
        ([SYSTEM], {"semantic": common_pb2.SemanticOptions()}),
        ([SYSTEM], {"temperature": 0.9, "seed": 1}),
    ],
)
async def test_all_else_must_be_the_same(
    start_generating: Start, before: list[tuple[str, str]], fields: dict[str, Any]
) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE, SYSTEM)
    assert (await ask(sidecar, SAME, *before, **fields)).text == "2"


async def test_one_that_means_something_else_is_generated(start_generating: Start) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    strict = common_pb2.SemanticOptions(mode=ON.mode, threshold=0.9999)
    assert (await ask(sidecar, OTHER, semantic=strict)).text == "2"
    # The guard sees a negation, however near the two are.
    assert (await ask(sidecar, "how do I not mute a chat?")).text == "3"


async def test_an_invalidated_answer_is_given_to_no_other_prompt(start_generating: Start) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE, tags=["t"])
    await sidecar.invalidate(tags=["t"])
    assert (await ask(sidecar, SAME, tags=["t"])).text == "2"


async def test_a_prompt_that_the_encoder_does_not_read_whole_has_no_other_that_means_the_same(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    long = "how " * 100
    await ask(sidecar, long)
    assert (await ask(sidecar, long + "now")).text == "2"


async def test_an_answer_to_another_prompt_is_not_stored_as_the_answer_to_this_one(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    await ask(sidecar, SAME)
    off = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_OFF)
    assert (await ask(sidecar, SAME, semantic=off)).text == "2"


async def test_who_declines_gets_no_other_answer_even_if_asked_at_the_same_time_as_one_who_does_not(
    start_generating: Start, openai_server: Any
) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    off = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_OFF)
    strict = common_pb2.SemanticOptions(mode=ON.mode, threshold=0.99999)
    calls = [ask(sidecar, SAME, semantic=each) for each in (ON, off, strict)]
    taken, own, near = await asyncio.gather(*calls)
    assert taken.text == "1"
    for said in (own, near):
        assert said.text != "1"
        assert not said.summary.HasField("similarity")


async def test_chance_is_not_answered_from_what_another_call_allowed_to_be_kept(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE, temperature=0.9, store_sampled=True)
    assert (await ask(sidecar, SAME, temperature=0.9, store_sampled=True)).text == "1"
    for question in (ONE, SAME):
        assert (await ask(sidecar, question, temperature=0.9)).text != "1"


async def test_a_refreshed_answer_stays_the_answer_to_prompts_that_mean_the_same(
    start_generating: Start,
) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    refreshed = await ask(sidecar, ONE, mode=common_pb2.CACHE_MODE_REFRESH)
    assert (refreshed.text, refreshed.summary.tier) == ("2", common_pb2.TIER_COMPUTED)
    assert (await ask(sidecar, SAME)).text == "2"


@pytest.mark.parametrize("mode", ["NO_STORE", "BYPASS"])
async def test_what_is_not_stored_is_not_offered(start_generating: Start, mode: str) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE, mode=common_pb2.CacheMode.Value(f"CACHE_MODE_{mode}"))
    assert (await ask(sidecar, SAME)).text == "2"


async def test_tokens_that_it_saved_are_counted_once(start_generating: Start) -> None:
    sidecar = await start_generating()
    await ask(sidecar, ONE)
    await ask(sidecar, SAME)
    usage = {each.kind: each for each in (await sidecar.stats()).usage}["generate"]
    assert usage.tokens_saved == 7 + 2
    assert {each.tier: each.count for each in usage.answered if each.count} == {
        common_pb2.TIER_COMPUTED: 1,
        common_pb2.TIER_HOT: 1,
    }
    assert usage.hot_entries == 1


async def test_prompts_at_random_have_no_semantic_answers(start_generating: Start) -> None:
    sidecar = await start_generating()
    for count in ("1", "2"):
        assert (await ask(sidecar, ONE, temperature=0.9)).text == count
