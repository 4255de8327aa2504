"""What one caller has cached another never gets: every service, every kind of entry, every tier.

Two tenants send the very same bytes, which name no namespace. Each test shows first that the
tenant himself would have been answered from that tier.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, generate_pb2, search_pb2

from sidecar.cache import local_generations, redis_generations

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    KnownAs = Callable[..., Any]
    Ask = Callable[[Any], Awaitable[str]]

HANG_GUARD = 30.0
ON = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.5)
ONE, SAME = "how do I mute a chat?", "how do I mute a chat please?"
PROMPT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this. " * 4
)


def name(tier: int) -> str:
    return common_pb2.Tier.Name(tier).removeprefix("TIER_")


async def embed(client: Any) -> str:
    (tier,) = await client.tiers("a text")
    return str(tier)


async def embed_entity(client: Any) -> str:
    entity = embed_pb2.Entity(id="an entity", text="its text")
    (tier,) = await client.tiers(embed_pb2.Input(entity=entity))
    return str(tier)


async def embed_in_a_stream(client: Any) -> str:
    request = embed_pb2.EmbedStreamRequest(id=1, request=client.request("a text of a stream"))
    (response,) = [each async for each in client.embeds.EmbedStream(iter([request]), timeout=30)]
    return name(response.response.embeddings[0].tier)


async def search(client: Any) -> str:
    response = await client.search("a query")
    # Whatever the tier, the documents are his own.
    assert [result.content for result in response.results] == [client.document]
    return name(response.tier)


async def search_by_vector(client: Any) -> str:
    request = search_pb2.SearchRequest(vector=b"\0\0\x80\x3f" * 8)
    response = await client.searches.Search(request, timeout=HANG_GUARD)
    assert [result.content for result in response.results] == [client.document]
    return name(response.tier)


async def rerank(client: Any) -> str:
    request = search_pb2.RerankRequest(query="a query", passages=["a passage"])
    response = await client.searches.Rerank(request, timeout=HANG_GUARD)
    return name(response.scores[0].tier)


async def generate(client: Any) -> str:
    tier, _ = await client.generated("a prompt", temperature=0)
    return str(tier)


async def generate_in_a_stream(client: Any) -> str:
    last = generate_pb2.GenerateStreamResponse()
    async for message in client.stream("a prompt of a stream", temperature=0):
        last = message
    return name(last.summary.tier)


KINDS = (
    *(embed, embed_entity, embed_in_a_stream, search, search_by_vector, rerank),
    *(generate, generate_in_a_stream),
)
EACH_KIND = pytest.mark.parametrize("ask", KINDS, ids=lambda ask: ask.__name__)


@pytest.fixture(autouse=True)
def epochs_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces begin in the same microsecond: their entries must not differ by that alone."""
    now = 1_700_000_000_000_000
    monkeypatch.setattr(local_generations, "_now_us", lambda: now)
    for script in ("_LOAD", "_BUMP_TAGS", "_BUMP_SCOPE"):
        text, count = re.subn(r"(?<=local now = ).*", str(now), getattr(redis_generations, script))
        assert count == 1
        monkeypatch.setattr(redis_generations, script, text)


@pytest.fixture
def begin(start: Start, policy: Any, known_as: KnownAs, openai_server: Any) -> Start:
    """Starts a sidecar; returns its tenants, each with a document of his own, and the operator."""
    openai_server.says = lambda body: [f"answer {len(openai_server.calls)}"]

    async def begin(**sections: Any) -> tuple[Any, Any, Any]:
        generator = {"target": openai_server.target, "packs": ["echo"]}
        sidecar = await start(access=policy.section, **{"generator": generator} | sections)
        clients = [known_as(sidecar, who) for who in ("shop", "bank", "admin")]
        for client, who in zip(clients, ("shop", "bank"), strict=False):
            client.document = f"a document of {who}"
            await client.upsert({"same-id": client.document})
        return tuple(clients)

    return begin


# --- Every kind in every tier ------------------------------------------------------------------


@EACH_KIND
@pytest.mark.threat("A caller is answered from what another namespace has cached")
async def test_no_hit_in_memory(begin: Start, ask: Ask) -> None:
    shop, bank, _ = await begin()
    # The third time, the whole response is stored under the bytes of the request.
    assert [await ask(shop) for _ in range(3)] == ["COMPUTED", "HOT", "HOT"]
    assert await ask(bank) == "COMPUTED"
    assert await ask(bank) == "HOT"


@EACH_KIND
@pytest.mark.threat("A caller is answered from what another namespace has cached")
async def test_no_hit_on_disk(begin: Start, ask: Ask, tmp_path: Path) -> None:
    shop, bank, admin = await begin(disk=tmp_path / "disk")
    assert await ask(shop) == "COMPUTED"
    async with asyncio.timeout(HANG_GUARD):
        while True:
            await admin.flush(common_pb2.TIER_HOT)
            if await ask(shop) == "DISK":
                break
    assert await ask(bank) == "COMPUTED"


@EACH_KIND
@pytest.mark.threat("A caller is answered from what another namespace has cached")
async def test_no_hit_in_redis(begin: Start, ask: Ask, redis_server: DevRedis) -> None:
    shared = {"redis": redis_server, "index": {"url": redis_server.url}}
    shop, *_ = await begin(**shared)
    assert await ask(shop) == "COMPUTED"
    shop, bank, admin = await begin(**shared)
    async with asyncio.timeout(HANG_GUARD):
        while await ask(shop) != "WARM":
            await admin.flush()
    assert await ask(bank) == "COMPUTED"


@pytest.mark.parametrize("ask", [embed, search], ids=lambda ask: ask.__name__)
@pytest.mark.threat("A caller shares a computation with another namespace")
async def test_no_share_in_a_computation_under_way(begin: Start, ask: Ask, held_model: Any) -> None:
    held_model.holds = False
    shop, bank, admin = await begin()
    held_model.holds, held_model.sizes = True, []
    calls = [asyncio.create_task(ask(client)) for client in (shop, shop, bank, bank)]
    async with asyncio.timeout(HANG_GUARD):
        while not held_model.sizes:
            await asyncio.sleep(0.005)
    await admin.stats()
    held_model.let_go()
    tiers = [await call for call in calls]
    for own in (tiers[:2], tiers[2:]):
        assert sorted(own) == ["COALESCED", "COMPUTED"]


@pytest.mark.threat("A caller shares a computation with another namespace")
async def test_no_share_in_a_generation_under_way(begin: Start, openai_server: Any) -> None:
    shop, bank, admin = await begin()
    openai_server.hold_after = 0
    calls = [asyncio.create_task(generate(client)) for client in (shop, shop, bank, bank)]
    async with asyncio.timeout(HANG_GUARD):
        while len(openai_server.calls) < 2:
            await asyncio.sleep(0.005)
    await admin.stats()
    openai_server.release.set()
    tiers = [await call for call in calls]
    for own in (tiers[:2], tiers[2:]):
        assert sorted(own) == ["COALESCED", "COMPUTED"]
    assert len(openai_server.calls) == 2


# --- Answers that are alike, and parts of prompts ----------------------------------------------


@pytest.mark.threat("A caller is answered from what another namespace has cached")
async def test_no_answer_to_a_query_that_means_the_same(begin: Start) -> None:
    shop, bank, _ = await begin()
    await shop.search(ONE, semantic=ON)
    assert (await shop.search(SAME, semantic=ON)).semantic.query == ONE
    assert not (await bank.search(SAME, semantic=ON)).HasField("semantic")


async def test_no_answer_to_a_prompt_that_means_the_same(begin: Start) -> None:
    shop, bank, _ = await begin()
    own = (await shop.generate(ONE, temperature=0, semantic=ON)).text
    assert (await shop.generate(SAME, temperature=0, semantic=ON)).text == own
    theirs = await bank.generate(SAME, temperature=0, semantic=ON)
    assert theirs.text != own
    assert not theirs.summary.HasField("similarity")


async def test_no_answer_that_another_sidecar_told_of(begin: Start, redis_server: DevRedis) -> None:
    one, *_ = await begin(redis=redis_server)
    shop, bank, _ = await begin(redis=redis_server)
    own = (await one.generate(ONE, temperature=0, semantic=ON)).text
    async with asyncio.timeout(HANG_GUARD):
        while True:
            said = await shop.generate(SAME, temperature=0, semantic=ON, mode="CACHE_MODE_NO_STORE")
            if said.text == own:
                break
    assert (await bank.generate(SAME, temperature=0, semantic=ON)).text != own


@pytest.mark.threat("A caller shares a computation with another namespace")
async def test_no_block_of_a_prompt_that_was_read(
    begin: Start, smollm2_folder: Path, redis_server: DevRedis
) -> None:
    ends = iter(range(1000))

    async def reused(client: Any) -> list[str]:
        """From which tiers the beginning of a prompt comes, whose end is always another."""
        prompt = f"{PROMPT}{next(ends)}"
        response = await client.generate(prompt, temperature=0, max_tokens=1)
        return [name(each.tier) for each in response.summary.usage.reused_tokens]

    sections = {"generator": {"packs": [str(smollm2_folder)]}, "prefix": {"shared": True}}
    shop, bank, admin = await begin(redis=redis_server, **sections)
    assert await reused(shop) == []
    assert await reused(shop) == ["HOT"]
    assert await reused(bank) == []
    # Of what the bank has in Redis itself by now, nothing is to be left.
    await bank.caches.Invalidate(cache_pb2.InvalidateRequest(kind="prefix"), timeout=HANG_GUARD)
    async with asyncio.timeout(HANG_GUARD):
        await admin.flush()
        while await reused(shop) != ["WARM"]:
            await admin.flush()
    await admin.flush()
    assert await reused(bank) == []


# --- What is known of others -------------------------------------------------------------------


@pytest.mark.threat("A caller sees the statistics of another namespace")
async def test_statistics_are_of_his_own_namespaces(begin: Start) -> None:
    shop, bank, admin = await begin()
    for client in (shop, bank):
        for ask in KINDS:
            await ask(client)
            await ask(client)
        for text in (ONE, SAME):
            await client.search(text, semantic=ON)
    await bank.embed("a text that only the bank has")
    whole = await admin.stats()
    assert {row.namespace for row in whole.usage} == {"shop", "bank"}
    assert {row.namespace for row in whole.semantic} == {"shop", "bank"}
    for client, who in ((shop, "shop"), (bank, "bank")):
        mine = await client.stats()
        assert {row.namespace for row in mine.usage} == {who}
        assert {row.namespace for row in mine.semantic} == {who}
        rows = [row for row in whole.usage if row.namespace == who]
        assert [(row.kind, row.hot_entries) for row in mine.usage] == [
            (row.kind, row.hot_entries) for row in rows
        ]
        for tier in mine.tiers:
            counts = [each.count for row in rows for each in row.answered if each.tier == tier.tier]
            assert tier.answered == sum(counts)


@pytest.mark.threat("A caller sees the statistics of another namespace")
async def test_figures_of_the_whole_sidecar_are_for_administrators(
    begin: Start, tmp_path: Path
) -> None:
    shop, bank, admin = await begin(disk=tmp_path / "disk")
    for _ in range(3):
        await bank.embed("a text")
    whole, mine = await admin.stats(), await shop.stats()
    assert whole.response_hits
    assert whole.models
    assert whole.generators
    assert whole.HasField("disk")
    assert whole.tiers[0].entries
    told = {field.name for field, _ in mine.ListFields()}
    assert told == {"version", "uptime_seconds", "tiers", "warm", "usage"}
    assert mine.warm == cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_OFF)
    fields = {field.name for tier in mine.tiers for field, _ in tier.ListFields()}
    assert fields <= {"tier", "answered"}


async def test_popular_queries_are_warmed_where_they_were_asked(begin: Start) -> None:
    # Neither named a namespace, so their bytes do not say whose they are.
    shop, bank, admin = await begin(popular={"queries": 100})
    for _ in range(3):
        await shop.embed("asked in the shop")
        await bank.embed("asked in the bank")
    await admin.flush()
    popular = cache_pb2.WarmRequest.Popular(namespace="shop", count=100)
    call = admin.caches.Warm(cache_pb2.WarmRequest(popular=popular), timeout=HANG_GUARD)
    (*_, last) = [progress async for progress in call]
    assert (last.total, last.computed) == (1, 1)
    assert await shop.tiers("asked in the shop", "asked in the bank") == ["HOT", "COMPUTED"]
    assert await bank.tiers("asked in the bank", "asked in the shop") == ["COMPUTED"] * 2


async def test_what_one_tenant_invalidates_is_valid_for_the_other(begin: Start) -> None:
    shop, bank, _ = await begin()
    for client in (shop, bank):
        await client.embed("a text", tags=["t"])
        await client.embed("a text")
        await search(client)
    await shop.invalidate(tags=["t"])
    await shop.invalidate(inputs=["a text"])
    events = [cache_pb2.Event(type="TYPE_UPDATED", ids=["same-id"])]
    await shop.caches.PublishEvents(cache_pb2.PublishEventsRequest(events=events))
    assert await bank.tiers("a text", tags=["t"]) == await bank.tiers("a text") == ["HOT"]
    assert await search(bank) == "HOT"
    await shop.invalidate()
    assert await bank.tiers("a text") == ["HOT"]
    assert await shop.tiers("a text") == ["COMPUTED"]


async def test_a_document_that_one_tenant_deletes_is_still_the_others(begin: Start) -> None:
    shop, bank, _ = await begin()
    assert await shop.delete("same-id") == [True]
    assert await search(bank) == "COMPUTED"
    assert (await shop.search("a query")).results == []
