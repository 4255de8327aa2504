"""A sidecar that is only its contract: real gRPC, made-up vectors, and faults on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
from concurrent import futures

import grpc
import numpy as np
import pytest

from embercache import AsyncClient, AsyncGenerateStream, Client, _backoff, _channel
from embercache.v1 import (
    cache_pb2,
    cache_pb2_grpc,
    common_pb2,
    embed_pb2,
    embed_pb2_grpc,
    generate_pb2,
    generate_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

DIMENSIONS = 8
VERSION = "version-1"
HANG_GUARD = 30.0
NUMBERS = {code.name: code.value[0] for code in grpc.StatusCode}


class FakeSidecar(
    embed_pb2_grpc.EmbedServiceServicer,
    search_pb2_grpc.SearchServiceServicer,
    generate_pb2_grpc.GenerateServiceServicer,
    cache_pb2_grpc.CacheServiceServicer,
):
    """Answers every input with `vector`, unless it is told to do something else."""

    def __init__(self):
        self.address = ""
        self.requests = []  # the messages of all calls, in their order
        self.call_faults = []  # status names, one for each call to come
        self.item_faults = {}  # text or id -> status names, one for each time it is asked for
        self.batch_faults = {}  # number of a stream's request -> status names
        self.stream_faults = {}  # text -> status names that end streams instead of its answer
        self.tamper = None  # changes each response before it leaves
        self.group = []  # sizes of the groups in which a stream is answered, each out of order
        self.gate = threading.Event()  # while it is not set, calls hang until they are given up
        self.gate.set()
        self.hanging = threading.Event()
        self.streams = 0
        self.stream_ended = threading.Semaphore(0)
        self.health = b"\x08\x01"
        self.found = search_pb2.SearchResponse()  # what every search finds
        self.stored = set()  # ids of documents
        # Text and tokens of each piece of what is generated.
        self.written = [("An ember", [3, 4]), ("", [5]), (" glows.", [6])]
        self.summary = generate_pb2.GenerateSummary(model="fake", model_version=VERSION)
        self.break_off = ""  # status name that ends a stream in place of its summary
        self.progress = []  # what is told of a warming or a migration

    @staticmethod
    def vector(text, dimensions=DIMENSIONS):
        """A made-up float32 vector that depends on every bit of the text."""
        digest = hashlib.shake_256(text.encode()).digest(2 * dimensions)
        return np.frombuffer(digest, "<i2").astype(np.float32) / 32768

    def Embed(self, request, context):  # noqa: N802
        self._begin(request, context)
        return self._respond(request)

    def EmbedStream(self, requests, context):  # noqa: N802
        self.streams += 1
        at_end(context, self.stream_ended.release)
        for group in self._groups(requests):
            for message in group:
                if faults := self.stream_faults.get(message.request.inputs[0].text):
                    code = faults.pop(0)
                    if code != "OK":
                        context.abort(getattr(grpc.StatusCode, code), "told to break")
                    return
                self._wait(context)
                yield self._answer(message)

    def ListModels(self, request, context):  # noqa: N802
        self._begin(request, context)
        model = embed_pb2.Model(
            name="fake",
            version=VERSION,
            dimensions=DIMENSIONS,
            accepts_text=True,
            runs_on="cpu",
            prompts={"query": "find: "},
        )
        return embed_pb2.ListModelsResponse(models=[model])

    def Stats(self, request, context):  # noqa: N802
        self._begin(request, context)
        return cache_pb2.StatsResponse(
            version="0.0",
            uptime_seconds=1.5,
            response_hits=3,
            items_failed=1,
            tiers=[cache_pb2.TierStats(tier=common_pb2.TIER_HOT, answered=7, bytes=70)],
            warm=cache_pb2.WarmState(state=cache_pb2.WarmState.STATE_DOWN, errors=2),
            models=[cache_pb2.ModelStats(name="fake", computed=5)],
        )

    def Invalidate(self, request, context):  # noqa: N802
        self._begin(request, context)
        return cache_pb2.InvalidateResponse()

    def Flush(self, request, context):  # noqa: N802
        self._begin(request, context)
        return cache_pb2.FlushResponse(entries=4)

    def Search(self, request, context):  # noqa: N802
        self._begin(request, context)
        return self.found

    def Upsert(self, request, context):  # noqa: N802
        self._begin(request, context)
        documents = [self._upsert(document) for document in request.documents]
        response = search_pb2.UpsertResponse(documents=documents, model="fake")
        response.model_version = VERSION
        if self.tamper:
            self.tamper(response)
        return response

    def Delete(self, request, context):  # noqa: N802
        self._begin(request, context)
        return search_pb2.DeleteResponse(found=[name in self.stored for name in request.ids])

    def Rerank(self, request, context):  # noqa: N802
        self._begin(request, context)
        response = search_pb2.RerankResponse(
            scores=[
                search_pb2.RerankScore(error=error)
                if (error := self._fault(passage))
                else search_pb2.RerankScore(score=len(passage), tier=common_pb2.TIER_WARM)
                for passage in request.passages
            ],
            reranker=request.reranker or "maxsim",
            reranker_version=VERSION,
        )
        if self.tamper:
            self.tamper(response)
        return response

    def Generate(self, request, context):  # noqa: N802
        self._begin(request, context)
        return generate_pb2.GenerateResponse(
            text="".join(text for text, _ in self.written),
            tokens=[token for _, tokens in self.written for token in tokens],
            summary=self.summary,
        )

    def GenerateStream(self, request, context):  # noqa: N802
        at_end(context, self.stream_ended.release)
        self._begin(request, context)
        for text, tokens in self.written:
            yield generate_pb2.GenerateStreamResponse(text=text, tokens=tokens)
        if self.break_off == "OK":
            return
        if self.break_off:
            context.abort(getattr(grpc.StatusCode, self.break_off), "told to break")
        yield generate_pb2.GenerateStreamResponse(summary=self.summary)

    def ListGenerators(self, request, context):  # noqa: N802
        self._begin(request, context)
        generator = generate_pb2.GeneratorModel(
            name="fake", version=VERSION, context_tokens=8192, accepts_chat=True, runs_on="cpu"
        )
        return generate_pb2.ListGeneratorsResponse(generators=[generator])

    def PublishEvents(self, request, context):  # noqa: N802
        self._begin(request, context)
        return cache_pb2.PublishEventsResponse()

    def Warm(self, request, context):  # noqa: N802
        at_end(context, self.stream_ended.release)
        self._begin(request, context)
        yield from self.progress

    def MigrateModel(self, request, context):  # noqa: N802
        self._begin(request, context)
        yield from self.progress

    def RollbackModel(self, request, context):  # noqa: N802
        self._begin(request, context)
        return cache_pb2.RollbackModelResponse()

    def check_health(self, request, context):
        self._begin(request, context)
        return self.health

    def _begin(self, request, context):
        self.requests.append(request)
        self._wait(context)
        if self.call_faults:
            context.abort(getattr(grpc.StatusCode, self.call_faults.pop(0)), "told to fail")

    def _wait(self, context):
        if not self.gate.is_set():
            at_end(context, self.gate.set)
            self.hanging.set()
            assert self.gate.wait(HANG_GUARD)

    def _groups(self, requests):
        """The stream's requests, in groups whose sizes were told, each shuffled."""
        sizes = iter(self.group)
        for message in requests:
            self.requests.append(message.request)
            group = [message]
            for _ in range(next(sizes, 1) - 1):
                group.append(next(requests))
                self.requests.append(group[-1].request)
            random.Random(len(group)).shuffle(group)
            yield group

    def _answer(self, message):
        if faults := self.batch_faults.get(message.id):
            error = common_pb2.ItemError(code=NUMBERS[faults.pop(0)], message="told to fail")
            return embed_pb2.EmbedStreamResponse(id=message.id, error=error)
        return embed_pb2.EmbedStreamResponse(id=message.id, response=self._respond(message.request))

    def _respond(self, request):
        response = embed_pb2.EmbedResponse(
            embeddings=[self._embedding(item, request.encoding) for item in request.inputs],
            model=request.model or "fake",
            dimensions=DIMENSIONS,
            encoding=request.encoding,
        )
        if self.tamper:
            self.tamper(response)
        return response

    def _fault(self, name):
        if faults := self.item_faults.get(name):
            return common_pb2.ItemError(code=NUMBERS[faults.pop(0)], message="told to fail")
        return None

    def _upsert(self, document):
        if error := self._fault(document.id):
            return search_pb2.Upserted(error=error)
        change = search_pb2.Upserted.CHANGE_CREATED
        if document.id in self.stored:
            change = search_pb2.Upserted.CHANGE_UNCHANGED
        self.stored.add(document.id)
        return search_pb2.Upserted(change=change, computed=len(document.chunks), cached=1)

    def _embedding(self, item, encoding):
        text = item.text or item.entity.text or item.tensor.data.hex()
        if error := self._fault(text):
            return embed_pb2.Embedding(error=error)
        vector, scale = self.vector(text), 0.0
        if encoding == embed_pb2.ENCODING_FLOAT16:
            data = vector.astype("<f2").tobytes()
        elif encoding == embed_pb2.ENCODING_INT8:
            scale = float(np.abs(vector).max() / 127)
            data = np.round(vector / scale).astype("i1").tobytes()
        else:
            data = vector.tobytes()
        return embed_pb2.Embedding(
            vector=data,
            scale=scale,
            tier=common_pb2.TIER_HOT,
            model_version=VERSION,
            tokens=len(text.split()),
            truncated=len(text) > 100,
            age_ms=1500,
        )


def at_end(context, callback):
    """Calls back when the call has ended, at once if it has already."""
    if not context.add_callback(callback):
        callback()


def start(sidecar, address="127.0.0.1:0"):
    """Serves the sidecar. Returns the server."""
    server = grpc.server(
        futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)]
    )
    embed_pb2_grpc.add_EmbedServiceServicer_to_server(sidecar, server)
    search_pb2_grpc.add_SearchServiceServicer_to_server(sidecar, server)
    generate_pb2_grpc.add_GenerateServiceServicer_to_server(sidecar, server)
    cache_pb2_grpc.add_CacheServiceServicer_to_server(sidecar, server)
    check = grpc.unary_unary_rpc_method_handler(sidecar.check_health)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),)
    )
    port = server.add_insecure_port(address)
    sidecar.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    server.start()
    return server


class Blocking:
    """An `AsyncClient` that is called as a `Client` is, so that one test is for both."""

    def __init__(self, loop, *args, **kwargs):
        self._loop = loop
        self._client = AsyncClient(*args, **kwargs)

    def __getattr__(self, name):
        def call(*args, **kwargs):
            returned = getattr(self._client, name)(*args, **kwargs)
            if isinstance(returned, AsyncGenerateStream):
                return BlockingStream(self._loop, returned)
            if hasattr(returned, "__anext__"):
                return self._steps(returned)
            return self._loop.run_until_complete(returned)

        return call

    def _steps(self, results):
        end = object()
        try:
            while (result := self._loop.run_until_complete(anext(results, end))) is not end:
                yield result
        finally:
            if not self._loop.is_closed():  # as when a failed test left it for the collector
                self._loop.run_until_complete(results.aclose())


class BlockingStream:
    """An `AsyncGenerateStream` that is read as a `GenerateStream` is."""

    def __init__(self, loop, stream):
        self._loop = loop
        self._stream = stream

    def __iter__(self):
        return self

    def __next__(self):
        end = object()
        piece = self._loop.run_until_complete(anext(self._stream, end))
        if piece is end:
            raise StopIteration
        return piece

    @property
    def result(self):
        return self._stream.result

    def close(self):
        self._loop.run_until_complete(self._stream.aclose())


@pytest.fixture(autouse=True)
def quick_retries(request, monkeypatch):
    """Retries as they are, but faster; not for tests with `slow_retries`."""
    if "slow_retries" in request.fixturenames:
        return
    delay = _backoff.delay
    monkeypatch.setattr(_backoff, "delay", lambda failures: delay(failures) / 100)
    options = dict(_channel.OPTIONS)
    config = json.loads(options["grpc.service_config"])
    # Not below 10 ms: with about 1 ms, calls hang until their deadline (grpc/grpc#41036).
    quick = {"initialBackoff": "0.02s", "maxBackoff": "0.05s"}
    config["methodConfig"][0]["retryPolicy"] |= quick
    options["grpc.service_config"] = json.dumps(config)
    monkeypatch.setattr(_channel, "OPTIONS", tuple(options.items()))


@pytest.fixture
def slow_retries():
    """Retries as they are, for tests that wait for a sidecar to come."""


@pytest.fixture
def sidecar():
    """A sidecar that serves, to be told what to do and asked what it was sent."""
    fake = FakeSidecar()
    server = start(fake)
    yield fake
    fake.gate.set()
    server.stop(None).wait()


@pytest.fixture
def serve():
    """Serves further sidecars, or one more than once: ``serve(sidecar, address)``."""
    servers = []

    def serve_one(fake, address="127.0.0.1:0"):
        servers.append(start(fake, address))
        return servers[-1]

    yield serve_one
    for server in servers:
        server.stop(None).wait()


@pytest.fixture
def loop():
    """An event loop of the test's own."""
    own = asyncio.new_event_loop()
    yield own
    own.run_until_complete(own.shutdown_asyncgens())
    own.close()


@pytest.fixture(params=["sync", "asyncio"])
def make_client(request, loop):
    """Makes clients of one kind; a test that takes it runs for both kinds."""
    clients = []

    def make(*args, **kwargs):
        if request.param == "sync":
            clients.append(Client(*args, **kwargs))
        else:
            clients.append(Blocking(loop, *args, **kwargs))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def client(make_client, sidecar):
    """A client of the sidecar; a test that takes it runs for both kinds."""
    return make_client(sidecar.address)
