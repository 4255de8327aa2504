"""The HTTP front, on services that answer as a test says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from embercache.v1 import common_pb2, embed_pb2, generate_pb2
from openai import AsyncOpenAI
from prometheus_client import CollectorRegistry

from sidecar.cache.items import Tier
from sidecar.config import ServerSettings
from sidecar.telemetry.metrics import CallMetrics
from sidecar.transport.openai.counted import CountedCalls
from sidecar.transport.openai.front import OpenAIFront
from sidecar.transport.openai.methods import Methods

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

HANG_GUARD = 30.0


def summary(**fields: Any) -> generate_pb2.GenerateSummary:
    """What ends an answer of two tokens to a prompt of five, three of which were kept."""
    defaults = {
        "finish_reason": generate_pb2.FINISH_REASON_STOP,
        "usage": generate_pb2.GenerateUsage(
            prompt_tokens=5,
            completion_tokens=2,
            reused_tokens=[
                common_pb2.TierCount(tier=common_pb2.TIER_HOT, count=2),
                common_pb2.TierCount(tier=common_pb2.TIER_WARM, count=1),
            ],
        ),
        "tier": common_pb2.TIER_COMPUTED,
        "model": "small",
        "model_version": "v7",
    }
    return generate_pb2.GenerateSummary(**defaults | fields)


class FakeServices:
    """Services that give what a test puts here, and keep the requests that they got.

    ``error`` is what every call fails with; a stream, behind its ``pieces``. A stream waits with
    its pieces until ``go`` is set, and with what answers for ever if that is ``never_known``. By
    their prompts, texts have ``errors`` and ``similarities``, or hang; ``cancelled`` are those that
    hung and were ended.
    """

    def __init__(self) -> None:
        self.embeds: list[embed_pb2.EmbedRequest] = []
        self.generates: list[generate_pb2.GenerateRequest] = []
        self.embeddings: list[embed_pb2.Embedding] | None = None
        self.stored: bytes | None = None
        self.pieces = ["Hello", "", " you"]
        self.summary: generate_pb2.GenerateSummary | None = summary()
        self.error: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.never_known = False
        self.waiting = asyncio.Event()
        self.closed = 0
        self.errors: dict[str, Exception] = {}
        self.similarities: dict[str, float | None] = {}
        self.hangs_on: set[str] = set()
        self.cancelled: set[str] = set()

    def methods(self) -> Methods:
        """The methods that the front calls."""
        return Methods(
            embed=self._embed,
            stored_embed=lambda raw: self.stored,
            list_models=self._list_models,
            generate=self._generate,
            stored_generate=lambda raw: self.stored,
            open_stream=self._open_stream,
            list_generators=self._list_generators,
        )

    async def _embed(self, raw: bytes) -> bytes:
        request = embed_pb2.EmbedRequest.FromString(raw)
        self.embeds.append(request)
        if self.error is not None:
            raise self.error
        embeddings = self.embeddings
        if embeddings is None:
            embeddings = [
                embed_pb2.Embedding(
                    vector=bytes(8), tier=common_pb2.TIER_COMPUTED, model_version="v3", tokens=4
                )
            ] * len(request.inputs)
        return embed_pb2.EmbedResponse(
            embeddings=embeddings, model="tiny", dimensions=2
        ).SerializeToString()

    async def _list_models(self, _raw: bytes) -> bytes:
        model = embed_pb2.Model(name="tiny", dimensions=2)
        return embed_pb2.ListModelsResponse(models=[model]).SerializeToString()

    async def _list_generators(self, _raw: bytes) -> bytes:
        model = generate_pb2.GeneratorModel(name="small")
        return generate_pb2.ListGeneratorsResponse(generators=[model]).SerializeToString()

    async def _generate(self, raw: bytes) -> bytes:
        request = generate_pb2.GenerateRequest.FromString(raw)
        self.generates.append(request)
        if request.text in self.hangs_on:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled.add(request.text)
                raise
        if (error := self.errors.get(request.text, self.error)) is not None:
            raise error
        response = generate_pb2.GenerateResponse(text="".join(self.pieces), summary=self.summary)
        if (similarity := self.similarities.get(request.text)) is not None:
            response.summary.similarity = similarity
        return response.SerializeToString()

    def _open_stream(self, raw: bytes) -> FakeStream:
        self.generates.append(generate_pb2.GenerateRequest.FromString(raw))
        return FakeStream(self)


class FakeStream:
    """A stream of the pieces that a test put into its services."""

    def __init__(self, services: FakeServices) -> None:
        self._services = services

    async def tier(self) -> Tier:
        services = self._services
        services.waiting.set()
        if services.never_known:
            await asyncio.Event().wait()
        if services.error is not None and not services.pieces:
            raise services.error
        return Tier.COMPUTED

    async def messages(self) -> AsyncIterator[bytes]:
        services = self._services
        for text in services.pieces:
            await services.go.wait()
            yield generate_pb2.GenerateStreamResponse(text=text).SerializeToString()
        if services.error is not None:
            raise services.error
        last = generate_pb2.GenerateStreamResponse(summary=services.summary)
        yield last.SerializeToString()

    async def close(self) -> None:
        self._services.closed += 1


class Front:
    """A running front, and clients of it."""

    def __init__(self, front: OpenAIFront, registry: CollectorRegistry) -> None:
        self.front = front
        self.url = front.url
        self.openai = AsyncOpenAI(
            base_url=self.url, api_key="none", max_retries=0, timeout=HANG_GUARD
        )
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(HANG_GUARD))
        self._registry = registry

    async def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, Any]:
        """One request: its status, its JSON (or text) and its headers. Bytes go as they are."""
        content = {"data": body} if isinstance(body, bytes) else {"json": body}
        headers = {"Content-Type": "application/json"} | (headers or {})
        async with self._http.request(
            method, f"{self.url}/{path}", headers=headers, **content
        ) as response:
            is_json = response.content_type == "application/json"
            answer = await (response.json() if is_json else response.text())
            return response.status, answer, response.headers

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any, Any]:
        """A POST: see `send`."""
        return await self.send("POST", path, body, headers)

    def calls(self, method: str) -> float:
        """How many calls of a method ended well."""
        labels = {"method": f"openai/{method}"}
        return self._registry.get_sample_value("embercache_call_seconds_count", labels) or 0.0

    def failures(self, method: str, code: str) -> float:
        """How many calls of a method ended with a status."""
        labels = {"method": f"openai/{method}", "code": code}
        return self._registry.get_sample_value("embercache_calls_failed_total", labels) or 0.0

    async def close(self) -> None:
        await self.openai.close()
        await self._http.close()
        await self.front.drain()


@pytest.fixture
def services() -> FakeServices:
    """The services that the front calls."""
    return FakeServices()


@pytest.fixture
async def open_front(
    services: FakeServices,
) -> AsyncIterator[Callable[..., Awaitable[Front]]]:
    """Starts fronts, with settings of the server."""
    async with contextlib.AsyncExitStack() as exits:

        async def start(**settings: Any) -> Front:
            registry = CollectorRegistry()
            defaults = {"openai_address": "127.0.0.1:0", "drain_delay": 0, "drain_timeout": 20}
            calls = CountedCalls(CallMetrics(registry))
            server = OpenAIFront(ServerSettings(**defaults | settings), services.methods(), calls)
            await server.start()
            front = Front(server, registry)
            exits.push_async_callback(front.close)
            return front

        yield start


@pytest.fixture
async def front(open_front: Callable[..., Awaitable[Front]]) -> Front:
    """A running front."""
    return await open_front()
