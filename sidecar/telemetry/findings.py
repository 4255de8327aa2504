"""What is wrong with a sidecar, and what to do: for the status page and ``embercache top``.

Judged by two answers of CacheService.Stats, so that what was wrong yesterday is not shown as if it
went on. The words are those of docs/operations.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from embercache import GeneratorStats, ModelStats, Stats

Level: TypeAlias = Literal["critical", "warning", "note"]

LEVELS: tuple[Level, ...] = ("critical", "warning", "note")
"""From the worst to what only deserves to be known."""

_WAIT_SECONDS = 5.0
_FULL = 0.95
_FAILED_SHARE = 0.01
_LEAST_JUDGED = 100
# Fewer late lookups in a minute are nothing that anybody would get up for.
_LEAST_LATE = 5
_HITS = ("hot", "disk", "warm")
# One failure among few calls is a large share of them, and says little.
_LEAST_FAILED = 5
# What the service itself, not its callers, is to blame for.
OWN_FAULTS = frozenset(
    {"DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN", "DATA_LOSS"}
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: what it is, what it means, and what to do."""

    level: Level
    title: str
    meaning: str
    action: str


def findings(now: Stats, before: Stats) -> list[Finding]:
    """What is wrong by the counters of ``now``, if they were ``before`` a minute ago; worst first.

    Where the sidecar was started anew meanwhile, or is another, nothing is taken to have grown.
    """
    if now.uptime_seconds < before.uptime_seconds:
        before = now
    found = [found for judge in _JUDGES for found in judge(now, before)]
    return worst_first(found)


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """Those, in the order of their levels."""
    return sorted(found, key=lambda each: LEVELS.index(each.level))


def left_alone(breakers: Mapping[str, bool]) -> Iterator[Finding]:
    """What calls depend on and is not asked any more, but for Redis, of which Stats tell."""
    for name in sorted(name for name, is_open in breakers.items() if is_open and name != "redis"):
        meaning = "It failed of late and is only probed now and then."
        if name.startswith("disk"):
            meaning += " What the disk held is looked for in Redis or computed."
        elif name == "index":
            meaning += " Searches that are not cached, and changes of documents, fail."
        elif name == "verifier":
            meaning += " Semantic answers that it would be asked about are not given."
        else:
            meaning += " Misses fail; hits are served."
        level: Level = "warning" if name.startswith(("disk", "verifier")) else "critical"
        yield Finding(
            level,
            f"{name[0].upper()}{name[1:]} is left alone",
            meaning,
            "The log has the reason (circuit breaker opened). It is used again by itself.",
        )


def failing_calls(failed: Mapping[str, int], calls: int, over_quota: int) -> Iterator[Finding]:
    """Of calls in the last minute, too many that ended with a status that is not the caller's.

    So many of them were ``over_quota``, which is.
    """
    own = {code: count for code, count in failed.items() if code in OWN_FAULTS}
    if (others := own.pop("RESOURCE_EXHAUSTED", 0) - over_quota) > 0:
        own["RESOURCE_EXHAUSTED"] = others
    count = sum(own.values())
    if _are_many(count, calls):
        codes = ", ".join(f"{code} {number:,}" for code, number in sorted(own.items()))
        yield Finding(
            "critical",
            f"{count / calls:.0%} of the calls of the last minute failed",
            codes + ".",
            "RESOURCE_EXHAUSTED: see queues below. UNAVAILABLE: encoder, index or"
            " service away. INTERNAL: the log has the reason.",
        )


def refused_by_quota(now: Stats, before: Stats) -> int:
    """How many calls between the two a quota of their namespace refused."""
    return sum(each.refusals for each in now.quotas) - sum(each.refusals for each in before.quotas)


def _are_many(failed: int, of: int) -> bool:
    return failed >= _LEAST_FAILED and failed > _FAILED_SHARE * of


def _redis(now: Stats, before: Stats) -> Iterator[Finding]:
    warm = now.warm
    if warm.state == "down":
        yield Finding(
            "warning",
            "Redis is left alone",
            "Five calls to it failed. Memory, disk and model answer without it. Invalidations were"
            f" last heard of {warm.invalidations_heard_seconds:.0f} s ago; after cache.staleness"
            " what has tags is computed.",
            "Look at Redis and the network. It is probed, and used again by itself.",
        )
    elif warm.state == "up" and (new := warm.errors - before.warm.errors) >= _LEAST_LATE:
        yield Finding(
            "warning",
            "Redis is slow",
            f"{new:,} lookups of the last minute failed or took longer than redis.timeout.",
            "Look at Redis' slow log and at the network.",
        )
    if (new := warm.writes_dropped - before.warm.writes_dropped) > 0:
        yield Finding(
            "warning",
            "Entries are not written to Redis",
            f"{new:,} were dropped in the last minute: Redis is down or takes them too slowly.",
            "If Redis is up and this lasts, raise redis.queue_bytes.",
        )
    if warm.memory_limit_bytes and warm.memory_bytes >= _FULL * warm.memory_limit_bytes:
        yield Finding(
            "warning",
            "Redis is nearly full",
            f"{warm.memory_bytes / warm.memory_limit_bytes:.0%} of its memory is used: it evicts"
            " entries, or refuses writes.",
            "Give it more memory, or set a shorter cache.document_ttl or another cache.codec.",
        )


def _disk(now: Stats, before: Stats) -> Iterator[Finding]:
    if now.disk is None or before.disk is None:
        return
    errors = now.disk.errors - before.disk.errors
    dropped = now.disk.writes_dropped - before.disk.writes_dropped
    if errors > 0 or dropped > 0:
        yield Finding(
            "warning",
            "The disk tier fails",
            f"{max(0, errors):,} lookups failed and {max(0, dropped):,} entries were not written in"
            " the last minute. Calls are answered without it.",
            "Look at the disk of disk.folder: full, slow or broken. Nothing needs a restart.",
        )


def _values(now: Stats, before: Stats) -> Iterator[Finding]:
    forged = sum(each.count for each in now.forged) - sum(each.count for each in before.forged)
    if forged > 0:
        yield Finding(
            "critical",
            "Values were not sealed by these sidecars",
            f"{forged:,} values on disk or in Redis were refused in the last minute. Answers are"
            " right, but somebody may be tampering.",
            "Find out who can write there; compare encryption.keys_file of all sidecars.",
        )
    corrupt = sum(
        tier.corrupt - before.tiers[name].corrupt
        for name, tier in now.tiers.items()
        if name in before.tiers
    )
    if corrupt > 0:
        yield Finding(
            "warning",
            "Values are corrupt",
            f"{corrupt:,} were refused and removed in the last minute.",
            "See who else writes to this Redis, and whether another application shares the prefix.",
        )


def _models(now: Stats, before: Stats) -> Iterator[Finding]:
    """Models and generators: what cannot be used, and what cannot keep up."""
    earlier: dict[str, ModelStats | GeneratorStats] = {}
    earlier |= {each.name: each for each in before.models}
    earlier |= {each.name: each for each in before.generators}
    both: list[ModelStats | GeneratorStats] = [*now.models, *now.generators]
    for each in both:
        if not each.version:
            yield Finding(
                "critical",
                f"{each.name} cannot be used yet",
                "It has not been reached since the start. Misses fail; hits are served.",
                "Look at what encoder.target names. The log has the reason.",
            )
            continue
        old = earlier.get(each.name, each)
        late = each.refused_late + each.dropped_late - old.refused_late - old.dropped_late
        full = each.shed - each.refused_late - old.shed + old.refused_late
        if full > 0:
            yield Finding(
                "critical",
                f"{each.name} is overloaded",
                f"{full:,} inputs of the last minute were refused: its queue is full.",
                "Add encoders or sidecars; see whether the hit rate fell.",
            )
        if late > 0:
            yield Finding(
                "warning",
                f"{each.name} is too late",
                f"{late:,} inputs of the last minute would have been done after their deadlines.",
                "If inputs wait, add encoders; if not, callers give too little time.",
            )
    for model in now.models:
        if model.queue_seconds > _WAIT_SECONDS:
            yield Finding(
                "warning",
                f"{model.name} has a long queue",
                f"{model.queued:,} inputs wait, about {model.queue_seconds:.0f} s.",
                "Add encoders, or warm more slowly (warming.per_second).",
            )


def _items(now: Stats, before: Stats) -> Iterator[Finding]:
    answered = sum(tier.answered for tier in now.tiers.values())
    answered -= sum(tier.answered for tier in before.tiers.values())
    failed = now.items_failed - before.items_failed
    if _are_many(failed, answered + failed):
        yield Finding(
            "warning",
            "Inputs fail",
            f"{failed:,} of {answered + failed:,} inputs of the last minute ended with an error.",
            "The error of each says why: the model refuses it, or cannot be reached.",
        )


def _quotas(now: Stats, before: Stats) -> Iterator[Finding]:
    refused = refused_by_quota(now, before)
    if refused > 0:
        yield Finding(
            "warning",
            "A namespace has used up its quota",
            f"{refused:,} calls of the last minute were refused.",
            "See which one under Refused by quota; raise its quota in the policy, or have it call"
            " less.",
        )


def _worth(now: Stats, _before: Stats) -> Iterator[Finding]:
    for each in now.usage:
        answered = sum(each.answered.values())
        hits = sum(count for name, count in each.answered.items() if name in _HITS)
        if answered >= _LEAST_JUDGED and hits < each.break_even_hit_rate * answered:
            yield Finding(
                "note",
                f"The cache costs {each.kind} of {each.model} more time than it saves",
                f"In namespace {each.namespace} {hits / answered:.0%} are hits; it pays from"
                f" {each.break_even_hit_rate:.0%}.",
                "See whether keys differ that should not: prompts, tags, options.",
            )


_JUDGES: tuple[Callable[[Stats, Stats], Iterator[Finding]], ...] = (
    _redis,
    _disk,
    _values,
    _models,
    _items,
    _quotas,
    _worth,
)
