"""OpenAI-compatible services that fail: few repetitions, and none at all for a while."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cache.breaker import open_breakers
from sidecar.demand import within
from sidecar.models import openai_repeats
from sidecar.models.openai_client import OpenAIClient
from sidecar.models.openai_key import OpenAIKey
from sidecar.models.openai_repeats import RepetitionBudget
from sidecar.models.openai_target import parse_target
from sidecar.models.types import ModelUnavailableError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]

HANG_GUARD = 20.0
BODY = {"model": "theirs"}


class Service:
    """Answers every call with ``status``; a stream, if that is 200, with events and no end.

    Probes get ``probe_status``, or the same.
    """

    def __init__(self) -> None:
        self.status = 200
        self.headers: dict[str, str] = {"Retry-After-Ms": "1"}
        self.probe_status: int | None = None
        self.calls = 0
        self.probes = 0
        self.port = 0

    async def post(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        if self.status != 200 or not (await request.json()).get("stream"):
            return web.json_response({}, status=self.status, headers=self.headers)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"one": 1}\n\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async def models(self, _request: web.Request) -> web.Response:
        self.probes += 1
        return web.json_response({}, status=self.probe_status or self.status)

    @property
    def is_left_alone(self) -> bool:
        return open_breakers()[f"openai 127.0.0.1:{self.port}"]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    made = Service()
    app = web.Application()
    app.router.add_post("/v1/embeddings", made.post)
    app.router.add_get("/v1/models", made.models)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
async def connect(service: Service) -> AsyncIterator[Callable[..., OpenAIClient]]:
    """Makes clients of the service."""
    made: list[OpenAIClient] = []

    def make(retries: int = 0) -> OpenAIClient:
        address = f"openai+http://127.0.0.1:{service.port}/v1"
        target = parse_target(address, "encoder.target", has_key=False, insecure=False)
        made.append(OpenAIClient(target, OpenAIKey(""), timeout=HANG_GUARD, retries=retries))
        return made[-1]

    yield make
    for client in made:
        await client.close()


async def outcome(client: OpenAIClient) -> Any:
    """What a call gives, or its error."""
    try:
        async with asyncio.timeout(HANG_GUARD):
            return await client.post("/embeddings", BODY)
    except Exception as error:
        return error


async def test_a_service_that_fails_five_times_in_a_row_is_left_alone_until_it_answers(
    service: Service, connect: Any, eventually: Eventually
) -> None:
    client = connect()
    service.status = 503
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert "status 503" in str(await outcome(client))
        await eventually(lambda: service.is_left_alone)
        for _ in range(50):
            error = await outcome(client)
            assert isinstance(error, ModelUnavailableError)
            assert f"127.0.0.1:{service.port} failed again and again of late" in str(error)
        assert service.calls == 5
        await eventually(lambda: service.probes >= 2)
        assert service.is_left_alone
        service.status = 200
        await eventually(lambda: not service.is_left_alone)
    assert service.calls == 5
    assert await outcome(client) == {}
    assert len([log for log in logs if log["event"] == "circuit breaker opened"]) == 1


async def test_a_service_that_fails_at_the_inputs_of_one_caller_only_is_not_left_alone(
    service: Service, connect: Any, eventually: Eventually
) -> None:
    client = connect(retries=2)
    service.probe_status = 200
    service.status = 500
    for number in range(12):
        assert "status 500" in str(await outcome(client))
        # Each call counts once, with its repetitions.
        if number < 4:
            assert service.probes == 0
    await eventually(lambda: service.probes)
    service.status = 200
    assert not service.is_left_alone
    assert await outcome(client) == {}


async def test_a_service_that_is_gone_is_left_alone(
    unused_tcp_port: int, eventually: Eventually
) -> None:
    target = parse_target(
        f"openai+http://127.0.0.1:{unused_tcp_port}/v1", "x", has_key=False, insecure=False
    )
    client = OpenAIClient(target, OpenAIKey(""), timeout=HANG_GUARD, retries=0)
    for _ in range(5):
        assert "cannot be reached" in str(await outcome(client))
    await eventually(lambda: open_breakers()[f"openai 127.0.0.1:{unused_tcp_port}"])
    assert "left alone" in str(await outcome(client))
    await client.close()


async def test_streams_that_break_off_again_and_again_open_the_breaker(
    service: Service, connect: Any, eventually: Eventually
) -> None:
    client = connect()
    service.probe_status = 503

    async def follow() -> list[Any]:
        return [event async for event in client.stream("/embeddings", BODY | {"stream": True})]

    for _ in range(5):
        with pytest.raises(ModelUnavailableError, match="broke off"):
            await follow()
    await eventually(lambda: service.is_left_alone)


@pytest.mark.parametrize("status", [400, 401, 404, 429])
async def test_refusals_show_a_service_at_work(status: int, service: Service, connect: Any) -> None:
    client = connect()
    service.status = status
    for _ in range(20):
        assert f"status {status}" in str(await outcome(client))
    assert service.calls == 20


async def test_a_service_that_knows_no_models_answers_the_probe_all_the_same(
    service: Service, connect: Any, eventually: Eventually
) -> None:
    client = connect()
    service.status = 503
    for _ in range(6):
        await outcome(client)
    service.status = 404
    await eventually(lambda: not service.is_left_alone)


async def test_repetitions_of_all_calls_are_ten_and_a_tenth_of_the_calls(
    service: Service, connect: Any
) -> None:
    client = connect(retries=2)
    service.status = 429
    for _ in range(200):
        assert isinstance(await outcome(client), QueueFullError)
    assert 200 + 10 + 20 - 2 <= service.calls <= 200 + 10 + 20


async def test_when_to_try_again_is_told_as_the_service_says_it(
    service: Service, connect: Any
) -> None:
    service.status, service.headers = 429, {"Retry-After": "75"}
    error = await outcome(connect(retries=2))
    assert isinstance(error, QueueFullError)
    assert error.retry_after == 75
    # So long a pause is not waited for.
    assert service.calls == 1


async def test_nobody_calls_a_service_before_it_wants_to_be_called_again(
    service: Service, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(openai_repeats, "monotonic", lambda: now)
    client = connect(retries=2)
    service.status, service.headers = 429, {"Retry-After": "37"}
    await outcome(client)
    service.status, now = 200, now + 7
    error = await outcome(client)
    assert isinstance(error, QueueFullError)
    assert error.retry_after == 30
    assert "asks for none in the next 30 s" in str(error)
    assert service.calls == 1
    now += 30
    assert await outcome(client) == {}


async def test_a_repetition_that_would_come_after_the_deadline_is_not_made(
    service: Service, connect: Any
) -> None:
    service.status, service.headers = 429, {"Retry-After": "2"}
    within(1)
    error = await outcome(connect(retries=2))
    assert isinstance(error, QueueFullError)
    assert (error.retry_after, service.calls) == (2, 1)


@given(st.lists(st.booleans()))
def test_a_budget_never_gives_more_than_it_earned(steps: list[bool]) -> None:
    budget = RepetitionBudget(share=0.5, saved=3)
    earned, spent = 3.0, 0
    for is_call in steps:
        if is_call:
            budget.earn()
            earned += 0.5
        else:
            spent += budget.spend()
        assert spent <= earned
