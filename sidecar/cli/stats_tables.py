"""What ``embercache stats`` shows: plain values to lines and tables."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from sidecar.cli.words import band_edges

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from embercache import (
        DiskState,
        ForgedStats,
        GeneratorStats,
        ModelStats,
        PrefixStats,
        QuotaStats,
        SemanticStats,
        Stats,
        Tier,
        TierStats,
        UsageStats,
    )
    from rich.console import RenderableType

HITS: tuple[Tier, ...] = ("hot", "disk", "warm")
_MOST_ROWS = 20


def hit_rate(stats: Stats) -> float | None:
    """The share of inputs that a tier answered; None if there were none."""
    answered = _answered(stats)
    return _hits(stats) / answered if answered else None


def page(stats: Stats, address: str, before: Stats | None = None) -> Iterator[RenderableType]:
    """Everything, and how much of it has come since ``before``, a second."""
    yield from _lines(stats, address)
    since = before and _since(stats, before)
    if before is not None and since:
        yield _since_line(stats, before, since)
    yield ""
    yield _tiers(stats, before if since else None, since or 1.0)
    if stats.models:
        # Absent for who may see his own namespaces alone.
        yield ""
        yield _models(stats.models)
    if stats.generators:
        yield from _generators(stats.generators, before.generators if before and since else ())
    if stats.usage:
        yield ""
        yield from _usage(stats.usage)
    if stats.semantic:
        yield ""
        yield _semantic(stats.semantic)
    if stats.quotas:
        yield ""
        yield _quotas(stats.quotas)
    forged = [each for each in stats.forged if each.count]
    if forged:
        yield ""
        yield _forged(forged)


def _lines(stats: Stats, address: str) -> Iterator[str]:
    uptime = timedelta(seconds=round(stats.uptime_seconds))
    yield f"Embercache {stats.version} at {address}, up {uptime}"
    yield (
        f"hit rate {share(_hits(stats), _answered(stats))} of {_answered(stats):,} inputs;"
        f" {stats.response_hits:,} calls answered whole; {stats.items_failed:,} inputs failed"
    )
    if stats.disk is not None:
        yield f"disk: {_disk(stats.disk)}"
    yield f"Redis: {_redis(stats)}"


def _since(stats: Stats, before: Stats) -> float | None:
    """Seconds between the two; None if the sidecar was started anew."""
    seconds = stats.uptime_seconds - before.uptime_seconds
    return seconds if seconds > 0 else None


def _since_line(stats: Stats, before: Stats, seconds: float) -> str:
    answered = _answered(stats) - _answered(before)
    hits = _hits(stats) - _hits(before)
    return (
        f"in the last {seconds:.1f} s: hit rate {share(hits, answered)} of {answered:,} inputs,"
        f" {answered / seconds:,.1f} a second"
    )


def _answered(stats: Stats) -> int:
    return sum(tier.answered for tier in stats.tiers.values())


def _hits(stats: Stats) -> int:
    return sum(tier.answered for name, tier in stats.tiers.items() if name in HITS)


def _disk(disk: DiskState) -> str:
    return (
        f"{disk.errors:,} errors, {disk.skipped:,} lookups skipped,"
        f" {disk.writes_dropped:,} writes dropped, {disk.corrupt_files:,} corrupt files replaced"
    )


def _redis(stats: Stats) -> str:
    warm = stats.warm
    if warm.state == "off":
        return "none (set EMBERCACHE_REDIS_URL where the sidecar runs, to share entries)"
    counts = (
        f"{warm.state}; {warm.errors:,} errors, {warm.skipped:,} lookups skipped,"
        f" {warm.writes_dropped:,} writes dropped"
    )
    parts = [counts]
    if warm.memory_bytes:
        limit = decimal(warm.memory_limit_bytes) if warm.memory_limit_bytes else "no limit"
        parts.append(f"memory {decimal(warm.memory_bytes)} of {limit}")
    if warm.state == "down":
        heard = timedelta(seconds=round(warm.invalidations_heard_seconds))
        parts.append(f"invalidations last heard of {heard} ago")
    return "; ".join(parts)


def _tiers(stats: Stats, before: Stats | None, seconds: float) -> Table:
    rate = ("a second",) if before else ()
    names = ("answered", "share", *rate, "entries", "size", "of", "evictions", "corrupt")
    table = _table("tier", *names)
    answered = _answered(stats)
    for name, tier in stats.tiers.items():
        row = [name, f"{tier.answered:,}", share(tier.answered, answered)]
        if before is not None:
            new = tier.answered - before.tiers[name].answered
            row.append(f"{new / seconds:,.1f}" if new else "-")
        table.add_row(*row, *_storage(tier), count(tier.evictions), count(tier.corrupt))
    return table


def _storage(tier: TierStats) -> tuple[str, str, str]:
    if not tier.capacity_bytes:
        return "-", "-", "-"
    return f"{tier.entries:,}", decimal(tier.bytes), decimal(tier.capacity_bytes)


def _models(models: Sequence[ModelStats]) -> Table:
    names = ("computed", "runs", "tokens", "padding", "queued", "wait", "shed", "late", "abandoned")
    table = _table("model", *names)
    table.add_column("version")
    for model in models:
        table.add_row(
            model.name,
            f"{model.computed:,}",
            f"{model.batches:,}",
            f"{model.tokens:,}",
            share(model.padding_tokens, model.tokens + model.padding_tokens),
            f"{model.queued:,}",
            f"{model.queue_seconds:.1f} s" if model.queue_seconds else "-",
            f"{model.shed:,}",
            f"{model.dropped_late:,}",
            f"{model.abandoned:,}",
            model.version or "not known yet",
        )
    return table


def _generators(
    generators: Sequence[GeneratorStats], before: Sequence[GeneratorStats]
) -> Iterator[RenderableType]:
    """How fast they were, since ``before`` if they were there then; and what they keep."""
    names = ("generated", "active", "queued", "shed", "late", "abandoned", "prefill/s", "decode/s")
    table = _table("generator", *names)
    table.add_column("version")
    earlier = {each.name: each for each in before}
    for each in generators:
        table.add_row(
            each.name,
            *(f"{n:,}" for n in (each.generated, each.active, each.queued)),
            *(f"{n:,}" for n in (each.shed, each.dropped_late, each.abandoned)),
            *_speeds(each, earlier.get(each.name)),
            each.version or "not known yet",
        )
    yield ""
    yield table
    kept = [(each, each.prefix) for each in generators if each.prefix is not None]
    if kept:
        yield ""
        yield _prefixes(kept)


def _speeds(now: GeneratorStats, before: GeneratorStats | None) -> Iterator[str]:
    """Tokens a second of prefill and decode, while the model was at it."""
    tokens = [now.prefill_tokens, now.decode_tokens]
    seconds = [now.prefill_seconds, now.decode_seconds]
    if before is not None:
        tokens = [tokens[0] - before.prefill_tokens, tokens[1] - before.decode_tokens]
        seconds = [seconds[0] - before.prefill_seconds, seconds[1] - before.decode_seconds]
    for count, time in zip(tokens, seconds, strict=True):
        yield f"{count / time:,.1f}" if time > 0 else "-"


def _prefixes(kept: Sequence[tuple[GeneratorStats, PrefixStats]]) -> Table:
    """Keys and values of prompts: tokens that were reused, and what memory holds."""
    table = _table("prompts of", "reused", *HITS, "memory", "of", "blocks", "in use", "evictions")
    for generator, prefix in kept:
        reused = sum(prefix.reused_tokens.values())
        table.add_row(
            generator.name,
            share(reused, reused + generator.prefill_tokens),
            *(count(prefix.reused_tokens.get(name, 0)) for name in HITS),
            decimal(prefix.bytes),
            decimal(prefix.capacity_bytes),
            *(count(n) for n in (prefix.blocks, prefix.pinned_blocks, prefix.evictions)),
        )
    return table


def _usage(usage: Sequence[UsageStats]) -> Iterator[RenderableType]:
    """The busiest, by kind, namespace and model."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    # A narrow terminal cuts the names, never a number.
    for name in ("kind", "namespace", "model"):
        table.add_column(name, overflow="ellipsis")
    numbers = ("hits", *HITS, "computed", "entries", "size", "age", "saved", "money", "pays from")
    for number in numbers:
        table.add_column(number, justify="right", no_wrap=True)
    rows = sorted(usage, key=lambda each: -sum(each.answered.values()))
    for each in rows[:_MOST_ROWS]:
        table.add_row(*_usage_row(each))
    yield table
    if len(rows) > _MOST_ROWS:
        yield f"and {len(rows) - _MOST_ROWS:,} more: embercache stats --json"


def _usage_row(usage: UsageStats) -> Iterable[RenderableType]:
    answered = usage.answered
    hits = sum(answered.get(name, 0) for name in HITS)
    break_even = usage.break_even_hit_rate
    return (
        usage.kind,
        Text(usage.namespace),
        Text(usage.model),
        share(hits, sum(answered.values())),
        *(count(answered.get(name, 0)) for name in (*HITS, "computed")),
        count(usage.hot_entries),
        decimal(usage.hot_bytes) if usage.hot_bytes else "-",
        time_in_brief(usage.hot_age_seconds),
        time_in_brief(usage.seconds_saved),
        f"{usage.money_saved:,.2f}" if usage.money_saved else "-",
        f"{break_even:.1%}" if break_even else "-",
    )


def _semantic(semantic: Sequence[SemanticStats]) -> Table:
    table = _table("namespace", "similarity", "looked up", "answered", "guard", "verifier", "below")
    for each in semantic:
        for band in each.bands:
            if not band.looked_up:
                continue
            table.add_row(
                Text(each.namespace),
                band_edges(band.start, band.end),
                count(band.looked_up),
                count(band.answered),
                count(band.refused_by_guard),
                count(band.refused_by_verifier),
                count(band.below_threshold),
            )
    return table


def _quotas(quotas: Sequence[QuotaStats]) -> Table:
    """The namespaces that were refused most."""
    table = _table("namespace", "quota", "refused")
    for each in sorted(quotas, key=lambda each: -each.refusals)[:_MOST_ROWS]:
        table.add_row(Text(each.namespace), each.quota, count(each.refusals))
    return table


def _forged(forged: Sequence[ForgedStats]) -> Table:
    table = _table("not sealed here", "tier", "reason", "values")
    for each in forged:
        table.add_row(each.what, each.tier, each.reason, count(each.count))
    return table


def _table(name: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column(name)
    for number in numbers:
        table.add_column(number, justify="right")
    return table


def count(value: int) -> str:
    """A number that is nothing to look at if it is zero."""
    return f"{value:,}" if value else "-"


def share(part: int, whole: int) -> str:
    """A part of the whole, if there is one."""
    return f"{part / whole:.1%}" if whole else "-"


def time_in_brief(seconds: float) -> str:
    """A time in the largest unit of which there is one at least."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds else "-"
