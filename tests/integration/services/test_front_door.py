"""The native front door: what it answers without asking Python, what not, and how it counts."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.request
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import yaml

import sidecar.access.live
from sidecar.cache.popular import PopularQueries
from sidecar.cells import model_changed
from sidecar.services.stored import StoredResponses
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Start = Callable[..., Awaitable[Any]]

pytest.importorskip("embercache_native")

HANG_GUARD = 30.0
NATIVE = {"server": {"address": "127.0.0.1:0", "transport": "native"}}
TOKEN = "the-secret-token-of-shop"  # noqa: S105


class Asked:
    """How often Python was asked for what it has stored: once for each call that comes to it."""

    def __init__(self) -> None:
        self.calls = 0

    async def times(self, call: Awaitable[object]) -> int:
        """How often it was asked for one call."""
        before = self.calls
        await call
        return self.calls - before


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    counter, get = Asked(), StoredResponses.get

    def count(self: StoredResponses, raw: bytes) -> bytes | None:
        counter.calls += 1
        return get(self, raw)

    monkeypatch.setattr(StoredResponses, "get", count)
    return counter


async def warm_up(client: Any, *items: str, **fields: Any) -> None:
    """Has a request answered from memory from now on: whole, the third time."""
    for _ in range(2):
        await client.embed(*items, **fields)


async def test_what_was_answered_before_is_answered_without_python(
    start: Start, asked: Asked
) -> None:
    sidecar = await start(**NATIVE)
    assert [await asked.times(sidecar.embed("one", "two")) for _ in range(4)] == [1, 1, 0, 0]
    assert await sidecar.tiers("one", "two") == ["HOT", "HOT"]
    assert await sidecar.vectors("one", "two") == await sidecar.vectors(
        "one", "two", namespace="elsewhere"
    )


async def test_lists_of_results_are_answered_without_python(start: Start, asked: Asked) -> None:
    sidecar = await start(**NATIVE)
    await sidecar.upsert({"a": "a text", "b": "another"}, collection="c")
    found = {"collection": "c", "top_k": 2}
    calls = [await asked.times(sidecar.search("a text", **found)) for _ in range(4)]
    assert calls == [1, 1, 0, 0]
    tier, documents = await sidecar.found("a text", **found)
    assert (tier, sorted(documents)) == ("HOT", ["a", "b"])
    # A change of the collection reaches the front door.
    await sidecar.delete("a", collection="c")
    assert (await sidecar.found("a text", **found))[1] == ["b"]


async def test_the_age_of_an_answer_grows(start: Start, asked: Asked) -> None:
    sidecar = await start(**NATIVE)
    await warm_up(sidecar, "a text")
    async with asyncio.timeout(HANG_GUARD):
        ages: set[int] = set()
        while len(ages) < 3:
            ages.add((await sidecar.embed("a text")).embeddings[0].age_ms)
    assert asked.calls == 2


@pytest.mark.parametrize(
    "target",
    [
        {"tags": ["product:7"]},
        {"inputs": ["a text"], "input_tags": ["product:7"]},
        {},
    ],
    ids=["a tag", "an input", "the namespace"],
)
async def test_what_is_invalidated_is_not_answered_again(
    start: Start, asked: Asked, target: dict[str, Any]
) -> None:
    sidecar = await start(**NATIVE)
    await warm_up(sidecar, "a text", tags=["product:7"])
    assert await asked.times(sidecar.embed("a text", tags=["product:7"])) == 0
    await sidecar.invalidate(**target)
    assert await sidecar.tiers("a text", tags=["product:7"]) == ["COMPUTED"]
    # It is stored anew.
    await sidecar.embed("a text", tags=["product:7"])
    assert await asked.times(sidecar.embed("a text", tags=["product:7"])) == 0


async def test_what_was_flushed_is_not_answered_again(start: Start) -> None:
    sidecar = await start(**NATIVE)
    await warm_up(sidecar, "a text")
    await sidecar.flush()
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_when_a_model_says_something_else_of_itself_python_is_asked(
    start: Start, asked: Asked
) -> None:
    sidecar = await start(**NATIVE)
    await warm_up(sidecar, "a text")
    assert await asked.times(sidecar.embed("a text")) == 0
    model_changed()
    assert await asked.times(sidecar.embed("a text")) == 1
    assert await asked.times(sidecar.embed("a text")) == 0


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Writes a policy; returns the section of settings. Changes are seen soon."""
    monkeypatch.setattr(sidecar.access.live, "watch_files", partial(watch_files, seconds=0.005))

    def write(**sections: Any) -> dict[str, Any]:
        new, file = tmp_path / "policy.new", tmp_path / "policy.yaml"
        new.write_text(yaml.safe_dump(sections))
        new.replace(file)
        return {"policy_file": str(file)}

    return write


async def test_calls_that_are_charged_are_charged_in_python(
    start: Start, asked: Asked, policy: Callable[..., dict[str, Any]]
) -> None:
    quotas = {"shop": {"items_per_second": 10**6}, "bank": {"share": 2}}
    sidecar = await start(**NATIVE, access=policy(quotas=quotas))
    for namespace, calls in (("shop", 1), ("bank", 0)):
        await warm_up(sidecar, "a text", namespace=namespace)
        assert await asked.times(sidecar.embed("a text", namespace=namespace)) == calls
    policy(quotas={"bank": {"items_per_second": 10**6}})
    async with asyncio.timeout(HANG_GUARD):
        while not await asked.times(sidecar.embed("a text", namespace="bank")):
            pass
    # It stays so; and who is not limited any more is answered without Python again.
    assert await asked.times(sidecar.embed("a text", namespace="bank")) == 1
    await warm_up(sidecar, "a text", namespace="shop")
    assert await asked.times(sidecar.embed("a text", namespace="shop")) == 0


class Shop:
    """A caller with a token."""

    def __init__(self, sidecar: Any, token: str = TOKEN) -> None:
        self._sidecar = sidecar
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def embed(self, *items: str) -> Any:
        request = self._sidecar.request(*items)
        return await self._sidecar.embeds.Embed(
            request, timeout=HANG_GUARD, metadata=self._metadata
        )

    async def status(self) -> str:
        try:
            await self.embed("a text")
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


@pytest.mark.threat("A caller with a withdrawn token goes on")
async def test_a_caller_is_answered_without_python_until_his_token_is_withdrawn(
    start: Start, asked: Asked, policy: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    known = {"name": "shop", "token_file": str(tokens), "namespaces": ["shop"]}
    sidecar = await start(**NATIVE, access=policy(callers=[known]))
    shop, stranger = Shop(sidecar), Shop(sidecar, "another-token-of-nobody")
    await warm_up(shop, "a text")
    assert await asked.times(shop.embed("a text")) == 0
    assert await stranger.status() == "UNAUTHENTICATED"
    tokens.write_text("the-next-token-of-shop")
    async with asyncio.timeout(HANG_GUARD):
        while await shop.status() == "OK":
            pass
    assert await shop.status() == "UNAUTHENTICATED"
    assert await asked.times(Shop(sidecar, "the-next-token-of-shop").embed("a text")) == 0


async def test_a_caller_without_the_right_to_read_is_refused_what_others_were_answered(
    start: Start, asked: Asked, policy: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    callers = []
    for name, rights in (("reader", ["read"]), ("writer", ["write"])):
        tokens = tmp_path / name
        tokens.write_text(f"the-secret-token-of-{name}")
        known = {"name": name, "token_file": str(tokens), "namespaces": ["shop"]}
        callers.append(known | {"rights": rights})
    sidecar = await start(**NATIVE, access=policy(callers=callers))
    reader = Shop(sidecar, "the-secret-token-of-reader")
    await warm_up(reader, "a text")
    assert await asked.times(reader.embed("a text")) == 0
    assert await Shop(sidecar, "the-secret-token-of-writer").status() == "PERMISSION_DENIED"


async def test_popular_requests_are_counted(
    start: Start, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[tuple[str, str, bytes, int]] = []
    monkeypatch.setattr(PopularQueries, "note", lambda _, *note: noted.append(note))
    sidecar = await start(**NATIVE, popular={"queries": 10})
    for _ in range(2 + 35):
        await sidecar.embed("a text", namespace="team")
    assert asked.calls == 2
    await sidecar.stats()
    raw = sidecar.request("a text", namespace="team").SerializeToString()
    assert noted == [("embed", "team", raw, weight) for weight in (1, 1, 16, 16)]


async def test_only_calls_whose_callers_say_that_they_are_not_traced_are_answered_without_python(
    start: Start, asked: Asked, collector: Any
) -> None:
    sidecar = await start(**NATIVE, tracing={"endpoint": collector.endpoint, "sample": 0})
    await warm_up(sidecar, "a text")

    async def embed(*flags: str) -> None:
        headers = [("traceparent", f"00-{'a' * 32}-{'b' * 16}-{flag}") for flag in flags]
        request = sidecar.request("a text")
        await sidecar.embeds.Embed(request, timeout=HANG_GUARD, metadata=headers)

    assert await asked.times(embed()) == 1
    assert await asked.times(embed("00")) == 0
    assert await asked.times(embed("01")) == 1
    await sidecar.stop()
    names = [span.name for span in collector.of_trace("a" * 32)]
    assert names == ["embercache.v1.EmbedService/Embed", "hot response"]


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def samples(address: str, *, has_front_door: bool) -> dict[str, float]:
    """The metrics of a sidecar that are sums, but for those of the front door itself."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{address}/metrics") as response:
            page: str = response.read().decode()
        return page

    page = await asyncio.to_thread(read)
    sums = r"^(embercache_\S+(?:_total|_count)(?:\{\S+\})?) (\S+)$"
    found = dict(re.findall(sums, page, re.MULTILINE))
    assert ("embercache_front_failed_handshakes_total" in found) == has_front_door
    found.pop("embercache_front_failed_handshakes_total", None)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize("what", ["metrics", "stats"])
async def test_all_is_counted_as_it_is_without_a_front_door(start: Start, what: str) -> None:
    counted = {}
    for transport in ("native", "grpcio"):
        metrics = free_address()
        server = {"address": "127.0.0.1:0", "transport": transport, "metrics_address": metrics}
        sidecar = await start(server=server)
        for _ in range(20):
            await sidecar.embed("one", "two", namespace="team")
            await sidecar.embed("three")
        if what == "metrics":
            counted[transport] = await samples(metrics, has_front_door=transport == "native")
            continue
        stats = await sidecar.stats()
        for each in stats.usage:
            each.compute_ms = each.hit_ms = each.seconds_saved = each.break_even_hit_rate = 0
            each.hot_age_seconds = each.hot_bytes = 0
        for tier in stats.tiers:
            tier.bytes = 0
        stats.uptime_seconds = stats.models[0].queue_seconds = 0
        counted[transport] = {str(stats): 1.0}
    assert counted["native"] == counted["grpcio"]
    if what == "metrics":
        assert counted["native"]["embercache_response_hits_total"] == 36
        assert counted["native"]['embercache_call_seconds_count{method="Embed"}'] == 40


async def test_what_was_answered_last_is_counted_when_it_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted: list[int] = []
    monkeypatch.setattr(PopularQueries, "note", lambda _, *note: noted.append(note[-1]))
    sidecar = await start(**NATIVE, popular={"queries": 10})
    for _ in range(2 + 16):
        await sidecar.embed("a text")
    await sidecar.stop()
    assert noted[-1] == 16
