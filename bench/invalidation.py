"""What it costs to invalidate a tag that 1, 1,000 and 1,000,000 entries carry.

The entries are real ones in a real Redis; a sidecar answers with samples of them before, and with
none of them after the first call. Its calls of Invalidate are timed in turns, and the commands that
Redis has carried out meanwhile are counted.

    python -m bench.invalidation
"""

from __future__ import annotations

import argparse
import asyncio
import time
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

import grpc
import numpy as np
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2, embed_pb2, embed_pb2_grpc
from redis import Redis

from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json
from sidecar.cache.codec import Codec, Entry, Value, encode_vector, pack
from sidecar.cache.generations import Generations
from sidecar.cache.keys import KeySpace, digest
from sidecar.cache.redis_connect import connect
from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.warm import WarmTier
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cache.generations import NamespaceState

ADDRESS = "127.0.0.1:50781"
TAG = "a tag"
PREFIX = "embercache"
SAMPLE = 200
FORBIDDEN = ("keys", "scan", "sscan", "hscan", "zscan")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=20, help="of Invalidate, for each size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 1000, 1_000_000])
    add_json_option(parser)
    options = parser.parse_args()
    with (
        DevRedis() as server,
        Redis(unix_socket_path=str(server.socket_path)) as redis,
        sidecar(
            *("--server-address", ADDRESS, "--cache-codec", "int8"),
            environment={"EMBERCACHE_REDIS_URL": server.url},
        ),
        grpc.insecure_channel(ADDRESS) as channel,
    ):
        client = Client(channel)
        for size in options.sizes:
            written = fill(redis, server.url, client, size)
            print(f"{size:,} entries with one tag written in {written:.0f} s")
            client.check(size, present=True)
        redis.config_resetstat()
        times = measure(client, options.sizes, options.calls)
        commands = commands_of(redis)
        for size in options.sizes:
            client.check(size, present=False)
    rows = [(size, median(each), min(each), max(each)) for size, each in times.items()]
    calls = options.calls * len(options.sizes)
    print_table(
        f"Invalidate, {options.calls} calls each, in turns",
        ("entries with the tag", "median ms", "least ms", "most ms"),
        rows,
    )
    print_table(
        f"what Redis has carried out meanwhile, {calls} calls",
        ("command", "times"),
        sorted(commands.items()),
    )
    ratio = rows[-1][1] / rows[0][1]
    scans = sum(commands.get(name, 0) for name in FORBIDDEN)
    print(f"ratio_largest_to_smallest: {ratio:.2f}; KEYS and SCAN: {scans}")
    figures = {str(size): middle for size, middle, _, _ in rows}
    write_json(options.json, {"median_ms": figures, "ratio": ratio, "scans": scans})
    if scans:
        raise SystemExit("an invalidation has walked the keys of Redis")


class Client:
    """Calls the sidecar. Entries of a size have a namespace of their own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._embeds = embed_pb2_grpc.EmbedServiceStub(channel)
        self._caches = cache_pb2_grpc.CacheServiceStub(channel)

    def embed(
        self, size: int, texts: list[str], mode: common_pb2.CacheMode.ValueType
    ) -> embed_pb2.EmbedResponse:
        """Embeds texts with the tag."""
        return self._embeds.Embed(
            embed_pb2.EmbedRequest(
                namespace=f"n{size}",
                inputs=[embed_pb2.Input(text=text) for text in texts],
                cache=common_pb2.CacheOptions(mode=mode, tags=[TAG]),
            )
        )

    def check(self, size: int, *, present: bool) -> None:
        """Raises if samples of the entries are not all there, or not all gone."""
        numbers = np.random.default_rng(0).permutation(size)[:SAMPLE]
        texts = [text(number) for number in numbers]
        answer = self.embed(size, texts, common_pb2.CACHE_MODE_ONLY_IF_CACHED)
        hits = sum(each.tier == common_pb2.TIER_WARM for each in answer.embeddings)
        misses = sum(each.error.code != 0 for each in answer.embeddings)
        print(f"{size:,}: of {len(texts)} samples {hits} are in Redis, {misses} are not valid")
        if (hits if present else misses) != len(texts):
            raise SystemExit("that is not as it should be")

    def invalidate_ms(self, size: int) -> float:
        """Invalidates the tag; returns how long it took."""
        request = cache_pb2.InvalidateRequest(namespace=f"n{size}")
        request.tags.tags.append(TAG)
        started = time.perf_counter()
        self._caches.Invalidate(request)
        return (time.perf_counter() - started) * 1000


def measure(client: Client, sizes: list[int], calls: int) -> dict[int, list[float]]:
    """Milliseconds of each call."""
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(calls):
        for size in sizes:
            times[size].append(client.invalidate_ms(size))
    return times


def commands_of(redis: Redis) -> dict[str, int]:
    """How often each command was carried out since the counters were reset."""
    stats = redis.info("commandstats")
    return {name.removeprefix("cmdstat_"): entry["calls"] for name, entry in stats.items()}


def text(number: int) -> str:
    """The input of an entry."""
    return f"entry {number}"


def fill(redis: Redis, url: str, client: Client, size: int) -> float:
    """Writes entries as a sidecar would have; returns the seconds that it took."""
    answer = client.embed(size, ["the first"], common_pb2.CACHE_MODE_NO_STORE)
    tag = digest(b"tag", TAG.encode())
    state = asyncio.run(state_of(url, f"n{size}", tag))
    started = time.perf_counter()
    entries = entries_of(state, answer, tag, size)
    while batch := list(islice(entries, 2000)):
        redis.mset(dict(batch))
    return time.perf_counter() - started


async def state_of(url: str, namespace: str, tag: bytes) -> NamespaceState:
    """The epoch of a namespace and the generation of the tag."""
    warm = WarmTier(connect(url, connect_timeout=5), timeout=5)
    await warm.start()
    generations = Generations(RedisGenerations(warm, PREFIX))
    state = await generations.state(namespace)
    await generations.resolve(state, [tag])
    await warm.close()
    return state


def entries_of(
    state: NamespaceState, answer: embed_pb2.EmbedResponse, tag: bytes, size: int
) -> Iterator[tuple[bytes, bytes]]:
    """Keys and packed values."""
    model, version = answer.model, answer.embeddings[0].model_version
    space = KeySpace(
        prefix=PREFIX,
        kind="embed",
        namespace=state.name,
        model=model,
        version=version,
        salt=b"",
    )
    epoch = state.epoch_of("embed", model, version)
    generation = state.generation(tag)
    if generation is None:
        raise SystemExit("Redis does not know the tag")
    vector = np.random.default_rng(1).standard_normal(answer.dimensions).astype(np.float32)
    value = Value(encode_vector(vector, Codec.INT8), Codec.INT8, answer.dimensions, 4, False)
    entry = Entry(value, int(time.time() * 1000), 0, b"", ((tag, generation),))
    for number in range(size):
        key = space.key(epoch, b"INT8", b"text", b"", text(number).encode(), tag)
        yield key, pack(entry, key)


if __name__ == "__main__":
    main()
