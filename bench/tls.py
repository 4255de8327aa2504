"""What TLS costs a hot hit: the same sidecar with and without it, over connections that are kept.

Both answer the same calls of Embed from memory, to the same client, in turns within one run. The
figures are medians over the rounds; of the processor's time a call, with all threads of the
sidecar, the sum.

    python -m bench.tls
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import grpc
import psutil
from embercache.v1 import embed_pb2, embed_pb2_grpc

from bench.answered import all_whole_hits
from bench.certificates import Authority, MountedPair
from bench.load import drive
from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json

METHOD = "/embercache.v1.EmbedService/Embed"
REQUEST = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
ADDRESSES = {"http": "127.0.0.1:50781", "https": "127.0.0.1:50782"}
NAMES = {"http": "no TLS", "https": "TLS 1.3"}


@dataclass
class Measured:
    """What was measured of one sidecar."""

    process: psutil.Process
    socket: str
    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    calls: int = 0


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10_000, help="calls a round")
    add_json_option(parser)
    options = parser.parse_args()
    found = _measure(options.rounds, options.calls)
    plain = found["http"].rates
    rows = [
        (
            NAMES[scheme],
            1e6 * each.cpu_seconds / each.calls,
            median(each.rates),
            median(mine / other for mine, other in zip(each.rates, plain, strict=True)),
            median(each.p50_ms),
            median(each.p99_ms),
        )
        for scheme, each in found.items()
    ]
    print_table(
        "hot hits; one call at a time for p50 and p99",
        ("sidecar", "CPU us a call", "calls/s, 4 x 8", "to no TLS", "p50 ms", "p99 ms"),
        rows,
    )
    names = ("cpu_us", "calls_per_second", "ratio", "p50_ms", "p99_ms")
    figures = {name: dict(zip(names, values, strict=True)) for name, *values in rows}
    write_json(options.json, {"tls": figures})


def _measure(rounds: int, calls: int) -> dict[str, Measured]:
    raw = REQUEST.SerializeToString()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as exits:
        folder = Path(name)
        pair = MountedPair(folder)
        pair.put(*Authority().issue())
        files = [f"--tls-cert-file={pair.certificate}", f"--tls-key-file={pair.key}"]
        found = {}
        for scheme, address in ADDRESSES.items():
            # The socket, which is not encrypted, is what tells that it serves.
            socket = str(folder / scheme)
            flags = ["--server-address", address, "--server-socket", socket]
            process = exits.enter_context(sidecar(*flags, *(files if scheme == "https" else [])))
            found[scheme] = Measured(psutil.Process(process.pid), f"unix:{socket}")
            _make_hot(found[scheme].socket)
        for _ in range(rounds):
            for scheme, each in found.items():
                _measure_once(each, scheme, raw, calls)
    return found


def _measure_once(each: Measured, scheme: str, raw: bytes, calls: int) -> None:
    address, few = ADDRESSES[scheme], calls // 5
    with all_whole_hits(each.socket, calls + few):
        before = _cpu_seconds(each.process)
        busy = drive(address, METHOD, raw, calls=calls, connections=4, streams=8, scheme=scheme)
        calm = drive(address, METHOD, raw, calls=few, connections=1, streams=1, scheme=scheme)
        each.cpu_seconds += _cpu_seconds(each.process) - before
    each.calls += calls + few
    each.rates.append(busy.calls_per_second)
    each.p50_ms.append(calm.p50_ms)
    each.p99_ms.append(calm.p99_ms)


def _make_hot(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(3):
            stub.Embed(REQUEST)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main()
