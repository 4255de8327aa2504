"""Embercache side by side with what is used today, in one run on one machine.

    python -m bench.peers

Each peer runs in an environment of its own, which is made the first time from
``bench/peers/requirements``; that takes a while and, with PyTorch, some 15 GB of disk.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import traceback
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench.corpus import docstrings
from bench.peers import generation, misses
from bench.peers.caches import CACHES
from bench.peers.comparison import Comparison
from bench.peers.docs import write_docs
from bench.peers.drive import PeerError
from bench.peers.environments import NotInstalledError
from bench.peers.measure import measure
from bench.peers.rows import CACHES as CACHE_ROWS
from bench.peers.rows import GENERATION, MISSES
from bench.report import add_json_option, print_table, write_json
from sidecar.dev_redis import DevRedisError
from sidecar.models.cpus import usable_cpus
from sidecar.models.packs import default_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

_ALL = [cache.module for cache in CACHES[1:]] + [*misses.NAMES, generation.NAME]
_TEXTS = 5000


def main() -> None:
    """Measures, prints the tables and what is to be said of each row."""
    options = _options()
    began = os.getloadavg()
    corpus = docstrings(_TEXTS)
    pack = default_folder() / "minilm"
    generated = generation.measure_generation(options.peers)
    missed = misses.measure_misses(options.peers, pack, corpus)
    compared = [
        Comparison("Caches", CACHE_ROWS, _caches(options.peers, corpus)),
        Comparison("Misses", MISSES, missed),
        Comparison("Generation", GENERATION, generated),
    ]
    comparisons = [each for each in compared if len(each.results) > 1]
    for each in comparisons:
        print_table(each.title, each.header, each.rows)
        for name, why in each.missing.items():
            print(f"not measured: {name}: {why}")
        for title, said in each.verdicts:
            print(f"- {title}: {said}")
    made_with = _made_with(began)
    print(made_with)
    figures = {each.title: {n: asdict(m) for n, m in each.measured.items()} for each in comparisons}
    write_json(options.json, {**figures, "run": made_with})
    if options.write_docs:
        write_docs(comparisons, made_with)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=_ALL,
        help=f"which, with commas between; of {','.join(_ALL)}",
    )
    parser.add_argument("--write-docs", action="store_true", help="into docs/benchmarks.md")
    add_json_option(parser)
    options = parser.parse_args()
    if unknown := set(options.peers) - set(_ALL):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}; there are {', '.join(_ALL)}")
    return options


def _caches(names: Collection[str], corpus: Sequence[str]) -> dict[str, object]:
    """Each that is asked for; the run goes on when one fails."""
    results: dict[str, object] = {}
    if not any(cache.module in names for cache in CACHES):
        return results
    for cache in CACHES:
        if cache.module not in {"embercache", *names}:
            continue
        print(f"{cache.name} ...", flush=True)
        try:
            results[cache.name] = measure(cache, default_folder() / "minilm", corpus)
        except (NotInstalledError, PeerError) as error:
            results[cache.name] = str(error)
        except (OSError, RuntimeError, DevRedisError, subprocess.SubprocessError) as error:
            traceback.print_exc()
            results[cache.name] = f"{type(error).__name__}: {error}"
    return results


def _made_with(began: tuple[float, float, float]) -> str:
    """The machine, and how busy it was."""
    now = os.getloadavg()
    return (
        f"Python {platform.python_version()}, {usable_cpus()} CPUs shared by peer, driver, Redis"
        f" and model; load average of five minutes {began[1]:.1f} at the start, {now[1]:.1f} at"
        " the end."
    )


if __name__ == "__main__":
    main()
