"""What an entry is charged is what it takes, or somewhat more."""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from typing import Literal

import pytest

from sidecar.cache.accounts import Account
from sidecar.cache.codec import Codec, Entry, Value
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier
from sidecar.cache.read_through import TAG_BYTES
from sidecar.cache.rooms import SLOT_BYTES

Policy = Literal["s3fifo", "lru"]
POLICIES: list[Policy] = ["s3fifo", "lru"]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("count", "tags"), [(2000, 0), (5300, 0), (2000, 16)])
def test_an_entry_takes_at_most_what_it_is_charged(policy: Policy, count: int, tags: int) -> None:
    payload = 384
    size = 98 + payload + tags * TAG_BYTES + ENTRY_OVERHEAD_BYTES
    hot: HotTier[Entry] = HotTier(count * size, lambda: 12.5, policy)
    account = Account("embed", "default", "minilm")
    gc.collect()
    tracemalloc.start()
    # More than fits: what an entry takes is to include its share of what the tier remembers.
    for number in range(count * 5 // 2):
        value = Value(bytes(payload), Codec.INT8, 384, 300 + number, False)
        marks = tuple((bytes([tag]) * 16, 10**15 + number) for tag in range(tags))
        entry = Entry(value, 10**12 + number, 10**13 + number, b"", marks)
        key = b"embercache:embed:default:minilm:%032x:%x:%019x" % (1, 10**15, number)
        hot.put(key, entry, payload + len(marks) * TAG_BYTES, account, ttl=1e6 + number)
        if number % 2:
            hot.get(key)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert hot.counters.evictions
    assert 0.75 * hot.bytes < taken <= hot.bytes


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("count", [2000, 5300, 5470])
def test_an_entry_of_a_limited_namespace_takes_at_most_what_it_is_charged(
    policy: Policy, count: int
) -> None:
    shop = Account("embed", "shop", "model")
    size = 98 + 384 + ENTRY_OVERHEAD_BYTES + SLOT_BYTES
    hot: HotTier[bytes] = HotTier(4 * count * size, lambda: 12.5, policy)
    hot.limit({"shop": count * size}.get)
    gc.collect()
    tracemalloc.start()
    for number in range(count * 5 // 2):
        hot.put(b"embercache:embed:shop:minilm:%069x" % number, bytes(384), 384, shop, ttl=1e6)
        if number % 2:
            hot.get(b"embercache:embed:shop:minilm:%069x" % number)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert hot.counters.evictions
    assert taken <= hot.bytes


# Memory of Rust is not traced, so that of a process is measured which does nothing else.
MEASURE = """
import gc, os, sys
from embercache_native import Answer, Cell, ENTRY_OVERHEAD_BYTES, HotTier, Tally
from sidecar.cache.accounts import Account
from sidecar.cache.codec import Codec, Entry, Value
from sidecar.cache.read_through import TAG_BYTES

policy, has_answers = sys.argv[1], sys.argv[2] == "answers"
tags = 8 if sys.argv[2] == "tagged" else 0
count, account, cell, tally = 30_000, Account("embed", "default", "minilm"), Cell(), Tally()

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def put_entry(number):
    value = Value(bytes(384), Codec.INT8, 384, 300 + number, False)
    marks = tuple((bytes([tag]) * 16, 10**15 + number) for tag in range(tags))
    entry = Entry(value, 10**12 + number, 10**13 + number, b"", marks)
    key = b"embercache:embed:default:minilm:%032x:%x:%019x" % (1, 10**15, number)
    hot.put(key, entry, 384 + tags * TAG_BYTES, account, ttl=1e6 + number)
    return key

def put_answer(number):
    key = number.to_bytes(16, "big")
    answer = Answer(bytes(1600), [(8, number)], [(cell, 0), (cell, 0)], tally, 1, 10, bytes(100))
    # Stands for a stored response, which has as many attributes.
    hot.put(key, (answer,) + (None,) * 11, 1600 + 100 + 100, account, ttl=1e6 + number)
    hot.answer(key, answer)
    return key

size = 16 + 1800 if has_answers else 98 + 384 + tags * TAG_BYTES
hot = HotTier(count * (size + ENTRY_OVERHEAD_BYTES), lambda: 12.5, policy)
put = put_answer if has_answers else put_entry
before = resident()
for number in range(count * 5 // 2):
    key = put(number)
    if number % 2:
        hot.get(key)
assert hot.counters.evictions
print((resident() - before) / hot.bytes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", ["entries", "tagged", "answers"])
def test_an_entry_of_the_native_tier_takes_at_most_what_it_is_charged(
    policy: Policy, kind: str
) -> None:
    pytest.importorskip("embercache_native")
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, policy, kind], check=True, capture_output=True, text=True
    )
    assert 0.75 < float(run.stdout) <= 1
