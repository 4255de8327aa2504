"""Drives a gRPC server with one request again and again, and says how fast it was."""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from shutil import which

import numpy as np


class LoadError(Exception):
    """The load could not be run. The message says what to do."""


@dataclass(frozen=True)
class Load:
    """One run: calls a second, and quantiles of a call's latency in milliseconds."""

    calls_per_second: float
    p50_ms: float
    p99_ms: float


def drive(
    address: str,
    method: str,
    request: bytes,
    *,
    calls: int,
    connections: int,
    streams: int,
    rate: float | None = None,
    scheme: str = "http",
) -> Load:
    """Sends ``calls`` calls over ``connections``, ``streams`` at a time on each.

    As fast as they are answered, or at a ``rate`` of so many a second; with the ``scheme``
    ``https``, over TLS.

    The client is h2load: it costs the machine far less than the server does, so it is the server
    that is measured. It looks at HTTP status only, which is the same for a call that fails:
    compare the server's counters before and after, as `bench.answered` does.
    """
    if which("h2load") is None:
        raise LoadError("h2load is not installed: install the package nghttp2-client")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "body").write_bytes(struct.pack(">BI", 0, len(request)) + request)
        command = ["h2load", f"--requests={calls}", f"--clients={connections}"]
        if rate is not None:
            command += [f"--rps={rate / connections}"]
        command += [f"--max-concurrent-streams={streams}", f"--data={folder / 'body'}"]
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
        command += [f"--log-file={folder / 'log'}", f"{scheme}://{address}{method}"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        latencies = np.loadtxt(folder / "log", usecols=2, dtype=float) / 1000
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", output)
    succeeded = re.search(r"(\d+) succeeded", output)
    if rate is None or succeeded is None or int(succeeded[1]) != calls:
        raise LoadError(f"not all calls succeeded:\n{output}")
    p50, p99 = np.percentile(latencies, (50, 99))
    return Load(float(rate[1]), float(p50), float(p99))
