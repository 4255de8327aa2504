"""What a hot hit costs: calls of Embed and of Search against a bare grpcio asyncio server.

Each is compared with a server that answers with the same bytes, to the same client, in turns
within one run; the figures are medians over the rounds.

    python -m bench.hot_path
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import grpc
from embercache.v1 import (
    common_pb2,
    embed_pb2,
    embed_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

from bench.corpus import docstrings
from bench.load import Load, drive
from bench.processes import echo, sidecar
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Iterator

SIDECAR, ECHO, SEARCH_ECHO = (f"127.0.0.1:{port}" for port in (50761, 50762, 50763))
METHOD = "/embercache.v1.EmbedService/Embed"
SEARCH_METHOD = "/embercache.v1.SearchService/Search"
DOCUMENTS = 200


@dataclass(frozen=True)
class Call:
    """A call that is hot: its request, the answer, and who echoes it."""

    name: str
    method: str
    request: bytes
    response: bytes
    echo: str


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000, help="calls a round")
    add_json_option(parser)
    options = parser.parse_args()
    rows: list[tuple[str, float, float, float]] = []
    ratios: dict[str, float] = {}
    with sidecar("--server-address", SIDECAR):
        for call in _hot_calls():
            with echo(call.echo, call.response):
                compared, ratios[call.name] = _compare(call, options.rounds, options.calls)
                rows += compared
    print_table(
        "the same bytes from each; one call at a time for p50 and p99",
        ("server", "calls/s, 4 connections x 8", "p50 ms", "p99 ms"),
        rows,
    )
    for name, ratio in ratios.items():
        print(f"ratio_to_echo {name}: {ratio:.3f} (median of {options.rounds} rounds)")
    figures = {name: {"calls_per_second": r, "p50_ms": a, "p99_ms": b} for name, r, a, b in rows}
    write_json(options.json, {"ratio_to_echo": ratios, "servers": figures})


def _hot_calls() -> Iterator[Call]:
    """Makes each call a hot one."""
    embed = embed_pb2.EmbedRequest(inputs=[embed_pb2.Input(text="how warm is an ember?")])
    search = search_pb2.SearchRequest(text="how can I read a compressed file?", top_k=10)
    documents = [
        search_pb2.Document(id=str(number), chunks=[search_pb2.Chunk(content=text[:500])])
        for number, text in enumerate(docstrings(DOCUMENTS))
    ]
    with grpc.insecure_channel(SIDECAR) as channel:
        embeds = embed_pb2_grpc.EmbedServiceStub(channel)
        searches = search_pb2_grpc.SearchServiceStub(channel)
        searches.Upsert(search_pb2.UpsertRequest(documents=documents))
        for _ in range(3):
            vector = embeds.Embed(embed)
            found = searches.Search(search)
    if {vector.embeddings[0].tier, found.tier} != {common_pb2.TIER_HOT}:
        raise RuntimeError("the calls are not answered from memory")
    yield Call("Embed", METHOD, embed.SerializeToString(), vector.SerializeToString(), ECHO)
    yield Call(
        "Search", SEARCH_METHOD, search.SerializeToString(), found.SerializeToString(), SEARCH_ECHO
    )


def _compare(
    call: Call, rounds: int, calls: int
) -> tuple[list[tuple[str, float, float, float]], float]:
    """The rows of echo and sidecar, and the ratio of their throughputs."""
    bare, ours = f"bare grpcio echo, {len(call.response):,} bytes", f"Embercache, {call.name}, hot"
    servers = {bare: call.echo, ours: SIDECAR}
    for address in servers.values():
        drive(address, call.method, call.request, calls=2000, connections=4, streams=8)
    busy = _rounds(call, servers, rounds, calls, connections=4, streams=8)
    calm = _rounds(call, servers, rounds, calls // 5, connections=1, streams=1)
    rows = []
    for name in servers:
        rate = median(load.calls_per_second for load in busy[name])
        p50, p99 = (median(getattr(load, q) for load in calm[name]) for q in ("p50_ms", "p99_ms"))
        rows.append((name, rate, p50, p99))
    ratio = median(
        mine.calls_per_second / echoed.calls_per_second
        for mine, echoed in zip(busy[ours], busy[bare], strict=True)
    )
    return rows, ratio


def _rounds(
    call: Call, servers: dict[str, str], rounds: int, calls: int, *, connections: int, streams: int
) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(rounds):
        for name, address in servers.items():
            loads[name].append(
                drive(
                    address,
                    call.method,
                    call.request,
                    calls=calls,
                    connections=connections,
                    streams=streams,
                )
            )
    return loads


if __name__ == "__main__":
    main()
