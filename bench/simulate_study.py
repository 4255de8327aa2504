"""What the simulation of one fleet comes to: hit rates, loads, what gives out, and money."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bench.simulate_costs import (
    Costs,
    Node,
    Prices,
    money_for_cache,
    money_for_encoders,
    money_for_service,
    redis_load,
    use_of_one,
)
from bench.simulate_fleet import Counts, Sizes, between, simulate
from bench.simulate_traffic import BIN_SECONDS, DAY, HOUR, Traffic, scale_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.simulate_fleet import Bin, MakeHot
    from bench.simulate_redis import Policy

# A cluster has memory enough if the model computes no more than so much more of what is asked.
_WORSE = 0.01
_MOST_NODES = 1024
_AFTER_RELEASE = 2 * HOUR


@dataclass(frozen=True)
class World:
    """All that does not depend on how many pods there are. ``requests`` is how many to simulate."""

    traffic: Traffic
    costs: Costs
    node: Node
    prices: Prices
    hot_max_bytes: int
    redis_policy: Policy
    requests: float
    seed: int
    make_hot: MakeHot

    def sizes(self, redis_max_bytes: float = 0.0) -> Sizes:
        """Of entries as they were measured."""
        costs = self.costs
        return Sizes(
            item_bytes=costs.key_bytes + costs.payload_bytes,
            # Under a key of 16 bytes, with 100 for what is known of each item.
            response_bytes=16 + costs.response_bytes + 100,
            redis_bytes=costs.entry_bytes,
            hot_max_bytes=self.hot_max_bytes,
            redis_max_bytes=redis_max_bytes,
            redis_policy=self.redis_policy,
            model_seconds=costs.model_seconds,
        )


@dataclass(frozen=True)
class Nodes:
    """How many nodes each resource asks for, in all, and how many separate fleets they are for.

    Connections do not get fewer on a node by more nodes, since each sidecar connects to all of
    them, nor does the work for sidecars that are not asked anything: it is on the node that has
    the stream of changes. Where that is too much, the fleet is to be parted.
    """

    cpu: int
    network: int
    memory: int
    fleets: int = 1

    @property
    def needed(self) -> int:
        """In all."""
        return max(self.cpu, self.network, self.memory)

    def times(self, fleets: int) -> Nodes:
        """Those of so many fleets like this one."""
        return Nodes(
            *(each * fleets for each in (self.cpu, self.network, self.memory, self.fleets))
        )


@dataclass(frozen=True)
class Outcome:
    """Of the second day, if nothing else is said. Rates a second at the worst five minutes."""

    pods: int
    queries: Counts
    documents: Counts
    operations: float
    network: float
    cpu: float
    model_texts: float
    model_texts_release: float
    redis_bytes: float
    use: dict[str, float]
    one_node_model_share: float
    nodes: Nodes
    service_money: tuple[float, float]
    encoder_money: tuple[float, float]
    cache_money: float

    @property
    def hot(self) -> float:
        """The share of callers' texts that memory answers, what was in flight included."""
        return (self.queries.hot + self.queries.coalesced) / self.queries.asked

    @property
    def warm(self) -> float:
        """The share that Redis answers."""
        return self.queries.warm / self.queries.asked

    @property
    def model(self) -> float:
        """The share that is computed."""
        return self.queries.model / self.queries.asked


def study(pods: int, world: World) -> Outcome:
    """Simulates a fleet of so many pods."""
    traffic, costs = world.traffic, world.costs
    bins = _run(pods, world, world.requests, 0.0)
    day = between(bins, DAY, 2 * DAY)
    release = between(bins, traffic.version_at, traffic.version_at + _AFTER_RELEASE)
    queries = sum((each.queries for each in day), Counts())
    documents = sum((each.documents for each in day), Counts())
    loads = [redis_load(each, pods, traffic.batch, costs) for each in day]
    worst = max(loads, key=lambda load: load.cpu)
    worst = replace(worst, network=max(load.network for load in loads))
    entries = max(each.entries for each in day)
    use = use_of_one(worst, entries, pods, costs, world.node)
    model_texts = _peak(day)
    one_node, memory_nodes = _memory(pods, world, use["memory"], _model_share(day))
    fleets = fleets_for(worst.background_cpu, world.node)
    if fleets > 1:
        nodes = study(math.ceil(pods / fleets), world).nodes.times(fleets)
    else:
        cpu_nodes = nodes_for(worst.cpu, worst.background_cpu, world.node)
        network_nodes = math.ceil(use["network"] / world.node.most)
        nodes = Nodes(cpu_nodes, network_nodes, memory_nodes)
    asked_texts = max(each.queries.asked + each.documents.asked for each in day) / BIN_SECONDS
    return Outcome(
        pods=pods,
        queries=queries,
        documents=documents,
        operations=max(load.operations for load in loads),
        network=worst.network,
        cpu=worst.cpu,
        model_texts=model_texts,
        model_texts_release=_peak(release),
        redis_bytes=entries * costs.entry_bytes,
        use=use,
        one_node_model_share=one_node,
        nodes=nodes,
        service_money=money_for_service(queries + documents, DAY, world.prices),
        encoder_money=(
            money_for_encoders(asked_texts, costs, world.prices),
            money_for_encoders(model_texts, costs, world.prices),
        ),
        cache_money=money_for_cache(pods, nodes.needed, costs, world.prices),
    )


def gives_out(uses: Sequence[tuple[int, float]], most: float) -> float | None:
    """From how many pods on too much is used; None if it is never too much.

    ``uses`` are fleets, the smallest first, and what each uses. Between them, use is taken to be a
    power of the number of pods.
    """
    fewer, less = 0, 0.0
    for pods, use in uses:
        if use > most:
            if not less:
                return pods
            part = math.log(most / less) / math.log(use / less)
            return float(fewer * (pods / fewer) ** part)
        fewer, less = pods, use
    return None


def fleets_for(background: float, node: Node) -> int:
    """Into how many fleets to part one whose sidecars take so many processors of Redis unasked.

    At most half of what may be used of the node that has the stream may go into that.
    """
    return math.ceil(background / (node.most * node.cpu / 2))


def nodes_for(cpu: float, background: float, node: Node) -> int:
    """How many nodes carry a load of processors, of which ``background`` is there unasked."""
    return max(1, math.ceil((cpu - background) / (node.most * node.cpu - background)))


def _run(pods: int, world: World, requests: float, redis_max_bytes: float) -> list[Bin]:
    scale = scale_for(pods, world.traffic, requests)
    sizes = world.sizes(redis_max_bytes)
    return simulate(world.traffic, scale, sizes, world.make_hot, world.seed)


def _peak(bins: Sequence[Bin]) -> float:
    """Texts a second that the models compute, at most."""
    return max(each.queries.model + each.documents.model for each in bins) / BIN_SECONDS


def _model_share(bins: Sequence[Bin]) -> float:
    asked = sum(each.queries.asked for each in bins)
    return sum(each.queries.model for each in bins) / asked


def _memory(pods: int, world: World, use: float, unbounded: float) -> tuple[float, int]:
    """The share that is computed with the memory of one node, and how many nodes are enough."""
    if use <= world.node.most:
        return unbounded, 1
    shares: list[float] = []
    nodes = 1
    while nodes <= _MOST_NODES:
        room = nodes * world.node.memory * world.node.most
        bins = _run(pods, world, world.requests / 2, room)
        shares.append(_model_share(between(bins, DAY, 2 * DAY)))
        if shares[-1] <= unbounded + _WORSE:
            break
        nodes *= 2
    return shares[0], nodes
