"""The same with a client in Go: its stack has nothing in common with that of grpcio.

The program is built where Go is there. Each scenario ends with what was wrong, if anything was.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

HERE = Path(__file__).parent / "go"
EMBED = "/embercache.v1.EmbedService/Embed"
HANG_GUARD = 100.0

# The first build compiles gRPC.
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="session")
def program() -> Path:
    """The client."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed")
    path = HERE / "build" / "interop"
    subprocess.run(["go", "build", "-o", str(path), "."], cwd=HERE, check=True)
    return path


@pytest.fixture(scope="module", autouse=True)
def pinging(program: Path, server: Any) -> Iterator[subprocess.Popen[str]]:
    """A client that sends two pings, which takes it 20 seconds: it is started first."""
    command = [program, server.address, "keepalive", f"pinging-{server.address}"]
    with subprocess.Popen(command, text=True, stderr=subprocess.PIPE) as process:
        yield process
        process.kill()


class Run:
    """A scenario that runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> str:
        """The next line that it prints."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()

    async def end(self) -> list[str]:
        """The lines that it has printed besides, when it has ended well."""
        async with asyncio.timeout(HANG_GUARD):
            said, wrong = await self._process.communicate()
        assert self._process.returncode == 0, wrong.decode()
        return said.decode().splitlines()


@pytest.fixture
async def start(program: Path) -> Callable[..., Awaitable[Run]]:
    """Starts a scenario at an address, with arguments."""

    async def start_scenario(address: str, scenario: str, *arguments: str) -> Run:
        pipe = asyncio.subprocess.PIPE
        return Run(
            await asyncio.create_subprocess_exec(
                program, address, scenario, *arguments, stdout=pipe, stderr=pipe
            )
        )

    return start_scenario


@pytest.mark.parametrize(
    ("scenario", "listener"),
    [
        *((each, "address") for each in (
            "large", "compression", "metadata", "errors", "half-close", "cancel", "deadline",
            "many", "standard",
        )),
        ("half-close", "unix"),
    ],
)  # fmt: skip
async def test_what_clients_rely_on(
    start: Callable[..., Awaitable[Run]], server: Any, name: str, scenario: str, listener: str
) -> None:
    await (await start(getattr(server, listener), scenario, name)).end()


async def test_hits_are_those_of_python(
    start: Callable[..., Awaitable[Run]],
    server: Any,
    client: Any,
    embed_request: Callable[..., bytes],
    name: str,
) -> None:
    request = embed_request("one text", "another", namespace=name)
    answers = [bytes.fromhex(each) for each in await (
        await start(server.address, "hits", request.hex())
    ).end()]  # fmt: skip
    answers.append(await client.unary(EMBED, request))
    read = [embed_pb2.EmbedResponse.FromString(each) for each in answers]
    for each in read:
        for embedding in each.embeddings:
            embedding.age_ms = 0
    assert len({each.SerializeToString(deterministic=True) for each in read[1:]}) == 1
    vectors = [[embedding.vector for embedding in each.embeddings] for each in read]
    assert all(each == vectors[0] for each in vectors)


async def test_no_call_fails_over_many_ages_of_connections(
    start: Callable[..., Awaitable[Run]], short_lived: Any, embed_request: Callable[..., bytes]
) -> None:
    await (await start(short_lived.address, "max-age", embed_request("a").hex())).end()


async def test_a_server_is_waited_for_and_left_when_it_ends_and_another_is_there(
    start: Callable[..., Awaitable[Run]],
    launch: Callable[..., Any],
    server: Any,
    embed_request: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    path = tmp_path / "socket"
    waiting = await start(f"unix:{path}", "wait")
    assert await waiting.line() == "waiting"
    with launch(server_drain_delay="500ms", server_socket=path) as ending:
        await waiting.end()
        request = embed_request("a text").hex()
        run = await start(ending.address, "drain", server.address, request)
        assert await run.line() == "ready"
        ending.terminate()
        await run.end()


async def test_a_client_may_ping_as_often_as_go_does(pinging: subprocess.Popen[str]) -> None:
    """It was started before the other tests."""
    async with asyncio.timeout(HANG_GUARD):
        _, wrong = await asyncio.to_thread(pinging.communicate)
    assert pinging.returncode == 0, wrong
