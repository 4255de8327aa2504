"""A turn that one sidecar of the fleet has at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from sidecar.cache.lease import LeaseLostError, Leases, LeaseTakenError
from sidecar.cache.redis_link import WarmUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

    OpenWarm = Callable[..., Awaitable[WarmTier]]

PREFIX = "test"


@pytest.fixture(params=["redis", "alone"])
async def pair(
    request: pytest.FixtureRequest, redis_server: DevRedis, open_warm: OpenWarm
) -> tuple[Leases, Leases]:
    """The leases as two parts see them: of two sidecars, or of one that has no Redis."""
    if request.param == "alone":
        leases = Leases(None, PREFIX)
        return leases, leases
    return tuple([Leases(await open_warm(redis_server.url), PREFIX) for _ in range(2)])  # type: ignore[return-value]


async def answer() -> int:
    return 42


async def test_only_one_has_it_at_a_time(pair: tuple[Leases, Leases]) -> None:
    one, other = pair
    inside, leave = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        inside.set()
        await leave.wait()

    task = asyncio.create_task(one.run("turn", work))
    await inside.wait()
    with pytest.raises(LeaseTakenError):
        await other.run("turn", answer)
    assert await other.run("another turn", answer) == 42
    leave.set()
    await task
    assert await other.run("turn", answer) == 42


async def test_it_is_free_again_when_the_work_fails(pair: tuple[Leases, Leases]) -> None:
    async def fail() -> None:
        raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        await pair[0].run("turn", fail, keep_seconds=60)
    assert await pair[1].run("turn", answer) == 42


async def test_it_is_free_again_when_the_holder_is_cancelled(pair: tuple[Leases, Leases]) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        inside.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(pair[0].run("turn", work))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await pair[1].run("turn", answer) == 42


async def test_it_may_be_kept_as_a_mark_that_the_work_is_done(pair: tuple[Leases, Leases]) -> None:
    await pair[0].run("turn", answer, keep_seconds=60)
    with pytest.raises(LeaseTakenError):
        await pair[1].run("turn", answer)


async def test_it_is_renewed_while_the_work_goes_on(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    one, other = [Leases(await open_warm(redis_server.url), PREFIX, 0.3) for _ in range(2)]
    inside = asyncio.Event()

    async def work() -> None:
        inside.set()
        await asyncio.sleep(1)  # some of its lifetimes

    task = asyncio.create_task(one.run("turn", work))
    await inside.wait()
    while not task.done():
        try:
            await other.run("turn", answer)
        except LeaseTakenError:
            await asyncio.sleep(0.05)
        else:
            assert task.done()
    await task


async def test_one_that_is_not_renewed_ends_by_itself(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    one, other = [Leases(await open_warm(redis_server.url), PREFIX, 0.3) for _ in range(2)]
    await one.run("turn", answer, keep_seconds=0.01)
    async with asyncio.timeout(20):
        while True:
            try:
                await other.run("turn", answer)
                return
            except LeaseTakenError:
                await asyncio.sleep(0.01)


async def test_the_work_is_cancelled_when_the_lease_is_lost(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    leases = Leases(await open_warm(own_redis.url), PREFIX, 0.3)
    ended = asyncio.Event()

    async def work() -> None:
        own_redis.kill()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(LeaseLostError):
        await leases.run("turn", work)
    assert ended.is_set()


async def test_the_work_is_cancelled_when_somebody_else_has_it(
    redis_server: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(redis_server.url)
    leases = Leases(warm, PREFIX, 0.3)

    async def work() -> None:
        await warm.run(lambda client: client.set("test:{state}:lease:turn", "somebody else"))
        await asyncio.Event().wait()

    with pytest.raises(LeaseLostError):
        await leases.run("turn", work)
    with pytest.raises(LeaseTakenError):
        await leases.run("turn", answer)


async def test_nothing_is_done_when_redis_cannot_be_asked(
    own_redis: DevRedis, open_warm: OpenWarm
) -> None:
    warm = await open_warm(own_redis.url)
    own_redis.kill()
    done = []

    async def work() -> None:
        done.append(1)

    with pytest.raises(WarmUnavailableError):
        await Leases(warm, PREFIX).run("turn", work)
    assert not done
