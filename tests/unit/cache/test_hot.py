from __future__ import annotations

import gc
import tracemalloc
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.codec import Codec, Entry, Value, encode_vector
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


SIZE = ENTRY_OVERHEAD_BYTES + 1 + 99


def tier(entries: int, clock: Clock | None = None) -> HotTier[str]:
    """A tier with room for that many entries of 99 bytes under keys of one byte."""
    return HotTier(entries * SIZE, clock or Clock())


def test_what_was_put_is_got() -> None:
    hot = tier(16)
    hot.put(b"a", "A", 99, stamp=7)
    held = hot.get(b"a")
    assert held is not None
    assert (held.value, held.stamp) == ("A", 7)
    assert hot.get(b"b") is None


def test_an_entry_expires_at_its_time_and_gives_its_room_back() -> None:
    clock = Clock()
    hot = tier(16, clock)
    hot.put(b"a", "A", 99, ttl=5)
    clock.now += 4.999
    assert hot.get(b"a") is not None
    clock.now += 0.001
    assert hot.get(b"a") is None
    assert (len(hot), hot.bytes, hot.counters.expirations) == (0, 0, 1)


def test_the_least_recently_used_goes_first() -> None:
    hot = tier(8)
    for key in b"abcdefgh":
        hot.put(bytes([key]), "", 99)
    hot.get(b"a")
    hot.put(b"i", "", 99)
    assert hot.get(b"b") is None
    assert hot.get(b"a") is not None
    assert hot.counters.evictions == 1


@pytest.mark.parametrize("capacity", [0, 8 * SIZE - 1])
def test_an_entry_larger_than_an_eighth_of_the_tier_is_not_taken(capacity: int) -> None:
    hot: HotTier[str] = HotTier(capacity, Clock())
    hot.put(b"a", "A", 99)
    assert len(hot) == 0


def test_an_entry_that_is_too_large_still_removes_the_one_before_it() -> None:
    hot = tier(8)
    hot.put(b"a", "old", 99)
    hot.put(b"a", "new", 10_000)
    assert hot.get(b"a") is None


def test_an_entry_without_lifetime_left_is_not_taken() -> None:
    hot = tier(8)
    hot.put(b"a", "A", 99, ttl=0)
    assert len(hot) == 0


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["put", "get", "remove", "clear", "tick"]),
        st.binary(min_size=1, max_size=1).map(lambda key: bytes([key[0] % 12])),
        st.integers(1, 99),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_it_behaves_as_a_model_and_never_exceeds_its_bytes(
    operations: list[tuple[str, bytes, int]],
) -> None:
    clock = Clock()
    hot = tier(8, clock)
    model: OrderedDict[bytes, tuple[int, int, float]] = OrderedDict()
    for number, (operation, key, amount) in enumerate(operations):
        if operation == "put":
            hot.put(key, str(number), amount, ttl=amount)
            model.pop(key, None)
            model[key] = (number, amount + 1 + ENTRY_OVERHEAD_BYTES, clock.now + amount)
            while sum(size for _, size, _ in model.values()) > hot.capacity_bytes:
                model.popitem(last=False)
        elif operation == "get":
            held = hot.get(key)
            if key in model and model[key][2] <= clock.now:
                del model[key]
            assert (held and held.value) == (str(model[key][0]) if key in model else None)
            if key in model:
                model.move_to_end(key)
        elif operation == "remove":
            hot.remove(key)
            model.pop(key, None)
        elif operation == "clear":
            assert hot.clear() == len(model)
            model.clear()
        else:
            clock.now += amount
        assert len(hot) == len(model)
        assert hot.bytes == sum(size for _, size, _ in model.values()) <= hot.capacity_bytes


@pytest.mark.parametrize("tags", [0, 2])
def test_what_an_entry_is_charged_is_at_least_what_it_takes(tags: int) -> None:
    count = 2000
    vectors = np.random.default_rng(0).random((count, 384), np.float32)
    hot: HotTier[Entry] = HotTier(2**30, Clock())
    gc.collect()
    tracemalloc.start()
    for number, vector in enumerate(vectors):
        payload = encode_vector(vector, Codec.FLOAT32)
        value = Value(payload, Codec.FLOAT32, 384, 300 + number, False)
        marks = tuple((bytes([tag]) * 16, 10**15 + number) for tag in range(tags))
        entry = Entry(value, 10**12 + number, 10**13 + number, b"", marks)
        key = b"embercache:embed:default:minilm:%032x:%x:%032x" % (1, 10**15, number)
        hot.put(key, entry, len(payload) + len(marks) * 128, ttl=1e6 + number)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.75 * hot.bytes < taken <= hot.bytes
