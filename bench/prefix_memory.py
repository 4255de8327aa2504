"""How much memory a sidecar takes under many prompts, with a small budget for prefixes."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from bench.prefix_calls import generating
from bench.report import print_table

if TYPE_CHECKING:
    from bench.prefix_calls import Sidecar
    from bench.prefix_texts import Texts

MIB = 2**20
BUDGET = 64 * MIB
FULL_AFTER = 200
_EVERY = 50
_AT_A_TIME = 4


def measure(texts: Texts, prompts: int) -> dict[str, Any]:
    """Prints the table; returns the figures for the JSON file."""
    samples: dict[int, tuple[float, int, int]] = {}
    sizes = np.random.default_rng(0).integers(32, 97, prompts)
    with (
        tempfile.TemporaryDirectory() as folder,
        generating(folder, f"--prefix-max-bytes={BUDGET}") as client,
        ThreadPoolExecutor(_AT_A_TIME) as threads,
    ):
        samples[0] = _sample(client)
        for start in range(0, prompts, _EVERY):
            batch = [texts.take(int(size)) for size in sizes[start : start + _EVERY]]
            list(threads.map(client.stream, batch))
            samples[start + len(batch)] = _sample(client)
        prefix = client.prefix_stats()
    shown = [count for count in (0, 50, 100, 200, 500, prompts) if count in samples]
    print_table(
        f"prompts of {sizes.min()} to {sizes.max()} tokens, {_AT_A_TIME} at a time;"
        f" prefix.max_bytes {BUDGET // MIB} MiB",
        ("after prompts", "RSS, MiB", "of that for prefixes, MiB", "blocks"),
        [(count, samples[count][0], samples[count][1] / MIB, samples[count][2]) for count in shown],
    )
    full = [count for count in samples if count >= FULL_AFTER]
    growth = samples[prompts][0] - samples[FULL_AFTER][0]
    slope = float(np.polyfit(full, [samples[count][0] for count in full], 1)[0]) * 1024
    most = max(used for _, used, _ in samples.values())
    print(
        f"From {FULL_AFTER} prompts on, RSS grew by {growth:.1f} MiB, {slope:.2f} KiB a prompt.\n"
        f"Of the budget, {prefix.bytes / MIB:.1f} MiB were in use at the end, by {prefix.blocks:,}"
        f" blocks and what generations keep to work with, and at most {most / MIB:.1f} MiB between"
        f" two rounds of {_EVERY}; {prefix.evictions:,} blocks were evicted.\n"
    )
    return {
        "rss_start_mb": samples[0][0],
        "rss_mb": {str(count): samples[count][0] for count in samples},
        f"rss_growth_after_{FULL_AFTER}_mb": growth,
        "rss_slope_kb_per_prompt": slope,
        "prefix_bytes_max": most,
        "prefix_capacity_bytes": prefix.capacity_bytes,
        "prefix_evictions": prefix.evictions,
    }


def _sample(client: Sidecar) -> tuple[float, int, int]:
    """RSS in MiB; bytes and blocks of prefixes."""
    prefix = client.prefix_stats()
    return psutil.Process(client.pid).memory_info().rss / MIB, prefix.bytes, prefix.blocks
