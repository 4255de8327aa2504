"""Sizing: what a cache needs and what it is worth, as plain arithmetic.

A call is taken to look into the cache first and to compute after a miss, so that a miss costs a
lookup and a computation. A lookup is taken to last as long as a hit.
"""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.cache.codec import Codec, Entry, Value, pack
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES
from sidecar.cache.keys import KeySpace

REDIS_OVERHEAD_BYTES = 64
"""What Redis keeps of a key with a lifetime beside key and value: objects and slots of its tables.

Between 57 and 79, as its tables fill and are doubled; measured with Redis 8.2 by
tests/integration/test_plan.py.
"""

_STRING_BYTES = 4  # header and terminator of a string of Redis
DAYS_A_MONTH = 30
_SECONDS_A_MONTH = DAYS_A_MONTH * 86_400


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be cached, and how it is asked for.

    ``hit_ms`` and ``miss_ms`` are milliseconds of an answer from cache and of a computation
    without any. ``hit_rate`` is from 0 to 1. Prices are for 1,000 tokens, ``tokens`` those of one
    call. ``replicas`` are the sidecars that share one Redis. ``overhead_bytes`` are those of an
    entry in memory beside its key and vector, which depend on what has the hot tier.
    """

    entries: int
    dimensions: int
    codec: Codec
    hit_rate: float
    hit_ms: float
    miss_ms: float
    calls_per_second: float | None = None
    price_per_1000_tokens: float | None = None
    tokens: float | None = None
    replicas: int = 1
    overhead_bytes: int = ENTRY_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Plan:
    """What comes of a workload.

    Bytes are of an entry, of all entries in the memory of one sidecar and in Redis, and of both
    for the fleet. ``mean_ms`` is a call's average, ``speed_up`` how many times faster that is than
    no cache; below ``break_even_hit_rate`` it is slower. ``model_share`` of the calls still reach
    the model. Money is for a month of 30 days. What a workload does not say is None.
    """

    key_bytes: int
    value_bytes: int
    hot_entry_bytes: int
    redis_entry_bytes: int
    hot_bytes: int
    redis_bytes: int
    fleet_bytes: int
    mean_ms: float
    speed_up: float
    break_even_hit_rate: float
    model_share: float
    model_calls_per_second: float | None
    money_without_cache: float | None
    money_with_cache: float | None
    money_saved: float | None


def plan(work: Workload) -> Plan:
    """The arithmetic."""
    key, value = example_entry(work)
    hot = len(key) + work.codec.payload_bytes(work.dimensions) + work.overhead_bytes
    redis = len(key) + _allocated(len(value) + _STRING_BYTES) + REDIS_OVERHEAD_BYTES
    misses = 1 - work.hit_rate
    mean = work.hit_ms + misses * work.miss_ms
    calls = work.calls_per_second
    money = _money_a_month(work)
    return Plan(
        key_bytes=len(key),
        value_bytes=len(value),
        hot_entry_bytes=hot,
        redis_entry_bytes=redis,
        hot_bytes=hot * work.entries,
        redis_bytes=redis * work.entries,
        fleet_bytes=(hot * work.replicas + redis) * work.entries,
        mean_ms=mean,
        speed_up=work.miss_ms / mean,
        break_even_hit_rate=work.hit_ms / work.miss_ms,
        model_share=misses,
        model_calls_per_second=None if calls is None else calls * misses,
        money_without_cache=money,
        money_with_cache=None if money is None else money * misses,
        money_saved=None if money is None else money * work.hit_rate,
    )


def example_entry(work: Workload) -> tuple[bytes, bytes]:
    """A key and a value as Redis keeps them, of a text without tags in the default namespace."""
    keys = KeySpace(
        prefix="embercache",
        kind="embed",
        namespace="default",
        model="minilm",
        version="0" * 32,
        salt=b"",
    )
    key = keys.key(0, b"text")
    payload = bytes(work.codec.payload_bytes(work.dimensions))
    value = Value(payload, work.codec, work.dimensions, tokens=0, truncated=False)
    return key, pack(Entry(value, created_ms=0, expires_ms=0), key)


def _money_a_month(work: Workload) -> float | None:
    calls, tokens, price = work.calls_per_second, work.tokens, work.price_per_1000_tokens
    if calls is None or tokens is None or price is None:
        return None
    return calls * _SECONDS_A_MONTH * tokens / 1000 * price


def _allocated(size: int) -> int:
    """The block in which jemalloc, the allocator of Redis, puts so many bytes.

    Its sizes are 16 bytes apart up to 128, then four to each doubling.
    """
    step = max(16, 1 << ((size - 1).bit_length() - 3))
    return -(-size // step) * step
