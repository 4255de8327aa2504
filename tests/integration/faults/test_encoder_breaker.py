"""Encoders that do not answer: calls fail at once, and are taken again when one computes."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
import structlog
from embercache.v1 import embed_pb2, embed_pb2_grpc

from sidecar.cache.breaker import open_breakers
from sidecar.demand import within
from sidecar.models import encoder_watch, remote_model
from sidecar.models.remote import RemoteEmbedder
from sidecar.models.types import ModelUnavailableError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Eventually = Callable[[Callable[[], object]], Awaitable[None]]
    Connect = Callable[..., Awaitable[RemoteEmbedder]]

HANG_GUARD = 20.0
PROBE = ["a"]
# A breaker is told of by its name, and may be there for a while after its test.
NAMES = (f"tiny-{number}" for number in itertools.count())


class Encoders(embed_pb2_grpc.EmbedServiceServicer):
    """One encoder, which ends every call with ``status`` if there is one, and may hang.

    It hangs with the inputs ``slow`` in any case.
    ``texts`` are those of the calls, without the inputs of probes.
    """

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None
        self.hangs = False
        self.slow: list[str] | None = None
        self.texts: list[list[str]] = []
        self.probes = 0
        self.name, self.version = next(NAMES), "1"

    async def ListModels(self, request: Any, context: Any) -> embed_pb2.ListModelsResponse:  # noqa: N802
        model = embed_pb2.Model(
            name=self.name, version=self.version, dimensions=2, accepts_text=True
        )
        return embed_pb2.ListModelsResponse(models=[model])

    async def Embed(self, request: Any, context: Any) -> embed_pb2.EmbedResponse:  # noqa: N802
        texts = [each.text for each in request.inputs]
        if texts == PROBE:
            self.probes += 1
        else:
            self.texts.append(texts)
        if self.hangs or texts == self.slow:
            await asyncio.sleep(HANG_GUARD)
        if self.status is not None:
            await context.abort(self.status, "so it was asked for")
        vector = np.zeros(2, "<f4").tobytes()
        return embed_pb2.EmbedResponse(
            embeddings=[embed_pb2.Embedding(vector=vector) for _ in request.inputs]
        )


@pytest.fixture
async def encoders() -> AsyncIterator[tuple[Encoders, str]]:
    service = Encoders()
    server = grpc.aio.server()
    embed_pb2_grpc.add_EmbedServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(0)


@pytest.fixture
async def connect(encoders: tuple[Encoders, str]) -> AsyncIterator[Connect]:
    """Makes models that ask the encoder."""
    made: list[RemoteEmbedder] = []

    async def make(timeout: float = HANG_GUARD) -> RemoteEmbedder:
        made.append(
            RemoteEmbedder(encoders[0].name, encoders[1], queue_inputs=10_000, timeout=timeout)
        )
        await made[-1].start()
        return made[-1]

    yield make
    for embedder in made:
        await embedder.close()


async def outcome(embedder: RemoteEmbedder, text: str = "text") -> Any:
    """The vector of a text, or the error."""
    async with asyncio.timeout(HANG_GUARD):
        try:
            return (await embedder.submit([text])[0]).vector
        except Exception as error:
            return error


def is_open(service: Encoders) -> bool:
    return open_breakers()[f"encoder {service.name}"]


async def fail_until_open(service: Encoders, embedder: RemoteEmbedder) -> None:
    await asyncio.gather(*(outcome(embedder) for _ in range(5)))
    assert is_open(service)


@pytest.mark.threat("An upstream never answers")
async def test_after_five_calls_in_a_row_that_nobody_answered_calls_fail_at_once(
    encoders: tuple[Encoders, str], connect: Connect
) -> None:
    service, address = encoders
    embedder = await connect()
    service.status = grpc.StatusCode.UNAVAILABLE
    for error in await asyncio.gather(*(outcome(embedder) for _ in range(5))):
        assert "cannot be reached: try again later" in str(error)
    sent = len(service.texts)
    for _ in range(100):
        error = await outcome(embedder)
        assert isinstance(error, ModelUnavailableError)
        assert f"the encoder at {address} did not answer of late, and is left alone" in str(error)
    assert len(service.texts) == sent


async def test_calls_are_taken_again_once_an_encoder_computes_without_a_call_to_find_out(
    encoders: tuple[Encoders, str], connect: Connect, eventually: Eventually
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.status = grpc.StatusCode.UNAVAILABLE
    with structlog.testing.capture_logs() as logs:
        await fail_until_open(service, embedder)
        service.status, sent = None, len(service.texts)
        await eventually(lambda: not is_open(service))
    assert service.probes >= 1
    assert len(service.texts) == sent
    assert [log["event"] for log in logs if log.get("service") == f"encoder {service.name}"] == [
        "circuit breaker opened",
        "circuit breaker closed",
    ]
    assert (await outcome(embedder)).tolist() == [0, 0]


async def test_an_encoder_that_says_what_it_serves_but_computes_nothing_is_left_alone(
    encoders: tuple[Encoders, str], connect: Connect, eventually: Eventually
) -> None:
    service, _ = encoders
    embedder = await connect(timeout=0.1)
    service.hangs = True
    await fail_until_open(service, embedder)
    await eventually(lambda: service.probes >= 2)
    assert is_open(service)
    service.hangs = False
    await eventually(lambda: not is_open(service))


async def test_an_encoder_that_answers_nobody_in_time_is_left_alone(
    encoders: tuple[Encoders, str], connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_watch, "_LEAST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(encoder_watch, "_SILENCE_SECONDS", 0.05)
    monkeypatch.setattr(remote_model, "_ASK_SECONDS", 0.05)
    service, _ = encoders
    embedder = await connect()
    service.hangs = True
    async with asyncio.timeout(HANG_GUARD):
        while not is_open(service):
            within(0.05)
            assert isinstance(await outcome(embedder), QueueFullError | ModelUnavailableError)


async def test_who_gives_an_encoder_no_time_does_not_close_the_way_for_others(
    encoders: tuple[Encoders, str], connect: Connect
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.hangs = True
    for _ in range(20):
        within(0.005)
        assert isinstance(await outcome(embedder), QueueFullError)
    assert not is_open(service)


async def test_long_calls_that_are_given_up_do_not_close_the_way_for_others(
    encoders: tuple[Encoders, str],
    connect: Connect,
    monkeypatch: pytest.MonkeyPatch,
    eventually: Eventually,
) -> None:
    monkeypatch.setattr(encoder_watch, "_LEAST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(encoder_watch, "_SILENCE_SECONDS", 0.0)
    service, _ = encoders
    embedder = await connect()
    service.slow = ["long"]
    for _ in range(10):
        within(0.05)
        assert isinstance(await outcome(embedder, "long"), QueueFullError)
    await eventually(lambda: service.probes)
    assert not is_open(service)
    within(HANG_GUARD)
    assert (await outcome(embedder)).tolist() == [0, 0]


async def test_time_in_which_nobody_asked_is_no_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(encoder_watch, "monotonic", lambda: now)
    probes = 0

    async def probe() -> None:
        nonlocal probes
        probes += 1

    watch = encoder_watch.EncoderWatch(next(NAMES), "target", probe, probe, HANG_GUARD)
    watch.sent()
    watch.answered()
    now += 3600
    for _ in range(2):
        watch.sent()
        now += 2
        watch.given_up(after=2)
    await watch.close()
    assert probes == 0
    watch.sent()
    now += 2
    watch.given_up(after=2)
    await asyncio.sleep(0)
    assert probes
    await watch.close()


@pytest.mark.threat("An encoder of another version answers")
async def test_the_version_is_known_before_calls_are_taken_again(
    encoders: tuple[Encoders, str], connect: Connect, eventually: Eventually
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.status = grpc.StatusCode.UNAVAILABLE
    await fail_until_open(service, embedder)
    service.version, service.status = "2", None
    await eventually(lambda: not is_open(service))
    assert embedder.info.version == "2"


@pytest.mark.parametrize(
    "status",
    [
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.INTERNAL,
    ],
)
async def test_an_encoder_that_answers_with_an_error_is_not_left_alone(
    status: grpc.StatusCode, encoders: tuple[Encoders, str], connect: Connect
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.status = status
    for _ in range(20):
        assert "left alone" not in str(await outcome(embedder))
    service.status = None
    assert (await outcome(embedder)).tolist() == [0, 0]


async def test_an_encoder_that_is_full_counts_as_back(
    encoders: tuple[Encoders, str], connect: Connect, eventually: Eventually
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.status = grpc.StatusCode.UNAVAILABLE
    await fail_until_open(service, embedder)
    service.status = grpc.StatusCode.RESOURCE_EXHAUSTED
    await eventually(lambda: not is_open(service))
    assert isinstance(await outcome(embedder), QueueFullError)


async def test_repetitions_have_a_budget_that_all_calls_share(
    encoders: tuple[Encoders, str], connect: Connect
) -> None:
    service, _ = encoders
    embedder = await connect()
    service.status = grpc.StatusCode.UNAVAILABLE
    calls = 500
    await asyncio.gather(*(outcome(embedder, f"text {number}") for number in range(calls)))
    # Without the budget, each would be sent four times.
    assert calls < len(service.texts) <= calls + 500
