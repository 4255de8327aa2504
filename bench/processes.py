"""Servers to measure, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_START_SECONDS = 60.0
_HERE = Path(__file__).parent


@contextlib.contextmanager
def sidecar(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A sidecar with these arguments, serving; ended when the context is left.

    ``arguments`` must name ``--server-address`` or ``--server-socket``.
    """
    command = [sys.executable, "-m", "sidecar", "serve", "--log-level", "warning", *arguments]
    address = _address(arguments)
    with _running(command, address, environment) as process:
        yield process


@contextlib.contextmanager
def echo(address: str, response: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """The bare server of ``bench/echo_server.py``, serving; it answers every call with this."""
    command = [sys.executable, str(_HERE / "echo_server.py"), address, response.hex()]
    with _running(command, address, None) as process:
        yield process


@contextlib.contextmanager
def _running(
    command: Sequence[str], address: str, environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env={**os.environ, **(environment or {})})
    try:
        with grpc.insecure_channel(address) as channel:
            ready = grpc.channel_ready_future(channel)
            deadline = time.monotonic() + _START_SECONDS
            while True:
                with contextlib.suppress(grpc.FutureTimeoutError):
                    ready.result(timeout=0.2)
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"did not start: {' '.join(command)}")
        yield process
    finally:
        process.terminate()
        process.wait(timeout=_START_SECONDS)


def _address(arguments: Sequence[str]) -> str:
    if "--server-socket" in arguments:
        return f"unix:{arguments[arguments.index('--server-socket') + 1]}"
    return arguments[arguments.index("--server-address") + 1]
