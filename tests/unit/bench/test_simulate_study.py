"""What counts of the simulation come to: loads, nodes, and where one Redis is too small."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.simulate_costs import (
    Costs,
    Node,
    Prices,
    money_for_encoders,
    money_for_service,
    read_costs,
    redis_load,
)
from bench.simulate_fleet import Bin, Counts
from bench.simulate_study import fleets_for, gives_out, nodes_for


def test_one_redis_is_too_small_from_where_the_line_between_two_fleets_crosses_the_limit() -> None:
    uses = [(1, 0.001), (10, 0.01), (100, 0.1), (1000, 1.0)]

    assert gives_out(uses, 0.5) == pytest.approx(500)
    assert gives_out(uses, 0.1) == pytest.approx(100, rel=1e-6)
    assert gives_out(uses, 0.0005) == 1
    assert gives_out(uses, 1.0) is None


@given(background=st.floats(0.001, 20), busy=st.floats(0, 100), most=st.floats(0.1, 1))
def test_no_node_has_more_to_do_than_it_may(background: float, busy: float, most: float) -> None:
    node = Node(most=most)
    fleets = fleets_for(background, node)
    background, busy = background / fleets, busy / fleets

    nodes = nodes_for(background + busy, background, node)

    assert background <= most / 2 * (1 + 1e-9)
    assert background + busy / nodes <= most * (1 + 1e-9)


def test_each_text_costs_redis_its_commands_bytes_and_time() -> None:
    costs = Costs("a machine", *[0.0] * (len(fields(Costs)) - 1))
    costs = replace(
        costs,
        get_hit_us=10,
        get_miss_us=8,
        set_us=12,
        batched_get_us=1,
        batched_set_us=4,
        hit_bytes=1_000,
        miss_bytes=100,
        set_bytes=1_100,
        idle_commands=2,
        idle_us=50,
        idle_bytes=30,
    )
    queries = Counts(asked=1_000, hot=400, warm=300, model=300)
    documents = Counts(asked=640, warm=320, model=320)

    load = redis_load(Bin(queries, documents, entries=0), pods=5, batch=64, costs=costs)

    assert load.operations == pytest.approx((600 + 300 + 10 + 320) / 300 + 10)
    assert load.network == pytest.approx((620 * 1_000 + 620 * 1_200) / 300 + 150)
    assert load.background_cpu == pytest.approx(250e-6)
    assert load.cpu == pytest.approx((3_000 + 6_000 + 640 + 1_280) / 1e6 / 300 + 250e-6)


def test_money_is_for_what_is_computed_and_machines_are_whole() -> None:
    prices = Prices(million_tokens=2.0, tokens=50, encoder_hour=1.0, encoder_texts=100)
    without, with_cache = money_for_service(Counts(asked=1_000, model=250), 86_400, prices)

    assert without == pytest.approx(1_000 * 30 * 50 * 2e-6)
    assert with_cache == pytest.approx(without / 4)
    assert money_for_encoders(101, read_costs(), prices) == 2 * 720
