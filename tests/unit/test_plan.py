"""The arithmetic of `embercache plan`, against examples worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.accounts import Account
from sidecar.cache.codec import Codec, unpack
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier
from sidecar.plan import Workload, example_entry, plan

if TYPE_CHECKING:
    from typing import Any

WORK = Workload(
    entries=1_000_000,
    dimensions=384,
    codec=Codec.FLOAT32,
    hit_rate=0.9,
    hit_ms=0.5,
    miss_ms=20,
)
PAID = replace(WORK, calls_per_second=1000, tokens=50, price_per_1000_tokens=0.0001)


def test_an_average_call_is_a_lookup_and_a_tenth_of_a_computation() -> None:
    figures = plan(WORK)
    assert figures.mean_ms == pytest.approx(0.5 + 0.1 * 20)
    assert figures.speed_up == pytest.approx(20 / 2.5)
    assert figures.break_even_hit_rate == pytest.approx(0.5 / 20)


@given(st.floats(0.01, 0.99), st.floats(0.01, 10), st.floats(10, 1000))
def test_at_the_break_even_hit_rate_a_cache_makes_no_difference(
    rate: float, hit_ms: float, miss_ms: float
) -> None:
    work = replace(WORK, hit_ms=hit_ms, miss_ms=miss_ms)
    at_break_even = replace(work, hit_rate=plan(work).break_even_hit_rate)
    assert plan(at_break_even).speed_up == pytest.approx(1)
    figures = plan(replace(work, hit_rate=rate))
    assert (figures.speed_up > 1) == (rate > figures.break_even_hit_rate)


def test_the_model_is_left_with_the_misses() -> None:
    assert plan(PAID).model_share == pytest.approx(0.1)
    assert plan(PAID).model_calls_per_second == pytest.approx(100)


def test_a_month_of_calls_is_paid_by_their_tokens() -> None:
    # 1,000 calls a second for 30 days are 2,592,000,000, of 50 tokens each: 129,600,000,000
    # tokens, at 0.0001 for 1,000 of them.
    figures = plan(PAID)
    assert figures.money_without_cache == pytest.approx(12_960)
    assert figures.money_with_cache == pytest.approx(1_296)
    assert figures.money_saved == pytest.approx(11_664)


@pytest.mark.parametrize("missing", ["calls_per_second", "tokens", "price_per_1000_tokens"])
def test_without_calls_tokens_or_price_there_is_no_money(missing: str) -> None:
    none: dict[str, Any] = {missing: None}
    assert plan(replace(PAID, **none)).money_saved is None


def test_what_costs_nothing_saves_nothing() -> None:
    assert plan(replace(PAID, price_per_1000_tokens=0.0)).money_saved == 0


@pytest.mark.parametrize(
    ("codec", "value_bytes"),
    [(Codec.FLOAT32, 32 + 1536), (Codec.FLOAT16, 32 + 768), (Codec.INT8, 32 + 4 + 384)],
)
def test_a_value_is_a_header_of_32_bytes_and_the_vector(codec: Codec, value_bytes: int) -> None:
    work = replace(WORK, codec=codec)
    assert plan(work).value_bytes == value_bytes
    key, value = example_entry(work)
    assert unpack(value, key).value.dimensions == 384


def test_an_entry_in_memory_is_as_large_as_the_hot_tier_counts_it() -> None:
    key, value = example_entry(WORK)
    tier = HotTier[bytes](1 << 20, clock=lambda: 0.0)
    payload = unpack(value, key).value.payload
    tier.put(key, payload, len(payload), account=Account("embed", "default", "minilm"))
    assert plan(WORK).hot_entry_bytes == tier.bytes
    assert plan(WORK).hot_bytes == tier.bytes * 1_000_000


def test_every_sidecar_has_its_own_memory_and_all_share_one_redis() -> None:
    one, three = plan(WORK), plan(replace(WORK, replicas=3))
    assert one.fleet_bytes == one.hot_bytes + one.redis_bytes
    assert three.fleet_bytes == 3 * one.hot_bytes + one.redis_bytes


def test_smaller_codecs_need_less_but_the_overhead_stays() -> None:
    sizes = [plan(replace(WORK, codec=codec)).hot_entry_bytes for codec in Codec]
    key, _ = example_entry(WORK)
    assert sizes == [len(key) + codec.payload_bytes(384) + ENTRY_OVERHEAD_BYTES for codec in Codec]
    assert np.all(np.diff(sizes) < 0)
