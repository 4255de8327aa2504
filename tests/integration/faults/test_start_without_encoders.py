"""A sidecar that starts while its encoders are away serves what the last one has left."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import common_pb2, embed_pb2, search_pb2

from sidecar.services import known_models

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    Start = Callable[..., Awaitable[Any]]
    View = Callable[[DevRedis], Any]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

Code = grpc.StatusCode


@pytest.fixture
def address() -> str:
    """Where encoders are, sometimes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def at(address: str) -> dict[str, Any]:
    return {"server": {"address": address, "drain_delay": 0, "drain_timeout": 1}}


async def status(sidecar: Any, *texts: str, **fields: Any) -> tuple[grpc.StatusCode, str]:
    call = sidecar.embeds.Embed(sidecar.request(*texts, **fields), timeout=20)
    return await call.code(), await call.details()


async def leave_behind(
    start: Start, start_front: Start, address: str, *texts: str, **front: Any
) -> list[bytes]:
    """Has texts embedded; then both the sidecar and its encoder are gone."""
    encoder = await start(**at(address))
    sidecar = await start_front(address, **front)
    vectors: list[bytes] = await sidecar.vectors(*texts)
    await sidecar.stop()
    await encoder.stop()
    return vectors


@pytest.mark.parametrize("place", ["DISK", "WARM"])
async def test_hits_are_served_from_disk_and_from_redis(
    place: str, start: Start, start_front: Start, address: str, redis_server: Any, tmp_path: Path
) -> None:
    where = {"disk": tmp_path / "disk"} if place == "DISK" else {"redis": redis_server}
    vectors = await leave_behind(start, start_front, address, "one", "two", **where)
    front = await start_front(address, **where)
    assert await front.tiers("one", "two") == [place] * 2
    assert await front.vectors("one", "two") == vectors
    (model,) = (await front.embeds.ListModels(embed_pb2.ListModelsRequest())).models
    assert (model.name, model.dimensions) == ("tiny", 8)
    old, new = (await front.embed("one", "new")).embeddings
    assert old.vector
    assert new.error.code == Code.UNAVAILABLE.value[0]
    assert f"the encoder at {address} did not answer of late" in new.error.message
    encoder = await start(**at(address))
    async with asyncio.timeout(20):
        while await front.tiers("one", "newer") != ["HOT", "COMPUTED"]:
            await asyncio.sleep(0.01)
    assert await encoder.vectors("newer") == await front.vectors("newer")


async def test_scores_of_a_reranker_are_served_too(
    start: Start, start_front: Start, address: str, tmp_path: Path
) -> None:
    async def rerank(sidecar: Any) -> Any:
        request = search_pb2.RerankRequest(query="a query", passages=["one", "two"])
        return await sidecar.searches.Rerank(request, timeout=20)

    encoder = await start(**at(address))
    sidecar = await start_front(address, disk=tmp_path / "disk")
    scored = await rerank(sidecar)
    await sidecar.stop()
    await encoder.stop()
    again = await rerank(await start_front(address, disk=tmp_path / "disk"))
    assert [each.tier for each in again.scores] == [common_pb2.TIER_DISK] * 2
    assert [each.score for each in again.scores] == [each.score for each in scored.scores]


async def test_entries_of_a_service_that_is_away_are_served_too(
    start: Start, openai_server: Any, tmp_path: Path
) -> None:
    sections = {
        "encoder": {"target": openai_server.target},
        "openai": {"retries": 0},
        "model": {"packs": ["mine=theirs"], "rerankers": []},
        "disk": tmp_path / "disk",
    }
    sidecar = await start(**sections)
    vectors = await sidecar.vectors("one")
    await sidecar.stop()
    openai_server.fail(503, times=1000)
    sidecar = await start(**sections)
    assert await sidecar.tiers("one") == ["DISK"]
    assert await sidecar.vectors("one") == vectors
    code, details = await status(sidecar, "new")
    assert code is Code.UNAVAILABLE
    assert "has not answered yet, and is asked again in the background" in details
    openai_server.failures.clear()
    async with asyncio.timeout(20):
        while await sidecar.embeds.Embed(sidecar.request("new")).code() is not Code.OK:
            await asyncio.sleep(0.01)


@pytest.mark.threat("An encoder of another version answers")
async def test_entries_of_the_old_version_are_not_used_once_the_encoders_have_another(
    start: Start, start_front: Start, address: str, other_tiny_pack: Path, tmp_path: Path
) -> None:
    (old,) = await leave_behind(start, start_front, address, "a text", disk=tmp_path / "disk")
    front = await start_front(address, disk=tmp_path / "disk")
    first = (await front.embed("a text")).embeddings[0]
    # So that the response as a whole is kept, too.
    assert await front.vectors("a text") == await front.vectors("a text") == [old]
    encoder = await start(packs=[other_tiny_pack], **at(address))
    version = first.model_version
    async with asyncio.timeout(20):
        while version == first.model_version:
            # The new version is known a moment before it computes.
            with contextlib.suppress(grpc.aio.AioRpcError):
                version = (await front.embed("a text")).embeddings[0].model_version
    assert await front.vectors("a text") == await encoder.vectors("a text") != [old]
    # The next start remembers the new one.
    await front.stop()
    await encoder.stop()
    front = await start_front(address, disk=tmp_path / "disk")
    assert (await front.embed("a text")).embeddings[0].model_version != first.model_version


async def test_a_redis_that_comes_later_tells_what_the_model_was(
    start: Start,
    start_front: Start,
    address: str,
    own_redis: DevRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known_models, "LOOK_SECONDS", 0.01)
    await leave_behind(start, start_front, address, "a text", redis=own_redis)
    own_redis.freeze()
    front = await start_front(address, redis=own_redis, redis_timeout=0.05)
    code, details = await status(front, "a text")
    assert code is Code.UNAVAILABLE
    assert "has not answered yet" in details
    own_redis.thaw()
    async with asyncio.timeout(20):
        while await front.embeds.Embed(front.request("a text")).code() is not Code.OK:
            await asyncio.sleep(0.01)


async def test_other_encoders_are_not_taken_for_those_that_were_there(
    start: Start, start_front: Start, address: str, unused_tcp_port: int, tmp_path: Path
) -> None:
    await leave_behind(start, start_front, address, "a text", disk=tmp_path / "disk")
    front = await start_front(f"127.0.0.1:{unused_tcp_port}", disk=tmp_path / "disk")
    assert (await status(front, "a text"))[0] is Code.UNAVAILABLE


async def test_what_is_damaged_is_as_if_it_were_not_there(
    start: Start,
    start_front: Start,
    address: str,
    redis_server: DevRedis,
    view: View,
) -> None:
    await leave_behind(start, start_front, address, "a text", redis=redis_server)
    client = view(redis_server).client
    for key in client.keys("embercache:model:*"):
        client.set(key, client.get(key).replace(b"tiny", b"tinx"))
    front = await start_front(address, redis=redis_server)
    assert (await status(front, "a text"))[0] is Code.UNAVAILABLE


@pytest.mark.threat("Who writes to Redis says that a name means another model, or what a model is")
async def test_who_writes_to_redis_without_the_key_cannot_say_what_a_model_is(
    start: Start,
    start_front: Start,
    address: str,
    redis_server: DevRedis,
    view: View,
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"one:{base64.b64encode(bytes(32)).decode()}\n")
    salt = {"cache": {"salt": "a salt"}}
    sealed = {"redis": redis_server, "encryption": {"keys_file": keys}} | salt
    await leave_behind(start, start_front, address, "plain", redis=redis_server, **salt)
    client = view(redis_server).client
    plain = {key: client.get(key) for key in client.keys("embercache:model:*")}
    await leave_behind(start, start_front, address, "sealed", **sealed)
    front = await start_front(address, **sealed)
    assert await front.tiers("sealed") == ["WARM"]
    await front.stop()
    for key, value in plain.items():
        client.set(key, value)
    front = await start_front(address, **sealed)
    assert (await status(front, "sealed"))[0] is Code.UNAVAILABLE
