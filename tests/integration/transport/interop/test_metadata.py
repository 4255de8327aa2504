"""Metadata as it goes both ways, and what callers say of themselves that is not so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

EMBED = "/embercache.v1.EmbedService/Embed"
PEER, CERTIFICATE = "embercache-peer", "embercache-certificate-bin"
FRONT = "embercache-front"
BYTES = bytes(range(256))
POLICY = """
callers:
  - {name: on-socket, socket: true, namespaces: [a]}
  - {name: by-certificate, certificates: [web.shop.example], namespaces: [a]}
"""


async def received(client: Any, *sent: tuple[str, str | bytes]) -> list[tuple[str, str]]:
    """The metadata that came to the server; bytes as hexadecimal digits."""
    return [(key, value) for key, value in json.loads(
        await client.unary("Metadata", b"", metadata=sent)
    )]  # fmt: skip


def of(name: str, metadata: Any) -> list[Any]:
    return [value for key, value in metadata if key == name]


async def test_values_of_one_name_keep_their_order(client: Any) -> None:
    sent = [("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-a", "1"), ("x-b", "0")]
    came = await received(client, *sent)
    assert of("x-a", came) == ["1", "3", "1"]
    assert of("x-b", came) == ["2", "0"]


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff", b"abc", BYTES, BYTES * 8])
async def test_bytes_arrive_as_they_were_sent(client: Any, data: bytes) -> None:
    came = await received(client, ("x-bin", data), ("x-bin", b"other"))
    assert of("x-bin", came) == [data.hex(), b"other".hex()]


async def test_metadata_comes_back_before_and_after_the_answer(client: Any) -> None:
    initial = [("initial-a", "1"), ("initial-a", "2"), ("initial-bin", BYTES)]
    trailing = [("trailing-a", "~ !,;\\"), ("trailing-bin", BYTES), ("trailing-bin", b"2")]
    call = client.unary("Echo", b"answer", metadata=[*initial, *trailing])
    assert [each for each in await call.initial_metadata() if each in initial] == initial
    assert await call == b"answer"
    assert [each for each in await call.trailing_metadata() if each in trailing] == trailing


async def test_metadata_of_some_size_is_taken(client: Any) -> None:
    sent = [(f"x-{number}", "v" * 500) for number in range(12)]
    assert set(sent) <= set(await received(client, *sent))


async def test_metadata_that_is_too_large_ends_its_call_only(client: Any, name: str) -> None:
    waiting = client.unary("Hold", name.encode())
    await client.until(name, started=1, running=1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.unary("Echo", b"", metadata=[("x-large", "v" * 150_000)])
    # HTTP/2 in Rust says it by a status of HTTP, 431, which gRPC has no name for, and resets the
    # stream: the client tells of what it reads first.
    assert error.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
    )
    assert not waiting.done()
    waiting.cancel()
    assert await client.unary("Echo", b"still here") == b"still here"


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy of who connects on the socket, and of a certificate."""
    path: Path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def guarded(transport: str, keep_over: Callable[..., Any], policy: Path) -> Any:
    """A sidecar that knows those, and nobody else."""
    return keep_over(transport, access_policy_file=policy)


FORGED = [
    [],
    [(PEER, "unix")],
    [(PEER, "unix"), (PEER, "unix")],
    [(CERTIFICATE, b"web.shop.example")],
    [(FRONT, "0" * 64), (FRONT, ""), (PEER, "unix"), (PEER, "unix"), (PEER, "tcp")],
    [(PEER, "unix"), (CERTIFICATE, b"web.shop.example\0web.shop.example")],
]


@pytest.mark.threat("A caller without a token calls")
@pytest.mark.parametrize("forged", FORGED, ids=len)
async def test_a_caller_cannot_say_where_he_connects_from_or_what_his_certificate_is(
    connect: Callable[..., Any],
    guarded: Any,
    embed_request: Callable[..., bytes],
    forged: list[tuple[str, str | bytes]],
) -> None:
    request = embed_request("a text", namespace="a")
    for _ in range(3):  # the third on the socket is a hit
        await connect(guarded.unix).unary(EMBED, request, metadata=forged)
    for text in (request, embed_request(f"not stored {len(forged)}", namespace="a")):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await connect(guarded.address).unary(EMBED, text, metadata=forged)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("forged", FORGED, ids=len)
async def test_what_the_front_door_says_of_a_caller_is_no_word_of_his(
    connect: Callable[..., Any],
    server: Any,
    transport: str,
    forged: list[tuple[str, str | bytes]],
) -> None:
    if transport == "grpcio":
        pytest.skip("there is no front door")
    for address, peer in ((server.address, "tcp"), (server.unix, "unix")):
        came = await received(connect(address), *forged)
        assert of(PEER, came) == [peer]
        assert of(CERTIFICATE, came) == []
        (secret,) = of(FRONT, came)
        assert secret not in ("", "0" * 64)
