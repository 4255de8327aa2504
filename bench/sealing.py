"""What encryption costs: sealing and opening alone, and calls answered from Redis and from memory.

Two sidecars with the model minilm share one Redis, and one of them encrypts. Both answer the same
calls, in turns within one run, to the same client, one call at a time. The figures are medians over
the rounds.

    python -m bench.sealing
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import common_pb2, embed_pb2, embed_pb2_grpc

from bench.answered import all_from_redis, all_whole_hits
from bench.corpus import docstrings
from bench.load import drive
from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json
from sidecar.cache.key_ring import KeyFile
from sidecar.cache.sealing import Sealer
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Callable

METHOD = "/embercache.v1.EmbedService/Embed"
KEY = b"embercache:embed:default:minilm:0123456789abcdef0123456789abcdef:6123456789abc:" + b"0" * 32
# A vector of 384 elements in float32; a block of 16 tokens of smollm2-135m in float16.
SIZES = {"vector": 32 + 4 * 384, "block of a prompt": 2 * 2 * 30 * 3 * 16 * 64}
_REPETITIONS = 5


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=2000, help="calls a round, of one text")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name) / "keys"
        keys.write_text(f"k1:{base64.b64encode(os.urandom(32)).decode()}")
        alone = _alone(keys)
        print_table(
            "alone, the best of some repetitions",
            ("what", "bytes", "bytes more", "seal us", "open us"),
            alone,
        )
        calls = _calls(keys, options.rounds, options.calls)
    print_table(
        "one call at a time, medians",
        ("call", "plain p50 ms", "sealed p50 ms", "ratio"),
        calls,
    )
    write_json(
        options.json,
        {
            "seal_us": {row[0]: row[3] for row in alone},
            "open_us": {row[0]: row[4] for row in alone},
            "calls": {row[0]: dict(zip(("plain", "sealed", "ratio"), row[1:], strict=True))
                      for row in calls},
        },
    )  # fmt: skip


def _alone(keys: Path) -> list[tuple[str, int, int, float, float]]:
    sealer = Sealer(KeyFile(keys))
    rows = []
    for name, size in SIZES.items():
        data = os.urandom(size)
        sealed = sealer.seal(b"entries", KEY, data)
        seal = _best_us(lambda data=data: sealer.seal(b"entries", KEY, data))
        opening = _best_us(lambda sealed=sealed: sealer.open(b"entries", KEY, sealed))
        rows.append((name, size, len(sealed) - size, seal, opening))
    return rows


def _best_us(work: Callable[[], object], seconds: float = 0.1) -> float:
    best = float("inf")
    for _ in range(_REPETITIONS):
        count, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < seconds:
            for _ in range(20):
                work()
            count += 20
        best = min(best, spent / count)
    return best * 1e6


def _calls(keys: Path, rounds: int, calls: int) -> list[tuple[str, float, float, float]]:
    texts = docstrings(64)
    requests = {
        1: embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=texts[0])]),
        64: embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=text) for text in texts]),
    }
    encrypting = {"EMBERCACHE_ENCRYPTION_KEYS_FILE": str(keys), "EMBERCACHE_CACHE_SALT": "bench"}
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    with DevRedis() as redis, contextlib.ExitStack() as exits:
        addresses = {}
        for number, (tier, hot) in enumerate((("warm", 0), ("hot", 2**26))):
            for which, more in enumerate(({}, encrypting)):
                address = f"127.0.0.1:{50781 + 2 * number + which}"
                arguments = ("--server-address", address, f"--hot-max-bytes={hot}")
                environment = {"EMBERCACHE_REDIS_URL": redis.url} | more
                exits.enter_context(sidecar(*arguments, environment=environment))
                addresses[tier, which] = address
                for request in requests.values():
                    _wait_for(address, request, common_pb2.Tier.Value(f"TIER_{tier.upper()}"))
        for _ in range(rounds):
            for tier in ("warm", "hot"):
                for items, request in requests.items():
                    raw = request.SerializeToString()
                    count = calls // (10 if items > 1 else 1)
                    plain, sealed = (
                        _p50_ms(addresses[tier, which], tier, raw, count, items)
                        for which in range(2)
                    )
                    found[f"{tier}, {items} text{'s' * (items > 1)}"].append((plain, sealed))
    return [
        (
            name,
            median(plain for plain, _ in pairs),
            median(sealed for _, sealed in pairs),
            median(sealed / plain for plain, sealed in pairs),
        )
        for name, pairs in found.items()
    ]


def _p50_ms(address: str, tier: str, raw: bytes, calls: int, items: int) -> float:
    check = (
        all_whole_hits(address, calls) if tier == "hot" else all_from_redis(address, calls * items)
    )
    with check:
        return drive(address, METHOD, raw, calls=calls, connections=1, streams=1).p50_ms


def _wait_for(address: str, request: embed_pb2.EmbedRequest, tier: int) -> None:
    """Asks until everything is answered by a tier."""
    with grpc.insecure_channel(address) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(200):
            if {each.tier for each in stub.Embed(request).embeddings} == {tier}:
                return
            time.sleep(0.02)
    raise RuntimeError("the call is not answered by the tier that is to be measured")


if __name__ == "__main__":
    main()
