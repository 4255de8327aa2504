"""``embercache stats``: what a sidecar did since it started."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sidecar.cli.connection import address_option, connected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embercache import DiskState, ModelStats, Stats, TierStats

_HITS = ("hot", "disk", "warm")
_WIDTH = 120  # where there is no terminal to ask


@click.command()
@address_option
@click.option("--json", "as_json", is_flag=True, help="all counters, as one JSON object")
def stats(address: str, as_json: bool) -> None:
    """Show what a sidecar answered since it started, by tier.

    The hit rate is the share of inputs that the hot, disk and warm tiers answered. Entries and
    sizes are known of the hot and the disk tier only.

    \b
    Examples:
      embercache stats
      embercache stats --address unix:/run/embercache.sock
      embercache stats --json | jq .hit_rate
    """
    with connected(address) as client:
        answer = client.stats()
    answered = sum(tier.answered for tier in answer.tiers.values())
    hits = sum(tier.answered for name, tier in answer.tiers.items() if name in _HITS)
    hit_rate = hits / answered if answered else None
    if as_json:
        click.echo(json.dumps({"hit_rate": hit_rate, **asdict(answer)}, indent=2))
        return
    uptime = timedelta(seconds=round(answer.uptime_seconds))
    click.echo(f"Embercache {answer.version} at {address}, up {uptime}")
    click.echo(
        f"hit rate {_share(hits, answered)} of {answered:,} inputs;"
        f" {answer.response_hits:,} calls answered whole; {answer.items_failed:,} inputs failed"
    )
    if answer.disk is not None:
        click.echo(f"disk: {_disk(answer.disk)}")
    click.echo(f"Redis: {_redis(answer)}\n")
    _print(_tiers(answer, answered))
    click.echo()
    _print(_models(answer.models))


def _disk(disk: DiskState) -> str:
    return (
        f"{disk.errors:,} errors, {disk.skipped:,} lookups skipped,"
        f" {disk.writes_dropped:,} writes dropped, {disk.corrupt_files:,} corrupt files replaced"
    )


def _redis(answer: Stats) -> str:
    warm = answer.warm
    if warm.state == "off":
        return "none (set EMBERCACHE_REDIS_URL where the sidecar runs, to share entries)"
    return (
        f"{warm.state}; {warm.errors:,} errors, {warm.skipped:,} lookups skipped,"
        f" {warm.writes_dropped:,} writes dropped"
    )


def _tiers(answer: Stats, answered: int) -> Table:
    table = _table("tier", "answered", "share", "entries", "size", "of", "evictions", "corrupt")
    for name, tier in answer.tiers.items():
        table.add_row(
            name,
            f"{tier.answered:,}",
            _share(tier.answered, answered),
            *_storage(tier),
            _count(tier.evictions),
            _count(tier.corrupt),
        )
    return table


def _storage(tier: TierStats) -> tuple[str, str, str]:
    if not tier.capacity_bytes:
        return "-", "-", "-"
    return f"{tier.entries:,}", decimal(tier.bytes), decimal(tier.capacity_bytes)


def _models(models: Sequence[ModelStats]) -> Table:
    table = _table("model", "computed", "runs", "tokens", "padding", "queued", "shed", "abandoned")
    table.add_column("version")
    for model in models:
        table.add_row(
            model.name,
            f"{model.computed:,}",
            f"{model.batches:,}",
            f"{model.tokens:,}",
            _share(model.padding_tokens, model.tokens + model.padding_tokens),
            f"{model.queued:,}",
            f"{model.shed:,}",
            f"{model.abandoned:,}",
            model.version or "not known yet",
        )
    return table


def _table(name: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(name)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False).print(table)


def _count(value: int) -> str:
    return f"{value:,}" if value else "-"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
