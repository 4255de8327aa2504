"""Start, probes, drain and end of the injector."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from bench.injector_process import InjectorProcess
from sidecar.cli.injector import injector as injector_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.certificates import Authority, MountedPair

HANG_GUARD = 60


async def test_probes_tell_that_it_lives_and_serves(caller: Any) -> None:
    assert (await caller.get("/livez")).status == 200
    assert (await caller.get("/readyz")).status == 200


async def test_metrics_count_outcomes_and_durations(
    caller: Any, make_pod: Callable[..., Any], make_review: Callable[..., Any]
) -> None:
    injected = 'embercache_injector_requests_total{outcome="injected"}'
    took = "embercache_injector_request_seconds_count"
    before = await caller.metric(injected), await caller.metric(took)
    await caller.review(make_review(make_pod()))
    assert (await caller.metric(injected), await caller.metric(took)) == (
        before[0] + 1,
        before[1] + 1,
    )


async def test_after_sigterm_it_goes_on_is_not_ready_and_ends_connections_then_itself(
    tmp_path: Path,
    pair: MountedPair,
    calling: Callable[[InjectorProcess], Any],
    make_pod: Callable[..., Any],
    make_review: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    with InjectorProcess(tmp_path, pair, drain_delay="1s") as process:
        caller = calling(process)
        await caller.review(make_review(make_pod()))
        process.terminate()
        process.wait_for("draining")
        assert (await caller.get("/readyz")).status == 503
        assert (await caller.get("/livez")).status == 200
        for _ in range(5):
            assert (await caller.review(make_review(make_pod()))).patch
        assert await asyncio.to_thread(process.wait) == 0
        assert process.events[-1]["event"] == "ended"
        with pytest.raises(aiohttp.ClientConnectorError):
            await caller.review(make_review(make_pod()))


async def test_while_draining_each_answer_ends_its_connection(
    tmp_path: Path, pair: MountedPair, authority: Authority
) -> None:
    with InjectorProcess(tmp_path, pair, drain_delay="20s") as process:
        process.terminate()
        process.wait_for("draining")
        context = ssl.create_default_context(cadata=authority.pem.decode())
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port, ssl=context)
        writer.write(b"POST /mutate HTTP/1.1\r\nHost: injector\r\nContent-Length: 0\r\n\r\n")
        assert b"connection: close" in (await reader.read()).lower()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_by_default_it_is_reached_at_addresses_of_both_families(
    tmp_path: Path, pair: MountedPair, authority: Authority, host: str
) -> None:
    defaults = {option.name: option.default for option in injector_command.params}
    assert [defaults[name] for name in ("address", "metrics_address")] == ["[::]:8443", "[::]:8080"]
    if host == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with InjectorProcess(tmp_path, pair, address="[::]:0") as process:
        context = ssl.create_default_context(cadata=authority.pem.decode())
        _, writer = await asyncio.open_connection(
            host, process.port, ssl=context, server_hostname="127.0.0.1"
        )
        writer.close()
        await writer.wait_closed()


def start(pair: MountedPair, **flags: object) -> str:
    """The error of an injector that does not start."""
    every = {"cert_file": pair.certificate, "key_file": pair.key, "address": "127.0.0.1:0"}
    every |= {"metrics_address": "127.0.0.1:0"} | flags
    done = subprocess.run(
        [sys.executable, "-m", "sidecar", "injector"]
        + [f"--{name.replace('_', '-')}={value}" for name, value in every.items()],
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
    )
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def test_it_does_not_start_with_what_it_cannot_use(
    tmp_path: Path, pair: MountedPair, authority: Authority
) -> None:
    wrong = tmp_path / "sidecar.yaml"
    wrong.write_text("imgae: registry.test/embercache:1\n")
    assert start(pair, config=wrong) == f"Error: {wrong}: imgae: there is no such setting"
    assert "is no HOST:PORT" in start(pair, address="8443")
    pair.put(authority.issue()[0], authority.issue()[1])
    assert start(pair).startswith(f"Error: {pair.certificate} with {pair.key}: ")


def test_it_does_not_start_on_an_address_in_use(
    pair: MountedPair, injector: InjectorProcess
) -> None:
    assert "address already in use" in start(pair, address=f"127.0.0.1:{injector.port}")
    taken = f"127.0.0.1:{injector.metrics_port}"
    error = f"Error: cannot serve metrics on {taken}: is another process using it?"
    assert start(pair, metrics_address=taken).startswith(error)
