"""Prompts whose beginning was read before, with the real model behind a real sidecar."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, generate_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]

LICENCE = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software"
    " and associated documentation files, to deal in the software without restriction, including"
    " without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense"
    " and sell copies of the software, and to permit persons to whom the software is furnished to"
    " do so, subject to the following conditions."
)
QUESTIONS = ("May I sell a copy?", "Is there a fee?", "Who may use it?")
BLOCK = 16


def about(question: str, text: str = LICENCE) -> list[tuple[str, str]]:
    """A conversation that begins with a long text."""
    return [("system", text), ("user", question)]


@pytest.fixture
def start_local(start: Start, smollm2_folder: Path) -> Start:
    """Starts sidecars that generate with the built-in model."""

    async def start_sidecar(**sections: Any) -> Any:
        packs = {"packs": [str(smollm2_folder)]}
        return await start(**sections | {"generator": packs | sections.get("generator", {})})

    return start_sidecar


async def asked(sidecar: Any, prompt: Any, **fields: Any) -> tuple[str, dict[str, int]]:
    """The answer, greedy and never from the cache of answers; tokens of the prompt by tier."""
    mode = fields.pop("mode", None)
    if mode is None:
        await sidecar.caches.Invalidate(
            cache_pb2.InvalidateRequest(kind="generate", namespace=fields.get("namespace", ""))
        )
        mode = common_pb2.CACHE_MODE_DEFAULT
    response = await sidecar.generate(
        prompt, **{"max_tokens": 12, "temperature": 0, "mode": mode} | fields
    )
    assert response.summary.tier == common_pb2.TIER_COMPUTED
    reused = {
        common_pb2.Tier.Name(each.tier).removeprefix("TIER_"): each.count
        for each in response.summary.usage.reused_tokens
    }
    return response.text, reused


async def truth(sidecar: Any, question: str) -> str:
    """The answer to a question without any cache."""
    text, reused = await asked(sidecar, about(question), mode=common_pb2.CACHE_MODE_BYPASS)
    assert reused == {}
    return text


async def test_answers_are_the_same_with_any_part_of_the_prompt_kept(start_local: Start) -> None:
    sidecar = await start_local()
    truths = {question: await truth(sidecar, question) for question in QUESTIONS}
    first, reused = await asked(sidecar, about(QUESTIONS[0]))
    assert (first, reused) == (truths[QUESTIONS[0]], {})
    for question in QUESTIONS:
        for _ in range(2):
            text, reused = await asked(sidecar, about(question))
            assert text == truths[question]
            assert reused["HOT"] >= 5 * BLOCK


async def test_a_new_pod_reads_only_the_end_of_a_prompt_that_another_read(
    start_local: Start, redis_server: DevRedis
) -> None:
    prefix = {"prefix": {"shared": True}}
    one = await start_local(redis=redis_server, **prefix)
    expected = await truth(one, QUESTIONS[1])
    await asked(one, about(QUESTIONS[0]))
    await one.stop()
    two = await start_local(redis=redis_server, **prefix)
    text, reused = await asked(two, about(QUESTIONS[1]))
    assert (text, list(reused)) == (expected, ["WARM"])
    # Now they are in its memory.
    text, reused = await asked(two, about(QUESTIONS[1]))
    assert (text, list(reused)) == (expected, ["HOT"])


async def test_a_restarted_sidecar_finds_blocks_on_its_disk(
    start_local: Start, tmp_path: Path
) -> None:
    prefix = {"prefix": {"shared": True}, "disk": tmp_path}
    one = await start_local(**prefix)
    expected = await truth(one, QUESTIONS[1])
    await asked(one, about(QUESTIONS[0]))
    await one.stop()
    two = await start_local(**prefix)
    text, reused = await asked(two, about(QUESTIONS[1]))
    assert (text, list(reused)) == (expected, ["DISK"])


async def test_blocks_stay_in_memory_unless_they_are_to_be_shared(
    start_local: Start, redis_server: DevRedis, view: Callable[[DevRedis], Any]
) -> None:
    one = await start_local(redis=redis_server)
    await asked(one, about(QUESTIONS[0]))
    await one.stop()
    assert view(redis_server).client.keys("embercache:prefix:*") == []


@pytest.mark.parametrize("mode", ["BYPASS", "REFRESH"])
async def test_modes_that_read_nothing_read_no_blocks(start_local: Start, mode: str) -> None:
    sidecar = await start_local()
    await asked(sidecar, about(QUESTIONS[0]))
    number = common_pb2.CacheMode.Value(f"CACHE_MODE_{mode}")
    assert (await asked(sidecar, about(QUESTIONS[0]), mode=number))[1] == {}


@pytest.mark.parametrize("mode", ["BYPASS", "NO_STORE"])
async def test_modes_that_store_nothing_keep_no_blocks(start_local: Start, mode: str) -> None:
    sidecar = await start_local()
    number = common_pb2.CacheMode.Value(f"CACHE_MODE_{mode}")
    await asked(sidecar, about(QUESTIONS[0]), mode=number)
    assert (await sidecar.stats()).generators[0].prefix.blocks == 0
    assert (await asked(sidecar, about(QUESTIONS[0])))[1] == {}


async def test_an_answer_drawn_at_random_still_uses_and_keeps_blocks(start_local: Start) -> None:
    sidecar = await start_local()
    options = {"temperature": 0.9}
    assert (await asked(sidecar, about(QUESTIONS[0]), **options))[1] == {}
    assert (await asked(sidecar, about(QUESTIONS[0]), **options))[1]["HOT"] >= 5 * BLOCK


async def test_namespaces_never_share_blocks(start_local: Start, redis_server: DevRedis) -> None:
    sidecar = await start_local(redis=redis_server, prefix={"shared": True})
    await asked(sidecar, about(QUESTIONS[0]), namespace="one")
    assert (await asked(sidecar, about(QUESTIONS[0]), namespace="two"))[1] == {}
    assert (await asked(sidecar, about(QUESTIONS[0]), namespace="one"))[1] != {}


@pytest.mark.parametrize("target", ["kind", "whole_namespace", "model_version"])
async def test_blocks_are_invalidated_with_their_kind_namespace_or_model(
    start_local: Start, target: str
) -> None:
    sidecar = await start_local()
    await asked(sidecar, about(QUESTIONS[0]))
    request = cache_pb2.InvalidateRequest
    await sidecar.caches.Invalidate(
        {
            "kind": request(kind="prefix"),
            "whole_namespace": request(whole_namespace=request.WholeNamespace()),
            "model_version": request(model_version=request.ModelVersion(model="smollm2-135m")),
        }[target]
    )
    assert (await asked(sidecar, about(QUESTIONS[0])))[1] == {}


async def test_flushing_the_hot_tier_forgets_blocks(start_local: Start) -> None:
    sidecar = await start_local()
    await asked(sidecar, about(QUESTIONS[0]))
    assert (await sidecar.stats()).generators[0].prefix.blocks > 0
    assert await sidecar.flush(common_pb2.TIER_HOT) > 0
    assert (await sidecar.stats()).generators[0].prefix.blocks == 0
    assert (await asked(sidecar, about(QUESTIONS[0])))[1] == {}


async def test_memory_stays_in_its_bound_and_answers_stay_right(start_local: Start) -> None:
    # Room for one generation of 256 tokens, and for some thirty blocks.
    sidecar = await start_local(prefix={"max_bytes": 256 * 46_080 + 30 * BLOCK * 23_040})
    expected = [await truth(sidecar, question) for question in QUESTIONS]
    for number in range(8):
        text = LICENCE.replace("software", f"work {number}")
        await asked(sidecar, about(QUESTIONS[0], text), max_tokens=1)
        prefix = (await sidecar.stats()).generators[0].prefix
        assert prefix.bytes <= prefix.capacity_bytes
    assert prefix.evictions > 0
    assert [(await asked(sidecar, about(each)))[0] for each in QUESTIONS] == expected


async def test_fifty_callers_of_whom_some_leave_get_their_own_answers(start_local: Start) -> None:
    sidecar = await start_local(generator={"parallel": 4})
    expected = {question: await truth(sidecar, question) for question in QUESTIONS}

    async def call(number: int) -> None:
        question = QUESTIONS[number % len(QUESTIONS)]
        # Tags make keys of their own, so that no two callers share a generation.
        stream = sidecar.stream(
            about(question), max_tokens=12, temperature=0, tags=[f"caller {number}"]
        )
        text = ""
        async for message in stream:
            text += message.text
            if number % 5 == 0:
                stream.cancel()
                return
        assert text == expected[question]

    async with asyncio.TaskGroup() as callers:
        for number in range(50):
            callers.create_task(call(number))
    async with asyncio.timeout(30):
        while (stats := (await sidecar.stats()).generators[0]).active or stats.queued:
            await asyncio.sleep(0.01)
    assert stats.prefix.pinned_blocks == 0
    # What is left is blocks: nothing of a generation.
    await sidecar.flush(common_pb2.TIER_HOT)
    assert (await sidecar.stats()).generators[0].prefix.bytes == 0


async def test_a_prompt_longer_than_the_context_is_refused_with_its_length(
    start_local: Start,
) -> None:
    sidecar = await start_local()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await sidecar.generate("one two " * 5000)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert re.search(r"\d{4,} tokens", raised.value.details() or "")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await sidecar.generate("a", stop_tokens=[10**6])
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_seed_gives_the_same_answer_without_any_cache(start_local: Start) -> None:
    sidecar = await start_local()
    options = {"temperature": 1, "max_tokens": 16, "mode": common_pb2.CACHE_MODE_BYPASS}

    async def draw(seed: int) -> tuple[int, ...]:
        response: generate_pb2.GenerateResponse = await sidecar.generate(
            about(QUESTIONS[0]), seed=seed, **options
        )
        return tuple(response.tokens)

    assert await draw(1) == await draw(1)
    assert len({await draw(seed) for seed in range(4)}) > 1
