"""A busy model: who has a deadline, who waits on purpose, and whose turn it is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from embercache.v1 import cache_pb2, search_pb2

from sidecar.models.speed import Speed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    HeldModel = Any
    Sidecar = Any
    Start = Callable[..., Awaitable[Any]]
    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is known to take hours for a run."""
    monkeypatch.setattr(Speed, "per_second", 1e-4)


async def status(sidecar: Sidecar, text: str, seconds: float | None) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sidecar.embeds.Embed(sidecar.request(text), timeout=seconds)
    return error.value


@pytest.fixture
async def busy(
    start: Start, slow: None, held_model: HeldModel, eventually: Eventually
) -> tuple[Sidecar, asyncio.Task[Any]]:
    """A sidecar whose model is at work on the text "running"; the text "old" is hot."""
    held_model.holds = False
    sidecar = await start()
    await sidecar.embed("old")
    held_model.holds = True
    running = asyncio.create_task(sidecar.embed("running"))
    await eventually(lambda: len(held_model.sizes) == 2)
    return sidecar, running


async def settle(sidecar: Sidecar) -> None:
    """Until the calls that were made before have come where they wait."""
    for _ in range(5):
        await sidecar.stats()


async def queued(sidecar: Sidecar, count: int) -> None:
    async with asyncio.timeout(30):
        while (await sidecar.stats()).models[0].queued != count:
            pass


@pytest.mark.threat("A caller asks for more than the model can do")
async def test_a_miss_that_would_come_too_late_is_refused_at_once_and_told_when_to_try_again(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    error = await status(sidecar, "new", 20)
    assert error.code() is EXHAUSTED
    assert "the call's deadline is in" in (error.details() or "")
    told = dict(error.trailing_metadata() or ())
    assert int(told["grpc-retry-pushback-ms"]) >= 100
    assert told["embercache-reason"] == "deadline"
    stats = (await sidecar.stats()).models[0]
    assert (stats.shed, stats.refused_late, stats.dropped_late, stats.queued) == (1, 1, 0, 0)
    held_model.let_go()
    await running


@pytest.mark.threat("A caller asks for more than the model can do")
async def test_hits_are_never_refused(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    await status(sidecar, "new", 20)
    assert await sidecar.tiers("old") == ["HOT"]
    held_model.let_go()
    await running


async def test_a_miss_without_a_deadline_waits_however_long_it_takes(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    waiting = asyncio.ensure_future(sidecar.embeds.Embed(sidecar.request("bulk")))
    await queued(sidecar, 1)
    assert (await sidecar.stats()).models[0].queue_seconds > 60
    held_model.let_go()
    assert (await waiting).embeddings[0].vector
    await running


async def test_who_joins_one_that_waits_without_a_deadline_needs_none_of_his_own(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    waiting = asyncio.ensure_future(sidecar.embeds.Embed(sidecar.request("bulk")))
    await queued(sidecar, 1)
    joining = asyncio.create_task(sidecar.tiers("bulk"))
    await settle(sidecar)
    held_model.let_go()
    assert await joining == ["COALESCED"]
    await asyncio.gather(waiting, running)


async def test_the_pair_of_a_reranker_is_refused_like_a_text(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    request = search_pb2.RerankRequest(query="a query", passages=["a passage"])
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await sidecar.searches.Rerank(request, timeout=20)
    assert error.value.code() is EXHAUSTED
    held_model.let_go()
    await running


@pytest.mark.parametrize(("share", "is_taken"), [(1, False), (10, True)])
@pytest.mark.threat("A caller takes the model for himself")
async def test_a_namespace_with_a_larger_share_has_less_to_wait_for(
    share: int,
    is_taken: bool,
    start: Start,
    held_model: HeldModel,
    eventually: Eventually,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"quotas: {{shop: {{share: {share}}}}}")
    sidecar = await start(access={"policy_file": policy})
    calls = [asyncio.create_task(sidecar.embed("running"))]
    await eventually(lambda: held_model.sizes)
    # Of eight texts of 64 tokens a run is made; one takes 5 seconds, it is believed.
    monkeypatch.setattr(Speed, "per_second", 0.2)
    for namespace, count in (("bulk", 80), ("shop", 8)):
        texts = [f"{number:064}" for number in range(count)]
        request = sidecar.request(*texts, namespace=namespace)
        calls.append(asyncio.ensure_future(sidecar.embeds.Embed(request)))
    async with asyncio.timeout(30):  # until they are tokenised
        while (await sidecar.stats()).models[0].queue_seconds < 88 / 8 * 5:
            pass
    request = sidecar.request("x" * 64, namespace="shop")
    last = asyncio.ensure_future(sidecar.embeds.Embed(request, timeout=32))
    if is_taken:
        await queued(sidecar, 89)
        held_model.let_go()
        assert (await last).embeddings[0].vector
    else:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await last
        assert error.value.code() is EXHAUSTED
    held_model.let_go()
    await asyncio.gather(*calls)


# What nobody waits for


def text(name: str) -> str:
    """A text of 8 tokens, which are taken for fewer until it is tokenised."""
    return name * 8


async def warm(sidecar: Sidecar, names: str) -> None:
    request = cache_pb2.WarmRequest(embed=sidecar.request(*map(text, names)))
    async for _ in sidecar.caches.Warm(request):
        pass


async def tokenised(sidecar: Sidecar, count: int) -> None:
    """Until so many texts wait for the `slow` model, behind a run of 371 seconds."""
    async with asyncio.timeout(30):
        while (await sidecar.stats()).models[0].queue_seconds < 340 + 156 * count:
            pass


async def test_what_is_warmed_comes_after_what_somebody_waits_for(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    warming = asyncio.create_task(warm(sidecar, "ab"))
    await tokenised(sidecar, 2)
    later = asyncio.ensure_future(sidecar.embeds.Embed(sidecar.request(text("c"))))
    await tokenised(sidecar, 3)
    held_model.let_go()
    await asyncio.gather(running, warming, later)
    assert held_model.sizes == [1, 1, 1, 2]


async def test_what_is_being_warmed_goes_first_once_somebody_waits_for_it(
    busy: tuple[Sidecar, asyncio.Task[Any]], held_model: HeldModel
) -> None:
    sidecar, running = busy
    calls = [running]
    for names, count in (("ab", 2), ("cde", 5)):
        calls.append(asyncio.create_task(warm(sidecar, names)))
        await tokenised(sidecar, count)
    calls.append(asyncio.ensure_future(sidecar.embeds.Embed(sidecar.request(text("d")))))
    await settle(sidecar)
    held_model.let_go()
    await asyncio.gather(*calls)
    assert held_model.sizes == [1, 1, 3, 2]
