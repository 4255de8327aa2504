"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import onnx
import pytest
from aiohttp import web
from hypothesis import settings
from onnx import helper, numpy_helper
from opentelemetry.proto.collector.trace.v1 import (
    trace_service_pb2,
    trace_service_pb2_grpc,
)

from sidecar.cache.breaker import Breaker
from sidecar.cache.redis_connect import connect
from sidecar.cache.warm import WarmTier
from sidecar.dev_redis import DevRedis
from sidecar.models.packs import default_folder
from sidecar.models.pull import pull

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

# A busy machine is no failure.
settings.register_profile("embercache", deadline=None)
settings.load_profile("embercache")

# What a shell starts in the background ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def save_graph() -> Callable[..., None]:
    """Writes a small ONNX graph; inputs and outputs have a type and a shape each."""

    def save(
        path: Path,
        nodes: Sequence[onnx.NodeProto],
        inputs: dict[str, tuple[int, Sequence[Any]]],
        outputs: dict[str, tuple[int, Sequence[Any]]],
        constants: dict[str, NDArray[Any]],
    ) -> None:
        def infos(specs: dict[str, tuple[int, Sequence[Any]]]) -> list[onnx.ValueInfoProto]:
            return [helper.make_tensor_value_info(name, *spec) for name, spec in specs.items()]

        tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), tensors)
        opsets = [helper.make_opsetid("", 18)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)

    return save


@pytest.fixture(scope="session")
def blocks_of() -> Callable[[str, str], list[str]]:
    """The blocks of a page, a path in this repository, in a language."""

    def find(page: str, language: str) -> list[str]:
        text = (Path(__file__).parents[1] / page).read_text("utf-8")
        return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    return find


@pytest.fixture(scope="session")
def transport() -> str:
    """What listens for gRPC in the sidecars of this process, as the environment says."""
    return os.environ.get("EMBERCACHE_SERVER_TRANSPORT", "auto")


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """The pack minilm in the default folder, pulled if it is not there."""
    return pull("minilm", default_folder(), lambda stage, done, total: None)


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The pack smollm2-135m, of 4 bits, in the default folder, pulled if it is not there."""
    return pull("smollm2-135m", default_folder(), lambda stage, done, total: None)


@pytest.fixture(scope="session")
def smollm2_fp32_folder() -> Path:
    """The pack smollm2-135m-fp32 in the default folder, pulled if it is not there."""
    return pull("smollm2-135m-fp32", default_folder(), lambda stage, done, total: None)


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[DevRedis]:
    """One real Redis for the whole run; use ``redis_server``, which empties it first."""
    with DevRedis() as server:
        yield server


@pytest.fixture
async def redis_server(shared_redis: DevRedis) -> DevRedis:
    """A real Redis without data. Not to be killed or frozen: take ``own_redis`` for that."""
    client = connect(shared_redis.url, connect_timeout=5)
    await client.flushall()
    await client.config_resetstat()
    await client.aclose()
    return shared_redis


@pytest.fixture
def own_redis() -> Iterator[DevRedis]:
    """A real Redis for this test alone."""
    with DevRedis() as server:
        yield server


@pytest.fixture
async def open_warm() -> AsyncIterator[Callable[..., Awaitable[WarmTier]]]:
    """Opens warm tiers that probe a Redis that is down without much delay; closes them."""
    tiers: list[WarmTier] = []

    async def open_tier(url: str, **options: Any) -> WarmTier:
        breaker = Breaker("redis", failures=3, first_seconds=0.01, longest_seconds=0.05)
        options = {"timeout": 5.0, "breaker": breaker} | options
        tier = WarmTier(connect(url, connect_timeout=1), **options)
        tiers.append(tier)
        await tier.start()
        return tier

    yield open_tier
    for tier in tiers:
        await tier.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Waits until something is so; a test that would wait too long fails."""

    async def wait(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    return wait


class OpenAIServer:
    """An OpenAI-compatible service. It embeds, completes and chats until it is told otherwise.

    ``target`` is what a sidecar is set to. What it does wrong or in another way:

    - ``keys``: the keys that it takes, if not all; ``models``: the models that it has.
    - ``failures``: what it answers the next calls with, put there by `fail`.
    - ``refuses``: which inputs of /embeddings it does not take.
    - ``embed``: the vector of a text; ``change_data``: what becomes of the list of vectors.
    - ``says``: the pieces of an answer, from the body of a call; ``finish_reason``.
    - ``cut_after``: after how many pieces it breaks off; ``hold_after``: before which it waits for
      ``release``; a call of /embeddings waits whatever the number. ``held`` tells that it waits.
    - ``garbage``: what it sends in place of JSON.

    ``calls`` has the path, the headers and the body of each call, ``disconnects`` counts callers
    who left before the end.
    """

    def __init__(self) -> None:
        self.target = ""
        self.calls: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.disconnects = 0
        self.keys: set[str] = set()
        self.models: set[str] = set()
        self.failures: list[web.Response] = []
        self.refuses: Callable[[str], bool] = lambda text: False
        self.embed: Callable[[str], list[float]] = lambda text: [len(text), text.count("e"), 1, -1]
        self.change_data: Callable[[list[Any]], Any] = lambda data: data
        self.knows_base64 = True
        self.tells_usage = True
        self.says: Callable[[dict[str, Any]], list[str]] = lambda body: ["You ", "are ", "right."]
        self.finish_reason: str | None = "stop"
        self.cut_after: int | None = None
        self.hold_after: int | None = None
        self.held, self.release = asyncio.Event(), asyncio.Event()
        self.garbage: str | None = None

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """The bodies of the calls of a path."""
        return [body for called, _, body in self.calls if called == path]

    def fail(
        self, status: int, *, times: int = 1, headers: dict[str, str] | None = None, **error: Any
    ) -> None:
        """Answers the next calls with an error, which asks for no long pause before the next."""
        headers = {"Retry-After-Ms": "1"} | (headers or {})
        self.failures += [
            web.json_response({"error": error}, status=status, headers=headers)
            for _ in range(times)
        ]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        path = request.path.removeprefix("/v1")
        self.calls.append((path, dict(request.headers), body))
        if self.failures:
            return self.failures.pop(0)
        if self.keys and request.headers.get("Authorization") not in self._authorisations():
            return self._error(401, "invalid_api_key")
        if self.models and body["model"] not in self.models:
            return self._error(404, "model_not_found")
        try:
            if path == "/embeddings":
                return await self._embeddings(body)
            return await self._completion(request, body, is_chat=path.startswith("/chat"))
        except asyncio.CancelledError:
            self.disconnects += 1
            raise

    def _authorisations(self) -> set[str]:
        return {f"Bearer {key}" for key in self.keys}

    def _error(self, status: int, code: str) -> web.Response:
        error = {"message": "a message that may quote the input", "code": code}
        return web.json_response({"error": error}, status=status)

    async def _embeddings(self, body: dict[str, Any]) -> web.Response:
        if self.hold_after is not None:
            await self._hold()
        if any(self.refuses(text) for text in body["input"]):
            return self._error(400, "invalid_input")
        if self.garbage is not None:
            return web.Response(text=self.garbage, content_type="application/json")
        data = [
            {"object": "embedding", "index": index, "embedding": self._vector(text, body)}
            for index, text in enumerate(body["input"])
        ]
        answer = {"object": "list", "model": body["model"], "data": self.change_data(data)}
        if self.tells_usage:
            count = sum(len(text.split()) for text in body["input"])
            answer["usage"] = {"prompt_tokens": count, "total_tokens": count}
        return web.json_response(answer)

    def _vector(self, text: str, body: dict[str, Any]) -> str | list[float]:
        vector = self.embed(text)
        if body["encoding_format"] == "base64" and self.knows_base64:
            return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()
        return vector

    async def _completion(
        self, request: web.Request, body: dict[str, Any], *, is_chat: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        pieces = self.says(body)
        for place, piece in enumerate(pieces):
            if place == self.hold_after:
                await self._hold()
            if place == self.cut_after:
                assert request.transport is not None
                request.transport.abort()
            choice = {"delta": {"content": piece}} if is_chat else {"text": piece}
            await self._send(response, {"choices": [{"index": 0, **choice}]})
        if self.garbage is not None:
            await response.write(f"data: {self.garbage}\n\n".encode())
        last = {"index": 0, "finish_reason": self.finish_reason}
        await self._send(
            response, {"choices": [last | ({"delta": {}} if is_chat else {"text": ""})]}
        )
        if self.tells_usage:
            usage = {"prompt_tokens": 7, "completion_tokens": 2 * len(pieces)}
            await self._send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _send(self, response: web.StreamResponse, event: dict[str, Any]) -> None:
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    async def _hold(self) -> None:
        self.held.set()
        await self.release.wait()


@pytest.fixture
async def openai_server() -> AsyncIterator[OpenAIServer]:
    """An OpenAI-compatible service that listens; see `OpenAIServer`."""
    server = OpenAIServer()
    app = web.Application(client_max_size=64 * 2**20)
    for path in ("embeddings", "completions", "chat/completions"):
        app.router.add_post(f"/v1/{path}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.target = f"openai+http://127.0.0.1:{port}/v1"
    yield server
    await runner.cleanup()


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector: the spans that it took, and the attributes of their resource."""

    def __init__(self) -> None:
        self.endpoint = ""
        self.spans: list[Span] = []
        self.resource: dict[str, str] = {}
        self._server: grpc.aio.Server | None = None

    async def start(self, address: str = "127.0.0.1:0") -> None:
        """Listens."""
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self.endpoint = f"http://127.0.0.1:{port}"

    async def stop(self) -> None:
        """Ends, as if it had crashed."""
        if self._server is not None:
            await self._server.stop(0)

    async def Export(self, request: Any, _context: Any) -> Any:  # noqa: N802
        """See trace_service.proto."""
        for group in request.resource_spans:
            self.resource = attributes_of(group.resource)
            for scope in group.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    def of_trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace in the order in which they began."""
        spans = [span for span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def tree(self, trace_id: str, under: str) -> list[Any]:
        """The spans of a trace under the span with an id: names, or (name, those under it)."""
        found = []
        for span in self.of_trace(trace_id):
            if span.parent_span_id.hex() == under:
                below = self.tree(trace_id, span.span_id.hex())
                found.append((span.name, below) if below else span.name)
        return found

    def attributes(self, trace_id: str, name: str) -> list[dict[str, Any]]:
        """The attributes of the spans of a trace that have a name, without our prefix."""
        return [attributes_of(span) for span in self.of_trace(trace_id) if span.name == name]


def attributes_of(message: Any) -> dict[str, Any]:
    """The attributes of a span or a resource, without our prefix."""
    return {
        pair.key.removeprefix("embercache."): getattr(
            pair.value, str(pair.value.WhichOneof("value"))
        )
        for pair in message.attributes
    }


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    """A collector that listens."""
    running = Collector()
    await running.start()
    yield running
    await running.stop()
