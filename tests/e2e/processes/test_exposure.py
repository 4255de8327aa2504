"""Who can reach a sidecar: only this machine, only who may open its socket, unless told."""

from __future__ import annotations

import asyncio
import stat
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    Launch = Callable[..., Any]
    Start = Callable[..., Awaitable[Any]]


@pytest.mark.threat("A stranger reaches a sidecar that was opened by mistake")
async def test_an_address_that_others_can_reach_is_refused(launch: Launch) -> None:
    process = launch(server_address="0.0.0.0:0")
    assert await asyncio.to_thread(process.wait) == 2
    assert "can be reached by other machines and is not encrypted" in process.log
    assert "set server.insecure" in process.log
    assert "Traceback" not in process.log


async def test_it_is_taken_when_that_is_asked_for(
    launch: Launch, client_of: Callable[[str], Any]
) -> None:
    process = launch(server_address="0.0.0.0:0", server_insecure="true")
    (address,) = process.wait_until_it_serves()
    sidecar = client_of(address.replace("0.0.0.0", "127.0.0.1"))  # noqa: S104
    assert await sidecar.tiers("a text") == ["COMPUTED"]


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.9.10:0"])
async def test_loopback_needs_no_permission(
    address: str, start: Start, client_of: Callable[[str], Any]
) -> None:
    sidecar = await start(server={"address": address, "drain_delay": 0})
    assert await sidecar.tiers("a text") == ["COMPUTED"]


async def test_only_user_and_group_may_open_the_socket(
    start: Start, client_of: Callable[[str], Any], tmp_path: Path
) -> None:
    path = tmp_path / "s"
    await start(server={"address": "", "socket": str(path), "drain_delay": 0})
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert await client_of(f"unix:{path}").tiers("a text") == ["COMPUTED"]
    # What this process makes next is not concerned.
    other = tmp_path / "other"
    other.touch()
    assert stat.S_IMODE(other.stat().st_mode) & 0o044


async def test_a_socket_in_a_folder_that_is_not_there_is_named(
    launch: Launch, tmp_path: Path
) -> None:
    process = launch(server_address="", server_socket=tmp_path / "missing" / "s")
    assert await asyncio.to_thread(process.wait) == 1
    assert f"cannot listen on the socket {tmp_path / 'missing' / 's'}" in process.log
    assert "Traceback" not in process.log


async def test_a_socket_that_another_sidecar_listens_on_is_not_taken_from_it(
    start: Start, client_of: Callable[[str], Any], launch: Launch, tmp_path: Path
) -> None:
    server = {"address": "", "socket": str(tmp_path / "s"), "drain_delay": 0}
    await start(server=server)
    sidecar = client_of(f"unix:{tmp_path / 's'}")
    assert await sidecar.tiers("a text") == ["COMPUTED"]
    process = launch(server_address="", server_socket=tmp_path / "s")
    assert await asyncio.to_thread(process.wait) == 1
    assert "another process listens on the socket" in process.log
    assert await client_of(f"unix:{tmp_path / 's'}").tiers("a text") == ["HOT"]
