"""How long a sidecar answers with an entry that another one has invalidated.

Two sidecars share a real Redis. An entry is hot on B, which is asked for it again and again, if it
is cached; meanwhile its tag is invalidated on A. Then the same with a B that is cut off from Redis
beforehand, by resets and by a network that swallows every byte.

    python -m bench.staleness
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

import grpc
import numpy as np
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2, embed_pb2, embed_pb2_grpc

from bench.processes import sidecar
from bench.proxy import Proxy
from bench.report import add_json_option, print_table, write_json
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A, B, CUT_OFF = "127.0.0.1:50791", "127.0.0.1:50792", "127.0.0.1:50793"
TAG = "a tag"
BOUND_SECONDS = 5.0
GIVE_UP_SECONDS = 60.0


async def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=5, help="of each kind")
    add_json_option(parser)
    options = parser.parse_args()
    async with contextlib.AsyncExitStack() as exits:
        server = exits.enter_context(DevRedis())
        proxy = await exits.enter_async_context(Proxy(server.socket_path))
        for address, url in ((A, server.url), (B, server.url), (CUT_OFF, proxy.url)):
            # In a thread, for the proxy has to go on meanwhile.
            await asyncio.to_thread(start, exits, address, url)
        one, two, three = [
            Client(await exits.enter_async_context(grpc.aio.insecure_channel(address)))
            for address in (A, B, CUT_OFF)
        ]
        calls = [await two.hot_call_ms() for _ in range(options.rounds)]
        rounds = [await round_ms(one, two) for _ in range(options.rounds)]
        cuts = {"reset": proxy.cut, "swallowed": swallow(proxy)}
        seconds = {
            name: [await cut_seconds(one, three, proxy, cut) for _ in range(options.cuts)]
            for name, cut in cuts.items()
        }
    rows = [
        ("a hot call to B, for comparison", *quantiles(calls)),
        ("from the start of Invalidate to B's first miss", *quantiles([ms for ms, _ in rounds])),
        ("from its end to B's last old answer", *quantiles([ms for _, ms in rounds])),
    ]
    print_table(
        f"Invalidate on A, {options.rounds} rounds, milliseconds",
        ("", "p50", "p99", "most"),
        rows,
    )
    print_table(
        f"until the last old answer of a B that is cut off, {options.cuts} rounds, seconds",
        ("connections are", "least", "most"),
        [(name, min(each), max(each)) for name, each in seconds.items()],
    )
    worst = max(max(each) for each in seconds.values())
    print(
        f"old_answers_p99_ms: {rows[2][2]:.2f}; cut_off_most_s: {worst:.2f}"
        f" of {BOUND_SECONDS:.0f} allowed"
    )
    figures = dict(zip(("p50", "p99", "max"), rows[1][1:], strict=True))
    write_json(options.json, {"until_miss_ms": figures, "cut_off_s": worst})
    if worst > BOUND_SECONDS:
        raise SystemExit("B has served an invalid entry for longer than the bound")


def start(exits: contextlib.AsyncExitStack, address: str, url: str) -> None:
    """Starts a sidecar."""
    environment = {"EMBERCACHE_REDIS_URL": url}
    arguments = ["--server-address", address, "--cache-staleness", f"{BOUND_SECONDS}s"]
    # What it says of the outages is no news here.
    arguments += ["--log-level", "error"]
    exits.enter_context(sidecar(*arguments, environment=environment))


class Client:
    """Calls one sidecar, always for the same entry."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._embeds = embed_pb2_grpc.EmbedServiceStub(channel)
        self._caches = cache_pb2_grpc.CacheServiceStub(channel)

    async def is_hot(self, mode: common_pb2.CacheMode.ValueType) -> bool:
        """Whether the entry is answered from memory."""
        request = embed_pb2.EmbedRequest(
            inputs=[embed_pb2.Input(text="how old is an ember?")],
            cache=common_pb2.CacheOptions(tags=[TAG], mode=mode),
        )
        answer = await self._embeds.Embed(request)
        return bool(answer.embeddings[0].tier == common_pb2.TIER_HOT)

    async def is_cached(self) -> bool:
        """Whether the entry is answered from memory; it is not computed if not."""
        return await self.is_hot(common_pb2.CACHE_MODE_ONLY_IF_CACHED)

    async def warm_up(self) -> None:
        """Returns when the entry is answered from memory."""
        async with asyncio.timeout(GIVE_UP_SECONDS):
            while not await self.is_hot(common_pb2.CACHE_MODE_DEFAULT):
                pass
        # The response as a whole as well.
        await self.is_cached()

    async def hot_call_ms(self) -> float:
        """How long a call takes that is answered from memory."""
        await self.warm_up()
        started = time.perf_counter()
        await self.is_cached()
        return (time.perf_counter() - started) * 1000

    async def until_miss(self, pause: float = 0) -> tuple[float, float]:
        """Asks until the entry is not cached; when the last old and the first new answer came."""
        last = time.perf_counter()
        while await self.is_cached():
            last = time.perf_counter()
            await asyncio.sleep(pause)
        return last, time.perf_counter()

    async def invalidate(self) -> None:
        """Invalidates the tag."""
        request = cache_pb2.InvalidateRequest()
        request.tags.tags.append(TAG)
        await self._caches.Invalidate(request)


async def round_ms(one: Client, two: Client) -> tuple[float, float]:
    """Milliseconds from the start of Invalidate to B's first miss, and its end to the last hit."""
    await two.warm_up()
    polling = asyncio.create_task(two.until_miss())
    await asyncio.sleep(np.random.default_rng().uniform(0, 0.005))
    started = time.perf_counter()
    await one.invalidate()
    ended = time.perf_counter()
    last, missed = await polling
    return (missed - started) * 1000, max(0.0, last - ended) * 1000


def swallow(proxy: Proxy) -> Callable[[], Awaitable[None]]:
    """A cut that nobody is told of."""

    async def cut() -> None:
        proxy.swallow()

    return cut


async def cut_seconds(
    one: Client, two: Client, proxy: Proxy, cut: Callable[[], Awaitable[None]]
) -> float:
    """Seconds from the end of Invalidate to the last old answer of who was cut off before."""
    await two.warm_up()
    # At any moment of its waiting for news.
    await asyncio.sleep(np.random.default_rng().uniform(0, 1))
    await cut()
    await one.invalidate()
    ended = time.perf_counter()
    # The sidecars share the machine with this loop, which can leave them some of it.
    last, _ = await two.until_miss(pause=0.005)
    await proxy.restore()
    return last - ended


def quantiles(values: list[float]) -> tuple[float, float, float]:
    """Median, 99th percentile and largest."""
    p50, p99 = np.percentile(values, (50, 99))
    return float(p50), float(p99), max(values)


if __name__ == "__main__":
    asyncio.run(main())
