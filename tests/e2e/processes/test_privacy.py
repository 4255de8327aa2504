"""Nothing that users send, and no secret, is in a log, a metric, the page or a list of settings."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2, search_pb2

from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Sidecar = Any
    Launch = Callable[..., Any]

HANG_GUARD = 30.0
MARKER = "marker-of-a-user"
# A name that operators choose: the one thing of a call that is in metrics, as a label.
NAMESPACE = "namespace-of-users"
PASSWORD = "secret-of-redis"  # noqa: S105
NAN, CRASH = "\N{SKULL AND CROSSBONES}", "\N{HIGH VOLTAGE SIGN}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def use_everything(sidecar: Sidecar) -> None:
    """Calls with the marker in every field, right and wrong."""
    await use_embed(sidecar)
    await use_documents(sidecar)
    await use_search(sidecar)
    await use_administration(sidecar)


async def use_embed(sidecar: Sidecar) -> None:
    texts = [MARKER, f"{NAN} {MARKER}", f"{CRASH} {MARKER}", f"{MARKER} long " * 50]
    entity = embed_pb2.Input(entity=embed_pb2.Entity(id=MARKER, chunk_id=MARKER, text=MARKER))
    wrong: list[dict[str, Any]] = [
        {"model": MARKER},
        {"model_version": MARKER},
        {"namespace": MARKER + "/"},
        {"tags": [MARKER * 30]},
        {"truncation": embed_pb2.TRUNCATION_ERROR},
        {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED},
        {},
    ]
    for fields in wrong:
        await attempt(sidecar.embed(*texts, entity, **fields))
    await attempt(sidecar.embed(*texts, namespace=NAMESPACE, tags=[MARKER]))
    raw = sidecar.channel.unary_unary("/embercache.v1.EmbedService/Embed")
    await attempt(raw(MARKER.encode(), timeout=HANG_GUARD))
    broken = sidecar.request(MARKER).SerializeToString().replace(b"-", b"\xff")
    await attempt(raw(broken, timeout=HANG_GUARD))
    stream = sidecar.channel.stream_stream("/embercache.v1.EmbedService/EmbedStream")
    _ = [answer async for answer in stream(iter([MARKER.encode(), broken]), timeout=HANG_GUARD)]


async def use_documents(sidecar: Sidecar) -> None:
    documents = {
        MARKER: MARKER,
        f"{MARKER}-1": f"{NAN} {MARKER}",
        f"{MARKER}-2": f"{CRASH} {MARKER}",
        f"{MARKER}-3": f"{MARKER} long " * 50,
    }
    wrong: list[dict[str, Any]] = [
        {},
        {"namespace": NAMESPACE, "tags": [MARKER], "metadata": {"field": MARKER}},
        {"collection": MARKER},
        {"collection": MARKER + "/"},
        {"namespace": MARKER + "/"},
        {"model": MARKER},
        {"tags": [MARKER * 30]},
        {"metadata": {MARKER + "/": MARKER}},
        {"metadata": {"field": MARKER * 1000}},
        {"metadata": {MARKER.replace("-", "_"): float("nan")}},
    ]
    for fields in wrong:
        await attempt(sidecar.upsert(documents, **fields))
    for name in (MARKER * 100, f"{MARKER}\0", ""):
        await attempt(sidecar.upsert({name: MARKER, MARKER: MARKER}))
        await attempt(sidecar.delete(name, MARKER))
    await attempt(sidecar.delete(MARKER, collection=MARKER))
    raw = sidecar.channel.unary_unary("/embercache.v1.SearchService/Upsert")
    await attempt(raw(MARKER.encode(), timeout=HANG_GUARD))


async def use_search(sidecar: Sidecar) -> None:
    value = search_pb2.MetadataValue(text=MARKER)
    equal, other = search_pb2.Filter.Equal, search_pb2.Filter.Range
    on = common_pb2.SemanticOptions(mode=common_pb2.SemanticOptions.MODE_ON, threshold=0.1)
    wrong: list[dict[str, Any]] = [
        {},
        {"namespace": NAMESPACE, "semantic": on, "tags": [MARKER]},
        {"namespace": MARKER + "/"},
        {"collection": MARKER, "rerank": search_pb2.Rerank()},
        {"collection": MARKER + "/"},
        {"model": MARKER},
        {"model_version": MARKER},
        {"rerank": search_pb2.Rerank(reranker=MARKER)},
        {"filter": search_pb2.Filter(equal=equal(key="field", value=value))},
        {"filter": search_pb2.Filter(equal=equal(key=MARKER + "/", value=value))},
        {"filter": search_pb2.Filter(equal=equal(key=MARKER))},
        {"filter": search_pb2.Filter(range=other(key=MARKER, gt=float("nan")))},
        {"tags": [MARKER * 30]},
        {"top_k": 10**9},
        {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED},
    ]
    texts = (MARKER, f"{MARKER} again", f"{NAN} {MARKER}", f"{CRASH} {MARKER}", MARKER * 100)
    for fields in wrong:
        for text in texts:
            await attempt(sidecar.search(text, **fields))
    rerank = search_pb2.RerankRequest(query=MARKER, passages=[MARKER, f"{CRASH} {MARKER}"])
    for reranker in ("", MARKER):
        rerank.reranker = reranker
        await attempt(sidecar.searches.Rerank(rerank, timeout=HANG_GUARD))
    for method in ("Search", "Rerank"):
        raw = sidecar.channel.unary_unary(f"/embercache.v1.SearchService/{method}")
        await attempt(raw(MARKER.encode(), timeout=HANG_GUARD))


async def use_administration(sidecar: Sidecar) -> None:
    entity = embed_pb2.Input(entity=embed_pb2.Entity(id=MARKER, chunk_id=MARKER, text=MARKER))
    await attempt(sidecar.invalidate(tags=[MARKER]))
    await attempt(sidecar.invalidate(inputs=[MARKER, entity]))
    await attempt(sidecar.invalidate(namespace=NAMESPACE))
    request = cache_pb2.InvalidateRequest(namespace=MARKER + "/")
    await attempt(sidecar.caches.Invalidate(request, timeout=HANG_GUARD))
    for name in ("default", MARKER + "/"):
        event = cache_pb2.Event(
            type=cache_pb2.Event.TYPE_UPDATED, collection=name, ids=[MARKER], tags=[MARKER]
        )
        events = cache_pb2.PublishEventsRequest(events=[event])
        await attempt(sidecar.caches.PublishEvents(events, timeout=HANG_GUARD))
    searches = [sidecar.search_request(text) for text in (MARKER, f"{CRASH} {MARKER}")]
    searches.append(sidecar.search_request(MARKER, namespace=MARKER + "/"))
    for what in (
        {"embed": sidecar.request(MARKER, f"{NAN} {MARKER}")},
        {"searches": cache_pb2.WarmRequest.Searches(requests=searches)},
        {"searches": cache_pb2.WarmRequest.Searches(requests=searches[2:])},
        {"popular": cache_pb2.WarmRequest.Popular(count=100)},
    ):
        # While there is no index, it would try again for half a minute.
        warming = sidecar.caches.Warm(cache_pb2.WarmRequest(**what), timeout=2)
        await attempt(all_of(warming))
    move = cache_pb2.MigrateModelRequest(model=MARKER, to=MARKER)
    await attempt(all_of(sidecar.caches.MigrateModel(move, timeout=HANG_GUARD)))


async def all_of(messages: Any) -> list[Any]:
    return [message async for message in messages]


async def attempt(call: Any) -> None:
    """What errors say to the caller must not quote what he sent either."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        assert MARKER not in (error.details() or "")  # noqa: PT017 - both ways are looked at
        return
    items = response if isinstance(response, list) else []
    for name in ("embeddings", "documents", "scores"):
        items += getattr(response, name, ())
    for item in items:
        error = getattr(item, "error", None)
        assert error is None or MARKER not in error.message


@pytest.mark.threat("Texts of users reach logs, metrics or traces")
async def test_no_text_of_a_user_is_in_logs_metrics_traces_or_messages(
    launch: Launch,
    client_of: Callable[[str], Sidecar],
    tmp_path: Path,
    collector: Any,
) -> None:
    port = free_port()
    with DevRedis() as redis:
        process = launch(
            environment={"EMBERCACHE_REDIS_URL": redis.url},
            server_address=f"127.0.0.1:{free_port()}",
            server_metrics_address=f"127.0.0.1:{port}",
            server_status_page=True,
            disk_folder=tmp_path / "disk",
            popular_queries=100,
            log_level="debug",
            log_format="json",
            tracing_endpoint=collector.endpoint,
            tracing_sample=1,
        )
        sidecar = client_of(next(a for a in process.popen.args if "server-address" in a)[17:])
        await sidecar.channel.channel_ready()
        await use_everything(sidecar)
        redis.kill()
        await use_everything(sidecar)
        redis.start()
        await use_everything(sidecar)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=HANG_GUARD) as page:
        metrics = page.read().decode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/status/data", timeout=HANG_GUARD) as page:
        status = page.read().decode()
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert "stopped" in process.log
    assert "embercache_items_failed_total" in metrics
    for kind in ("embed", "search"):
        assert f'kind="{kind}",model="tiny",namespace="{NAMESPACE}"' in metrics
    assert re.search(f'embercache_semantic_queries_total.*namespace="{NAMESPACE}"', metrics)
    assert MARKER not in process.log
    assert NAMESPACE not in process.log
    assert MARKER not in metrics
    assert '"digest":' in status
    assert f'"namespace":"{NAMESPACE}"' in status
    assert MARKER not in status
    kinds = {span.name for span in collector.spans}
    assert {"computed embed", "warm search", "index", "semantic"} <= kinds
    assert MARKER not in "".join(map(str, collector.spans))


@pytest.mark.threat("Secrets reach logs, arguments or errors")
async def test_the_password_of_redis_is_in_no_log(
    launch: Launch, client_of: Callable[[str], Sidecar]
) -> None:
    with DevRedis(port=free_port(), arguments=["--requirepass", PASSWORD]) as redis:
        for password in (PASSWORD, PASSWORD + "-wrong"):
            url = f"redis://user-name:{password}@127.0.0.1:{redis.port}"
            process = launch(
                environment={"EMBERCACHE_REDIS_URL": url.replace("user-name", "default")},
                log_level="debug",
            )
            (address,) = process.wait_until_it_serves()
            sidecar = client_of(address)
            await sidecar.embed("a text")
            up = (await sidecar.stats()).warm.state == cache_pb2.WarmState.STATE_UP
            assert up == (password == PASSWORD)
            process.terminate()
            assert await asyncio.to_thread(process.wait) == 0
            assert PASSWORD not in process.log


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sidecar", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | environment,
    )


@pytest.mark.threat("Secrets reach logs, arguments or errors")
def test_secrets_are_not_shown_among_the_settings() -> None:
    shown = run(
        "config",
        "show",
        EMBERCACHE_REDIS_URL=f"redis://:{PASSWORD}@127.0.0.1:1",
        EMBERCACHE_CACHE_SALT=PASSWORD,
    )
    assert shown.returncode == 0
    assert "EMBERCACHE_REDIS_URL" in shown.stdout
    assert PASSWORD not in shown.stdout + shown.stderr


@pytest.mark.parametrize("url", [f"redis://:{PASSWORD}@[::1", f":{PASSWORD}@"])
def test_a_bad_redis_url_is_refused_without_being_quoted(url: str, tiny_pack: Path) -> None:
    refused = run(
        "serve",
        "--server-address=127.0.0.1:0",
        f"--model-packs={tiny_pack}",
        "--model-provider=cpu",
        EMBERCACHE_REDIS_URL=url,
    )
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "EMBERCACHE_REDIS_URL" in refused.stderr or "redis" in refused.stderr.lower()
    assert PASSWORD not in refused.stdout + refused.stderr
