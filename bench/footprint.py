"""What a sidecar takes in memory beside what it keeps: after its start, and after its first calls.

    python -m bench.footprint

Three of them, without lower tiers: one in front of an encoder pool, one with a model of its own,
and one that generates, too. Calls are for new texts, so that the model has run. What is printed is
the resident memory (RSS), pages of shared libraries included.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import psutil
from embercache import Client

from bench.corpus import docstrings
from bench.processes import sidecar
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    import subprocess

POOL, ADDRESS = "127.0.0.1:50779", "127.0.0.1:50780"
_CALLS = 100
_PER_CALL = 8
_MIB = 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_json_option(parser)
    options = parser.parse_args()
    texts = docstrings(_CALLS * _PER_CALL)
    generator = ("--generator-packs", "smollm2-135m")
    with sidecar("--server-address", POOL, "--hot-max-bytes", "0"):
        rows = [("asks an encoder pool", *_measure(texts, "--encoder-target", POOL))]
    rows.append(("computes minilm itself", *_measure(texts)))
    rows.append(("generates with smollm2-135m, too", *_measure(texts, *generator)))
    header = ("a sidecar that", "after start, MiB", f"after {_CALLS} calls, MiB")
    print_table("", header, rows)
    write_json(options.json, {"footprint": {name: each for name, *each in rows}})


def _measure(texts: list[str], *arguments: str) -> tuple[float, float]:
    with sidecar("--server-address", ADDRESS, *arguments) as process, Client(ADDRESS) as client:
        before = _rss(process)
        for first in range(0, len(texts), _PER_CALL):
            client.embed(texts[first : first + _PER_CALL])
        return before, _rss(process)


def _rss(process: subprocess.Popen[bytes]) -> float:
    return float(psutil.Process(process.pid).memory_info().rss / _MIB)


if __name__ == "__main__":
    main()
