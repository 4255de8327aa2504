"""What traces cost a hot hit: sidecars that trace no call, one in a hundred, and every call.

Each answers the same calls of Embed from memory, to the same client, in turns within one run. Their
spans go to a collector that throws them away. The figures are medians over the rounds; of the
processor's time a call, with all threads of the sidecar, the sum.

    python -m bench.tracing
"""

from __future__ import annotations

import argparse
import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from statistics import median

import grpc
import psutil
from embercache.v1 import embed_pb2, embed_pb2_grpc

from bench.load import drive
from bench.processes import echo, sidecar
from bench.report import add_json_option, print_table, write_json

COLLECTOR = "127.0.0.1:50770"
METHOD = "/embercache.v1.EmbedService/Embed"
SHARES = {"no traces": None, "none traced": 0.0, "1 in 100 traced": 0.01, "all traced": 1.0}
REQUEST = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])


@dataclass
class Measured:
    """What was measured of one sidecar."""

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
    reference = found["no traces"].rates
    rows = [
        (
            name,
            1e6 * each.cpu_seconds / each.calls,
            median(each.rates),
            median(mine / other for mine, other in zip(each.rates, reference, strict=True)),
            median(each.p50_ms),
            median(each.p99_ms),
        )
        for name, each in found.items()
    ]
    print_table(
        "hot hits; one call at a time for p50 and p99",
        ("sidecar", "CPU us a call", "calls/s, 4 x 8", "to no traces", "p50 ms", "p99 ms"),
        rows,
    )
    names = ("cpu_us", "calls_per_second", "ratio", "p50_ms", "p99_ms")
    figures = {name: dict(zip(names, values, strict=True)) for name, *values in rows}
    write_json(options.json, {"tracing": figures})


def _measure(rounds: int, calls: int) -> dict[str, Measured]:
    found: defaultdict[str, Measured] = defaultdict(Measured)
    raw = REQUEST.SerializeToString()
    with contextlib.ExitStack() as exits:
        # No bytes are what a collector answers when it has taken everything.
        exits.enter_context(echo(COLLECTOR, b""))
        sidecars = {}
        for number, (name, share) in enumerate(SHARES.items(), 1):
            address = f"127.0.0.1:{50770 + number}"
            flags = ["--server-address", address]
            if share is not None:
                flags += ["--tracing-endpoint", f"http://{COLLECTOR}"]
                flags += ["--tracing-sample", str(share)]
            process = exits.enter_context(sidecar(*flags))
            sidecars[name] = (address, psutil.Process(process.pid))
            _make_hot(address)
        for _ in range(rounds):
            for name, (address, process) in sidecars.items():
                each, before = found[name], _cpu_seconds(process)
                busy = drive(address, METHOD, raw, calls=calls, connections=4, streams=8)
                calm = drive(address, METHOD, raw, calls=calls // 5, connections=1, streams=1)
                each.cpu_seconds += _cpu_seconds(process) - before
                each.calls += calls + calls // 5
                each.rates.append(busy.calls_per_second)
                each.p50_ms.append(calm.p50_ms)
                each.p99_ms.append(calm.p99_ms)
    return found


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
