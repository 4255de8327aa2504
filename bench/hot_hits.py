"""Hot hits of several sidecars, measured in turns: what their benchmarks have in common."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import embed_pb2, embed_pb2_grpc

from bench.load import drive
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import psutil

METHOD = "/embercache.v1.EmbedService/Embed"
REQUEST = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
_RAW = REQUEST.SerializeToString()


def read_options(description: str) -> argparse.Namespace:
    """What the command line says: ``rounds``, ``calls`` a round, ``json``."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=10_000, help="calls a round")
    add_json_option(parser)
    return parser.parse_args()


def make_hot(address: str) -> None:
    """Has the answer of a sidecar stored whole."""
    with grpc.insecure_channel(address) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(3):
            stub.Embed(REQUEST)


@dataclass
class HotHits:
    """What was measured of one sidecar."""

    process: psutil.Process
    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    calls: int = 0

    def measure(self, address: str, calls: int, few: int, *, scheme: str = "http") -> None:
        """One round: so many calls from 32 at once, then a few one at a time."""
        before = self._cpu_seconds()
        busy = drive(address, METHOD, _RAW, calls=calls, connections=4, streams=8, scheme=scheme)
        calm = drive(address, METHOD, _RAW, calls=few, connections=1, streams=1, scheme=scheme)
        self.cpu_seconds += self._cpu_seconds() - before
        self.calls += calls + few
        self.rates.append(busy.calls_per_second)
        self.p50_ms.append(calm.p50_ms)
        self.p99_ms.append(calm.p99_ms)

    def _cpu_seconds(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def report(found: Mapping[str, HotHits], name: str, json: Path | None) -> None:
    """Prints what was found of each sidecar, beside the first, and writes it under ``name``."""
    reference, first = next(iter(found.items()))
    rows = [
        (
            which,
            1e6 * each.cpu_seconds / each.calls,
            median(each.rates),
            median(mine / other for mine, other in zip(each.rates, first.rates, strict=True)),
            median(each.p50_ms),
            median(each.p99_ms),
        )
        for which, each in found.items()
    ]
    print_table(
        "hot hits; one call at a time for p50 and p99",
        ("sidecar", "CPU us a call", "calls/s, 4 x 8", f"to {reference}", "p50 ms", "p99 ms"),
        rows,
    )
    names = ("cpu_us", "calls_per_second", "ratio", "p50_ms", "p99_ms")
    write_json(json, {name: {each: dict(zip(names, v, strict=True)) for each, *v in rows}})
