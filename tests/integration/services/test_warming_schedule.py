"""Warming in a window of the day, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog
from embercache.v1 import embed_pb2
from hypothesis import given
from hypothesis import strategies as st

from sidecar.access.caller import is_our_own
from sidecar.cache.lease import Leases
from sidecar.cache.popular import PopularQueries
from sidecar.services.errors import CallError
from sidecar.services.warming import Warmer
from sidecar.services.warming_schedule import WarmingSchedule, Window

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.cache.warm import WarmTier
    from sidecar.dev_redis import DevRedis

minutes = st.integers(0, 24 * 60 - 1)


def at(text: str) -> float:
    """Seconds since the epoch of a UTC time on a day in 2026, or of a day and a time."""
    return (
        datetime.fromisoformat(f"2026-03-{text}" if " " in text else f"2026-03-10 {text}")
        .replace(tzinfo=UTC)
        .timestamp()
    )


class Fleet:
    """Sidecars that warm by the same clock; ``texts`` are those that were asked for."""

    def __init__(self) -> None:
        self.now = at("00:00")
        self.texts: list[str] = []
        self.are_our_own: list[bool] = []
        self.begun = asyncio.Event()
        self.waits: asyncio.Event | None = None
        self.error: CallError | None = None

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def embed(self, raw: bytes) -> bytes:
        request = embed_pb2.EmbedRequest.FromString(raw)
        self.begun.set()
        self.are_our_own.append(is_our_own())
        if self.error is not None:
            raise self.error
        if self.waits is not None:
            await self.waits.wait()
        self.texts += [item.text for item in request.inputs]
        response = embed_pb2.EmbedResponse(
            embeddings=[embed_pb2.Embedding(tier="TIER_COMPUTED") for _ in request.inputs]
        )
        return response.SerializeToString()

    def schedule(self, popular: PopularQueries, leases: Leases, window: str) -> WarmingSchedule:
        return WarmingSchedule(
            Window.parse(window),
            Warmer(self.embed, self.embed, popular, str, sleep=self.sleep),
            popular,
            leases,
            queries=2,
            per_second=1e6,
            clock=lambda: self.now,
        )


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def popular() -> PopularQueries:
    popular = PopularQueries(10, None, "test")
    for namespace in ("n", "m"):
        for number, name in enumerate("abc"):
            request = embed_pb2.EmbedRequest(
                inputs=[embed_pb2.Input(text=f"{namespace} {name}")], namespace=namespace
            )
            popular.note("embed", namespace, request.SerializeToString(), 10 - number)
    return popular


@pytest.mark.parametrize(
    ("window", "time", "opened"),
    [
        ("02:00-05:00", "01:59", None),
        ("02:00-05:00", "02:00", "02:00"),
        ("02:00-05:00", "04:59", "02:00"),
        ("02:00-05:00", "05:00", None),
        ("22:30-01:15", "23:00", "22:30"),
        ("22:30-01:15", "01:00", "09 22:30"),
        ("22:30-01:15", "01:15", None),
        ("22:30-01:15", "12:00", None),
        ("06:00-06:00", "05:00", "09 06:00"),
        ("06:00-06:00", "07:00", "06:00"),
    ],
)
def test_a_window_is_open_at_the_times_given(window: str, time: str, opened: str | None) -> None:
    assert Window.parse(window).opened(at(time)) == (None if opened is None else at(opened))


@given(minutes, minutes, st.integers(0, 10**9))
def test_a_window_is_open_for_its_length_every_day(begin: int, end: int, now: int) -> None:
    window = Window.parse(f"{begin // 60:02}:{begin % 60:02}-{end // 60:02}:{end % 60:02}")
    opened = window.opened(now)
    if opened is not None:
        assert opened <= now < opened + window.seconds
        assert opened % 86400 == begin * 60
        assert (opened + window.seconds) % 86400 == end * 60
    assert (opened is not None) == (window.opened(now + 86400) is not None)


async def test_popular_queries_of_every_namespace_are_warmed_in_the_window(
    fleet: Fleet, popular: PopularQueries
) -> None:
    schedule = fleet.schedule(popular, Leases(None, "test"), "02:00-05:00")
    await schedule.look()
    assert fleet.texts == []
    fleet.now = at("02:00")
    await schedule.look()
    assert sorted(fleet.texts) == ["m a", "m b", "n a", "n b"]


async def test_no_caller_is_charged_for_it(fleet: Fleet, popular: PopularQueries) -> None:
    fleet.now = at("02:00")
    await fleet.schedule(popular, Leases(None, "test"), "02:00-05:00").look()
    assert fleet.are_our_own
    assert all(fleet.are_our_own)


async def test_they_are_warmed_once_in_each_window(fleet: Fleet, popular: PopularQueries) -> None:
    schedule = fleet.schedule(popular, Leases(None, "test"), "23:00-02:00")
    for time in ("10 23:00", "10 23:30", "11 01:59", "11 02:00", "11 12:00"):
        fleet.now = at(time)
        await schedule.look()
    assert len(fleet.texts) == 4
    fleet.now = at("11 23:10")
    await schedule.look()
    assert len(fleet.texts) == 8


async def test_one_sidecar_of_all_does_it(
    fleet: Fleet,
    popular: PopularQueries,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> None:
    schedules = [
        fleet.schedule(popular, Leases(await open_warm(redis_server.url), "test"), "02:00-05:00")
        for _ in range(3)
    ]
    fleet.now = at("03:00")
    await asyncio.gather(*(schedule.look() for schedule in schedules))
    fleet.now = at("03:01")
    await asyncio.gather(*(schedule.look() for schedule in schedules))
    assert sorted(fleet.texts) == ["m a", "m b", "n a", "n b"]


async def test_another_goes_on_when_the_one_that_did_it_ends(
    fleet: Fleet,
    popular: PopularQueries,
    redis_server: DevRedis,
    open_warm: Callable[..., Awaitable[WarmTier]],
) -> None:
    one, other = [
        fleet.schedule(popular, Leases(await open_warm(redis_server.url), "test"), "02:00-05:00")
        for _ in range(2)
    ]
    fleet.now = at("03:00")
    fleet.waits = asyncio.Event()
    first = asyncio.create_task(one.look())
    await fleet.begun.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    fleet.waits.set()
    await other.look()
    assert sorted(fleet.texts) == ["m a", "m b", "n a", "n b"]


async def test_it_is_tried_again_while_the_model_is_away(
    fleet: Fleet, popular: PopularQueries
) -> None:
    schedule = fleet.schedule(popular, Leases(None, "test"), "02:00-05:00")
    fleet.error = CallError(grpc.StatusCode.UNAVAILABLE, "the model is away")
    fleet.now = at("02:00")
    with pytest.raises(CallError), structlog.testing.capture_logs() as logs:
        await schedule.look()
    assert logs[-1]["event"] == "scheduled warming ends"
    assert logs[-1]["statuses"] == {"UNAVAILABLE": 2}
    fleet.error = None
    await schedule.look()
    assert sorted(fleet.texts) == ["m a", "m b", "n a", "n b"]


async def test_the_rest_is_left_out_when_the_window_closes(
    fleet: Fleet, popular: PopularQueries
) -> None:
    schedule = fleet.schedule(popular, Leases(None, "test"), "02:00-05:00")
    fleet.now = at("05:00") - 0.05
    fleet.waits = asyncio.Event()
    await schedule.look()
    assert fleet.texts == []
