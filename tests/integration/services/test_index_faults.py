"""Sidecars whose index cannot be used, loses its documents, or is not heard of by others."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from redis import Redis
from structlog.testing import capture_logs

import sidecar.cache.redis_memory
import sidecar.open_documents
from sidecar.index import redis_scripts
from sidecar.index.types import IndexSetupError
from sidecar.open_tiers import keep_running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

DEFAULT_INDEX = {"index": {"url": ""}}
TEXTS = {"a": "aaaa", "b": "bbbb"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST_RETRY_SECONDS", "_LOOK_EVERY_SECONDS", "_SETUP_RETRY_SECONDS"):
        monkeypatch.setattr(sidecar.open_documents, name, 0.01)


@pytest.fixture
def make_old(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Makes every Redis one that knows no vector sets."""
    unknown = redis_scripts.IDENTIFY.replace("'VADD'", "'NONE'")
    return lambda: monkeypatch.setattr("sidecar.index.redis.IDENTIFY", unknown)


async def details(call: Awaitable[object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details()


# --- A Redis that cannot hold an index ---------------------------------------------------------


async def test_embed_is_served_where_the_default_index_cannot_be_used(
    start: Start, redis_server: DevRedis, make_old: Callable[[], None]
) -> None:
    make_old()
    with capture_logs() as logs:
        one = await start(redis=redis_server, **DEFAULT_INDEX)
        assert await one.tiers("a text") == ["COMPUTED"]
        assert await one.tiers("a text") == ["HOT"]
        for call in (one.search("aaaa"), one.upsert(TEXTS), one.delete("a")):
            code, message = await details(call)
            assert code is grpc.StatusCode.FAILED_PRECONDITION
            assert "use Redis 8.2" in message
    said = [entry for entry in logs if "index cannot be used" in entry["event"]]
    assert [(entry["log_level"], "Redis 8.2" in entry["reason"]) for entry in said] == [
        ("warning", True)
    ]


async def test_an_index_that_was_chosen_and_cannot_be_used_ends_the_start(
    start: Start, redis_server: DevRedis, make_old: Callable[[], None]
) -> None:
    make_old()
    with pytest.raises(IndexSetupError, match=r"use Redis 8\.2"):
        await start(redis=redis_server, index={"url": redis_server.url})


async def test_what_is_found_out_later_is_told_to_callers_and_comes_right_when_it_is_mended(
    start: Start,
    own_redis: DevRedis,
    make_old: Callable[[], None],
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with capture_logs() as logs:
        make_old()
        own_redis.kill()
        one = await start(redis=own_redis, **DEFAULT_INDEX)
        assert (await details(one.search("aaaa")))[0] is grpc.StatusCode.UNAVAILABLE
        own_redis.start()
        refused = "error", "the index cannot be used"
        await eventually(lambda: refused in [(e["log_level"], e["event"]) for e in logs])
        for _ in range(3):
            code, message = await details(one.search("aaaa"))
            assert (code, "use Redis 8.2" in message) == (
                grpc.StatusCode.FAILED_PRECONDITION,
                True,
            )
        assert [e["log_level"] for e in logs if e["event"] == refused[1]] == ["warning", "error"]
        monkeypatch.setattr("sidecar.index.redis.IDENTIFY", redis_scripts.IDENTIFY)
        await eventually(lambda: "the index is there" in [e["event"] for e in logs])
        # The cache has a connection of its own.
        back = "circuit breaker closed", "redis"
        await eventually(lambda: back in [(e["event"], e.get("service")) for e in logs])
    await one.upsert(TEXTS)
    assert (await one.found("aaaa", top_k=1))[1] == ["a"]


# --- An index that loses its documents ---------------------------------------------------------


async def test_no_answer_outlives_the_documents_of_an_index_that_was_emptied(
    start: Start, redis_server: DevRedis, own_redis: DevRedis
) -> None:
    one = await start(redis=redis_server, index={"url": own_redis.url})
    await one.upsert(TEXTS)
    for tier in ("COMPUTED", "HOT", "HOT"):
        assert await one.found("aaaa", top_k=1) == (tier, ["a"])
    with Redis.from_url(own_redis.url) as client:
        client.flushall()
    async with asyncio.timeout(20):
        while (await one.found("aaaa", top_k=1))[1] == ["a"]:
            await asyncio.sleep(0.005)
    assert (await one.found("aaaa", top_k=1))[1] == []


@pytest.mark.parametrize("lost", ["vectors", "documents", "raw"])
async def test_a_search_of_what_was_evicted_fails_until_the_documents_are_stored_again(
    start: Start, redis_server: DevRedis, lost: str
) -> None:
    one = await start(redis=redis_server, **DEFAULT_INDEX)
    await one.upsert(TEXTS)
    with Redis.from_url(redis_server.url) as client:
        [key] = client.keys(f"embercache:index:*:{lost}")
        client.delete(key)
    code, message = await details(one.search("aaaa"))
    assert code is grpc.StatusCode.UNAVAILABLE
    assert "store its documents again" in message
    # With other tags only, which leaves vectors as they are where they are there.
    outcomes = await one.upsert(TEXTS, tags=["new"])
    assert not any(outcome.HasField("error") for outcome in outcomes)
    assert (await one.found("aaaa", top_k=1))[1] == ["a"]


# --- Prefixes ----------------------------------------------------------------------------------


async def test_deployments_with_other_prefixes_share_no_documents(
    start: Start, redis_server: DevRedis
) -> None:
    cache = {"ttl_jitter": 0}
    one = await start(redis=redis_server, cache=cache | {"prefix": "one"}, **DEFAULT_INDEX)
    two = await start(redis=redis_server, cache=cache | {"prefix": "two"}, **DEFAULT_INDEX)
    await one.upsert(TEXTS)
    assert (await one.found("aaaa", top_k=1))[1] == ["a"]
    assert (await two.found("aaaa", top_k=1))[1] == []
    with Redis.from_url(redis_server.url) as client:
        assert all(key.startswith((b"one:", b"two:")) for key in client.keys("*"))


# --- Background work ---------------------------------------------------------------------------


async def test_work_in_the_background_that_fails_is_named_in_the_log() -> None:
    async def housework() -> None:
        raise OSError

    async with contextlib.AsyncExitStack() as exits:
        with capture_logs() as logs:
            keep_running(housework(), exits)
            keep_running(asyncio.sleep(3600), exits)
            while not logs:
                await asyncio.sleep(0)
    [entry] = logs
    assert entry["log_level"] == "error"
    assert entry["task"].endswith("housework")
    assert isinstance(entry["exc_info"], OSError)


async def test_memory_of_a_redis_that_says_nothing_of_a_limit_is_still_known(
    start: Start,
    redis_server: DevRedis,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    asked = []

    async def info(_: object) -> list[dict[str, Any]]:
        asked.append(1)
        return [{"used_memory": 7}]

    monkeypatch.setattr(sidecar.cache.redis_memory, "_info", info)
    monkeypatch.setattr(sidecar.cache.redis_memory, "ASK_EVERY_SECONDS", 0.01)
    one = await start(redis=redis_server)
    await eventually(lambda: len(asked) > 2)
    warm = (await one.stats()).warm
    assert (warm.memory_bytes, warm.memory_limit_bytes) == (7, 0)
