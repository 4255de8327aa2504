"""Measures on this machine what `bench.simulate` needs to know of costs."""

from __future__ import annotations

import asyncio
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
from embercache.v1 import embed_pb2, embed_pb2_grpc
from redis import Redis

from bench.corpus import docstrings
from bench.hot_hits import METHOD
from bench.load import drive
from bench.processes import sidecar
from bench.simulate_costs import Costs
from sidecar.cache.codec import Codec, Entry, Value, pack
from sidecar.cache.keys import KeySpace
from sidecar.dev_redis import DevRedis
from sidecar.models.cpus import usable_cpus
from sidecar.models.local import LocalEmbedder
from sidecar.models.packs import default_folder
from sidecar.models.pull import pull

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

ADDRESS, REDIS_PORT = "127.0.0.1:50821", 50822
_DIMENSIONS = 384
_TTL_MS = 86_400_000
# So many connections are ready at once where Redis is busy.
_CONNECTIONS = 32
_ENTRIES, _ROUNDS, _TEXTS = 20_000, 5, 512
_IDLE_SECONDS = 15.0
_CALLS_AT_ONCE = 32
# About the 50 tokens of a text that prices are for.
_CHARACTERS = 200


@dataclass(frozen=True)
class _Spent:
    """What Redis spent: microseconds of processor time, bytes in and out, of each of many."""

    us: float
    bytes: float


def measure() -> Costs:
    """Takes about a minute. Needs h2load and the pack minilm."""
    folder = pull("minilm", default_folder(), lambda stage, done, total: None)
    keys = KeySpace(
        prefix="embercache",
        kind="embed",
        namespace="default",
        model="minilm",
        version="0" * 32,
        salt=b"",
    )
    names = [keys.key(0, b"text", str(number).encode()) for number in range(2 * _ENTRIES)]
    payload = np.random.default_rng(0).random(_DIMENSIONS, np.float32).tobytes()
    with DevRedis(port=REDIS_PORT):
        redis_costs = _redis(names, payload)
    with DevRedis(port=REDIS_PORT):
        sidecar_costs = _sidecar(redis_costs["get_miss_us"])
    encoder = asyncio.run(_encoder(folder))
    return Costs(
        machine=f"{_processor()}, {usable_cpus()} CPUs",
        key_bytes=len(names[0]),
        payload_bytes=len(payload),
        **redis_costs,
        **sidecar_costs,
        **encoder,
    )


def _redis(names: Sequence[bytes], payload: bytes) -> dict[str, float]:
    clients = [Redis(host="127.0.0.1", port=REDIS_PORT) for _ in range(_CONNECTIONS)]
    here, away = names[:_ENTRIES], names[_ENTRIES:]
    before = clients[0].info("memory")["used_memory"]
    sets = [_set(name, payload) for name in here]
    stored = _spent(clients, [sets[at : at + 64] for at in range(0, len(sets), 64)])
    after = clients[0].info("memory")["used_memory"]

    def gets(batch: int, of: Sequence[bytes]) -> _Spent:
        lookups = [("MGET", *of[at : at + batch]) for at in range(0, len(of), batch)]
        return _median(lambda: _spent(clients, [[each] for each in lookups]))

    hit, miss = gets(1, here), gets(1, away)
    mixed = [name for pair in zip(here, away, strict=True) for name in pair]
    alone = _median(lambda: _spent(clients, [[each] for each in sets]))
    together = gets(64, mixed)
    for client in clients:
        client.close()
    return {
        "get_hit_us": hit.us,
        "get_miss_us": miss.us,
        "batched_get_us": together.us / 64,
        "set_us": alone.us,
        "batched_set_us": stored.us,
        "hit_bytes": hit.bytes,
        "miss_bytes": miss.bytes,
        "set_bytes": alone.bytes,
        "entry_bytes": (after - before) / _ENTRIES,
    }


def _set(name: bytes, payload: bytes) -> tuple[Any, ...]:
    """As `sidecar.cache.warm_writes` sends it."""
    value = Value(payload, Codec.FLOAT32, _DIMENSIONS, tokens=8, truncated=False)
    data = pack(Entry(value, created_ms=0, expires_ms=0), name)
    return ("SET", name, data, "PX", _TTL_MS, "NX")


def _spent(clients: list[Redis], pipelines: Sequence[Sequence[tuple[Any, ...]]]) -> _Spent:
    """What one command takes when each pipeline goes over its connection, many at a time."""
    connections = [client.connection_pool.get_connection() for client in clients]
    before = _used(clients[0])
    for start in range(0, len(pipelines), len(connections)):
        flight = list(zip(connections, pipelines[start : start + len(connections)], strict=False))
        for connection, pipeline in flight:
            connection.send_packed_command(connection.pack_commands(pipeline))
        for connection, pipeline in flight:
            for _ in pipeline:
                connection.read_response()
    after = _used(clients[0])
    for client, connection in zip(clients, connections, strict=True):
        client.connection_pool.release(connection)
    count = sum(map(len, pipelines))
    return _Spent((after.us - before.us) / count, (after.bytes - before.bytes) / count)


def _used(client: Redis) -> _Spent:
    info = client.info("everything")
    return _Spent(
        (info["used_cpu_user"] + info["used_cpu_sys"]) * 1e6,
        info["total_net_input_bytes"] + info["total_net_output_bytes"],
    )


def _median(run: Callable[[], _Spent]) -> _Spent:
    rounds = [run() for _ in range(_ROUNDS)]
    return _Spent(median(each.us for each in rounds), median(each.bytes for each in rounds))


def _sidecar(get_us: float) -> dict[str, float]:
    """What a sidecar asks of Redis unasked, and how fast it answers from memory.

    An idle Redis spends most of its time on waking up, which a busy one does not. So the time of
    what is asked unasked is that inside commands, and what a lookup takes for each command.
    """
    url = f"redis://127.0.0.1:{REDIS_PORT}"
    client = Redis.from_url(url)
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
    with (
        sidecar("--server-address", ADDRESS, environment={"EMBERCACHE_REDIS_URL": url}) as process,
        grpc.insecure_channel(ADDRESS) as channel,
    ):
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(3):
            response = stub.Embed(request)
        # It keeps as many connections as it had in use at once.
        new = [embed_pb2.Input(text=f"what is new? {number}") for number in range(_CALLS_AT_ONCE)]
        busy = [stub.Embed.future(embed_pb2.EmbedRequest(inputs=[each])) for each in new]
        for call in busy:
            call.result()
        time.sleep(1)
        clients = client.client_list()
        first, second = _commands(client), _commands(client)
        time.sleep(_IDLE_SECONDS)
        third = _commands(client)
        # Less what it takes to ask.
        idle = (third - second - (second - first)) / _IDLE_SECONDS
        hits = drive(
            ADDRESS,
            METHOD,
            request.SerializeToString(),
            calls=20_000,
            connections=4,
            streams=8,
        )
        memory = psutil.Process(process.pid).memory_info().rss
    client.close()
    others = [each for each in clients if each["cmd"] != "client|list"]
    return {
        "idle_commands": idle[0],
        "idle_us": idle[1] + idle[0] * get_us,
        "idle_bytes": idle[2],
        "connections": len(others),
        "connection_bytes": sum(int(each["tot-mem"]) for each in others) / len(others),
        "response_bytes": response.ByteSize(),
        "sidecar_bytes": memory,
        "sidecar_hits_per_second": hits.calls_per_second,
    }


def _commands(client: Redis) -> NDArray[np.float64]:
    """Commands, microseconds inside them, and bytes, so far."""
    info = client.info("everything")
    inside = sum(each["usec"] for name, each in info.items() if name.startswith("cmdstat_"))
    sent = info["total_net_input_bytes"] + info["total_net_output_bytes"]
    return np.array([info["total_commands_processed"], inside, sent], float)


async def _encoder(folder: Path) -> dict[str, float]:
    texts = [text[:_CHARACTERS] for text in docstrings(_TEXTS)]
    embedder = LocalEmbedder.load(folder, "minilm", provider="cpu", queue_inputs=len(texts))
    alone = []
    for text in texts[:20]:
        began = time.perf_counter()
        await asyncio.gather(*embedder.submit([text]))
        alone.append(time.perf_counter() - began)
    began = time.perf_counter()
    await asyncio.gather(*embedder.submit(texts))
    return {
        "model_seconds": median(alone),
        "encoder_texts_per_second": len(texts) / (time.perf_counter() - began),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
