"""Nothing that users send, and no secret, is in a log, a metric or a list of settings."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2

from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Sidecar = Any
    Launch = Callable[..., Any]

HANG_GUARD = 30.0
MARKER = "marker-of-a-user"
PASSWORD = "secret-of-redis"  # noqa: S105
NAN, CRASH = "\N{SKULL AND CROSSBONES}", "\N{HIGH VOLTAGE SIGN}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def use_everything(sidecar: Sidecar) -> None:
    """Calls with the marker in every field, right and wrong."""
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
    await attempt(sidecar.embed(*texts, namespace=MARKER, tags=[MARKER]))
    raw = sidecar.channel.unary_unary("/embercache.v1.EmbedService/Embed")
    await attempt(raw(MARKER.encode(), timeout=HANG_GUARD))
    broken = sidecar.request(MARKER).SerializeToString().replace(b"-", b"\xff")
    await attempt(raw(broken, timeout=HANG_GUARD))
    stream = sidecar.channel.stream_stream("/embercache.v1.EmbedService/EmbedStream")
    _ = [answer async for answer in stream(iter([MARKER.encode(), broken]), timeout=HANG_GUARD)]
    await attempt(sidecar.invalidate(tags=[MARKER]))
    await attempt(sidecar.invalidate(inputs=[MARKER, entity]))
    await attempt(sidecar.invalidate(namespace=MARKER))
    request = cache_pb2.InvalidateRequest(namespace=MARKER + "/")
    await attempt(sidecar.caches.Invalidate(request, timeout=HANG_GUARD))


async def attempt(call: Any) -> None:
    """What errors say to the caller must not quote what he sent either."""
    try:
        response = await call
    except grpc.aio.AioRpcError as error:
        assert MARKER not in (error.details() or "")  # noqa: PT017 - both ways are looked at
        return
    for embedding in getattr(response, "embeddings", ()):
        assert MARKER not in embedding.error.message


@pytest.mark.parametrize("form", ["json", "text"])
async def test_no_text_of_a_user_is_in_logs_metrics_or_messages(
    form: str, launch: Launch, client_of: Callable[[str], Sidecar], tmp_path: Path
) -> None:
    port = free_port()
    with DevRedis() as redis:
        process = launch(
            environment={"EMBERCACHE_REDIS_URL": redis.url},
            server_address=f"127.0.0.1:{free_port()}",
            server_metrics_address=f"127.0.0.1:{port}",
            disk_folder=tmp_path / "disk",
            log_level="debug",
            log_format=form,
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
    process.terminate()
    assert await asyncio.to_thread(process.wait) == 0
    assert "stopped" in process.log
    assert "embercache_items_failed_total" in metrics
    assert MARKER not in process.log
    assert MARKER not in metrics


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


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{PASSWORD}@127.0.0.1:1",
        f"redis://:{PASSWORD}@127.0.0.1:port",
        f"redis://:{PASSWORD}@[::1",
        f"redis+sentinel://:{PASSWORD}@127.0.0.1",
        f":{PASSWORD}@",
    ],
)
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
