"""Quotas of namespaces, in a whole sidecar with a policy file."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import socket
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import yaml
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, embed_pb2_grpc, search_pb2

import sidecar.access.live
import sidecar.access.quotas
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Call = Callable[[Sidecar, str], Awaitable[object]]

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
PUSHBACK = "grpc-retry-pushback-ms"
HANG_GUARD = 30.0
# So slow that what was charged can be told from when to try again.
RATE = 0.001


class Quotas:
    """A policy file with the quotas of namespaces, and no callers."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "policy.yaml"

    def write(self, **namespaces: dict[str, Any]) -> dict[str, Any]:
        """Puts quotas in force; returns the section of settings. ``every`` is for ``*``."""
        named = {"*" if name == "every" else name: each for name, each in namespaces.items()}
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump({"quotas": named}))
        new.replace(self.file)
        return {"policy_file": str(self.file)}


@pytest.fixture
def quotas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Quotas:
    """Quotas whose changes are seen soon."""
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.005))
    return Quotas(tmp_path)


async def refused(call: Awaitable[object]) -> tuple[str, float]:
    """The message of a call that a quota refuses, and in how many seconds to try again."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    assert error.value.code() == EXHAUSTED
    trailers = dict(error.value.trailing_metadata() or ())
    return error.value.details() or "", int(trailers[PUSHBACK]) / 1000


async def answered_before_refusal(sidecar: Sidecar, *texts: str) -> int:
    """Repeats a call in "shop" until a quota refuses it; how often it was answered."""
    for answered in itertools.count():
        try:
            await sidecar.embed(*texts, namespace="shop")
        except grpc.aio.AioRpcError as error:
            if error.code() != EXHAUSTED:
                raise
            return answered
    raise AssertionError


async def refusals(sidecar: Sidecar) -> dict[tuple[str, str], int]:
    return {(each.namespace, each.quota): each.refusals for each in (await sidecar.stats()).quotas}


# --- Items a second ----------------------------------------------------------------------------


@pytest.mark.threat("A caller takes the model for himself")
async def test_a_namespace_that_asks_for_too_much_is_refused_and_others_are_not(
    start: Start, quotas: Quotas
) -> None:
    sidecar = await start(access=quotas.write(shop={"items_per_second": 4}))
    texts = [str(number) for number in range(44)]
    await sidecar.embed(*texts, namespace="shop")
    message, again = await refused(sidecar.embed("a", namespace="shop"))
    assert message.startswith("the namespace shop asks for more than its 4 items a second")
    assert 0 < again <= 10.001
    for _ in range(5):
        await sidecar.embed(*texts)
    assert await refusals(sidecar) == {("shop", "items_per_second"): 1}


async def test_the_retries_of_a_standard_client_wait_as_long_as_they_are_told(
    start: Start, quotas: Quotas
) -> None:
    sidecar = await start(access=quotas.write(shop={"items_per_second": 20}))
    retries = {
        "name": [{"service": "embercache.v1.EmbedService"}],
        "retryPolicy": {
            "maxAttempts": 2,
            "initialBackoff": "60s",
            "maxBackoff": "60s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": [EXHAUSTED.name],
        },
    }
    options = [("grpc.service_config", json.dumps({"methodConfig": [retries]}))]
    async with grpc.aio.insecure_channel(sidecar.address, options=options) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        # In debt for 0.3 s. Without what it is told, the client would wait for a minute.
        many = sidecar.request(*(str(number) for number in range(26)), namespace="shop")
        while not await refusals(sidecar):
            answer = await stub.Embed(many, timeout=HANG_GUARD)
            assert answer.embeddings[0].vector


async def test_stored_responses_are_charged_for_all_of_their_items(
    start: Start, quotas: Quotas
) -> None:
    sidecar = await start(access=quotas.write(shop={"items_per_second": 300}))
    texts = [str(number) for number in range(100)]
    began = monotonic()
    answered = await answered_before_refusal(sidecar, *texts)
    assert answered * 100 <= 300 * (1 + monotonic() - began) + 100
    assert (await sidecar.stats()).response_hits == answered - 2 > 0


def embed(*texts: str) -> Call:
    return lambda sidecar, name: sidecar.embed(*texts, namespace=name)


async def upsert(sidecar: Sidecar, name: str) -> None:
    chunks = [search_pb2.Chunk(chunk_id=each, content=each) for each in "xyz"]
    documents = [search_pb2.Document(id=each, chunks=chunks) for each in "ab"]
    request = search_pb2.UpsertRequest(documents=documents, namespace=name)
    await sidecar.searches.Upsert(request, timeout=HANG_GUARD)


async def rerank(sidecar: Sidecar, name: str) -> None:
    request = search_pb2.RerankRequest(query="q", passages=list("abcd"), namespace=name)
    await sidecar.searches.Rerank(request, timeout=HANG_GUARD)


async def stream(sidecar: Sidecar, name: str) -> None:
    async for _ in sidecar.stream("a prompt", namespace=name, temperature=0):
        pass


CALLS: dict[str, tuple[Call, int]] = {
    "Embed": (embed(*"abc"), 3),
    "Search": (lambda sidecar, name: sidecar.search("q", namespace=name), 1),
    "Search with reranking": (
        lambda sidecar, name: sidecar.search("q", namespace=name, rerank=search_pb2.Rerank()),
        1,
    ),
    "Rerank": (rerank, 4),
    "Upsert": (upsert, 2),
    "Delete": (lambda sidecar, name: sidecar.delete("a", "b", "c", namespace=name), 3),
    "Generate": (lambda sidecar, name: sidecar.generate("p", namespace=name, temperature=0), 1),
    "GenerateStream": (stream, 1),
}


@pytest.fixture
async def slow(start: Start, quotas: Quotas, openai_server: Any) -> Sidecar:
    """A sidecar where each namespace has next to nothing."""
    generator = {"target": openai_server.target, "packs": ["echo"]}
    return await start(access=quotas.write(every={"items_per_second": RATE}), generator=generator)


async def test_every_method_is_charged_for_what_it_asks(slow: Sidecar) -> None:
    charged = {}
    for number, (name, (call, _)) in enumerate(CALLS.items()):
        await call(slow, f"n{number}")
        _, again = await refused(call(slow, f"n{number}"))
        charged[name] = math.ceil(again * RATE)
    assert charged == {name: items for name, (_, items) in CALLS.items()}


async def test_what_is_wrong_with_a_call_is_told_before_it_is_charged(slow: Sidecar) -> None:
    for _ in range(3):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await slow.embed("a", namespace="shop", model="none")
        assert error.value.code() == grpc.StatusCode.NOT_FOUND
    await slow.embed("a", namespace="shop")


async def test_a_stream_goes_on_after_a_refusal(start: Start, quotas: Quotas) -> None:
    sidecar = await start(access=quotas.write(shop={"items_per_second": RATE}))
    call = sidecar.embeds.EmbedStream(timeout=HANG_GUARD)

    async def ask(namespace: str) -> Any:
        request = sidecar.request("a", namespace=namespace)
        await call.write(embed_pb2.EmbedStreamRequest(request=request))
        return await call.read()

    assert (await ask("shop")).response.embeddings[0].vector
    answer = await ask("shop")
    assert answer.error.code == EXHAUSTED.value[0]
    assert "try again in" in answer.error.message
    assert (await ask("blog")).response.embeddings[0].vector
    await call.done_writing()


async def test_openai_clients_are_told_in_their_words(
    start: Start, quotas: Quotas, openai_server: Any
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    await start(
        access=quotas.write(default={"items_per_second": 1}),
        server={"address": "127.0.0.1:0", "openai_address": address},
        generator={"target": openai_server.target, "packs": ["echo"]},
    )
    bodies = {
        "embeddings": {"model": "tiny", "input": ["a"] * 40},
        "completions": {"model": "echo", "prompt": "a", "temperature": 0},
        "chat/completions": {
            "model": "echo",
            "messages": [{"role": "user", "content": "a"}],
            "stream": True,
        },
    }
    async with aiohttp.ClientSession(f"http://{address}") as session:
        async with session.post("/v1/embeddings", json=bodies["embeddings"]) as answer:
            assert answer.status == 200
        for path, body in bodies.items():
            async with session.post(f"/v1/{path}", json=body) as answer:
                assert answer.status == 429
                assert 35 <= int(answer.headers["Retry-After"]) <= 40
                assert (await answer.json())["error"]["type"] == "rate_limit_error"


# --- Computations under way --------------------------------------------------------------------


@pytest.fixture
async def busy(
    start: Start, quotas: Quotas, held_model: HeldModel, eventually: Eventually
) -> tuple[Sidecar, asyncio.Task[Any]]:
    """A sidecar where "shop" has two of its two computations under way; the text "old" is hot."""
    held_model.holds = False
    sidecar = await start(access=quotas.write(shop={"computations": 2}))
    await sidecar.embed("old", namespace="shop")
    held_model.holds = True
    running = asyncio.create_task(sidecar.embed("one", "two", namespace="shop"))
    await eventually(lambda: len(held_model.sizes) == 2)
    return sidecar, running


async def test_a_call_whose_computations_are_too_many_is_refused_until_some_have_ended(
    busy: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, running = busy
    message, _ = await refused(sidecar.embed("three", namespace="shop"))
    assert message.startswith(
        "the namespace shop has 2 of its 2 computations under way and asks for 1: try again in"
    )
    assert await refusals(sidecar) == {("shop", "computations"): 1}
    held_model.let_go()
    await running
    assert await sidecar.tiers("three", namespace="shop") == ["COMPUTED"]


async def test_hits_of_a_batch_are_answered_beside_its_refused_misses(
    busy: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, running = busy
    new, old, other = (await sidecar.embed("new", "old", "other", namespace="shop")).embeddings
    assert old.vector
    assert new.error.code == other.error.code == EXHAUSTED.value[0]
    assert "try again in" in new.error.message
    held_model.let_go()
    await running


async def test_hits_and_what_is_being_computed_already_need_no_place(
    busy: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, running = busy
    for _ in range(3):
        assert await sidecar.tiers("old", namespace="shop") == ["HOT"]
    call = asyncio.create_task(sidecar.tiers("one", "two", "old", namespace="shop"))
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    assert await call == ["COALESCED", "COALESCED", "HOT"]
    await running


@pytest.mark.threat("A caller takes the model for himself")
async def test_another_namespace_may_compute_meanwhile(
    busy: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, running = busy
    other = asyncio.create_task(sidecar.tiers(*"abcde", namespace="blog"))
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    assert await other == ["COMPUTED"] * 5
    await running


async def test_a_call_that_goes_away_gives_its_places_back(
    busy: tuple[Sidecar, Any], held_model: HeldModel
) -> None:
    sidecar, running = busy
    running.cancel()
    async with asyncio.timeout(HANG_GUARD):
        while True:
            call = asyncio.create_task(sidecar.embed("three", namespace="shop"))
            done, _ = await asyncio.wait({call}, timeout=0.1)
            if not done:
                break
            with pytest.raises(grpc.aio.AioRpcError):
                await call
    held_model.let_go()
    assert (await call).embeddings[0].vector


async def test_a_call_of_more_computations_than_the_limit_is_taken_where_nothing_is_under_way(
    start: Start, quotas: Quotas, openai_server: Any
) -> None:
    generator = {"target": openai_server.target, "packs": ["echo"]}
    sidecar = await start(access=quotas.write(every={"computations": 1}), generator=generator)
    for number, (call, _) in enumerate(CALLS.values()):
        await call(sidecar, f"n{number}")
    await sidecar.upsert({name: name for name in "abcde"}, namespace="shop")
    found = await sidecar.search("q", namespace="shop", rerank=search_pb2.Rerank(candidates=20))
    assert len(found.results) == 5
    on = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.5)
    for prompt in ("a prompt", "a prompt."):
        said = await sidecar.generate(prompt, namespace="shop", temperature=0, semantic=on)
    assert said.summary.HasField("similarity")
    assert await refusals(sidecar) == {}


async def test_generations_take_places_too(
    start: Start, quotas: Quotas, openai_server: Any
) -> None:
    openai_server.hold_after = 0
    generator = {"target": openai_server.target, "packs": ["echo"]}
    sidecar = await start(access=quotas.write(shop={"computations": 1}), generator=generator)
    first = asyncio.create_task(sidecar.generate("one", namespace="shop", temperature=0))
    await openai_server.held.wait()
    await refused(sidecar.generate("two", namespace="shop", temperature=0))
    await refused(stream(sidecar, "shop"))
    openai_server.release.set()
    await first
    await sidecar.generate("two", namespace="shop", temperature=0)


# --- What nobody waits for ---------------------------------------------------------------------


async def test_warming_is_charged_where_callers_are_not_told_apart(slow: Sidecar) -> None:
    inputs = [embed_pb2.Input(text=text) for text in "abcdef"]
    request = cache_pb2.WarmRequest(embed=embed_pb2.EmbedRequest(inputs=inputs, namespace="shop"))
    progress = [each async for each in slow.caches.Warm(request, timeout=HANG_GUARD)]
    assert progress[-1].computed == 6
    _, again = await refused(slow.embed("g", namespace="shop"))
    assert again == pytest.approx(6 / RATE, rel=0.01)


# --- Bytes in memory ---------------------------------------------------------------------------


async def hot_bytes(sidecar: Sidecar) -> dict[str, int]:
    sums: dict[str, int] = {}
    for each in (await sidecar.stats()).usage:
        sums[each.namespace] = sums.get(each.namespace, 0) + each.hot_bytes
    return sums


@pytest.mark.threat("A caller fills the memory")
async def test_a_namespace_keeps_within_its_bytes_and_pushes_out_nothing_of_others(
    start: Start, quotas: Quotas
) -> None:
    sidecar = await start(access=quotas.write(shop={"hot_bytes": "16KiB"}))
    await sidecar.embed(*"abcde", namespace="blog")
    before = (await hot_bytes(sidecar))["blog"]
    for number in range(40):
        await sidecar.embed(str(number), namespace="shop")
    bytes_now = await hot_bytes(sidecar)
    assert 12_000 < bytes_now["shop"] <= 16 * 1024
    assert bytes_now["blog"] == before
    assert await sidecar.tiers("39", namespace="shop") == ["HOT"]
    assert await sidecar.tiers("0", namespace="shop") == ["COMPUTED"]
    assert await sidecar.tiers(*"abcde", namespace="blog") == ["HOT"] * 5


# --- A policy that changes ---------------------------------------------------------------------


async def test_a_policy_that_is_changed_holds_without_a_restart(
    start: Start, quotas: Quotas
) -> None:
    sidecar = await start(access=quotas.write(shop={"items_per_second": RATE}))
    for number in range(20):
        await sidecar.embed(str(number), namespace="blog")
    await sidecar.embed("a", namespace="shop")
    await refused(sidecar.embed("a", namespace="shop"))
    quotas.write(blog={"hot_bytes": "8KiB"})
    async with asyncio.timeout(HANG_GUARD):
        while (await hot_bytes(sidecar))["blog"] > 8 * 1024:
            pass
    assert await sidecar.tiers("a", namespace="shop") == ["HOT"]
    assert await sidecar.tiers("19", namespace="blog") == ["HOT"]


@pytest.mark.parametrize("meters", [0, 100])
async def test_what_is_stored_obeys_a_quota_that_came_later(
    start: Start, quotas: Quotas, monkeypatch: pytest.MonkeyPatch, meters: int
) -> None:
    # At first the namespace may share a meter with others.
    monkeypatch.setattr(sidecar.access.quotas, "MAX_METERS", meters)
    client = await start(access=quotas.write(blog={"share": 2}))
    for _ in range(3):
        await client.embed("a", namespace="shop")
    assert (await client.stats()).response_hits == 1
    quotas.write(shop={"items_per_second": RATE})
    async with asyncio.timeout(HANG_GUARD):
        await answered_before_refusal(client, "a")
