"""Traces of calls of gRPC, as a collector gets them."""

from __future__ import annotations

import asyncio
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import pytest
import structlog
from embercache.v1 import common_pb2, embed_pb2, search_pb2
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecar.services.embed_request import RequestReader
from sidecar.telemetry.logging import name_trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Collector = Any
    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    StartTraced = Callable[..., Awaitable[Any]]

HANG_GUARD = 30.0
EMBED = "embercache.v1.EmbedService/Embed"
EMBED_STREAM = "embercache.v1.EmbedService/EmbedStream"
SEARCH = "embercache.v1.SearchService/Search"
RERANK = "embercache.v1.SearchService/Rerank"
GENERATE = "embercache.v1.GenerateService/Generate"
GENERATE_STREAM = "embercache.v1.GenerateService/GenerateStream"
CRASH = "\N{HIGH VOLTAGE SIGN}"


@dataclass
class Caller:
    """An application that is traced, or says that it is not."""

    sampled: bool = True
    trace_id: str = field(default_factory=lambda: secrets.token_hex(16))
    span_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        parent = f"00-{self.trace_id}-{self.span_id}-0{int(self.sampled)}"
        return (("traceparent", parent), ("tracestate", "vendor=1"))

    def tree(self, collector: Collector) -> list[Any]:
        """The spans under the caller's own."""
        tree: list[Any] = collector.tree(self.trace_id, self.span_id)
        return tree


@pytest.fixture
def caller() -> Caller:
    return Caller()


@pytest.fixture
def start_traced(start: Start, collector: Collector) -> StartTraced:
    """Starts sidecars that trace only calls whose callers are traced, unless a test says more."""

    async def start_sidecar(*, sample: float = 0, **sections: Any) -> Any:
        return await start(tracing={"endpoint": collector.endpoint, "sample": sample}, **sections)

    return start_sidecar


async def embed(sidecar: Sidecar, caller: Caller, *items: Any, **fields: Any) -> list[str]:
    """What answered each item of a call of Embed: "HOT", "COMPUTED" and so on."""
    request = sidecar.request(*items, **fields)
    response = await sidecar.embeds.Embed(request, timeout=HANG_GUARD, metadata=caller.headers)
    return [
        common_pb2.Tier.Name(e.tier).removeprefix("TIER_").replace("UNSPECIFIED", "ERROR")
        for e in response.embeddings
    ]


def only(collector: Collector, caller: Caller, name: str) -> Any:
    """The one span of that name."""
    (span,) = (span for span in collector.of_trace(caller.trace_id) if span.name == name)
    return span


async def test_a_cold_call_shows_every_tier_that_it_visited(
    start_traced: StartTraced,
    collector: Collector,
    caller: Caller,
    redis_server: DevRedis,
    tmp_path: Path,
) -> None:
    sidecar = await start_traced(redis=redis_server, disk=tmp_path / "disk")
    assert await embed(sidecar, caller, "one", "two", namespace="team") == ["COMPUTED"] * 2
    await sidecar.stop()
    tiers = ["hot embed", "disk embed", "warm embed", "computed embed"]
    assert caller.tree(collector) == [(EMBED, tiers)]
    assert collector.attributes(caller.trace_id, EMBED) == [
        {"rpc.system.name": "grpc", "rpc.method": EMBED, "rpc.response.status_code": "OK"}
    ]
    for name, found in zip(tiers, (0, 0, 0, 2), strict=True):
        assert collector.attributes(caller.trace_id, name) == [
            {
                "tier": name.split()[0],
                "kind": "embed",
                "namespace": "team",
                "model": "tiny",
                "items.asked": 2,
                "items.found": found,
            }
        ]
    assert only(collector, caller, EMBED).kind == Span.SPAN_KIND_SERVER
    assert {span.trace_state for span in collector.spans} == {"vendor=1"}


async def test_a_warm_call_ends_at_redis(
    start_traced: StartTraced, collector: Collector, caller: Caller, redis_server: DevRedis
) -> None:
    one = await start_traced(redis=redis_server)
    await one.embed("a text")
    await one.stop()
    two = await start_traced(redis=redis_server)
    assert await embed(two, caller, "a text") == ["WARM"]
    await two.stop()
    assert caller.tree(collector) == [(EMBED, ["hot embed", "warm embed"])]


async def test_a_hot_call_ends_at_memory(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    await sidecar.embed("a text")
    assert await embed(sidecar, caller, "a text") == ["HOT"]
    await sidecar.stop()
    assert caller.tree(collector) == [(EMBED, ["hot embed"])]


async def test_a_response_found_whole_in_memory_says_so(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    for _ in range(2):
        await sidecar.embed("a text")
    assert await embed(sidecar, caller, "a text") == ["HOT"]
    assert (await sidecar.stats()).response_hits == 1
    await sidecar.stop()
    assert caller.tree(collector) == [(EMBED, ["hot response"])]


async def test_of_a_batch_that_is_partly_known_only_the_rest_is_computed(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    await sidecar.embed("one", "two")
    assert await embed(sidecar, caller, "one", "new", "two") == ["HOT", "COMPUTED", "HOT"]
    await sidecar.stop()
    (hot,) = collector.attributes(caller.trace_id, "hot embed")
    (computed,) = collector.attributes(caller.trace_id, "computed embed")
    assert (hot["items.asked"], hot["items.found"]) == (3, 2)
    assert (computed["items.asked"], computed["items.found"]) == (1, 1)


async def test_a_call_that_waits_for_the_computation_of_another_links_to_it(
    start_traced: StartTraced, collector: Collector, held_model: HeldModel, eventually: Any
) -> None:
    sidecar = await start_traced()
    first, second = Caller(), Caller()
    computing = asyncio.create_task(embed(sidecar, first, "a text"))
    await eventually(lambda: held_model.sizes)
    waiting = asyncio.create_task(embed(sidecar, second, "a text", "another"))
    # Once the other text is on its way, so is the wait for the first one.
    async with asyncio.timeout(HANG_GUARD):
        while not (await sidecar.stats()).models[0].queued:
            pass
    held_model.let_go()
    assert (await computing, await waiting) == (["COMPUTED"], ["COALESCED", "COMPUTED"])
    await sidecar.stop()
    assert first.tree(collector) == [(EMBED, ["hot embed", "computed embed"])]
    tiers = ["hot embed", "coalesced embed", "computed embed"]
    assert second.tree(collector) == [(EMBED, tiers)]
    (wait,) = collector.attributes(second.trace_id, "coalesced embed")
    assert (wait["items.asked"], wait["items.found"]) == (1, 1)
    (link,) = only(collector, second, "coalesced embed").links
    assert link.trace_id.hex() == first.trace_id
    assert link.span_id == only(collector, first, EMBED).span_id


async def test_a_text_that_comes_twice_in_a_batch_is_no_wait_for_another_call(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    assert await embed(sidecar, caller, "same", "same") == ["COMPUTED", "COALESCED"]
    await sidecar.stop()
    assert caller.tree(collector) == [(EMBED, ["hot embed", "computed embed"])]


async def test_a_refused_call_has_its_status_but_is_no_error_of_ours(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    with pytest.raises(grpc.aio.AioRpcError):
        await embed(sidecar, caller)
    await sidecar.stop()
    assert caller.tree(collector) == [EMBED]
    (attributes,) = collector.attributes(caller.trace_id, EMBED)
    assert attributes["rpc.response.status_code"] == "INVALID_ARGUMENT"
    assert only(collector, caller, EMBED).status.code == Status.STATUS_CODE_UNSET


async def test_a_model_that_fails_is_an_error_of_its_own_span(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    assert await embed(sidecar, caller, "good", f"bad {CRASH}") == ["COMPUTED", "ERROR"]
    await sidecar.stop()
    span = only(collector, caller, "computed embed")
    (attributes,) = collector.attributes(caller.trace_id, "computed embed")
    assert span.status.code == Status.STATUS_CODE_ERROR
    assert (attributes["items.asked"], attributes["items.found"]) == (2, 1)
    assert attributes["error.type"].endswith("Error")
    assert only(collector, caller, EMBED).status.code == Status.STATUS_CODE_UNSET


async def test_a_call_that_fails_by_our_fault_is_an_error(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        encoder = {"target": f"127.0.0.1:{nobody.getsockname()[1]}", "timeout": 1}
        sidecar = await start_traced(model={"packs": ["tiny"], "rerankers": ()}, encoder=encoder)
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(sidecar, caller, "a text")
        await sidecar.stop()
    (attributes,) = collector.attributes(caller.trace_id, EMBED)
    assert attributes["rpc.response.status_code"] == attributes["error.type"] == "UNAVAILABLE"
    assert only(collector, caller, EMBED).status.code == Status.STATUS_CODE_ERROR


async def test_a_call_whose_caller_has_gone_is_cancelled(
    start_traced: StartTraced,
    collector: Collector,
    caller: Caller,
    held_model: HeldModel,
    eventually: Any,
) -> None:
    sidecar = await start_traced()
    request = sidecar.request("a text")
    call = sidecar.embeds.Embed(request, timeout=HANG_GUARD, metadata=caller.headers)
    running = asyncio.ensure_future(call)
    await eventually(lambda: held_model.sizes)
    call.cancel()
    await asyncio.wait({running})
    await eventually(lambda: collector.attributes(caller.trace_id, EMBED))
    held_model.let_go()
    (attributes,) = collector.attributes(caller.trace_id, EMBED)
    assert attributes["rpc.response.status_code"] == "CANCELLED"


async def test_a_stream_is_one_span_over_all_of_its_batches(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()

    async def requests() -> AsyncIterator[embed_pb2.EmbedStreamRequest]:
        for number in range(3):
            request = sidecar.request(f"text {number}")
            yield embed_pb2.EmbedStreamRequest(id=number, request=request)

    call = sidecar.embeds.EmbedStream(requests(), timeout=HANG_GUARD, metadata=caller.headers)
    assert len([response async for response in call]) == 3
    await sidecar.stop()
    ((name, below),) = caller.tree(collector)
    assert name == EMBED_STREAM
    assert sorted(below) == ["computed embed"] * 3 + ["hot embed"] * 3
    last = max(span.end_time_unix_nano for span in collector.of_trace(caller.trace_id))
    assert only(collector, caller, EMBED_STREAM).end_time_unix_nano == last


async def test_a_long_stream_has_so_many_spans_and_says_how_many_more_there_were(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()

    async def requests() -> AsyncIterator[embed_pb2.EmbedStreamRequest]:
        for number in range(150):
            request = sidecar.request(f"text {number}")
            yield embed_pb2.EmbedStreamRequest(id=number, request=request)

    call = sidecar.embeds.EmbedStream(requests(), timeout=HANG_GUARD, metadata=caller.headers)
    assert len([response async for response in call]) == 150
    await sidecar.stop()
    assert len(collector.of_trace(caller.trace_id)) == 256
    (attributes,) = collector.attributes(caller.trace_id, EMBED_STREAM)
    assert attributes["spans.dropped"] == 300 - 255


async def test_an_encoder_pool_goes_on_with_the_trace_of_the_call(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    encoder = await start_traced()
    front = await start_traced(model={"packs": ["tiny"]}, encoder={"target": encoder.address})
    assert await embed(front, caller, "a text") == ["COMPUTED"]
    await front.stop()
    await encoder.stop()
    there = (EMBED, [(EMBED, ["computed embed"])])
    assert caller.tree(collector) == [(EMBED, ["hot embed", ("computed embed", [there])])]
    client, server = collector.of_trace(caller.trace_id)[3:5]
    assert (client.kind, server.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    assert collector.attributes(caller.trace_id, EMBED)[1] == {
        "rpc.system.name": "grpc",
        "rpc.method": EMBED,
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": int(encoder.address.rpartition(":")[2]),
    }
    assert {span.trace_state for span in collector.spans} == {"vendor=1"}


async def test_a_pool_goes_on_with_the_trace_of_a_reranking(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    encoder = await start_traced()
    front = await start_traced(model={"packs": ["tiny"]}, encoder={"target": encoder.address})
    request = search_pb2.RerankRequest(query="q", passages=["a", "b"])
    await front.searches.Rerank(request, timeout=HANG_GUARD, metadata=caller.headers)
    await front.stop()
    await encoder.stop()
    there = (RERANK, [(RERANK, ["computed rerank"])])
    assert caller.tree(collector) == [(RERANK, ["hot rerank", ("computed rerank", [there])])]


async def test_a_search_shows_its_steps_under_the_list_that_they_make(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    await sidecar.upsert({"1": "a document", "2": "another one"})
    semantic = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.99)
    request = sidecar.search_request("a query", rerank=search_pb2.Rerank(), semantic=semantic)
    await sidecar.searches.Search(request, timeout=HANG_GUARD, metadata=caller.headers)
    await sidecar.stop()
    steps = ["hot embed", "computed embed", "semantic", "index", "hot rerank", "computed rerank"]
    assert caller.tree(collector) == [(SEARCH, ["hot search", ("computed search", steps)])]
    assert collector.attributes(caller.trace_id, "index") == [{"items.found": 2}]


async def test_the_answer_to_another_query_is_found_in_the_semantic_step(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    sidecar = await start_traced()
    await sidecar.upsert({"1": "a document"})
    semantic = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.5)
    await sidecar.search("how do I mute a chat?", semantic=semantic)
    request = sidecar.search_request("how do I mute a chat please?", semantic=semantic)
    await sidecar.searches.Search(request, timeout=HANG_GUARD, metadata=caller.headers)
    await sidecar.stop()
    steps = ["hot embed", "computed embed", ("semantic", ["hot search"])]
    assert caller.tree(collector) == [(SEARCH, ["hot search", ("computed search", steps)])]
    assert collector.attributes(caller.trace_id, "semantic") == [{"items.found": 1}]


@pytest.mark.parametrize("streams", [False, True])
async def test_a_service_that_generates_is_told_of_the_trace(
    streams: bool,
    start_traced: StartTraced,
    collector: Collector,
    caller: Caller,
    openai_server: Any,
) -> None:
    generator = {"target": openai_server.target, "packs": ["writer"]}
    sidecar = await start_traced(generator=generator)
    prompt, stub = sidecar.prompt("say it", temperature=0), sidecar.generators
    if streams:
        call = stub.GenerateStream(prompt, timeout=HANG_GUARD, metadata=caller.headers)
        assert [message async for message in call]
    else:
        await stub.Generate(prompt, timeout=HANG_GUARD, metadata=caller.headers)
    await sidecar.stop()
    there = "POST /completions"
    tiers = ["hot generate", ("computed generate", [there])]
    assert caller.tree(collector) == [(GENERATE_STREAM if streams else GENERATE, tiers)]
    (attributes,) = collector.attributes(caller.trace_id, there)
    assert attributes["http.response.status_code"] == 200
    ((_, headers, _),) = openai_server.calls
    told = only(collector, caller, there).span_id.hex()
    assert headers["traceparent"] == f"00-{caller.trace_id}-{told}-01"
    assert "tracestate" not in headers


async def test_a_service_that_embeds_is_told_of_the_trace(
    start_traced: StartTraced, collector: Collector, caller: Caller, openai_server: Any
) -> None:
    sidecar = await start_traced(
        model={"packs": ["theirs"]}, encoder={"target": openai_server.target}
    )
    assert await embed(sidecar, caller, "a text") == ["COMPUTED"]
    await sidecar.stop()
    there = ("computed embed", ["POST /embeddings"])
    assert caller.tree(collector) == [(EMBED, ["hot embed", there])]
    _, headers, _ = openai_server.calls[-1]
    assert caller.trace_id in headers["traceparent"]


async def test_a_request_that_calls_share_is_in_the_trace_of_the_first_that_has_one(
    start_traced: StartTraced, caller: Caller, openai_server: Any, eventually: Any
) -> None:
    sidecar = await start_traced(
        model={"packs": ["theirs"]}, encoder={"target": openai_server.target}
    )
    openai_server.hold_after = 0
    # As many as there may be at once; what comes then waits, and shares the next.
    under_way = []
    for number in range(4):
        under_way.append(asyncio.create_task(sidecar.embed(f"text {number}")))
        await eventually(lambda: len(openai_server.calls) == len(under_way) + 1)
    waiting = [
        asyncio.create_task(sidecar.embed("not traced")),
        asyncio.create_task(embed(sidecar, caller, "traced")),
    ]
    async with asyncio.timeout(HANG_GUARD):
        while (await sidecar.stats()).models[0].queued < 2:
            pass
    openai_server.release.set()
    await asyncio.gather(*under_way, *waiting)
    *others, (_, headers, body) = openai_server.calls
    assert sorted(body["input"]) == ["not traced", "traced"]
    assert caller.trace_id in headers["traceparent"]
    assert all(each["traceparent"].endswith("-00") for _, each, _ in others[1:])


async def test_a_caller_that_is_not_traced_has_no_spans_anywhere(
    start_traced: StartTraced, collector: Collector
) -> None:
    encoder = await start_traced(sample=1)
    front = await start_traced(
        sample=1, model={"packs": ["tiny"], "rerankers": ()}, encoder={"target": encoder.address}
    )
    # What the front asks for its own sake has no caller.
    before = {span.trace_id for span in collector.spans}
    assert await embed(front, Caller(sampled=False), "a text") == ["COMPUTED"]
    await front.stop()
    await encoder.stop()
    names = {span.name for span in collector.spans if span.trace_id not in before}
    assert names <= {"embercache.v1.EmbedService/ListModels"}


async def test_a_pool_begins_no_trace_of_a_call_that_was_not_chosen(
    start_traced: StartTraced, collector: Collector
) -> None:
    encoder = await start_traced(sample=1)
    front = await start_traced(
        sample=0, model={"packs": ["tiny"], "rerankers": ()}, encoder={"target": encoder.address}
    )
    assert await front.tiers("a text") == ["COMPUTED"]
    await front.stop()
    await encoder.stop()
    assert {span.name for span in collector.spans} == {"embercache.v1.EmbedService/ListModels"}


@pytest.mark.parametrize("sample", [0, 1])
async def test_of_callers_that_do_not_say_a_share_is_traced(
    sample: int, start_traced: StartTraced, collector: Collector
) -> None:
    sidecar = await start_traced(sample=sample)
    for number in range(5):
        await sidecar.embed(f"text {number}")
    await sidecar.stop()
    roots = [span for span in collector.spans if not span.parent_span_id]
    assert [span.name for span in roots] == [EMBED] * (5 * sample)
    assert len({span.trace_id for span in roots}) == len(roots)


async def test_without_an_endpoint_no_call_is_traced(
    start: Start, collector: Collector, caller: Caller
) -> None:
    sidecar = await start()
    assert await embed(sidecar, caller, "a text") == ["COMPUTED"]
    await sidecar.stop()
    assert collector.spans == []


async def test_metrics_lead_to_the_trace_of_a_call(
    start_traced: StartTraced, collector: Collector, caller: Caller
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    sidecar = await start_traced(server={"address": "127.0.0.1:0", "metrics_address": address})
    await embed(sidecar, caller, "a text")
    await embed(sidecar, Caller(sampled=False), "another text")
    headers = {"Accept": "application/openmetrics-text"}
    async with aiohttp.ClientSession(f"http://{address}") as http:
        async with http.get("/metrics", headers=headers) as response:
            families = list(text_string_to_metric_families(await response.text()))
        async with http.get("/metrics") as response:
            assert caller.trace_id not in await response.text()
    samples = [sample for family in families for sample in family.samples]
    (exemplar,) = (sample.exemplar for sample in samples if sample.exemplar is not None)
    assert exemplar.labels == {"trace_id": caller.trace_id}
    counts = {sample.name: sample.value for sample in samples}
    assert counts["embercache_spans_recorded_total"] == 3


async def test_a_line_of_the_log_names_the_trace_of_its_call(
    start_traced: StartTraced, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start_traced()

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(RequestReader, "read", fail)
    with structlog.testing.capture_logs([name_trace]) as logs:
        with pytest.raises(grpc.aio.AioRpcError):
            await embed(sidecar, caller, "a text")
        with pytest.raises(grpc.aio.AioRpcError):
            await sidecar.embed("a text")
    assert [log.get("trace_id") for log in logs] == [caller.trace_id, None]
