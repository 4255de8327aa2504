"""What a hot hit costs: single-text calls against a bare grpcio asyncio server.

Both answer with the same number of bytes, to the same client, in turns within one run; the
figures are medians over the rounds.

    python -m bench.hot_path
"""

from __future__ import annotations

import argparse
from statistics import median

import grpc
from embercache.v1 import common_pb2, embed_pb2, embed_pb2_grpc

from bench.load import Load, drive
from bench.processes import echo, sidecar
from bench.report import add_json_option, print_table, write_json

METHOD = "/embercache.v1.EmbedService/Embed"
SIDECAR, ECHO = "127.0.0.1:50761", "127.0.0.1:50762"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000, help="calls a round")
    add_json_option(parser)
    options = parser.parse_args()
    request = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
    raw = request.SerializeToString()
    with sidecar("--server-address", SIDECAR):
        size = _warm_up(request)
        with echo(ECHO, size):
            servers = {"bare grpcio echo": ECHO, "Embercache, hot": SIDECAR}
            for address in servers.values():
                drive(address, METHOD, raw, calls=2000, connections=4, streams=8)
            busy = _rounds(servers, raw, options.rounds, options.calls, connections=4, streams=8)
            calm = _rounds(
                servers, raw, options.rounds, options.calls // 5, connections=1, streams=1
            )
    rows = []
    for name in servers:
        rate = median(load.calls_per_second for load in busy[name])
        p50, p99 = (median(getattr(load, q) for load in calm[name]) for q in ("p50_ms", "p99_ms"))
        rows.append((name, rate, p50, p99))
    ratio = median(
        ours.calls_per_second / bare.calls_per_second
        for ours, bare in zip(busy["Embercache, hot"], busy["bare grpcio echo"], strict=True)
    )
    print_table(
        f"one text a call, {size} bytes a response",
        ("server", "calls/s, 4 connections x 8", "p50 ms, one at a time", "p99 ms"),
        rows,
    )
    print(f"ratio_to_echo: {ratio:.3f} (median of {options.rounds} rounds)")
    figures = {name: {"calls_per_second": r, "p50_ms": a, "p99_ms": b} for name, r, a, b in rows}
    write_json(options.json, {"ratio_to_echo": ratio, "servers": figures})


def _warm_up(request: embed_pb2.EmbedRequest) -> int:
    """Makes the request a hot one; returns the bytes of its response."""
    with grpc.insecure_channel(SIDECAR) as channel:
        stub = embed_pb2_grpc.EmbedServiceStub(channel)
        stub.Embed(request)
        stub.Embed(request)
        response = stub.Embed(request)
    if response.embeddings[0].tier != common_pb2.TIER_HOT:
        raise RuntimeError("the call is not answered from memory")
    return response.ByteSize()


def _rounds(
    servers: dict[str, str], raw: bytes, rounds: int, calls: int, *, connections: int, streams: int
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, address in servers.items():
            loads[name].append(
                drive(address, METHOD, raw, calls=calls, connections=connections, streams=streams)
            )
    return loads


if __name__ == "__main__":
    main()
