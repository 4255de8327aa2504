"""What a warm hit costs: single-text calls answered from Redis, the hot tier being off.

References in the same run: a bare GET of the same value by redis-py's own asynchronous client,
and a call to a bare grpcio asyncio server. A warm hit needs at least one of each.

    python -m bench.warm_path
"""

from __future__ import annotations

import argparse
import asyncio
import time
from statistics import median

import grpc
import numpy as np
from embercache.v1 import common_pb2, embed_pb2, embed_pb2_grpc

from bench.hot_hits import METHOD
from bench.load import drive
from bench.processes import echo, sidecar
from bench.report import add_json_option, print_table, write_json
from sidecar.cache.redis_connect import connect
from sidecar.dev_redis import DevRedis

SIDECAR, ECHO = "127.0.0.1:50781", "127.0.0.1:50782"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls a round")
    add_json_option(parser)
    options = parser.parse_args()
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
    raw = request.SerializeToString()
    rounds = []
    with (
        DevRedis() as redis,
        sidecar(
            "--server-address",
            SIDECAR,
            "--hot-max-bytes=0",
            environment={"EMBERCACHE_REDIS_URL": redis.url},
        ),
    ):
        answer = _warm_up(request)
        with echo(ECHO, answer):
            for _ in range(options.rounds):
                get = asyncio.run(_get_p50_ms(redis.url, options.calls))
                bare, warm = (
                    drive(a, METHOD, raw, calls=options.calls, connections=1, streams=1).p50_ms
                    for a in (ECHO, SIDECAR)
                )
                rounds.append((get, bare, warm))
    get, bare, warm = (median(column) for column in zip(*rounds, strict=True))
    ratio = median(w / (g + e) for g, e, w in rounds)
    print_table(
        "one at a time, medians",
        ("what", "p50 ms"),
        [("bare Redis GET", get), ("bare grpcio echo", bare), ("Embercache, warm", warm)],
    )
    print(f"ratio_to_get: {warm / get:.2f}; ratio_to_get_plus_echo: {ratio:.2f}")
    write_json(
        options.json,
        {
            "get_p50_ms": get,
            "echo_p50_ms": bare,
            "warm_p50_ms": warm,
            "ratio_to_get": warm / get,
            "ratio_to_get_plus_echo": ratio,
        },
    )


def _warm_up(request: embed_pb2.EmbedRequest) -> bytes:
    """Makes the request a warm one; returns its response."""
    with grpc.insecure_channel(SIDECAR) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(100):
            response = stub.Embed(request)
            if response.embeddings[0].tier == common_pb2.TIER_WARM:
                return response.SerializeToString()
            time.sleep(0.02)
    raise RuntimeError("the call is not answered from Redis")


async def _get_p50_ms(url: str, calls: int) -> float:
    client = connect(url, connect_timeout=5)
    async for found in client.scan_iter(match="embercache:embed:*"):
        key = found
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        await client.get(key)
        times.append(time.perf_counter() - started)
    await client.aclose()
    return float(np.median(times)) * 1000


if __name__ == "__main__":
    main()
