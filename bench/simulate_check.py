"""Real sidecars with a real Redis, asked what the simulation says that they are asked.

A day of traffic is sent as fast as it is answered, one call at a time to each pod; pods go on
together from five minutes of the day to the next five. A restart is a `Flush` of memory. Texts live
for ever, for the clock of the real ones cannot be made to run faster.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2, embed_pb2, embed_pb2_grpc

from bench.processes import sidecar
from bench.report import print_table, write_json
from bench.simulate_fleet import Counts, Fleet, Sizes
from bench.simulate_traffic import DAY, Scale, Traffic, calls, restarts
from sidecar.cache.redis_connect import connect
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from pathlib import Path

    from bench.simulate_costs import Costs
    from bench.simulate_fleet import MakeHot
    from bench.simulate_traffic import Calls
    from sidecar.cache.redis_connect import Client

# Sidecars, and bytes that Redis may keep of entries; 0 is no bound.
CASES = ((1, 0), (2, 0), (4, 0), (8, 0), (2, 2_000_000))
HOT_BYTES = 1_000_000
_CALLS = 8_000
_SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Seen:
    """Of one day: texts by what answered, commands of lookups and writes in Redis, and bytes.

    ``seconds`` is how long it took, so that what sidecars say unasked can be counted.
    """

    texts: Counts
    lookups: float
    writes: float
    bytes: float
    seconds: float


def check(costs: Costs, make_hot: MakeHot, file: Path | None) -> None:
    """Prints what was predicted, what was measured, and the difference."""
    rows: list[tuple[object, ...]] = []
    figures = {}
    for pods, redis_bytes in CASES:
        traffic = traffic_for(pods)
        real = asyncio.run(_real(traffic, pods, redis_bytes))
        expected = predict(traffic, pods, redis_bytes, costs, make_hot, real.seconds)
        named = {name: (_figures(expected)[name], value) for name, value in _figures(real).items()}
        for name, (said, found) in named.items():
            is_share = name.startswith("answered")
            error = f"{found - said:+.2%}" if is_share else f"{found / said - 1:+.1%}"
            shown = (f"{said:.2%}", f"{found:.2%}") if is_share else (round(said), round(found))
            fleet = f"{pods}, Redis of {redis_bytes / 1e6:.0f} MB" if redis_bytes else pods
            rows.append((fleet, name, *shown, error))
        figures[f"{pods}, {redis_bytes}"] = named
    print_table(
        f"one day of {_CALLS:,} texts and 640 documents; shares differ by points",
        ("sidecars", "", "predicted", "measured", "error"),
        rows,
    )
    write_json(file, {"predicted_and_measured": figures})


def traffic_for(pods: int) -> Traffic:
    """A day of traffic that real sidecars get through in a minute."""
    return Traffic(
        rate=_CALLS / pods / DAY,
        texts=3_000,
        one_off=0.1,
        churn_days=2.0,
        documents=640,
        flash_texts=300,
        seconds=DAY,
        version_at=math.inf,
    )


def predict(
    traffic: Traffic,
    pods: int,
    redis_bytes: int,
    costs: Costs,
    make_hot: MakeHot,
    seconds: float,
) -> Seen:
    """What the simulation says of the day, if it takes so many seconds."""
    sizes = Sizes(
        item_bytes=costs.key_bytes + costs.payload_bytes,
        response_bytes=16 + costs.response_bytes + 100,
        redis_bytes=costs.entry_bytes,
        hot_max_bytes=HOT_BYTES,
        redis_max_bytes=redis_bytes,
        query_ttl=math.inf,
    )
    scale = Scale(pods, pods)
    fleet = Fleet(scale, sizes, make_hot, seed=0)
    todo = restarts(traffic, scale)[::-1]
    bins = [fleet.run(each, todo) for each in calls(traffic, scale, seed=0)]
    queries = sum((each.queries for each in bins), Counts())
    documents = sum((each.documents for each in bins), Counts())
    both = queries + documents
    return Seen(
        texts=both,
        lookups=queries.lookups + documents.lookups / traffic.batch,
        writes=both.model,
        bytes=both.warm * costs.hit_bytes
        + both.model * (costs.miss_bytes + costs.set_bytes)
        + pods * costs.idle_bytes * seconds,
        seconds=seconds,
    )


async def _real(traffic: Traffic, pods: int, redis_bytes: int) -> Seen:
    async with AsyncExitStack() as exits:
        redis = exits.enter_context(DevRedis())
        client = connect(redis.url, connect_timeout=5)
        exits.push_async_callback(client.aclose)
        callers = [
            await _start(exits, redis.folder / f"{pod}.sock", redis.url) for pod in range(pods)
        ]
        if redis_bytes:
            used = (await client.info("memory"))["used_memory"]
            await client.config_set("maxmemory-policy", "allkeys-lru")
            await client.config_set("maxmemory", used + redis_bytes)
        todo = restarts(traffic, Scale(pods, pods))[::-1]
        before, began = await _sent(client), time.perf_counter()
        for each in calls(traffic, Scale(pods, pods), seed=0):
            parts = (caller.play(each, pod) for pod, caller in enumerate(callers))
            while todo and todo[-1].time <= each.times[-1]:
                await callers[todo.pop().pod].restart()
            await asyncio.gather(*parts)
        answered = sum((caller.answered for caller in callers), Counter())
        computed = answered[common_pb2.TIER_COMPUTED]
        async with asyncio.timeout(_SETTLE_SECONDS):
            while (await _commands(client))["cmdstat_set"]["calls"] < computed:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        seconds = time.perf_counter() - began
        after, commands = await _sent(client), await _commands(client)
    return Seen(
        texts=Counts(
            answered.total(),
            answered[common_pb2.TIER_HOT],
            answered[common_pb2.TIER_COALESCED],
            answered[common_pb2.TIER_WARM],
            computed,
        ),
        lookups=commands["cmdstat_mget"]["calls"],
        writes=commands["cmdstat_set"]["calls"],
        bytes=after - before,
        seconds=seconds,
    )


async def _start(exits: AsyncExitStack, socket: Path, url: str) -> _Caller:
    arguments = [
        "--server-address",
        "",
        "--server-socket",
        str(socket),
        "--hot-max-bytes",
        str(HOT_BYTES),
    ]
    arguments += ["--cache-query-ttl", "never", "--redis-timeout", "5s"]
    environment = {"EMBERCACHE_REDIS_URL": url}
    exits.enter_context(sidecar(*arguments, environment=environment))
    return _Caller(await exits.enter_async_context(grpc.aio.insecure_channel(f"unix:{socket}")))


class _Caller:
    """The application beside one sidecar. ``answered`` counts texts by tier."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._embeds = embed_pb2_grpc.EmbedServiceStub(channel)
        self._caches = cache_pb2_grpc.CacheServiceStub(channel)
        self.answered: Counter[int] = Counter()

    async def play(self, asked: Calls, pod: int) -> None:
        """Makes the calls of this pod one after the other, documents last."""
        mine = asked.pods == pod
        for key in asked.keys[mine & ~asked.documents].tolist():
            await self._ask([key], embed_pb2.INPUT_TYPE_QUERY)
        documents = asked.keys[mine & asked.documents].tolist()
        for at in range(0, len(documents), 64):
            await self._ask(documents[at : at + 64], embed_pb2.INPUT_TYPE_DOCUMENT)

    async def restart(self) -> None:
        """Empties the memory of the sidecar."""
        await self._caches.Flush(cache_pb2.FlushRequest(tiers=[common_pb2.TIER_HOT]))

    async def _ask(self, keys: list[int], kind: embed_pb2.InputType.ValueType) -> None:
        inputs = [embed_pb2.Input(text=f"text {key}") for key in keys]
        answer = await self._embeds.Embed(embed_pb2.EmbedRequest(inputs=inputs, input_type=kind))
        self.answered.update(each.tier for each in answer.embeddings)


async def _sent(client: Client) -> float:
    info = await client.info("stats")
    return float(info["total_net_input_bytes"] + info["total_net_output_bytes"])


async def _commands(client: Client) -> dict[str, dict[str, float]]:
    none = {"cmdstat_set": {"calls": 0}, "cmdstat_mget": {"calls": 0}}
    return none | await client.info("commandstats")


def _figures(seen: Seen) -> dict[str, float]:
    texts = seen.texts
    return {
        "answered from memory": (texts.hot + texts.coalesced) / texts.asked,
        "answered from Redis": texts.warm / texts.asked,
        "answered by the model": texts.model / texts.asked,
        "lookups in Redis, MGET": seen.lookups,
        "writes to Redis, SET": seen.writes,
        "bytes to and from Redis": seen.bytes,
    }
