"""What the hot tier's policy is worth: hit rates on made-up traces, against the optimum.

The policies are those of the real hot tier. The optimum is Belady's: of all entries, and the one
that just came, the one goes that is asked for again last. All entries are of one size, for which
that is right. A tier holds a share of the keys that are asked for more than once.

    python -m bench.admission --plot docs/images/admission.svg
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from bench.plots import pyplot, save
from bench.report import add_json_option, print_table, write_json
from bench.zipf import zipf
from sidecar.cache.accounts import Account
from sidecar.cache.hot import ENTRY_OVERHEAD_BYTES, HotTier

if TYPE_CHECKING:
    from collections.abc import Sequence

Policy = Literal["lru", "s3fifo"]

KEYS = 20_000
SHARES = (0.01, 0.1)
SCAN = 1_000_000


@dataclass(frozen=True)
class HitRates:
    """Of one trace, in a tier for so many entries."""

    trace: str
    entries: int
    lru: float
    s3fifo: float
    optimum: float


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=200_000, help="of each trace")
    parser.add_argument("--plot", type=Path, help="also draw the hit rates into this SVG file")
    add_json_option(parser)
    options = parser.parse_args()
    rows = [
        HitRates(
            name,
            entries,
            hit_rate(trace, entries, "lru"),
            hit_rate(trace, entries, "s3fifo"),
            optimum(trace, entries),
        )
        for name, trace in traces(options.requests).items()
        for entries in (int(KEYS * share) for share in SHARES)
    ]
    print_table(
        f"hit rates of {options.requests:,} requests, {KEYS:,} keys that are asked for again",
        ("trace", "entries in the tier", "lru", "s3fifo", "optimum"),
        [
            (
                row.trace,
                row.entries,
                *(f"{rate:.1%}" for rate in (row.lru, row.s3fifo, row.optimum)),
            )
            for row in rows
        ],
    )
    left = {policy: left_after_scan(policy) for policy in get_args(Policy)}
    print(f"of 1,000 entries in use in a tier for 2,000, left after a scan of {SCAN:,} cold keys:")
    print(", ".join(f"{policy} {count:,}" for policy, count in left.items()))
    if options.plot:
        draw(rows, options.plot)
    write_json(options.json, {"hit_rates": [vars(row) for row in rows], "left_after_scan": left})


def traces(count: int) -> dict[str, list[int]]:
    """Requests as numbers of keys, by name of the trace; those of `KEYS` and above come once."""
    rng = np.random.default_rng(11)
    popular = zipf(rng, 1.0, KEYS, count)
    places = np.arange(count)

    one_off = popular.copy()
    cold = rng.random(count) < 0.3
    one_off[cold] = KEYS + np.arange(cold.sum())

    scans = popular.copy()
    block = KEYS // 2
    in_scan = places // block % 3 == 2
    scans[in_scan] = KEYS + np.arange(in_scan.sum())

    # Every tenth of the trace another twentieth of the keys becomes the most popular.
    shifting = (popular + places * 10 // count * (KEYS // 20)) % KEYS
    made = {
        "Zipf 0.8": zipf(rng, 0.8, KEYS, count),
        "Zipf 1.0": popular,
        "Zipf 1.0, 30 % one-off": one_off,
        f"Zipf 1.0, scans of {block:,}": scans,
        "Zipf 1.0, shifting": shifting,
        "loop": places % KEYS,
    }
    return {name: trace.tolist() for name, trace in made.items()}


def hit_rate(trace: Sequence[int], entries: int, policy: Policy) -> float:
    """Of the real tier, with room for so many entries."""
    hot, account = _tier(entries, policy)
    hits = 0
    for number in trace:
        key = b"%08d" % number
        if hot.get(key) is None:
            hot.put(key, None, 0, account)
        else:
            hits += 1
    return hits / len(trace)


def optimum(trace: Sequence[int], entries: int) -> float:
    """Of a tier that knows the future: L. A. Belady, IBM Systems Journal 5 (2), 1966."""
    next_use = [0] * len(trace)
    seen: dict[int, int] = {}
    for place in range(len(trace) - 1, -1, -1):
        next_use[place] = seen.get(trace[place], len(trace) + place)
        seen[trace[place]] = place
    held: dict[int, int] = {}
    # Entries by next use, the last first; one whose next use has moved on counts no more.
    order: list[tuple[int, int]] = []
    hits = 0
    for place, number in enumerate(trace):
        hits += number in held
        held[number] = next_use[place]
        heapq.heappush(order, (-next_use[place], number))
        while len(held) > entries:
            use, last = heapq.heappop(order)
            if held.get(last) == -use:
                del held[last]
    return hits / len(trace)


def left_after_scan(policy: Policy) -> int:
    """How many of 1,000 entries in use are there after a million others came once."""
    hot, account = _tier(2000, policy)
    for _ in range(2):
        for number in range(1000):
            key = b"%08d" % number
            if hot.get(key) is None:
                hot.put(key, None, 0, account)
    for number in range(SCAN):
        hot.put(b"%08d" % (KEYS + number), None, 0, account)
    return sum(hot.get(b"%08d" % number) is not None for number in range(1000))


def draw(rows: Sequence[HitRates], file: Path) -> None:
    """Draws one panel a size of the tier, one line a trace, one dot a policy."""
    from matplotlib.ticker import PercentFormatter

    plt = pyplot("admission")

    sizes = sorted({row.entries for row in rows})
    figure, panels = plt.subplots(
        1, len(sizes), figsize=(8, 2.8), sharey=True, layout="constrained"
    )
    styles = {"lru": ("o", "#888888"), "s3fifo": ("o", "#d1495b"), "optimum": ("|", "#222222")}
    for size, panel in zip(sizes, panels, strict=True):
        shown = [row for row in rows if row.entries == size]
        for height, row in enumerate(shown):
            panel.plot([row.lru, row.optimum], [height] * 2, color="#dddddd", zorder=0)
        for policy, (marker, colour) in styles.items():
            panel.scatter(
                [getattr(row, policy) for row in shown],
                range(len(shown)),
                marker=marker,
                color=colour,
                label=policy,
                zorder=1 if policy == "lru" else 2,
            )
        panel.set_yticks(range(len(shown)), [row.trace for row in shown])
        panel.xaxis.set_major_formatter(PercentFormatter(1))
        panel.set(xlim=(-0.03, 1), ylim=(len(shown) - 0.5, -0.5), xlabel="hit rate")
        panel.set_title(f"tier for {size:,} of {KEYS:,} entries", fontsize=10)
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(left=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, file)


def _tier(entries: int, policy: Policy) -> tuple[HotTier[None], Account]:
    """A tier with room for so many entries under keys of eight bytes."""
    hot: HotTier[None] = HotTier(entries * (ENTRY_OVERHEAD_BYTES + 8), lambda: 0.0, policy)
    return hot, Account("embed", "default", "model")


if __name__ == "__main__":
    main()
