"""Servers to measure, each in a process of its own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_START_SECONDS = 60.0
_HERE = Path(__file__).parent
_NATIVE = _HERE.parent / "native"


@contextlib.contextmanager
def sidecar(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A sidecar with these arguments, serving; ended when the context is left.

    ``arguments`` must name ``--server-address`` or ``--server-socket``.
    """
    command = [sys.executable, "-m", "sidecar", "serve", "--log-level", "warning", *arguments]
    address = _address(arguments)
    with running(command, address, environment) as process:
        yield process


@contextlib.contextmanager
def echo(address: str, response: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """The bare server of ``bench/echo_server.py``, serving; it answers every call with this."""
    command = [sys.executable, str(_HERE / "echo_server.py"), address, response.hex()]
    with running(command, address, None) as process:
        yield process


@contextlib.contextmanager
def rust_echo(address: str, response: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """The same on the HTTP/2 of the native front door: ``native/examples/echo.rs``.

    Builds it, which takes minutes the first time. Raises `FileNotFoundError` without Rust.
    """
    target = Path(os.environ.get("CARGO_TARGET_DIR", _NATIVE / "target"))
    build = ["cargo", "build", "--quiet", "--release", "--locked", "--example", "echo"]
    subprocess.run(build, cwd=_NATIVE, env=_with_python(), check=True)
    command = [str(target / "release" / "examples" / "echo"), address, response.hex()]
    with running(command, address, _with_python()) as process:
        yield process


def _with_python() -> dict[str, str]:
    """This environment, in which Rust finds the library of this Python."""
    found = {"PYO3_PYTHON": sys.executable, "LD_LIBRARY_PATH": sysconfig.get_config_var("LIBDIR")}
    return {**os.environ, **found}


@contextlib.contextmanager
def running(
    command: Sequence[str], address: str, environment: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Any gRPC server, from when it takes connections; ended when the context is left."""
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
