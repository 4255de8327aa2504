"""Load tests with ghz: a sidecar that it starts itself, beside bare servers in the same run.

    python -m bench.ghz

Embed, Search and Generate in closed loop and at a fixed rate, Embed at rising rates. What is sent,
and which tier is to answer it, is drawn beforehand: see README.md beside this file.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from bench.ghz.docs import PAGE, replaced, write_docs
from bench.ghz.files import DATA, write_files
from bench.ghz.measure import FULL, QUICK, Results, measure
from bench.ghz.plot import draw
from bench.ghz.scenarios import SCENARIOS, short_texts
from bench.ghz.servers import serving
from bench.ghz.tables import made_with, notes, tables
from bench.ghz.tool import ghz
from bench.load import LoadError
from bench.report import add_json_option, print_table, write_json


def main() -> None:
    """Runs what was asked for."""
    options = _parse()
    # Told to end either way, it ends its servers first.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.write_docs:
        replaced(PAGE.read_text("utf-8"), "")  # fails now rather than at the end
    texts = short_texts()
    drawn = write_files(texts)
    if options.only_data:
        print(f"written to {DATA}")
        return
    names = set(options.scenarios or [scenario.name for scenario in SCENARIOS])
    names |= {scenario.reference for scenario in SCENARIOS if scenario.name in names}
    effort = QUICK if options.quick else FULL
    chosen = {
        scenario: calls.first(round(len(calls.messages) * effort.calls))
        for scenario, calls in drawn.items()
        if scenario.name in names
    }
    try:
        ghz()  # is missed before anything is started
        with serving(chosen, texts) as lines:
            results = measure(lines, effort)
    except LoadError as error:
        sys.exit(str(error))
    _print(results)
    write_json(options.json, _figures(results))
    if options.plot:
        draw(results, options.plot)
    if options.write_docs:
        write_docs(results)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ghz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "scenarios",
        nargs="*",
        metavar="SCENARIO",
        help="only these, and what they are compared with",
    )
    parser.add_argument("--quick", action="store_true", help="short runs, one round")
    parser.add_argument("--only-data", action="store_true", help="write what ghz reads, and end")
    parser.add_argument("--plot", type=Path, help="also draw the latencies into this SVG file")
    parser.add_argument(
        "--write-docs", action="store_true", help="also replace the section of docs/benchmarks.md"
    )
    add_json_option(parser)
    options = parser.parse_args()
    known = [scenario.name for scenario in SCENARIOS]
    if unknown := set(options.scenarios) - set(known):
        parser.error(f"no scenario {', '.join(sorted(unknown))}: there are {', '.join(known)}")
    if options.write_docs and (options.quick or options.scenarios):
        parser.error("the documentation takes a full run: without --quick, of all scenarios")
    return options


def _print(results: Results) -> None:
    for table in tables(results):
        print_table(*table)
    for note in (*notes(results), made_with()):
        print(note)


def _figures(results: Results) -> dict[str, object]:
    return {name: [each.as_json() for each in measured] for name, measured in vars(results).items()}


if __name__ == "__main__":
    main()
