"""Who answers hot calls in `bench.hot_path`, each in a process of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import psutil
from embercache.v1 import common_pb2, embed_pb2, embed_pb2_grpc, search_pb2, search_pb2_grpc

from bench.corpus import docstrings
from bench.ghz.files import protoset
from bench.processes import echo, rust_echo, sidecar
from bench.triton import METHOD as TRITON_METHOD
from bench.triton import NoTritonError, Triton

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

GRPCIO_ECHO, RUST_ECHO = "bare grpcio echo", "bare Rust echo"
GRPCIO, NATIVE = "Embercache on grpcio", "Embercache, native"
TRITON = "Triton's response cache"

# One for each process: in this order.
_PORTS = iter(range(50761, 50780))
_TEXT = "how warm is an ember?"
_DOCUMENTS = 200


@dataclass(frozen=True)
class Call:
    """A call that is hot, the answer to it, and the descriptors that ghz reads."""

    name: str
    method: str
    request: bytes
    response: bytes
    protoset: bytes


@dataclass(frozen=True)
class Contender:
    """Who answers a call, and where."""

    name: str
    address: str
    call: Call
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Of all its threads, since it started."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def answer(self) -> bytes:
        """What it says when it is called."""
        with grpc.insecure_channel(self.address) as channel:
            answer: bytes = channel.unary_unary(self.call.method)(self.call.request)
            return answer


@dataclass(frozen=True)
class Sidecar:
    """An Embercache that serves."""

    name: str
    address: str
    process: psutil.Process


def sidecars(stack: ExitStack) -> list[Sidecar]:
    """Starts one on grpcio and, if it is installed, one with the native front door."""
    transports = {"grpcio": GRPCIO}
    if importlib.util.find_spec("embercache_native"):
        transports["native"] = NATIVE
    started = []
    for transport, name in transports.items():
        address = _address()
        options = ("--server-address", address, "--server-transport", transport)
        process = stack.enter_context(sidecar(*options))
        started.append(Sidecar(name, address, psutil.Process(process.pid)))
    return started


def embed(which: Sidecar) -> Contender:
    """Makes an embedding hot."""
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text=_TEXT)])
    with grpc.insecure_channel(which.address) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        answer = [stub.Embed(request) for _ in range(3)][-1]
    _expect_hot(answer.embeddings[0].tier)
    method = "/embercache.v1.EmbedService/Embed"
    return _contender(which, "Embed", method, request, answer)


def search(which: Sidecar) -> Contender:
    """Stores documents, and makes a search of them hot."""
    documents = [
        search_pb2.Document(id=str(number), chunks=[search_pb2.Chunk(content=text[:500])])
        for number, text in enumerate(docstrings(_DOCUMENTS))
    ]
    request = search_pb2.SearchRequest(text="how can I read a compressed file?", top_k=10)
    with grpc.insecure_channel(which.address) as channel:
        stub = search_pb2_grpc.SearchServiceStub(channel)
        stub.Upsert(search_pb2.UpsertRequest(documents=documents))
        answer = [stub.Search(request) for _ in range(3)][-1]
    _expect_hot(answer.tier)
    method = "/embercache.v1.SearchService/Search"
    return _contender(which, "Search", method, request, answer)


def grpcio_echo(stack: ExitStack, call: Call) -> Contender:
    """Starts a bare server that answers with the same bytes."""
    address = _address()
    process = stack.enter_context(echo(address, call.response))
    return Contender(GRPCIO_ECHO, address, call, psutil.Process(process.pid))


def others(stack: ExitStack, call: Call, triton_python: str) -> Iterator[Contender | str]:
    """Starts those that may not be there; a text says why one is not."""
    try:
        address = _address()
        process = stack.enter_context(rust_echo(address, call.response))
        yield Contender(RUST_ECHO, address, call, psutil.Process(process.pid))
    except FileNotFoundError:
        yield f"no {RUST_ECHO}: cargo is not installed"
    try:
        triton = Triton(triton_python, _TEXT)
    except NoTritonError as error:
        yield f"no {TRITON}: {error}"
        return
    address = _address()
    process = stack.enter_context(triton.serving(address))
    asked = Call("ModelInfer", TRITON_METHOD, triton.request, b"", triton.protoset)
    yield Contender(TRITON, address, asked, psutil.Process(process.pid))


def _address() -> str:
    return f"127.0.0.1:{next(_PORTS)}"


def _contender(
    which: Sidecar,
    name: str,
    method: str,
    request: embed_pb2.EmbedRequest | search_pb2.SearchRequest,
    answer: embed_pb2.EmbedResponse | search_pb2.SearchResponse,
) -> Contender:
    content = protoset().SerializeToString()
    call = Call(name, method, request.SerializeToString(), answer.SerializeToString(), content)
    return Contender(which.name, which.address, call, which.process)


def _expect_hot(tier: int) -> None:
    if tier != common_pb2.TIER_HOT:
        raise RuntimeError("the calls are not answered from memory")
