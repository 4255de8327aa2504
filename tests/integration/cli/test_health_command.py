"""``embercache health``: the probe of containers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health as health_service
from grpc_health.v1 import health_pb2_grpc

from sidecar.cli import main
from sidecar.config import ServerSettings
from sidecar.config_sources import ConfigError, load_settings
from sidecar.transport.server import GrpcServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NAMES = ("ADDRESS", "SERVER_ADDRESS", "SERVER_SOCKET")


async def health(*arguments: str, **environment: str) -> Result:
    """Runs the command with those variables, without the prefix, and no other of ours."""
    env = {f"EMBERCACHE_{name}": environment.get(name) for name in NAMES}
    runner = CliRunner(env=env)
    return await asyncio.to_thread(runner.invoke, main, ["health", *arguments])


@contextlib.asynccontextmanager
async def server(**settings: object) -> AsyncIterator[GrpcServer]:
    opened = GrpcServer(
        ServerSettings.model_validate({"drain_delay": 0, "drain_timeout": 0} | settings),
        [grpc.method_handlers_generic_handler("embercache.v1.EmbedService", {})],
    )
    await opened.start()
    yield opened
    await opened.drain()


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with server(address="127.0.0.1:0") as opened:
        yield opened.addresses[0]


async def test_a_sidecar_that_serves_is_healthy(address: str) -> None:
    result = await health("--address", address)
    assert (result.exit_code, result.output) == (0, "SERVING\n")


async def test_a_service_can_be_asked_for(address: str) -> None:
    known = await health("--address", address, "--service", "embercache.v1.EmbedService")
    assert known.exit_code == 0
    unknown = await health("--address", address, "--service", "no.such.Service")
    assert unknown.exit_code == 1
    assert unknown.stderr == f"Error: {address} has no service no.such.Service\n"


async def test_a_sidecar_that_drains_is_not_healthy_though_it_still_answers() -> None:
    draining = grpc.aio.server()
    answers = health_service.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(answers, draining)
    address = f"127.0.0.1:{draining.add_insecure_port('127.0.0.1:0')}"
    await answers.enter_graceful_shutdown()
    await draining.start()
    result = await health("--address", address)
    await draining.stop(None)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {address} says NOT_SERVING\n"


async def test_nobody_there_is_one_line_that_says_why() -> None:
    result = await health("--address", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("Error: no answer from 127.0.0.1:1: UNAVAILABLE: ")
    assert "Connection refused" in result.stderr
    assert result.stderr.count("\n") == 1


async def test_a_sidecar_that_hangs_is_not_waited_for_longer_than_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        result = await health("--address", address, "--timeout", "50ms")
    assert result.exit_code == 1
    assert result.stderr == f"Error: no answer from {address} within 0.05 s\n"


async def test_without_an_address_it_asks_where_a_sidecar_of_this_environment_listens(
    tmp_path: Path, address: str
) -> None:
    path = tmp_path / "sidecar.sock"
    nowhere = "127.0.0.1:1"
    async with server(address="", socket=str(path)):
        for environment in (
            {"ADDRESS": address, "SERVER_SOCKET": "/nowhere", "SERVER_ADDRESS": nowhere},
            {"SERVER_SOCKET": str(path), "SERVER_ADDRESS": nowhere},
            {"ADDRESS": "", "SERVER_SOCKET": "", "SERVER_ADDRESS": address},
        ):
            assert (await health(**environment)).output == "SERVING\n"
    gone = await health("--address", nowhere, ADDRESS=address)
    assert "127.0.0.1:1" in gone.stderr


async def test_an_address_in_place_of_the_sockets_path_is_refused_as_by_the_sidecar_itself() -> (
    None
):
    variable = {"EMBERCACHE_SERVER_SOCKET": "unix:/x.sock"}
    with pytest.raises(ConfigError) as refused:
        load_settings(None, variable, {})
    result = await health(SERVER_SOCKET="unix:/x.sock")
    assert (result.exit_code, result.stderr) == (1, f"Error: {refused.value}\n")


async def test_a_sidecar_that_listens_on_all_addresses_is_asked_on_this_machine() -> None:
    async with server(address="0.0.0.0:0", insecure=True) as opened:
        assert (await health(SERVER_ADDRESS=opened.addresses[0])).output == "SERVING\n"


async def test_the_default_is_the_sidecars_own() -> None:
    assert f"else {ServerSettings().address}]" in " ".join((await health("--help")).output.split())


async def test_a_proxy_in_the_environment_is_not_asked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert (await health("--address", address)).output == "SERVING\n"


def test_a_probe_imports_nothing_of_models_and_settings() -> None:
    code = (
        "import sys; from sidecar.cli import main\n"
        "try: main(['health', '--address', '127.0.0.1:1'])\n"
        "finally: print(*sorted(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    imported = set(ran.stdout.split())
    assert "grpc" in imported
    assert not imported & {"numpy", "onnxruntime", "pydantic", "yaml", "redis", "sidecar.config"}
