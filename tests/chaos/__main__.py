"""Chaos: sidecars, encoders and Redis are disturbed under load, and every answer is checked.

    python -m tests.chaos --seconds 120 --seed 1

Ends with status 1 if an answer was wrong, a call failed that must not, or a part died.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from typing import TYPE_CHECKING

from bench.report import add_json_option, write_json
from tests.chaos.run import Options, run

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs it once."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=Options.seconds)
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--clients", type=int, default=Options.clients)
    add_json_option(parser)
    given = parser.parse_args(arguments)
    # As an interrupt, so that no server is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = asyncio.run(
        run(Options(seconds=given.seconds, seed=given.seed, clients=given.clients))
    )
    report.show()
    write_json(given.json, report.figures())
    raise SystemExit(0 if report.passed else 1)


if __name__ == "__main__":
    main()
