"""``embercache plan``: how much memory a cache needs, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
from rich.filesize import decimal

from sidecar.cache.codec import Codec
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES
from sidecar.cli.parameters import NumberType
from sidecar.cli.words import counted
from sidecar.plan import DAYS_A_MONTH, REDIS_OVERHEAD_BYTES, Plan, Workload
from sidecar.plan import plan as make_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

_POSITIVE = NumberType(min=0, min_open=True)
_NOT_NEGATIVE = NumberType(min=0)


@click.command()
@click.option(
    "--entries", type=click.IntRange(min=1), required=True, help="how many different inputs"
)
@click.option(
    "--dim",
    "dimensions",
    type=click.IntRange(min=1),
    required=True,
    help="dimensions of a vector",
)
@click.option(
    "--codec",
    type=click.Choice([codec.name.lower() for codec in Codec]),
    default="float32",
    show_default=True,
    help="as in the setting cache.codec",
)
@click.option(
    "--hit-rate",
    type=NumberType(0, 1),
    required=True,
    help="share of calls that the cache answers, 0 to 1",
)
@click.option(
    "--hit-ms", type=_POSITIVE, required=True, help="milliseconds of an answer from cache"
)
@click.option(
    "--miss-ms", type=_POSITIVE, required=True, help="milliseconds of a call without cache"
)
@click.option("--calls-per-second", type=_POSITIVE, help="of all callers together")
@click.option("--price-per-1000-tokens", type=_NOT_NEGATIVE, help="what the model costs")
@click.option("--tokens", type=_POSITIVE, help="of one call")
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="sidecars that share one Redis",
)
@click.option(
    "--transport",
    type=click.Choice(["auto", "native", "grpcio"]),
    default="auto",
    show_default=True,
    envvar="EMBERCACHE_SERVER_TRANSPORT",
    help="as in the setting server.transport: entries are smaller in the front door's memory",
)
@click.option("--json", "as_json", is_flag=True, help="the figures, as one JSON object")
def plan(codec: str, transport: str, as_json: bool, **values: Any) -> None:
    """Work out memory, latency, load and money of a cache of vectors, from a few figures.

    Nothing is asked for or measured. `embercache stats` tells the figures of a sidecar that runs.

    \b
    Examples:
      embercache plan --entries 1000000 --dim 384 --hit-rate 0.9 --hit-ms 0.5 --miss-ms 20
      embercache plan --entries 50000000 --dim 1024 --codec int8 --replicas 20 \\
        --hit-rate 0.7 --hit-ms 1 --miss-ms 60 \\
        --calls-per-second 2000 --tokens 120 --price-per-1000-tokens 0.0001
    """
    overhead = _overhead_bytes(transport)
    work = Workload(codec=Codec[codec.upper()], overhead_bytes=overhead, **values)
    if (work.price_per_1000_tokens is None) != (work.tokens is None) or (
        work.tokens is not None and work.calls_per_second is None
    ):
        raise click.UsageError(
            "for money, give --calls-per-second, --tokens and --price-per-1000-tokens"
        )
    figures = make_plan(work)
    if as_json:
        click.echo(json.dumps(asdict(figures), indent=2))
        return
    for line in _explain(work, figures):
        click.echo(line)


def _overhead_bytes(transport: str) -> int:
    """What an entry costs beside key and vector in the hot tier that comes with a transport."""
    if transport == "grpcio":
        return ENTRY_OVERHEAD_BYTES
    try:
        import embercache_native
    except ImportError:
        if transport == "native":
            raise click.UsageError("--transport: the front door is not installed here") from None
        return ENTRY_OVERHEAD_BYTES
    return embercache_native.ENTRY_OVERHEAD_BYTES


def _explain(work: Workload, figures: Plan) -> Iterator[str]:
    yield f"One entry: {work.dimensions:,} dimensions as {work.codec.name.lower()}"
    yield f"  key          {figures.key_bytes:>9,} bytes, for a text in the default namespace"
    yield f"  value        {figures.value_bytes:>9,} bytes: a header, and the vector"
    yield (
        f"  in memory    {figures.hot_entry_bytes:>9,} bytes:"
        f" key, vector, and {work.overhead_bytes:,} of objects"
    )
    yield (
        f"  in Redis     {figures.redis_entry_bytes:>9,} bytes:"
        f" key, value in a block of its allocator, and {REDIS_OVERHEAD_BYTES:,} of objects"
    )
    yield f"All {work.entries:,} entries"
    yield f"  in memory    {decimal(figures.hot_bytes):>15}, of a sidecar that holds them all"
    yield f"  in Redis     {decimal(figures.redis_bytes):>15}"
    yield (
        f"  in the fleet {decimal(figures.fleet_bytes):>15}:"
        f" {counted(work.replicas, 'such sidecar')} and one Redis"
    )
    yield "A call"
    yield f"  without      {work.miss_ms:>12,.2f} ms"
    yield (
        f"  with cache   {figures.mean_ms:>12,.2f} ms on average: {work.hit_ms:,.2f} to look, and"
        f" {figures.model_share:.1%} of {work.miss_ms:,.2f}"
    )
    yield f"  speed-up     {figures.speed_up:>12,.1f} times"
    yield (
        f"  break-even   {figures.break_even_hit_rate:>12.1%} hit rate;"
        " below it the cache costs more time than it saves"
    )
    yield "The model"
    yield f"  share        {figures.model_share:>12.1%} of the calls reach it"
    if figures.model_calls_per_second is not None:
        yield (
            f"  load         {figures.model_calls_per_second:>12,.1f} calls a second,"
            f" instead of {work.calls_per_second:,.1f}"
        )
    if figures.money_saved is not None:
        yield f"Money in a month of {DAYS_A_MONTH} days"
        yield f"  without      {figures.money_without_cache:>12,.2f}"
        yield f"  with cache   {figures.money_with_cache:>12,.2f}"
        yield f"  saved        {figures.money_saved:>12,.2f}"
