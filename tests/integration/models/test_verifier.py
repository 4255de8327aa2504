"""The verification hook against a real gRPC server, as a user would run one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
import structlog
from embercache.v1 import verifier_pb2, verifier_pb2_grpc

from sidecar.cache.breaker import Breaker
from sidecar.models.verifier import Verifier, VerifierCounters

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path
    from typing import Any

PATIENT = 20.0


class Service(verifier_pb2_grpc.SemanticVerifierServicer):
    """Accepts what has the same first letter; other queries name what it is to do."""

    def __init__(self) -> None:
        self.seen: list[verifier_pb2.VerifyRequest] = []
        self.never = asyncio.Event()

    async def Verify(  # noqa: N802
        self, request: verifier_pb2.VerifyRequest, context: Any
    ) -> verifier_pb2.VerifyResponse:
        self.seen.append(request)
        if request.query == "late":
            await self.never.wait()
        if request.query == "broken":
            raise RuntimeError("a fault of the user's")
        if request.query == "unavailable":
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"cannot judge {request.query}")
        return verifier_pb2.VerifyResponse(accept=request.query[0] == request.matched_query[0])


class Beside:
    """A verifier beside the application, which can go away and come back."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.service = Service()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server()
        verifier_pb2_grpc.add_SemanticVerifierServicer_to_server(self.service, self._server)
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


@pytest.fixture
async def beside(tmp_path: Path) -> AsyncIterator[Beside]:
    made = Beside(f"unix:{tmp_path}/verifier.sock")
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def open_verifier(beside: Beside) -> AsyncIterator[Callable[..., Verifier]]:
    verifiers: list[Verifier] = []

    def open_one(timeout: float = PATIENT, breaker: Breaker | None = None) -> Verifier:
        verifiers.append(Verifier(beside.address, timeout, breaker))
        return verifiers[-1]

    yield open_one
    for verifier in verifiers:
        await verifier.close()


async def ask(verifier: Verifier, query: str, matched: str = "abc") -> bool | None:
    return await verifier.accepts("search", "shop", query, matched, 0.97, verifier.deadline())


async def test_its_word_counts(open_verifier: Callable[..., Verifier]) -> None:
    verifier = open_verifier()
    assert await ask(verifier, "a query")
    assert await ask(verifier, "other query") is False
    assert verifier.counters == VerifierCounters(accepted=1, refused=1, failed=0)


async def test_it_is_told_both_queries_and_how_near_they_are(
    beside: Beside, open_verifier: Callable[..., Verifier]
) -> None:
    verifier = open_verifier()
    await verifier.accepts("search", "shop", "how?", "how so?", 0.5, verifier.deadline())
    assert beside.service.seen == [
        verifier_pb2.VerifyRequest(
            kind="search", namespace="shop", query="how?", matched_query="how so?", similarity=0.5
        )
    ]


@pytest.mark.parametrize("query", ["broken", "unavailable"])
async def test_one_that_fails_says_nothing(
    query: str, open_verifier: Callable[..., Verifier]
) -> None:
    verifier = open_verifier()
    assert await ask(verifier, query, query) is None
    assert verifier.counters == VerifierCounters(failed=1)
    assert await ask(verifier, "a query")


async def test_one_that_is_late_says_nothing(open_verifier: Callable[..., Verifier]) -> None:
    verifier = open_verifier(timeout=0.05)
    assert await ask(verifier, "late", "late") is None
    assert verifier.counters == VerifierCounters(failed=1)


async def test_questions_of_one_search_share_its_time(
    open_verifier: Callable[..., Verifier],
) -> None:
    verifier = open_verifier()
    passed = verifier.deadline() - PATIENT
    assert await verifier.accepts("search", "shop", "late", "late", 0.97, passed) is None
    assert verifier.counters == VerifierCounters(failed=1)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_one_that_fails_again_and_again_is_left_alone_for_a_while(
    beside: Beside, open_verifier: Callable[..., Verifier]
) -> None:
    clock = Clock()
    verifier = open_verifier(breaker=Breaker("verifier", failures=3, clock=clock))
    for _ in range(6):
        assert await ask(verifier, "unavailable") is None
    assert len(beside.service.seen) == 3
    assert verifier.counters == VerifierCounters(failed=3, skipped=3)
    clock.now = 60
    # One finds out; it may come back to nothing, or be cut short.
    assert await ask(verifier, "unavailable") is None
    assert await ask(verifier, "a query") is None
    clock.now = 120
    late = asyncio.create_task(ask(verifier, "late"))
    async with asyncio.timeout(20):
        while len(beside.service.seen) < 5:
            await asyncio.sleep(0.001)
    assert await ask(verifier, "a query") is None
    # One whose asker goes away has found out nothing: the next one does.
    late.cancel()
    await asyncio.wait({late})
    assert await ask(verifier, "a query")
    assert await ask(verifier, "other query") is False
    assert verifier.counters == VerifierCounters(accepted=1, refused=1, failed=4, skipped=5)


async def test_questions_that_had_too_little_time_say_nothing_about_the_verifier(
    open_verifier: Callable[..., Verifier],
) -> None:
    breaker = Breaker("verifier", failures=1)
    verifier = open_verifier(breaker=breaker)
    little = verifier.deadline() - PATIENT
    assert await verifier.accepts("search", "shop", "late", "late", 0.97, little) is None
    assert breaker.closed
    assert await ask(verifier, "a query")


async def test_failures_that_are_not_in_a_row_leave_it_in_use(
    beside: Beside, open_verifier: Callable[..., Verifier]
) -> None:
    verifier = open_verifier(breaker=Breaker("verifier", failures=2))
    for _ in range(4):
        await ask(verifier, "unavailable")
        assert await ask(verifier, "a query")
    assert verifier.counters.skipped == 0


async def test_one_that_is_not_there_says_nothing_until_it_is_back(
    beside: Beside, open_verifier: Callable[..., Verifier]
) -> None:
    await beside.stop()
    breaker = Breaker("verifier", first_seconds=0.01, longest_seconds=0.05)
    verifier = open_verifier(breaker=breaker)
    assert not await ask(verifier, "a query")
    await beside.start()
    async with asyncio.timeout(20):
        while not await ask(verifier, "a query"):
            await asyncio.sleep(0.01)
    assert verifier.counters.accepted == 1
    assert verifier.counters.failed > 0


async def test_failures_are_logged_once_and_name_no_query(
    open_verifier: Callable[..., Verifier],
) -> None:
    verifier = open_verifier()
    with structlog.testing.capture_logs() as logs:
        for query in ("unavailable", "unavailable", "a query", "a query"):
            await ask(verifier, query)
    assert [line["event"] for line in logs] == ["the verifier fails", "the verifier answers"]
    assert logs[0]["reason"] == "UNAVAILABLE"
    assert "cannot judge" not in str(logs)


async def test_a_proxy_that_the_environment_names_gets_no_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections: list[asyncio.StreamWriter] = []

    async def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.close()

    proxy = await asyncio.start_server(note, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    server = grpc.aio.server()
    verifier_pb2_grpc.add_SemanticVerifierServicer_to_server(Service(), server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    verifier = Verifier(target, PATIENT)
    assert await verifier.accepts("embed", "", "a", "a", 1.0, verifier.deadline())
    assert not connections
    await verifier.close()
    await server.stop(None)
    proxy.close()
