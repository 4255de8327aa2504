"""Events written to a real stream as docs/invalidation.md does it have the effect it tells of."""

from __future__ import annotations

import asyncio
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    View = Callable[[DevRedis], Any]

PAGE = (Path(__file__).parents[3] / "docs" / "invalidation.md").read_text("utf-8")
COMMANDS = re.findall(r"^    (XADD .+)$", PAGE, re.MULTILINE)
CACHED = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED}
# What each document is found by.
DOCUMENTS = {"manual": "aaaa", "notes": "zzzz"}
NAMESPACES = ("default", "shop")
HANG_GUARD = 20.0


@pytest.fixture
async def sidecar(start: Start, redis_server: DevRedis) -> Any:
    """One with a list for each document in each of two namespaces, in memory."""
    started = await start(redis=redis_server)
    for namespace in NAMESPACES:
        await started.upsert(DOCUMENTS, namespace=namespace, collection="docs")
        for name, text in DOCUMENTS.items():
            options = {"namespace": namespace, "collection": "docs", "top_k": 1}
            assert await started.found(text, **options) == ("COMPUTED", [name])
    return started


async def lists(sidecar: Any) -> set[tuple[str, str]]:
    """Which of them are still served: namespaces and documents."""
    return {
        (namespace, name)
        for namespace in NAMESPACES
        for name, text in DOCUMENTS.items()
        if await sidecar.status_of_search(
            text, namespace=namespace, collection="docs", top_k=1, **CACHED
        )
        == "OK"
    }


async def only(sidecar: Any, *expected: tuple[str, str]) -> None:
    """Waits until an event had its effect, and that is all that is served."""
    give_up = asyncio.get_running_loop().time() + HANG_GUARD
    while (now := await lists(sidecar)) != set(expected):
        assert asyncio.get_running_loop().time() < give_up, now
        await asyncio.sleep(0.005)


async def test_a_command_of_the_page_ends_the_lists_of_what_it_names_and_no_others(
    sidecar: Any, redis_server: DevRedis, view: View
) -> None:
    client = view(redis_server).client
    updated, created, deleted = map(shlex.split, COMMANDS)
    client.execute_command(*updated)
    await only(sidecar, ("default", "notes"), ("shop", "manual"), ("shop", "notes"))
    client.execute_command(*deleted)
    await only(sidecar, ("shop", "manual"), ("shop", "notes"))
    client.execute_command(*created)
    await only(sidecar)


async def test_so_does_the_program_of_the_page(
    sidecar: Any, redis_server: DevRedis, blocks_of: Callable[[str, str], list[str]]
) -> None:
    (program,) = blocks_of("docs/invalidation.md", "python")
    assert "redis://localhost:6379" in program
    names: dict[str, Any] = {}
    exec(program.replace("redis://localhost:6379", redis_server.url), names)  # noqa: S102 - our page
    names["events"].close()
    await only(sidecar, ("default", "notes"), ("shop", "manual"), ("shop", "notes"))
