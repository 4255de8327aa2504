"""The warm tier on a real Redis cluster of three nodes."""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from redis import Redis
from redis.crc import key_slot

from sidecar.cache.events import Event, EventConsumer
from sidecar.cache.follower import InvalidationFollower
from sidecar.cache.generations import Generations, kind_scope
from sidecar.cache.popular import PopularQueries
from sidecar.cache.prefix_tiers import WarmBlocks
from sidecar.cache.redis_generations import RedisGenerations
from sidecar.cache.redis_popular import MAX_NAMESPACES
from sidecar.cache.warm import WarmUnavailableError
from sidecar.dev_redis import DevRedis

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from sidecar.cache.warm import WarmTier

    OpenWarm = Callable[..., Awaitable[WarmTier]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

SLOTS = 16384


class Cluster:
    def __init__(self, servers: list[DevRedis], ports: list[int]) -> None:
        self.servers = servers
        self.ports = ports
        self.nodes = [Redis(unix_socket_path=str(server.socket_path)) for server in servers]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def join(self, bus_ports: list[int]) -> None:
        for index, node in enumerate(self.nodes):
            first, last = share(index)
            node.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for port, bus_port in zip(self.ports[1:], bus_ports[1:], strict=True):
            self.nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", port, bus_port)

    @property
    def ready(self) -> bool:
        return all(self.ok(node) for node in self.nodes)

    def ok(self, node: Redis) -> bool:
        info = node.execute_command("CLUSTER INFO")
        return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == 3

    def owner(self, key: bytes) -> int:
        return next(i for i in range(3) if share(i)[0] <= key_slot(key) <= share(i)[1])


def share(index: int) -> tuple[int, int]:
    return index * SLOTS // 3, (index + 1) * SLOTS // 3 - 1


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """Shared, because a node takes two seconds before it calls its cluster complete."""
    ports, bus_ports = free_ports(3), free_ports(3)
    with ExitStack() as stack:
        pairs = zip(ports, bus_ports, strict=True)
        servers = [stack.enter_context(node(port, bus)) for port, bus in pairs]
        cluster = Cluster(servers, ports)
        cluster.join(bus_ports)
        give_up = time.monotonic() + 30
        while not cluster.ready:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield cluster
        for each in cluster.nodes:
            each.close()


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Cluster:
    for each in shared_cluster.nodes:
        each.flushall()
    return shared_cluster


def node(port: int, bus_port: int) -> DevRedis:
    return DevRedis(
        port=port,
        arguments=[
            *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
            *("--cluster-node-timeout", "10000"),
        ],
    )


KEYS = [b"key %d" % i for i in range(60)]


async def store(warm: WarmTier, keys: list[bytes]) -> None:
    for key in keys:
        warm.put(key, b"value of " + key, 0, replace=True)
    assert await warm.flush(20)


async def test_values_of_all_nodes_come_in_the_order_of_the_keys(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    assert warm.state == "up"
    await store(warm, KEYS)
    assert {cluster.owner(key) for key in KEYS} == {0, 1, 2}
    got = await warm.get_many([b"missing", *KEYS])
    assert got == [None, *(b"value of " + key for key in KEYS)]
    assert (warm.counters.lookups, warm.counters.found) == (61, 60)


async def test_blocks_of_all_nodes_come_in_the_order_of_the_prompt(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    tier = WarmBlocks(warm)
    for key in KEYS:
        assert await tier.put(key, b"value of " + key, 0)
    assert await warm.flush(20)
    assert await tier.get_many(KEYS, 20) == [b"value of " + key for key in KEYS]
    assert (await tier.get_many([KEYS[0], b"missing", *KEYS], 20))[:2] == [b"value of key 0", None]


async def test_a_lookup_is_one_round_trip_to_each_node(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    await store(warm, KEYS)

    def reads() -> list[int]:
        return [int(node.info("stats")["total_reads_processed"]) for node in cluster.nodes]

    idle = [later - now for now, later in zip(reads(), reads(), strict=True)]
    before = reads()
    await warm.get_many(KEYS)
    after = reads()
    # The nodes talk on another port; what is read besides is our own INFO.
    assert [b - a - i for a, b, i in zip(before, after, idle, strict=True)] == [1, 1, 1]


async def test_writes_are_in_order_and_the_first_wins(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    for key in KEYS:
        warm.put(key, b"first", 0, replace=False)
        warm.put(key, b"second", 0, replace=False)
    assert await warm.flush(20)
    assert await warm.get_many(KEYS) == [b"first"] * 60
    for key in KEYS:
        warm.put(key, b"third", 0, replace=True)
    await warm.delete_many(KEYS[:30])
    assert await warm.get_many(KEYS) == [None] * 30 + [b"third"] * 30


async def test_keys_that_moved_to_another_node_are_found(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    await store(warm, KEYS)
    moved = next(key for key in KEYS if cluster.owner(key) == 0)
    slot = key_slot(moved)
    source, target = cluster.nodes[0], cluster.nodes[1]
    ids = [node.execute_command("CLUSTER MYID").decode() for node in cluster.nodes]
    target.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ids[0])
    source.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", ids[1])
    source.execute_command("MIGRATE", "127.0.0.1", cluster.ports[1], moved, 0, 5000)
    # While it moves the source says ASK, which redis-py may not follow; afterwards MOVED.
    during = dict(zip(KEYS, await warm.get_many(KEYS), strict=True))
    assert during.pop(moved) in (None, b"value of " + moved)
    assert during == {key: b"value of " + key for key in KEYS if key != moved}
    errors = warm.counters.errors
    for each in (target, source):
        each.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[1])
    assert await warm.get_many(KEYS) == [b"value of " + key for key in KEYS]
    warm.put(moved, b"new", 0, replace=True)
    assert await warm.flush(20)
    assert await warm.get_many([moved]) == [b"new"]
    assert warm.counters.errors == errors
    assert warm.state == "up"
    target.delete(moved)
    for each in (source, target):
        each.execute_command("CLUSTER SETSLOT", slot, "NODE", ids[0])


async def test_losing_a_node_is_an_outage_until_it_is_back(
    cluster: Cluster, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(cluster.url)
    await store(warm, KEYS)
    lost = [key for key in KEYS if cluster.owner(key) == 2]
    cluster.servers[2].kill()
    got = await warm.get_many(KEYS)
    assert [key for key, value in zip(KEYS, got, strict=True) if value is None] == lost
    assert warm.counters.errors == len(lost)
    assert warm.state == "down"
    assert await warm.get_many(KEYS) == [None] * 60
    assert warm.counters.skipped == 60
    cluster.servers[2].start()
    await eventually(lambda: warm.state == "up")
    await eventually(lambda: cluster.ready)
    async with asyncio.timeout(20):
        # The client may have to learn the layout of the cluster anew; writes until then are lost.
        while await warm.get_many(KEYS) != [b"value of " + key for key in KEYS]:
            await store(warm, KEYS)


async def test_when_all_connections_are_in_use_another_is_opened_to_the_node_that_needs_it(
    cluster: Cluster, open_warm: OpenWarm, eventually: Eventually
) -> None:
    warm = await open_warm(cluster.url)
    key = KEYS[0]

    def connections() -> list[int]:
        return [len(node.client_list()) for node in cluster.nodes]

    before = connections()
    held = [
        asyncio.create_task(warm.run(lambda client: client.blpop([key], timeout=60), 60))
        for _ in range(6)
    ]
    expected = [count + (i == cluster.owner(key)) for i, count in enumerate(before)]
    await eventually(lambda: connections() == expected)
    for task in held:
        task.cancel()
    await asyncio.wait(held)


async def test_closing_while_a_node_is_lost_leaves_no_connection_to_the_others(
    cluster: Cluster, open_warm: OpenWarm, eventually: Eventually
) -> None:
    def connections() -> int:
        return sum(len(node.client_list()) for node in cluster.nodes[:2])

    before = connections()
    warm = await open_warm(cluster.url)
    assert connections() > before
    cluster.servers[2].kill()
    lost = next(key for key in KEYS if cluster.owner(key) == 2)
    with pytest.raises(WarmUnavailableError):
        await warm.run(lambda redis: redis.get(lost))
    await warm.close()
    await eventually(lambda: connections() == before)
    cluster.servers[2].start()
    await eventually(lambda: cluster.ready)


async def test_lookups_that_were_cancelled_leave_no_reply_to_others(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    await store(warm, KEYS)
    for turn in range(60):
        doomed = asyncio.create_task(warm.run(lambda redis: redis.get(KEYS[0])))
        for _ in range(turn % 12):
            await asyncio.sleep(0)
        doomed.cancel()
        asked = KEYS[turn::7]
        assert await warm.get_many(asked) == [b"value of " + key for key in asked]
        await asyncio.gather(doomed, return_exceptions=True)
    assert warm.counters.errors == 0


async def test_invalidations_are_shared_through_a_cluster(
    cluster: Cluster, open_warm: OpenWarm, eventually: Eventually
) -> None:
    """Epochs, tags and the stream live on one node, and removals on the nodes of their keys."""
    stores = [RedisGenerations(await open_warm(cluster.url), "test") for _ in range(2)]
    one, two = (Generations(store) for store in stores)
    removed: list[bytes] = []

    async def nothing() -> None:
        return None

    async def settled() -> bool:
        return True

    follower = InvalidationFollower(
        await open_warm(cluster.url),
        stores[1].stream,
        two,
        remove=removed.extend,
        lost=nothing,
        settle=settled,
        file=None,
    )
    await follower.start()
    task = asyncio.create_task(follower.run())
    tag = b"t" * 16
    here, there = await one.state("n"), await two.state("n")
    await one.resolve(here, [tag])
    await two.resolve(there, [tag])
    epoch, generation = there.epoch, there.generation(tag)
    await one.announce("n", tag, b"change")
    await one.invalidate_namespace("n")
    await one.invalidate_scope("n", kind_scope("search"))
    await one.remove_shared(here, [b"a", b"b", b"c"])
    await eventually(lambda: removed == [b"a", b"b", b"c"])
    assert there.epoch == here.epoch > epoch
    assert there.epoch_of("search", "m", "v") == here.epoch_of("search", "m", "v") > there.epoch
    assert there.generation(tag) == here.generation(tag) != generation
    assert generation is not None
    assert there.changes_since(tag, generation) == [b"change"]
    late = await Generations(stores[1]).state("n")
    assert late.epoch_of("search", "m", "v") == here.epoch_of("search", "m", "v")
    task.cancel()
    await asyncio.wait({task})


async def test_events_are_consumed_from_a_cluster(
    cluster: Cluster,
    open_warm: OpenWarm,
    eventually: Eventually,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.cache.events.STREAM_LENGTH", 0)
    applied: list[Event] = []

    async def apply(event: Event) -> None:
        applied.append(event)

    warm = await open_warm(cluster.url)
    consumer = EventConsumer(warm, "test", apply)
    task = asyncio.create_task(consumer.run())
    fields = {"type": "deleted", "id": "a"}
    await warm.run(lambda redis: redis.xadd(consumer.stream, fields))
    await eventually(lambda: applied == [Event("deleted", "default", "default", ("a",), ())])
    await consumer._claim()
    await consumer._clean()
    assert consumer.counters.pending_age == 0
    task.cancel()
    await asyncio.wait({task})


async def test_popular_queries_of_a_bounded_number_of_namespaces_are_counted_in_a_cluster(
    cluster: Cluster, open_warm: OpenWarm
) -> None:
    warm = await open_warm(cluster.url)
    for part in range(2):
        popular = PopularQueries(20, warm, "test")
        for number in range(MAX_NAMESPACES):
            popular.note("embed", f"{part}-{number}", b"q")
        await popular.share()
    assert [each.request for each in await popular.top("1-0", 5)] == [b"q"]
    assert len(await popular.namespaces()) == MAX_NAMESPACES
    assert sum(each.dbsize() for each in cluster.nodes) == 2 * MAX_NAMESPACES + 2
