"""How far the simulation of a sample of a fleet is from that of the whole one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.report import print_table, write_json
from bench.simulate_fleet import Counts, Sizes, between, simulate
from bench.simulate_traffic import BIN_SECONDS, DAY, Scale, Traffic

if TYPE_CHECKING:
    from pathlib import Path

    from bench.simulate_fleet import MakeHot

FLEET, SEEDS = 40, 5
TRAFFIC = Traffic(
    rate=0.25,
    texts=200_000,
    documents=20_000,
    flash_texts=4_000,
    seconds=2 * DAY,
    version_at=2 * DAY,
)
SIZES = Sizes(
    item_bytes=1635,
    response_bytes=1718,
    redis_bytes=2048,
    hot_max_bytes=4 * 2**20,
    model_seconds=0.02,
)
SCALES = {
    "every 4th pod": Scale(FLEET, 10, 1, 4),
    "every 8th text": Scale(FLEET, FLEET, 8),
    "both": Scale(FLEET, 10, 8, 4),
    "every 4th pod, every 32nd text": Scale(FLEET, 10, 32, 4),
}


def compare(make_hot: MakeHot, file: Path | None) -> None:
    """Prints the figures of the whole fleet, and the errors of samples over some seeds."""
    whole = figures_of(TRAFFIC, Scale(FLEET, FLEET), SIZES, make_hot, seed=0)
    rows: list[tuple[object, ...]] = [("the whole fleet", "", *map(_shown, whole, whole.values()))]
    errors = {}
    for name, scale in SCALES.items():
        samples = [
            figures_of(TRAFFIC, scale, SIZES, make_hot, seed) for seed in range(1, SEEDS + 1)
        ]
        errors[name] = {
            each: [_error(each, s[each], whole[each]) for s in samples] for each in whole
        }
        means = [f"{sum(found) / SEEDS:+.2%}" for found in errors[name].values()]
        worst = [f"{max(found, key=abs):+.2%}" for found in errors[name].values()]
        rows += [(name, "mean error", *means), ("", "worst error", *worst)]
    print_table(
        f"{FLEET} pods; errors of shares in points, of others in percent, {SEEDS} seeds",
        ("sample", "", *whole),
        rows,
    )
    write_json(file, {"whole": whole, "errors": errors})


def figures_of(
    traffic: Traffic, scale: Scale, sizes: Sizes, make_hot: MakeHot, seed: int
) -> dict[str, float]:
    """Of the second day: who answers callers, the peaks of rates a second, entries in Redis."""
    day = between(simulate(traffic, scale, sizes, make_hot, seed), DAY, 2 * DAY)
    queries = sum((each.queries for each in day), Counts())
    return {
        "hot": (queries.hot + queries.coalesced) / queries.asked,
        "Redis": queries.warm / queries.asked,
        "model": queries.model / queries.asked,
        "lookups": sum(each.queries.lookups for each in day) / DAY,
        "lookups, peak": max(each.queries.lookups for each in day) / BIN_SECONDS,
        "entries": max(each.entries for each in day),
    }


def _error(name: str, sample: float, whole: float) -> float:
    return sample - whole if name in ("hot", "Redis", "model") else sample / whole - 1


def _shown(name: str, value: float) -> str:
    return f"{value:.1%}" if name in ("hot", "Redis", "model") else f"{value:,.3g}"
