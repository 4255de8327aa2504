"""What an invalidation makes invalid on the sidecar that is asked: that, and nothing else."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import cache_pb2, common_pb2, embed_pb2

from sidecar.cache.disk import DiskTier

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
    tags = {"red": ["colour"], "salmon": ["colour", "fish"], "trout": ["fish"], "plain": []}

    async def tiers() -> list[str]:
        return [(await sidecar.tiers(text, tags=tags[text]))[0] for text in tags]

    assert await tiers() == ["COMPUTED"] * 4
    assert await tiers() == ["HOT"] * 4
    await sidecar.invalidate(tags=["colour"])
    assert await tiers() == ["COMPUTED", "COMPUTED", "HOT", "HOT"]
    assert await tiers() == ["HOT"] * 4


async def test_what_was_computed_after_an_invalidation_stays_until_the_next(
    sidecar: Sidecar,
) -> None:
    for _ in range(3):
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["HOT"]
        await sidecar.invalidate(tags=["a tag"])


async def test_several_tags_are_invalidated_at_once(sidecar: Sidecar) -> None:
    for tag in ("a", "b", "c"):
        await sidecar.embed(tag, tags=[tag])
    await sidecar.invalidate(tags=["a", "b", "unheard of"])
    tiers = [(await sidecar.tiers(tag, tags=[tag]))[0] for tag in ("a", "b", "c")]
    assert tiers == ["COMPUTED", "COMPUTED", "HOT"]


async def test_calls_that_give_other_tags_have_entries_of_their_own(sidecar: Sidecar) -> None:
    for tags in ([], ["a"], ["b"], ["a", "b"]):
        assert await sidecar.tiers("a text", tags=tags) == ["COMPUTED"]
    assert await sidecar.tiers("a text", tags=["b", "a", "b"]) == ["HOT"]
    await sidecar.invalidate(tags=["a"])
    for tags, tier in (([], "HOT"), (["a"], "COMPUTED"), (["b"], "HOT"), (["a", "b"], "COMPUTED")):
        assert await sidecar.tiers("a text", tags=tags) == [tier]


async def test_an_input_is_removed_for_the_tags_it_was_stored_with(sidecar: Sidecar) -> None:
    await sidecar.embed("a text")
    await sidecar.embed("a text", tags=["a tag"])
    await sidecar.invalidate(inputs=["a text"], input_tags=["a tag"])
    assert await sidecar.tiers("a text") == ["HOT"]
    assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]


async def test_a_tag_of_another_namespace_is_another_tag(sidecar: Sidecar) -> None:
    for namespace in ("a", "b"):
        await sidecar.embed("a text", namespace=namespace, tags=["a tag"])
    await sidecar.invalidate(namespace="a", tags=["a tag"])
    for namespace, tier in (("a", "COMPUTED"), ("b", "HOT")):
        tiers = await sidecar.tiers("a text", namespace=namespace, tags=["a tag"])
        assert tiers == [tier]


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
        tags=["a tag"] if kind == "tags" else [],
        inputs=["one"] if kind == "inputs" else [],
        input_tags=["a tag"],
    )
    expected = {"inputs": ["COMPUTED", "HOT"]}.get(kind, ["COMPUTED", "COMPUTED"])
    assert await sidecar.tiers("one", "two", tags=["a tag"]) == expected


async def test_an_entry_carries_its_tags_to_disk_and_redis_and_back(
    start: Start, redis_server: DevRedis, tmp_path: Path
) -> None:
    for options in ({"disk": tmp_path / "disk"}, {"redis": redis_server}):
        sidecar = await start(**options)
        await sidecar.embed("a text", tags=["a tag"])
        await sidecar.embed("a text", tags=["other"])
        await sidecar.stop()
        sidecar = await start(**options)
        await sidecar.invalidate(tags=["a tag"])
        tier = "DISK" if "disk" in options else "WARM"
        assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]
        assert await sidecar.tiers("a text", tags=["other"]) == [tier]


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
        assert await sidecar.tiers("tagged", tags=["a tag"]) == ["COMPUTED"]
        assert await sidecar.tiers("removed", "stays") == ["COMPUTED", tier]
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
        tags=["a tag"] if kind == "tags" else [],
        inputs=["a text"] if kind == "inputs" else [],
        input_tags=["a tag"],
    )
    held_model.let_go()
    assert await call == ["COMPUTED"]
    assert await sidecar.tiers("a text", tags=["a tag"]) == ["COMPUTED"]


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
