"""What the simulation's counts cost: Redis by resource, models, and money."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.simulate_traffic import BIN_SECONDS, HOUR

if TYPE_CHECKING:
    from bench.simulate_fleet import Bin, Counts

FILE = Path(__file__).with_name("simulate_costs.json")
MONTH_SECONDS = 30 * 24 * HOUR
GIB = 2**30


@dataclass(frozen=True)
class Costs:
    """Measured on one machine by `bench.simulate_measure`.

    Times of Redis are microseconds of its processor's time: of a MGET of one key that is there or
    is not, of a further key of a MGET of 64 (mean of both), of a SET alone and of one in a pipeline
    of 64. Bytes are of both directions. ``idle_*`` are of one sidecar that nobody asks for
    anything, a second; ``connections`` are what it has open after 32 calls at once.
    """

    machine: str
    get_hit_us: float
    get_miss_us: float
    batched_get_us: float
    set_us: float
    batched_set_us: float
    hit_bytes: float
    miss_bytes: float
    set_bytes: float
    entry_bytes: float
    idle_commands: float
    idle_us: float
    idle_bytes: float
    connections: float
    connection_bytes: float
    key_bytes: int
    payload_bytes: int
    response_bytes: int
    sidecar_bytes: int
    model_seconds: float
    encoder_texts_per_second: float
    sidecar_hits_per_second: float


def read_costs(file: Path = FILE) -> Costs:
    """What was measured last."""
    return Costs(**json.loads(file.read_text()))


@dataclass(frozen=True)
class Node:
    """What one node of Redis can do, and how much of it may be used at the peak.

    ``cpu`` counts main threads, of which a node has one. ``network`` is in bytes a second.
    """

    memory: float = 25 * GIB
    network: float = 10e9 / 8
    connections: float = 10_000
    cpu: float = 1.0
    most: float = 0.7


@dataclass(frozen=True)
class Prices:
    """Of a million tokens of an embedding service, and of machines by the hour, in dollars.

    ``encoder_texts`` is how many texts a second the machine for ``encoder_hour`` embeds.
    """

    million_tokens: float = 0.02
    tokens: float = 50.0
    redis_hour: float = 0.50
    gib_hour: float = 0.005
    encoder_hour: float = 0.17
    encoder_texts: float = 0.0


@dataclass(frozen=True)
class RedisLoad:
    """What a stretch of time asks of Redis a second: operations, bytes, and share of a CPU.

    ``background_cpu`` is the part of ``cpu`` that comes from sidecars that are there, asked or
    not. An operation is a command; a SET counts as one also in a pipeline.
    """

    operations: float
    network: float
    cpu: float
    background_cpu: float


def redis_load(each: Bin, pods: float, batch: int, costs: Costs) -> RedisLoad:
    """Of a fleet of so many pods in one bin; documents are asked for in calls of ``batch``."""
    alone, together = each.queries, each.documents
    commands = alone.lookups + alone.model + together.lookups / batch + together.model
    busy_us = (
        alone.warm * costs.get_hit_us
        + alone.model * (costs.get_miss_us + costs.set_us)
        + together.lookups * costs.batched_get_us
        + together.model * costs.batched_set_us
    )
    found, computed = alone.warm + together.warm, alone.model + together.model
    sent = found * costs.hit_bytes + computed * (costs.miss_bytes + costs.set_bytes)
    background = pods * costs.idle_us / 1e6
    return RedisLoad(
        commands / BIN_SECONDS + pods * costs.idle_commands,
        sent / BIN_SECONDS + pods * costs.idle_bytes,
        busy_us / 1e6 / BIN_SECONDS + background,
        background,
    )


def use_of_one(
    load: RedisLoad, entries: float, pods: float, costs: Costs, node: Node
) -> dict[str, float]:
    """The share of each resource of one node that is used; above ``node.most`` it is too much."""
    held = entries * costs.entry_bytes + pods * costs.connections * costs.connection_bytes
    return {
        "CPU": load.cpu / node.cpu,
        "network": load.network / node.network,
        "connections": pods * costs.connections / node.connections,
        "memory": held / node.memory,
    }


def money_for_service(tokens_of: Counts, seconds: float, prices: Prices) -> tuple[float, float]:
    """Dollars a month for a service's tokens: for all that is asked, and for what is computed."""
    a_text = prices.tokens * prices.million_tokens / 1e6 * MONTH_SECONDS / seconds
    return tokens_of.asked * a_text, tokens_of.model * a_text


def money_for_cache(pods: float, redis_nodes: int, costs: Costs, prices: Prices) -> float:
    """Dollars a month for Redis, and for the memory of the sidecars."""
    sidecars = pods * costs.sidecar_bytes / GIB * prices.gib_hour
    return (sidecars + redis_nodes * prices.redis_hour) * MONTH_SECONDS / HOUR


def money_for_encoders(texts_at_peak: float, costs: Costs, prices: Prices) -> float:
    """Dollars a month for as many machines with encoders as the peak needs."""
    texts = prices.encoder_texts or costs.encoder_texts_per_second
    return -(-texts_at_peak // texts) * prices.encoder_hour * MONTH_SECONDS / HOUR
