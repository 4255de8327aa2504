"""How long pods wait for the injector: reviews over real TLS, of a pod with two containers.

The API server keeps its connections; new ones, with a handshake each, are what a restart costs it.
The client is in Python, too, and on the same machine: it takes about as much of it as the injector.

    python -m bench.injector
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.certificates import Authority, MountedPair
from bench.injector_process import InjectorProcess
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

_WARM_UP = 100


@dataclass(frozen=True)
class Figures:
    """Of so many callers at once; latencies in milliseconds, of a whole call."""

    connections: str
    callers: int
    calls: int
    answered: int
    calls_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=4000, help="of each row")
    add_json_option(parser)
    options = parser.parse_args()
    authority = Authority()
    trust = ssl.create_default_context(cadata=authority.pem.decode())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair = MountedPair(folder / "tls")
        pair.put(*authority.issue())
        with InjectorProcess(folder, pair, drain_delay="0s") as injector:
            rows = asyncio.run(_all(injector.port, trust, options.calls))
    print_table(
        "reviews of a pod with two containers, over TLS",
        ("connections", "callers", "answered", "calls/s", "p50 ms", "p99 ms", "max ms"),
        [
            (
                row.connections,
                row.callers,
                f"{row.answered / row.calls:.2%} of {row.calls:,}",
                *(row.calls_per_second, row.p50_ms, row.p99_ms, row.max_ms),
            )
            for row in rows
        ],
    )
    write_json(options.json, {"reviews": [vars(row) for row in rows]})
    if any(row.answered < row.calls for row in rows):
        sys.exit("not every review was answered with a patch")


async def _all(port: int, trust: ssl.SSLContext, calls: int) -> list[Figures]:
    await _drive(port, trust, callers=1, calls=_WARM_UP, keep=True)
    kept = [await _drive(port, trust, callers=n, calls=calls, keep=True) for n in (1, 8, 64, 256)]
    new = [await _drive(port, trust, callers=n, calls=calls // 4, keep=False) for n in (1, 8, 64)]
    return [*kept, *new]


async def _drive(
    port: int, trust: ssl.SSLContext, *, callers: int, calls: int, keep: bool
) -> Figures:
    """Has ``callers`` share ``calls`` calls; each caller has one call at a time."""
    request, left = _request(keep=keep), iter(range(calls))
    seconds: list[float] = []
    start = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(_call_again(port, trust, request, left, seconds, keep=keep))
    took = time.perf_counter() - start
    p50, p99 = np.percentile(seconds, (50, 99)) * 1000
    return Figures(
        connections="kept" if keep else "new",
        callers=callers,
        calls=calls,
        answered=len(seconds),
        calls_per_second=len(seconds) / took,
        p50_ms=float(p50),
        p99_ms=float(p99),
        max_ms=max(seconds) * 1000,
    )


async def _call_again(
    port: int,
    trust: ssl.SSLContext,
    request: bytes,
    left: Iterator[int],
    seconds: list[float],
    *,
    keep: bool,
) -> None:
    streams = await asyncio.open_connection("127.0.0.1", port, ssl=trust) if keep else None
    for _ in left:
        start = time.perf_counter()
        reader, writer = streams or await asyncio.open_connection("127.0.0.1", port, ssl=trust)
        writer.write(request)
        answer = await _answer(reader)
        if answer["response"]["allowed"] and "patch" in answer["response"]:
            seconds.append(time.perf_counter() - start)
        if not keep:
            writer.transport.abort()
    if streams:
        streams[1].transport.abort()


async def _answer(reader: asyncio.StreamReader) -> dict[str, dict[str, object]]:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    )
    answer: dict[str, dict[str, object]] = json.loads(await reader.readexactly(length))
    return answer


def _request(*, keep: bool) -> bytes:
    containers = [
        {
            "name": name,
            "image": f"registry.test/{name}:1",
            "env": [{"name": f"VARIABLE_{number}", "value": "x" * 40} for number in range(10)],
            "resources": {"requests": {"cpu": "1", "memory": "1Gi"}},
        }
        for name in ("app", "proxy")
    ]
    metadata = {"generateName": "web-5d4f8c7b9-", "labels": {"embercache.io/inject": "true"}}
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "operation": "CREATE",
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "object": {"metadata": metadata, "spec": {"containers": containers}},
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    body = json.dumps(review).encode()
    lines = ["POST /mutate HTTP/1.1", "Host: injector", "Content-Type: application/json"]
    lines += [f"Content-Length: {len(body)}", *([] if keep else ["Connection: close"]), "", ""]
    return "\r\n".join(lines).encode() + body


if __name__ == "__main__":
    main()
