"""What traces cost a hot hit: sidecars that trace no call, one in a hundred, and every call.

Each answers the same calls of Embed from memory, to the same client, in turns within one run. Their
spans go to a collector that throws them away. The figures are medians over the rounds.

    python -m bench.tracing
"""

from __future__ import annotations

import argparse
import contextlib
from statistics import median

import grpc
from embercache.v1 import embed_pb2, embed_pb2_grpc

from bench.load import Load, drive
from bench.processes import echo, sidecar
from bench.report import add_json_option, print_table, write_json

COLLECTOR = "127.0.0.1:50770"
METHOD = "/embercache.v1.EmbedService/Embed"
SHARES = {"no traces": None, "no call traced": 0.0, "1 in 100 traced": 0.01, "all traced": 1.0}
REQUEST = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=10_000, help="calls a round")
    add_json_option(parser)
    options = parser.parse_args()
    with contextlib.ExitStack() as exits:
        # No bytes are what a collector answers when it has taken everything.
        exits.enter_context(echo(COLLECTOR, b""))
        addresses = {}
        for number, (name, share) in enumerate(SHARES.items(), 1):
            addresses[name] = f"127.0.0.1:{50770 + number}"
            flags = ["--server-address", addresses[name]]
            if share is not None:
                flags += ["--tracing-endpoint", f"http://{COLLECTOR}"]
                flags += ["--tracing-sample", str(share)]
            exits.enter_context(sidecar(*flags))
            _make_hot(addresses[name])
        busy = _rounds(addresses, options.rounds, options.calls, connections=4, streams=8)
        calm = _rounds(addresses, options.rounds, options.calls // 5, connections=1, streams=1)
    rows = []
    for name in SHARES:
        rate = median(load.calls_per_second for load in busy[name])
        p50, p99 = (median(getattr(load, q) for load in calm[name]) for q in ("p50_ms", "p99_ms"))
        ratio = median(
            mine.calls_per_second / other.calls_per_second
            for mine, other in zip(busy[name], busy["no traces"], strict=True)
        )
        rows.append((name, rate, ratio, p50, p99))
    print_table(
        "hot hits; one call at a time for p50 and p99",
        ("sidecar", "calls/s, 4 connections x 8", "to no traces", "p50 ms", "p99 ms"),
        rows,
    )
    figures = {
        name: {"calls_per_second": rate, "ratio": ratio, "p50_ms": p50, "p99_ms": p99}
        for name, rate, ratio, p50, p99 in rows
    }
    write_json(options.json, {"tracing": figures})


def _make_hot(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        for _ in range(3):
            stub.Embed(REQUEST)


def _rounds(
    addresses: dict[str, str], rounds: int, calls: int, *, connections: int, streams: int
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in addresses}
    request = REQUEST.SerializeToString()
    for _ in range(rounds):
        for name, address in addresses.items():
            loads[name].append(
                drive(
                    address, METHOD, request, calls=calls, connections=connections, streams=streams
                )
            )
    return loads


if __name__ == "__main__":
    main()
