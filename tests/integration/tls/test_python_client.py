"""The Python client and the commands, called with tokens and certificates."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import embercache._credentials
import numpy as np
import pytest
from click.testing import CliRunner, Result
from embercache import (
    AsyncClient,
    Client,
    InvalidArgumentError,
    UnauthenticatedError,
    UnavailableError,
)

from sidecar.cli import main
from sidecar.watched_files import watch_files

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Party = Any
    Start = Callable[..., Awaitable[Any]]

FIRST, SECOND = "the-first-token-of-the-shop", "the-second-token-of-the-shop"
TWOS = np.full((1, 2, 3), 2, np.float32)
VARIABLES = ("TOKEN", "CA", "CERT", "KEY")


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """The tokens that the sidecar knows."""
    file = tmp_path / "known"
    file.write_text(FIRST)
    return file


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """The token that a client shows."""
    file = tmp_path / "token"
    file.write_text(FIRST)
    return file


@pytest.fixture
def access(tmp_path: Path, known: Path) -> dict[str, str]:
    """Settings by which a caller is known by a token, and another by a certificate."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"callers: [{{name: one, token_file: {known}, namespaces: ['*']}},"
        " {name: two, certificates: [localhost], namespaces: ['*']}]"
    )
    return {"policy_file": str(policy)}


@pytest.fixture
async def address(start: Start, tls: dict[str, Any], access: dict[str, str]) -> str:
    """Where a sidecar is that shows a certificate and asks who calls."""
    return f"tls://{(await start(tls=tls, access=access)).address}"


async def embed(address: str, **files: Path) -> list[float]:
    async with AsyncClient(address, **files) as client:
        return (await client.embed(TWOS)).vectors[0].tolist()


async def test_calls_of_every_kind_show_the_token_over_tls(
    address: str, token: Path, server: Party
) -> None:
    async with AsyncClient(address, token_file=token, ca_file=server.ca) as client:
        assert (await client.embed(TWOS)).vectors.tolist() == [[2, 2, 2]]
        assert [result.tiers async for result in client.embed_stream([TWOS[0]])] == [["hot"]]

    def blocking() -> Any:
        with Client(address, token_file=token, ca_file=server.ca) as client:
            (streamed,) = client.embed_stream([TWOS[0]])
            return client.embed(TWOS).tiers + streamed.tiers

    assert await asyncio.to_thread(blocking) == ["hot", "hot"]


async def test_a_token_is_shown_over_loopback_and_a_unix_socket_without_tls(
    start: Start, access: dict[str, str], token: Path, tmp_path: Path
) -> None:
    socket = tmp_path / "s"
    sidecar = await start(access=access, server={"socket": str(socket)})
    for address in (sidecar.address, f"unix:{socket}"):
        assert await embed(address, token_file=token) == [2, 2, 2]


async def test_a_certificate_says_who_calls(
    start: Start, mutual_tls: dict[str, Any], access: dict[str, str], caller: Party
) -> None:
    address = f"tls://{(await start(tls=mutual_tls, access=access)).address}"
    certificate, key = caller.files
    files = {"ca_file": caller.ca, "cert_file": certificate, "key_file": key}
    assert await embed(address, **files) == [2, 2, 2]


async def test_a_token_that_the_sidecar_does_not_know_is_refused_as_such(
    address: str, token: Path, server: Party
) -> None:
    token.write_text("a-token-of-nobody-here")
    with pytest.raises(UnauthenticatedError, match="none of those in the policy"):
        await embed(address, token_file=token, ca_file=server.ca)
    with pytest.raises(UnauthenticatedError, match="does not know who calls"):
        await embed(address, ca_file=server.ca)


async def test_a_sidecar_of_an_authority_that_is_not_known_is_not_called(
    address: str, server: Party, other_authority: Any
) -> None:
    server.trust(other_authority)
    async with AsyncClient(address, ca_file=server.ca) as client:
        with pytest.raises(UnavailableError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.health()  # which is not tried again


async def test_a_certificate_of_an_address_without_tls_is_refused_before_the_call(
    server: Party,
) -> None:
    with pytest.raises(InvalidArgumentError, match="tls://host:port"):
        await embed("127.0.0.1:1", ca_file=server.ca)


async def test_a_token_is_replaced_while_both_sides_run(
    start: Start,
    tls: dict[str, Any],
    access: dict[str, str],
    known: Path,
    token: Path,
    server: Party,
    eventually: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
    logs: list[Any],
) -> None:
    monkeypatch.setitem(watch_files.__kwdefaults__, "seconds", 0.02)
    address = f"tls://{(await start(tls=tls, access=access)).address}"
    async with AsyncClient(address, token_file=token, ca_file=server.ca) as client:
        await client.embed(TWOS)
        for file in (token, known):
            file.write_text(SECOND)
        await eventually(lambda: "the policy was read again" in [each["event"] for each in logs])
        with pytest.raises(UnauthenticatedError):
            await client.embed(TWOS)
        monkeypatch.setattr(embercache._credentials, "REREAD_SECONDS", -1.0)
        await client.embed(TWOS)


async def run(command: str, address: str, **files: Path) -> Result:
    """Runs a command with those files, and no others, named by the environment."""
    env = {f"EMBERCACHE_{name}_FILE": None for name in VARIABLES}
    env |= {f"EMBERCACHE_{name}_FILE": str(file) for name, file in files.items()}
    runner = CliRunner(env=env | {"EMBERCACHE_ADDRESS": address})
    return await asyncio.to_thread(runner.invoke, main, [command])


async def test_commands_show_the_token_over_tls(address: str, token: Path, server: Party) -> None:
    assert (await run("health", address, CA=server.ca)).output == "SERVING\n"
    shown = await run("stats", address, CA=server.ca, TOKEN=token)
    assert (shown.exit_code, shown.stderr) == (0, "")
    unknown = await run("stats", address, CA=server.ca)
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("Error: this sidecar does not know who calls")


async def test_commands_show_the_certificate(
    start: Start, mutual_tls: dict[str, Any], access: dict[str, str], caller: Party
) -> None:
    address = f"tls://{(await start(tls=mutual_tls, access=access)).address}"
    certificate, key = caller.files
    for command in ("health", "stats"):
        shown = await run(command, address, CA=caller.ca, CERT=certificate, KEY=key)
        assert (shown.exit_code, shown.stderr) == (0, ""), command
    refused = await run("health", address, CA=caller.ca)
    assert refused.exit_code == 1
    assert refused.stderr.startswith(f"Error: no answer from {address}")
