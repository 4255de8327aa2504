"""The sidecars that pages start with indented commands, which need servers and files of others.

These, and where the sidecars listen, are those of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml
from embercache import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sidecar.dev_redis import DevRedis

    Serve = Callable[..., contextlib.AbstractAsyncContextManager[AsyncClient]]

ROOT = Path(__file__).parents[3]
HANG_GUARD = 60.0


def commands_of(page: str, *contain: str) -> list[str]:
    """The commands of a page that contain these words and stand indented, each as one line."""
    text = (ROOT / page).read_text("utf-8").replace("\\\n", " ")
    lines = re.findall(r"^    (.+)$", text, re.MULTILINE)
    return [each for each in lines if all(word in each for word in ("embercache", *contain))]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Runs a command that starts a sidecar, with names replaced; it must end well."""
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "EMBERCACHE_SERVER_ADDRESS": "",
        "EMBERCACHE_SERVER_SOCKET": str(tmp_path / "socket"),
        "EMBERCACHE_SERVER_DRAIN_DELAY": "0",
        "EMBERCACHE_REDIS_TIMEOUT": "5s",  # a busy machine is no failure
    }

    @contextlib.asynccontextmanager
    async def serving(command: str, **replaced: str) -> AsyncIterator[AsyncClient]:
        for of_page, real in replaced.items():
            assert of_page in command
            command = command.replace(of_page, real)
        words = shlex.split(command)
        first = next(place for place, word in enumerate(words) if "=" not in word)
        variables = dict(word.split("=", 1) for word in words[:first])
        with (tmp_path / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *words[first:], cwd=tmp_path, env=os.environ | own | variables, stderr=log
            )
        address = f"unix:{tmp_path}/socket"
        try:
            async with asyncio.timeout(HANG_GUARD), grpc.aio.insecure_channel(address) as channel:
                await channel.channel_ready()
            async with AsyncClient(address, timeout=HANG_GUARD) as client:
                yield client
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            assert await asyncio.wait_for(process.wait(), HANG_GUARD) == 0

    return serving


async def test_one_that_shares_a_redis(
    serve: Serve, redis_server: DevRedis, tmp_path: Path, minilm_folder: Path
) -> None:
    (command,) = commands_of("README.md", "EMBERCACHE_REDIS_URL=")
    names = {
        "rediss://redis.internal:6379/0": redis_server.url,
        "/run/embercache/socket": str(tmp_path / "socket"),
    }
    async with serve(command, **names) as client:
        assert (await client.embed(["a text"])).tiers == ["computed"]
        assert (await client.stats()).warm.state == "up"


async def test_one_without_the_native_front_door(
    serve: Serve, tmp_path: Path, minilm_folder: Path
) -> None:
    (command,) = commands_of("docs/native.md", " serve")
    async with serve(command) as client:
        assert (await client.embed(["a text"])).tiers == ["computed"]
    assert '"transport": "grpcio"' in (tmp_path / "log").read_text("utf-8")


async def test_one_before_services_with_the_protocol_of_openai(
    serve: Serve, openai_server: Any, tmp_path: Path
) -> None:
    (command,) = commands_of("docs/openai.md", " serve")
    key = tmp_path / "key"
    key.write_text("sk-of-the-test")
    names = {
        "openai://api.openai.com/v1": openai_server.target,
        "/run/secrets/openai": str(key),
    }
    async with serve(command, **names) as client:
        (vector,) = (await client.embed(["a text"])).vectors
        answer = await client.generate("Why do embers glow?", temperature=0)
    assert len(vector) == 4
    assert answer.text == "You are right."
    called = {(path, body["model"]) for path, _, body in openai_server.calls}
    assert called == {("/embeddings", "text-embedding-3-small"), ("/completions", "gpt-4o-mini")}
    shown = {headers["Authorization"] for _, headers, _ in openai_server.calls}
    assert shown == {"Bearer sk-of-the-test"}


async def test_the_one_of_the_migration_guides(
    serve: Serve,
    redis_server: DevRedis,
    tmp_path: Path,
    blocks_of: Callable[[str, str], list[str]],
) -> None:
    settings = yaml.safe_load(blocks_of("docs/migrating.md", "yaml")[0])
    settings["redis"]["url"] = redis_server.url
    settings["server"]["openai_address"] = "127.0.0.1:0"
    (tmp_path / "embercache.yaml").write_text(yaml.safe_dump(settings))
    *pulls, command = commands_of("docs/migrating.md")
    for pull in pulls:
        subprocess.run(
            [sys.executable, "-m", "sidecar", *shlex.split(pull)[1:]],
            check=True,
            timeout=HANG_GUARD,
        )
    async with serve(command) as client:
        assert (await client.embed(["a text"])).tiers == ["computed"]
        assert (await client.generate("An ember glows because", max_tokens=2)).text
        assert (await client.stats()).warm.state == "up"
