"""Real sidecars, each in a process of its own, over each transport of gRPC there is."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import psutil
import pytest
from embercache.v1 import embed_pb2
from onnx import TensorProto
from onnx import helper as onnx_helper
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from tests.integration.transport.interop.http2 import Connection
from tests.integration.transport.interop.probe_service import SERVICE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

HANG_GUARD = 60.0
ROOT = Path(__file__).parents[4]
_MODULE = "tests.integration.transport.interop.serve"
_WORDS = ["[UNK]", *map(chr, range(32, 127))]


def has_front() -> bool:
    """Whether the native front door can be used here."""
    try:
        import embercache_native
    except ImportError:
        return False
    return hasattr(embercache_native, "Front")


@pytest.fixture(scope="session", params=["grpcio", "native"])
def transport(request: pytest.FixtureRequest) -> str:
    """What takes the connections of callers."""
    if request.param == "native" and not has_front():
        pytest.skip("embercache_native is not installed: run make native, which needs Rust")
    return str(request.param)


@pytest.fixture(scope="session")
def pack(save_graph: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of texts that computes in no time: it has a vector for each character."""
    folder = tmp_path_factory.mktemp("packs") / "tiny"
    text = ["batch", "sequence"]
    save_graph(
        folder / "model.onnx",
        [onnx_helper.make_node("Gather", ["table", "input_ids"], ["last_hidden_state"])],
        dict.fromkeys(("input_ids", "attention_mask"), (TensorProto.INT64, text)),
        {"last_hidden_state": (TensorProto.FLOAT, [*text, 8])},
        {"table": np.random.default_rng(0).normal(size=(len(_WORDS), 8)).astype(np.float32)},
    )
    vocabulary = {word: number for number, word in enumerate(_WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    return folder


class Server:
    """A sidecar as a process, and the service of the tests in it."""

    def __init__(self, folder: Path, flags: dict[str, object]) -> None:
        self._log, self._is_told = folder / "log", False
        flags = {"server_socket": folder / "socket", "log_format": "json"} | flags
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        environment["EMBERCACHE_INDEX_URL"] = "memory://"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, "serve", *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=environment,
            )
        self.address, self.unix = self._wait(), f"unix:{flags['server_socket']}"

    def _wait(self) -> str:
        give_up = time.monotonic() + HANG_GUARD
        while time.monotonic() < give_up and self.process.poll() is None:
            for event in self.events():
                if event["event"] == "serving":
                    return str(event["addresses"][0])
            time.sleep(0.01)
        raise AssertionError(f"it does not serve: {self._log.read_text('utf-8')}")

    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self._log.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(each) for each in lines if each.startswith("{") and each.endswith("\n")]

    def memory(self) -> int:
        """How many bytes of memory it has."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def terminate(self) -> None:
        """Asks it to end, as Kubernetes does; once, as a second time would kill it."""
        if not self._is_told:
            self.process.send_signal(signal.SIGTERM)
        self._is_told = True

    def end(self) -> None:
        """Ends it, which is to go well; nothing in it may have failed or panicked."""
        self.terminate()
        assert self.process.wait(HANG_GUARD) == 0, self._log.read_text("utf-8")
        log = self._log.read_text("utf-8")
        assert "panicked" not in log, log
        assert "Traceback" not in log, log
        assert not [each for each in self.events() if each["level"] == "error"], log


@pytest.fixture(scope="session")
def launch_over(
    pack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts a sidecar over a transport with flags; it ends with the context, or fails the test."""

    @contextlib.contextmanager
    def launch_server(transport: str, **flags: object) -> Iterator[Server]:
        defaults = {
            "server_address": "127.0.0.1:0",
            "server_transport": transport,
            "server_drain_delay": 0,
            "model_packs": pack,
            "model_provider": "cpu",
            "model_threads": 1,
        }
        server = Server(tmp_path_factory.mktemp("sidecar"), defaults | flags)
        try:
            yield server
        except BaseException:
            server.process.kill()
            server.process.wait()
            raise
        server.end()

    return launch_server


@pytest.fixture(scope="session")
def keep_over(launch_over: Callable[..., Any]) -> Iterator[Callable[..., Server]]:
    """Gives the sidecar of a transport and flags, which is started once and ends in the end."""
    kept: dict[str, Server] = {}
    with contextlib.ExitStack() as exits:

        def keep(transport: str, **flags: object) -> Server:
            key = f"{transport} {flags}"
            if key not in kept:
                kept[key] = exits.enter_context(launch_over(transport, **flags))
            return kept[key]

        yield keep


@pytest.fixture
def launch(
    transport: str, launch_over: Callable[..., Any]
) -> Callable[..., contextlib.AbstractContextManager[Server]]:
    """Starts a sidecar for a test, with flags."""
    return partial(launch_over, transport)


@pytest.fixture(scope="session")
def server(transport: str, keep_over: Callable[..., Server]) -> Server:
    """A sidecar for all tests of a transport."""
    return keep_over(transport)


@pytest.fixture(scope="session")
def short_lived(transport: str, keep_over: Callable[..., Server]) -> Server:
    """A sidecar whose connections end after half a second."""
    return keep_over(transport, server_max_connection_age="500ms")


class Client:
    """A channel of grpcio: one connection, which is its own."""

    def __init__(self, address: str, **options: Any) -> None:
        defaults = {
            "grpc.max_receive_message_length": -1,
            "grpc.max_send_message_length": -1,
            "grpc.use_local_subchannel_pool": 1,
            # What a test sees is what the server has said.
            "grpc.enable_retries": 0,
        }
        self.channel = grpc.aio.insecure_channel(
            address, options=list((defaults | options).items())
        )

    def unary(self, name: str, request: bytes, **options: Any) -> Any:
        """A call of one message each way, by the name of a method of ours or a whole path."""
        return self.channel.unary_unary(_path(name))(request, **_limited(options))

    def stream(self, name: str, request: bytes, **options: Any) -> Any:
        """A call whose answer is a stream."""
        return self.channel.unary_stream(_path(name))(request, **_limited(options))

    def chat(self, name: str = "Chat", **options: Any) -> Any:
        """A call of streams both ways."""
        return self.channel.stream_stream(_path(name))(**_limited(options))

    def upload(self, name: str, **options: Any) -> Any:
        """A call whose request is a stream."""
        return self.channel.stream_unary(_path(name))(**_limited(options))

    async def counts(self, name: str) -> tuple[int, int]:
        """How many calls of a name have begun, and how many of them have not ended."""
        started, running = json.loads(await self.unary("Counts", name.encode()))
        return started, running

    async def until(self, name: str, *, started: int, running: int) -> None:
        """Waits until so many calls of a name have begun, and so many have not ended."""
        async with asyncio.timeout(HANG_GUARD):
            while await self.counts(name) != (started, running):
                await asyncio.sleep(0.005)


def _path(name: str) -> str:
    return name if name.startswith("/") else f"/{SERVICE}/{name}"


def _limited(options: dict[str, Any]) -> dict[str, Any]:
    return {"timeout": HANG_GUARD} | options


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Client]]:
    """Makes clients of an address, with options of grpcio's channels."""
    async with contextlib.AsyncExitStack() as exits:

        def make(address: str, **options: Any) -> Client:
            client = Client(address, **options)
            exits.push_async_callback(client.channel.close)
            return client

        yield make


@pytest.fixture
def client(connect: Callable[..., Client], server: Server) -> Client:
    """A client of the sidecar."""
    return connect(server.address)


@pytest.fixture
async def open_raw() -> AsyncIterator[Callable[..., Awaitable[Connection]]]:
    """Opens connections of HTTP/2 by hand; see `Connection.open`."""
    async with contextlib.AsyncExitStack() as exits:

        async def make(address: str, **options: Any) -> Connection:
            connection = await Connection.open(address, **options)
            exits.push_async_callback(connection.close)
            return connection

        yield make


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def embed_request() -> Callable[..., bytes]:
    """A request of Embed for texts."""

    def make(*texts: str, **fields: Any) -> bytes:
        inputs = [embed_pb2.Input(text=text) for text in texts]
        return embed_pb2.EmbedRequest(inputs=inputs, **fields).SerializeToString()

    return make
