"""Real certificates, and whole sidecars that use them."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import grpc
import numpy as np
import pytest
import structlog
from cryptography import x509
from embercache.v1 import cache_pb2, cache_pb2_grpc, common_pb2, embed_pb2, embed_pb2_grpc
from onnx import TensorProto, helper

import sidecar.files_in_use
from bench.certificates import Authority, MountedPair
from sidecar.app import App
from sidecar.config import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

HANG_GUARD = 30.0


class Party(NamedTuple):
    """Who shows a certificate: its files, which can be replaced, and the authority's."""

    authority: Authority
    pair: MountedPair
    ca: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """The files of certificate and key."""
        return self.pair.certificate, self.pair.key

    def renew(self, *, days: float = 1, authority: Authority | None = None) -> int:
        """Replaces certificate and key; returns the serial number of the new one."""
        certificate, key = (authority or self.authority).issue(days=days)
        self.pair.put(certificate, key)
        return x509.load_pem_x509_certificate(certificate).serial_number

    def trust(self, *authorities: Authority) -> None:
        """Replaces the certificates of authorities that it knows."""
        new = self.ca.with_suffix(".new")
        new.write_bytes(b"".join(each.pem for each in authorities))
        new.replace(self.ca)

    def credentials(self) -> grpc.ChannelCredentials:
        """What a gRPC client with this certificate opens channels with."""
        certificate, key = (path.read_bytes() for path in self.files)
        return grpc.ssl_channel_credentials(self.ca.read_bytes(), key, certificate)

    def context(self) -> ssl.SSLContext:
        """What an HTTP client with this certificate connects with."""
        context = ssl.create_default_context(cafile=self.ca)
        context.load_cert_chain(*self.files)
        return context


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def other_authority() -> Authority:
    """One that nobody knows, unless a test says so."""
    return Authority("Somebody else")


@pytest.fixture
def make_party(tmp_path: Path, authority: Authority) -> Callable[..., Party]:
    """Makes certificates of parties by name; they know the authority of ``known``."""

    def make(
        name: str, *, of: Authority = authority, known: Authority = authority, days: float = 1
    ) -> Party:
        folder = tmp_path / name
        folder.mkdir()
        party = Party(of, MountedPair(folder), folder / "ca.crt")
        party.renew(days=days)
        party.trust(known)
        return party

    return make


@pytest.fixture
def server(make_party: Callable[..., Party]) -> Party:
    """The certificate of a sidecar."""
    return make_party("server")


@pytest.fixture
def caller(make_party: Callable[..., Party]) -> Party:
    """The certificate of somebody who calls."""
    return make_party("caller")


@pytest.fixture
def unknown_callers(
    make_party: Callable[..., Party], other_authority: Authority
) -> dict[str, Party]:
    """Those who call with certificates that are no good."""
    return {
        "of an authority that is not known": make_party("stranger", of=other_authority),
        "that has ended": make_party("late", days=-1),
    }


@pytest.fixture(autouse=True)
def _is_looked_at_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar.files_in_use, "LOOK_SECONDS", 0.02)


@pytest.fixture(scope="session")
def pack(save_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of float32 tensors of shape [2, 3] that takes the mean over their first axis."""
    folder: Path = tmp_path_factory.mktemp("packs") / "mean"
    save_graph(
        folder / "model.onnx",
        [helper.make_node("ReduceMean", ["pixels", "axis"], ["embedding"], keepdims=0)],
        {"pixels": (TensorProto.FLOAT, ["batch", 2, 3])},
        {"embedding": (TensorProto.FLOAT, ["batch", 3])},
        {"axis": np.array([1], np.int64)},
    )
    return folder


def one_request(number: int) -> embed_pb2.EmbedRequest:
    """A request whose vector is known: three times the number."""
    data = np.full((2, 3), number, "<f4").tobytes()
    tensor = embed_pb2.Tensor(dtype=embed_pb2.DTYPE_FLOAT32, shape=(2, 3), data=data)
    return embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(tensor=tensor)])


class Caller:
    """A gRPC client of a sidecar: encrypted with ``credentials``, else not."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        # Connections are not shared with other channels: each makes its own handshake.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if credentials is None:
            self.channel = grpc.aio.insecure_channel(address, options=options)
        else:
            self.channel = grpc.aio.secure_channel(address, credentials, options=options)
        self._stub = embed_pb2_grpc.EmbedServiceStub(self.channel)

    async def embed(self, number: int = 1, **options: Any) -> list[float]:
        """Embeds a tensor that is full of a number."""
        answer = await self._stub.Embed(one_request(number), timeout=HANG_GUARD, **options)
        (embedding,) = answer.embeddings
        assert not embedding.HasField("error"), embedding.error
        return np.frombuffer(embedding.vector, "<f4").tolist()

    async def embed_text(self, text: str) -> embed_pb2.Embedding:
        """Embeds a text; the answer may hold an error."""
        request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=text)])
        (embedding,) = (await self._stub.Embed(request, timeout=HANG_GUARD)).embeddings
        return embedding

    async def tier(self, number: int = 1) -> str:
        """What answers for a number: "HOT", "COMPUTED" and so on."""
        answer = await self._stub.Embed(one_request(number), timeout=HANG_GUARD)
        return common_pb2.Tier.Name(answer.embeddings[0].tier).removeprefix("TIER_")

    async def flush(self) -> None:
        """Empties the memory of the sidecar."""
        stub = cache_pb2_grpc.CacheServiceStub(self.channel)
        await stub.Flush(cache_pb2.FlushRequest(), timeout=HANG_GUARD)

    async def fault_of_item(self, number: int) -> tuple[int, str]:
        """The code and the message of an item that could not be embedded, in a call that ends."""
        answer = await self._stub.Embed(one_request(number), timeout=HANG_GUARD)
        (embedding,) = answer.embeddings
        return embedding.error.code, embedding.error.message

    async def failure(self, number: int = 1) -> tuple[grpc.StatusCode, str]:
        """How a call ends that must not succeed."""
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await self.embed(number)
        return error.value.code(), error.value.details() or ""


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Caller]]:
    """Opens channels to sidecars."""
    callers: list[Caller] = []

    def open_one(*arguments: Any) -> Caller:
        callers.append(Caller(*arguments))
        return callers[-1]

    yield open_one
    for caller in callers:
        await caller.channel.close()


class Running(NamedTuple):
    """A sidecar: what it listens on."""

    address: str
    openai_url: str
    metrics_address: str

    def url(self, path: str) -> str:
        """The address of a page for those who watch it."""
        return f"https://{self.metrics_address}{path}"


@pytest.fixture
async def start(pack: Path, transport: str) -> AsyncIterator[Callable[..., Awaitable[Running]]]:
    """Starts sidecars with sections of settings; they listen everywhere on ports of their own."""
    async with contextlib.AsyncExitStack() as exits:

        async def start_one(**sections: dict[str, Any]) -> Running:
            settings = Settings.model_validate(settings_of(pack, transport, **sections))
            app = await exits.enter_async_context(App(settings))
            address, *_, openai_url = app.addresses
            return Running(address, openai_url, settings.server.metrics_address)

        yield start_one


def settings_of(pack: Path, transport: str, **sections: dict[str, Any]) -> dict[str, Any]:
    server = {
        "address": "127.0.0.1:0",
        "transport": transport,
        "openai_address": "127.0.0.1:0",
        "metrics_address": _free_address(),
        "drain_delay": 0,
        "drain_timeout": 1,
    }
    sections["server"] = server | sections.get("server", {})
    sections["model"] = {"packs": str(pack), "rerankers": ""} | sections.get("model", {})
    return sections


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def tls(server: Party) -> dict[str, Any]:
    """Settings of a listener that shows a certificate."""
    return {"cert_file": str(server.pair.certificate), "key_file": str(server.pair.key)}


@pytest.fixture
def mutual_tls(tls: dict[str, Any], server: Party) -> dict[str, Any]:
    """Settings of a listener that shows a certificate and asks for one."""
    return tls | {"client_ca_file": str(server.ca)}


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client that makes a connection for each request."""
    connector = aiohttp.TCPConnector(force_close=True)
    timeout = aiohttp.ClientTimeout(HANG_GUARD)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield session


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    """What is logged meanwhile."""
    with structlog.testing.capture_logs() as captured:
        yield captured
