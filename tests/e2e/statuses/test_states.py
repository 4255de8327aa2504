"""Sidecars that are busy, or whose encoders, Redis or index are not what they should be."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import redis
import yaml

import sidecar.models.pool_channel
import sidecar.services.pace
from sidecar.index import redis_scripts
from sidecar.models.speed import Departures, Speed
from tests.e2e.statuses.encoder import refusing_encoder
from tests.e2e.statuses.requests import embed, generate, rerank
from tests.e2e.statuses.scenario import PUSHBACK, check
from tests.e2e.statuses.states import (
    AWAY,
    BUSY,
    CHANGING,
    CUT_OFF,
    ELSEWHERE,
    FULL,
    FULL_INDEX,
    FULL_MEMORY,
    GONE,
    KNOWN,
    NO_DOCUMENTS,
    REFUSING,
    SHOWN,
    TOKEN,
    UNFIT,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Gate = Any
    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
QUEUE = 8
MOST_MEMORY = 2**20
UNREACHABLE = "127.0.0.1:1"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute passes at once, and encoders are called once."""
    monkeypatch.setattr(sidecar.services.pace, "_ATTEMPTS", 2)
    monkeypatch.setattr(sidecar.services.pace, "_FIRST_DELAY", 0.001)
    monkeypatch.setattr(sidecar.models.pool_channel, "_SERVICE_CONFIG", {})


@pytest.fixture
def packs(tiny_pack: Path, make_pack: Callable[..., Path]) -> list[Path]:
    """Two models: "tiny", which is the default, and "other"."""
    return [tiny_pack, make_pack("second", "other", seed=1)]


def policy(folder: Path, content: Mapping[str, Any]) -> dict[str, str]:
    """The settings for a policy."""
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump(content))
    return {"policy_file": str(file)}


async def test_a_caller_gets_what_he_may_have(
    start: Start, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    caller = {
        "name": "shop",
        "token_file": str(tokens),
        "namespaces": ["shop", "spent"],
        "rights": ["read", "write"],
    }
    quotas = {"spent": {"items_per_second": 1e-3}}
    access = policy(tmp_path, {"callers": [caller], "quotas": quotas})
    one = await start(access=access)
    await one.embeds.Embed(embed("old", namespace="spent"), metadata=SHOWN)
    await check(one.channel, KNOWN, subtests)


async def test_who_finds_no_room_or_no_time_is_told_when_to_retry(
    start: Start,
    packs: list[Path],
    make_decoder: Callable[..., Path],
    held_model: HeldModel,
    gate: Gate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    held_model.holds = False
    for name in ("slow", "full"):
        (tmp_path / name).symlink_to(make_decoder("growing"))
    one = await start(
        packs=packs,
        server={"address": "127.0.0.1:0", "max_batch_items": QUEUE},
        encoder={"queue_inputs": QUEUE},
        generator={
            "packs": [str(tmp_path / name) for name in ("slow", "full")],
            "parallel": 1,
            "queue": 2,
        },
        access=policy(tmp_path, {"quotas": {"crowded": {"computations": 1}}}),
    )
    await _prepare(one)
    held_model.holds = True
    gate.close()
    waiting = await _keep_busy(one, held_model)
    # As if measured, with models that take minutes.
    monkeypatch.setattr(Speed, "per_second", 0.01)
    monkeypatch.setattr(Departures, "per_second", 0.01)
    await check(one.channel, BUSY, subtests)
    held_model.let_go()
    gate.open()
    await asyncio.gather(*waiting)


async def _prepare(one: Sidecar) -> None:
    """Has "old" cached and scored, and one document stored."""
    await one.upsert({"a document": "stored"})
    for fields in ({}, {"model": "other"}, {"namespace": "crowded"}):
        await one.embeds.Embed(embed("old", **fields))
    for fields in ({}, {"namespace": "crowded"}):
        await one.searches.Rerank(rerank("old", query="old", **fields))


async def _keep_busy(one: Sidecar, held_model: HeldModel) -> list[asyncio.Task[Any]]:
    """Calls that nothing is done for: three inputs less than "tiny" has room for."""
    begun = len(held_model.sizes)
    calls = [
        one.embeds.Embed(embed("at work", namespace="crowded"), timeout=HANG_GUARD),
        one.embeds.Embed(embed("at work", model="other"), timeout=HANG_GUARD),
    ]
    running = [asyncio.ensure_future(call) for call in calls]
    async with asyncio.timeout(HANG_GUARD):
        while len(held_model.sizes) < begun + 2:
            await asyncio.sleep(0.001)
    waiting = {"tiny": QUEUE - 3, "other": QUEUE}
    for model, count in waiting.items():
        texts = [f"waiting {number}" for number in range(count)]
        call = one.embeds.Embed(embed(*texts, model=model), timeout=HANG_GUARD)
        running.append(asyncio.ensure_future(call))
    generations = {"slow": 2, "full": 3}
    for model, count in generations.items():
        for number in range(count):
            call = one.generators.Generate(generate(f"{number}", model=model), timeout=HANG_GUARD)
            running.append(asyncio.ensure_future(call))
    async with asyncio.timeout(HANG_GUARD):
        while True:
            stats = await one.stats()
            queued = {each.name: each.queued for each in stats.models}
            begun_or_waiting = {g.name: g.active + g.queued for g in stats.generators}
            if queued == waiting and begun_or_waiting == generations:
                return running


async def test_encoders_that_have_not_answered_yet_are_unavailable(
    start: Start, subtests: pytest.Subtests
) -> None:
    front = await start(model={"packs": ["tiny", "other"]}, encoder={"target": UNREACHABLE})
    await check(front.channel, AWAY, subtests)


async def test_encoders_that_have_gone_are_unavailable_for_what_is_not_cached(
    start: Start, start_front: Start, subtests: pytest.Subtests
) -> None:
    encoder = await start()
    front = await start_front(encoder.address)
    await front.embeds.Embed(embed("old"))
    await front.searches.Rerank(rerank("old", query="old"))
    await encoder.stop()
    await check(front.channel, GONE, subtests)


async def test_encoders_that_refuse_calls_are_a_fault(
    start_front: Start, subtests: pytest.Subtests
) -> None:
    async with refusing_encoder(grpc.StatusCode.UNAUTHENTICATED, "who are you?") as address:
        front = await start_front(address)
        await check(front.channel, REFUSING, subtests)


async def test_when_to_retry_is_told_by_the_encoder_if_that_has_no_room(
    start_front: Start, subtests: pytest.Subtests
) -> None:
    code, trailer = grpc.StatusCode.RESOURCE_EXHAUSTED, (PUSHBACK, "1234")
    async with refusing_encoder(code, "it has no room: try again later", trailer) as address:
        front = await start_front(address)
        await check(front.channel, FULL, subtests)


async def test_encoders_that_go_on_changing_their_version_are_not_waited_for(
    start_front: Start, subtests: pytest.Subtests
) -> None:
    code = grpc.StatusCode.FAILED_PRECONDITION
    async with refusing_encoder(code, "it has another version: retry") as address:
        front = await start_front(address)
        await check(front.channel, CHANGING, subtests)


async def test_what_others_cannot_be_told_of_is_to_be_repeated(
    start: Start, packs: list[Path], own_redis: DevRedis, subtests: pytest.Subtests
) -> None:
    one = await start(packs=packs, redis=own_redis)
    own_redis.kill()
    await check(one.channel, CUT_OFF, subtests)


async def test_an_index_that_has_gone_is_unavailable(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    own_redis: DevRedis,
    subtests: pytest.Subtests,
) -> None:
    one = await start(packs=packs, redis=redis_server, index={"url": own_redis.url})
    own_redis.kill()
    await check(one.channel, NO_DOCUMENTS, subtests)


async def test_an_index_that_is_full_is_unavailable(
    start: Start, redis_server: DevRedis, own_redis: DevRedis, subtests: pytest.Subtests
) -> None:
    one = await start(redis=redis_server, index={"url": own_redis.url})
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("maxmemory", MOST_MEMORY)
    await check(one.channel, FULL_INDEX, subtests)


async def test_an_index_in_memory_that_is_full_refuses_documents(
    start: Start, subtests: pytest.Subtests
) -> None:
    one = await start(index={"url": "memory://", "max_bytes": 1})
    await check(one.channel, FULL_MEMORY, subtests)


async def test_a_redis_that_is_too_old_for_the_index_is_told(
    start: Start,
    packs: list[Path],
    redis_server: DevRedis,
    monkeypatch: pytest.MonkeyPatch,
    subtests: pytest.Subtests,
) -> None:
    unknown = redis_scripts.IDENTIFY.replace("'VADD'", "'NONE'")
    monkeypatch.setattr("sidecar.index.redis.IDENTIFY", unknown)
    one = await start(packs=packs, redis=redis_server, index={"url": ""})
    await check(one.channel, UNFIT, subtests)


async def test_a_service_elsewhere_that_fails_is_told_apart_from_the_sidecar(
    start: Start, openai_server: Any, subtests: pytest.Subtests
) -> None:
    generator = {"target": openai_server.target, "packs": ["echo"]}
    one = await start(generator=generator, openai={"retries": 0})
    await check(one.channel, ELSEWHERE, subtests, openai_server)
