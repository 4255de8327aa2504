"""What an invalidation makes invalid on the sidecar that is asked: that, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2

from sidecar.cache.disk import DiskTier
from sidecar.cache.local_generations import LocalGenerations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from sidecar.dev_redis import DevRedis

    HeldModel = Any
    Sidecar = Any
    View = Callable[[DevRedis], Any]
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 30.0


def entity(name: str, text: str) -> embed_pb2.Input:
    return embed_pb2.Input(entity=embed_pb2.Entity(id=name, text=text))


@pytest.fixture(params=["memory", "disk", "redis"])
async def sidecar(
    request: pytest.FixtureRequest, start: Start, tmp_path: Path, redis_server: DevRedis
) -> AsyncIterator[Sidecar]:
    """Invalidation is the same with every combination of tiers."""
    options = {"memory": {}, "disk": {"disk": tmp_path / "disk"}, "redis": {"redis": redis_server}}
    return await start(**options[request.param])


async def test_a_tag_orphans_exactly_the_entries_that_carry_it(sidecar: Sidecar) -> None:
    await sidecar.embed("red", tags=["colour"])
    await sidecar.embed("salmon", tags=["colour", "fish"])
    await sidecar.embed("trout", tags=["fish"])
    await sidecar.embed("plain")
    everything = ("red", "salmon", "trout", "plain")
    assert await sidecar.tiers(*everything) == ["HOT"] * 4
    await sidecar.invalidate(tags=["colour"])
    assert await sidecar.tiers(*everything) == ["COMPUTED", "COMPUTED", "HOT", "HOT"]
    assert await sidecar.tiers(*everything) == ["HOT"] * 4


async def test_what_was_computed_after_an_invalidation_stays_until_the_next(
    sidecar: Sidecar,
) -> None:
    for _ in range(3):
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]
        assert await sidecar.tiers("a text") == ["HOT"]
        await sidecar.invalidate(tags=["a tag"])


async def test_several_tags_are_invalidated_at_once(sidecar: Sidecar) -> None:
    for tag in ("a", "b", "c"):
        await sidecar.embed(tag, tags=[tag])
    await sidecar.invalidate(tags=["a", "b", "unheard of"])
    assert await sidecar.tiers("a", "b", "c") == ["COMPUTED", "COMPUTED", "HOT"]


async def test_a_tag_that_a_later_call_gave_counts_too(sidecar: Sidecar) -> None:
    await sidecar.embed("a text")
    assert await sidecar.tiers("a text", tags=["later"]) == ["HOT"]
    await sidecar.invalidate(tags=["later"])
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_a_later_tag_does_not_take_the_place_of_an_earlier_one(sidecar: Sidecar) -> None:
    for first in ("early", "late"):
        await sidecar.embed("a text", tags=["early"])
        await sidecar.embed("a text", tags=["late"])
        await sidecar.invalidate(tags=[first])
        assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_tags_given_by_calls_at_the_same_time_all_count(
    start: Start, held_model: HeldModel, redis_server: DevRedis, eventually: Eventually
) -> None:
    held_model.holds = False
    sidecar = await start(redis=redis_server)
    tags = [f"tag {number}" for number in range(8)]
    for number, tag in enumerate(tags):
        await sidecar.embed("a text", mode=common_pb2.CACHE_MODE_REFRESH)
        await asyncio.gather(*(sidecar.embed("a text", tags=[other]) for other in tags))
        await sidecar.invalidate(tags=[tag])
        assert await sidecar.tiers("a text") == ["COMPUTED"], number


async def test_tags_of_callers_that_wait_for_one_computation_all_count(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    for number in range(3):
        held_model.holds = True
        begun = len(held_model.sizes)
        calls = [
            asyncio.create_task(sidecar.embed("a text", tags=[tag])) for tag in ("0", "1", "2")
        ]
        await eventually(lambda begun=begun: len(held_model.sizes) > begun)
        for _ in range(5):
            await sidecar.stats()
        held_model.let_go()
        await asyncio.gather(*calls)
        assert await sidecar.tiers("a text") == ["HOT"]
        await sidecar.invalidate(tags=[str(number)])
        assert await sidecar.tiers("a text") == ["COMPUTED"]
        await sidecar.invalidate()


async def test_a_tag_of_another_namespace_is_another_tag(sidecar: Sidecar) -> None:
    for namespace in ("a", "b"):
        await sidecar.embed("a text", namespace=namespace, tags=["a tag"])
    await sidecar.invalidate(namespace="a", tags=["a tag"])
    assert await sidecar.tiers("a text", namespace="a") == ["COMPUTED"]
    assert await sidecar.tiers("a text", namespace="b") == ["HOT"]


async def test_a_namespace_is_orphaned_at_once_and_no_other(sidecar: Sidecar) -> None:
    texts = [f"text {number}" for number in range(100)]
    for namespace in ("a", "b"):
        await sidecar.embed(*texts, namespace=namespace)
    await sidecar.invalidate(namespace="a")
    assert await sidecar.tiers(*texts, namespace="a") == ["COMPUTED"] * 100
    assert await sidecar.tiers(*texts, namespace="b") == ["HOT"] * 100
    assert await sidecar.tiers(*texts, namespace="a") == ["HOT"] * 100


async def test_an_input_is_removed_by_its_text(sidecar: Sidecar) -> None:
    await sidecar.embed("one", "two")
    await sidecar.invalidate(inputs=["one", "never seen"])
    assert await sidecar.tiers("one", "two") == ["COMPUTED", "HOT"]


async def test_an_entity_is_removed_by_its_name_whatever_its_text(sidecar: Sidecar) -> None:
    await sidecar.embed(entity("a", "a text"), entity("b", "a text"))
    await sidecar.invalidate(inputs=[entity("a", "")])
    assert await sidecar.tiers(entity("a", "a text"), entity("b", "a text")) == ["COMPUTED", "HOT"]


async def test_an_input_is_removed_for_the_input_type_it_was_stored_with(
    start: Start, make_pack: Callable[..., Path]
) -> None:
    sidecar = await start(packs=[make_pack("prompts", prompts={"query": "find: "})])
    query = {"input_type": embed_pb2.INPUT_TYPE_QUERY}
    await sidecar.embed("a text")
    await sidecar.embed("a text", **query)
    await sidecar.invalidate(inputs=["a text"], **query)
    assert await sidecar.tiers("a text") == ["HOT"]
    assert await sidecar.tiers("a text", **query) == ["COMPUTED"]


@pytest.mark.parametrize("kind", ["tags", "inputs", "namespace"])
async def test_a_stored_response_obeys_as_its_items_do(kind: str, sidecar: Sidecar) -> None:
    for _ in range(3):
        await sidecar.embed("one", "two", tags=["a tag"])
    assert (await sidecar.stats()).response_hits == 1
    await sidecar.invalidate(
        tags=["a tag"] if kind == "tags" else [], inputs=["one"] if kind == "inputs" else []
    )
    expected = {"inputs": ["COMPUTED", "HOT"]}.get(kind, ["COMPUTED", "COMPUTED"])
    assert await sidecar.tiers("one", "two", tags=["a tag"]) == expected


async def test_an_entry_carries_its_tags_to_disk_and_redis_and_back(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    for options in ({"disk": tmp_path / "disk"}, {"redis": redis_server}):
        sidecar = await start(**options)
        await sidecar.embed("tagged", "retagged")
        await sidecar.embed("tagged", tags=["a tag"], mode=common_pb2.CACHE_MODE_REFRESH)
        await sidecar.embed("retagged", tags=["a tag"])
        await sidecar.embed("other", tags=["other"])
        await sidecar.stop()
        sidecar = await start(**options)
        await sidecar.invalidate(tags=["a tag"])
        tier = "DISK" if "disk" in options else "WARM"
        tiers = await sidecar.tiers("tagged", "retagged", "other")
        assert tiers == ["COMPUTED", "COMPUTED", tier]


async def test_an_invalidation_outlives_a_restart(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    for options in ({"disk": tmp_path / "disk"}, {"redis": redis_server}):
        sidecar = await start(**options)
        await sidecar.embed("tagged", tags=["a tag"])
        await sidecar.embed("removed", "stays")
        await sidecar.embed("a text", namespace="gone")
        await sidecar.invalidate(tags=["a tag"])
        await sidecar.invalidate(inputs=["removed"])
        await sidecar.invalidate(namespace="gone")
        await sidecar.stop()
        sidecar = await start(**options)
        tier = "DISK" if "disk" in options else "WARM"
        tiers = await sidecar.tiers("tagged", "removed", "stays")
        assert tiers == ["COMPUTED", "COMPUTED", tier]
        assert await sidecar.tiers("a text", namespace="gone") == ["COMPUTED"]
        await sidecar.stop()


@pytest.mark.parametrize("kind", ["tags", "inputs", "namespace"])
async def test_what_was_being_computed_meanwhile_is_not_stored(
    kind: str, start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    call = asyncio.create_task(sidecar.tiers("a text", tags=["a tag"]))
    await eventually(lambda: held_model.sizes)
    await sidecar.invalidate(
        tags=["a tag"] if kind == "tags" else [], inputs=["a text"] if kind == "inputs" else []
    )
    held_model.let_go()
    assert await call == ["COMPUTED"]
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_a_caller_that_joins_after_a_removal_does_not_bring_the_entry_back(
    start: Start, held_model: HeldModel, eventually: Eventually
) -> None:
    sidecar = await start()
    before = asyncio.create_task(sidecar.tiers("a text"))
    await eventually(lambda: held_model.sizes)
    await sidecar.invalidate(inputs=["a text"])
    after = asyncio.create_task(sidecar.tiers("a text"))
    for _ in range(5):
        await sidecar.stats()
    held_model.let_go()
    # Who asks after the removal is given nothing that was begun before it.
    assert [await before, await after] == [["COMPUTED"], ["COMPUTED"]]
    assert await sidecar.tiers("a text") == ["HOT"]


async def test_more_tags_than_an_entry_can_carry_remove_it(sidecar: Sidecar) -> None:
    for number in range(5):
        assert await sidecar.tiers("a text", tags=[f"{number} {other}" for other in range(16)]) == (
            ["HOT"] if number else ["COMPUTED"]
        )
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_flushing_makes_nothing_invalid(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    sidecar = await start(redis=redis_server, disk=tmp_path / "disk")
    await sidecar.embed("one", "two")
    await sidecar.on_disk(2)
    assert await sidecar.flush() == 4
    assert await sidecar.tiers("one", "two") == ["WARM", "WARM"]
    assert await sidecar.flush(common_pb2.TIER_DISK) >= 0
    assert await sidecar.tiers("one", "two") == ["HOT", "HOT"]


async def test_without_redis_nobody_else_has_to_be_told(start: Start) -> None:
    sidecar = await start()
    request = cache_pb2.InvalidateRequest()
    request.whole_namespace.SetInParent()
    await sidecar.caches.Invalidate(request, timeout=HANG_GUARD)


class Gate:
    """Holds the results of an asynchronous method back until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        method = getattr(owner, name)

        async def held(*arguments: Any) -> Any:
            result = await method(*arguments)
            self.reached.set()
            await asyncio.wait_for(self.open.wait(), HANG_GUARD)
            return result

        monkeypatch.setattr(owner, name, held)


async def test_a_response_made_before_an_invalidation_is_not_served_after_it(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start()
    await sidecar.embed("a text", tags=["old"])
    gate = Gate(monkeypatch, LocalGenerations, "generations")
    call = asyncio.create_task(sidecar.tiers("a text", tags=["new"]))
    await asyncio.wait_for(gate.reached.wait(), HANG_GUARD)
    await sidecar.invalidate(tags=["old"])
    gate.open.set()
    assert await call == ["HOT"]
    assert await sidecar.tiers("a text", tags=["new"]) == ["COMPUTED"]


@pytest.mark.parametrize("only_if_cached", [False, True])
async def test_an_entry_that_is_removed_while_it_is_read_is_not_kept(
    only_if_cached: bool, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start(disk=tmp_path / "disk")
    await sidecar.embed("a text")
    await sidecar.on_disk(1)
    await sidecar.flush(common_pb2.TIER_HOT)
    gate = Gate(monkeypatch, DiskTier, "get_many")
    mode = {"mode": common_pb2.CACHE_MODE_ONLY_IF_CACHED} if only_if_cached else {}
    call = asyncio.create_task(sidecar.tiers("a text", **mode))
    await asyncio.wait_for(gate.reached.wait(), HANG_GUARD)
    await sidecar.invalidate(inputs=["a text"])
    gate.open.set()
    assert await call == ["DISK"]
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_an_entry_that_is_removed_while_it_is_given_a_tag_does_not_come_back(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    sidecar = await start()
    await sidecar.embed("a text")
    gate = Gate(monkeypatch, LocalGenerations, "generations")
    call = asyncio.create_task(sidecar.tiers("a text", tags=["new"]))
    await asyncio.wait_for(gate.reached.wait(), HANG_GUARD)
    await sidecar.invalidate(inputs=["a text"])
    gate.open.set()
    assert await call == ["HOT"]
    assert await sidecar.tiers("a text") == ["COMPUTED"]
