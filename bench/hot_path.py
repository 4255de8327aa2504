"""What a hot hit costs, with and without the native front door, beside bare servers.

Each is compared with a server that answers with the same bytes, to the same client, in turns
within one run; the figures are medians over the rounds.

    python -m bench.hot_path
    python -m bench.hot_path --all --triton-python /path/to/python

With ``--all`` also against a bare server on the HTTP/2 of the native front door, and against
Triton's response cache where nvidia-pytriton is installed; and once more with ghz.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench import contenders as who
from bench.answered import all_whole_hits
from bench.ghz import alone
from bench.ghz.tool import ghz
from bench.load import Load, LoadError, drive
from bench.report import add_json_option, print_table, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bench.contenders import Contender

    # Sends so many calls, over so many connections, so many at a time on each.
    Drive = Callable[[Contender, int, int, int], Load]

# What is asserted of the native front door, and by what name.
RATIOS = {
    "native_vs_triton": who.TRITON,
    "native_vs_rust_echo": who.RUST_ECHO,
    "native_vs_grpcio": who.GRPCIO,
}
_WARM_UP = 5000


@dataclass
class Measured:
    """What was measured of one, round by round, and what all ``calls`` of ``busy`` took."""

    busy: list[Load] = field(default_factory=list)
    calm: list[Load] = field(default_factory=list)
    calls: int = 0
    cpu_seconds: float = 0.0

    def figures(self) -> dict[str, float]:
        """Medians, and the mean of CPU time, which is counted in steps of 10 ms."""
        return {
            "calls_per_second": median(load.calls_per_second for load in self.busy),
            "p50_ms": median(load.p50_ms for load in self.calm),
            "p99_ms": median(load.p99_ms for load in self.calm),
            "cpu_seconds_per_10000": 10_000 * self.cpu_seconds / self.calls,
        }

    def ratio_to(self, other: Measured) -> float:
        """Of throughputs: the median of those of the rounds."""
        pairs = zip(self.busy, other.busy, strict=True)
        return median(mine.calls_per_second / theirs.calls_per_second for mine, theirs in pairs)


def main() -> None:
    """Prints the tables."""
    options = _parse()
    try:
        figures = _compare_all(options) if options.all else _compare(options)
    except LoadError as error:
        sys.exit(str(error))
    write_json(options.json, figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20_000, help="calls a round, at least")
    parser.add_argument("--all", action="store_true", help="against all there are, and with ghz")
    parser.add_argument(
        "--triton-python",
        metavar="PATH",
        default=sys.executable,
        help="the Python that has nvidia-pytriton; else this one",
    )
    add_json_option(parser)
    return parser.parse_args()


def _compare(options: argparse.Namespace) -> dict[str, object]:
    """Embed and Search against a bare grpcio server."""
    ratios: dict[str, float] = {}
    servers: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        sidecars = who.sidecars(stack)
        for make_hot in (who.embed, who.search):
            with ExitStack() as echoing:
                hot = [make_hot(sidecar) for sidecar in sidecars]
                call = hot[0].call
                contenders = [who.grpcio_echo(echoing, call), *hot]
                found = _measure(by_h2load, contenders, options.rounds, options.calls)
            size = f"{len(call.response):,} bytes"
            bare = found[who.GRPCIO_ECHO]
            for name, measured in found.items():
                title = f"{name}, {size if measured is bare else call.name}"
                servers[title] = measured.figures()
                if measured is not bare:
                    ratios[title] = measured.ratio_to(bare)
    _print("h2load", servers)
    for title, ratio in ratios.items():
        print(f"ratio_to_echo {title}: {ratio:.3f} (median of {options.rounds} rounds)")
    return {"ratio_to_echo": ratios, "servers": servers}


def _compare_all(options: argparse.Namespace) -> dict[str, object]:
    """Embed against all there are, with each client there is."""
    drives: dict[str, Drive] = {"h2load": by_h2load}
    missing: list[str] = []
    try:
        ghz()
        drives["ghz"] = by_ghz
    except LoadError as error:
        missing.append(str(error))
    figures: dict[str, dict[str, object]] = {}
    with ExitStack() as stack:
        hot = [who.embed(sidecar) for sidecar in who.sidecars(stack)]
        contenders = [who.grpcio_echo(stack, hot[0].call), *hot]
        for other in who.others(stack, hot[0].call, options.triton_python):
            if isinstance(other, str):
                missing.append(other)
            else:
                contenders.append(other)
        if who.NATIVE not in {each.name for each in contenders}:
            missing.append("no native front door: run make native")
        for client, drive_with in drives.items():
            found = _measure(drive_with, contenders, options.rounds, options.calls)
            servers = {name: measured.figures() for name, measured in found.items()}
            _print(client, servers)
            figures[client] = {**_ratios(client, found), "servers": servers}
    for line in missing:
        print(line)
    return {**figures.pop("h2load"), **figures, "missing": missing}


def _ratios(client: str, found: Mapping[str, Measured]) -> dict[str, float | None]:
    """Of the native front door to the others; None for who is not there."""
    native = found.get(who.NATIVE)
    ratios = {
        name: native.ratio_to(found[other]) if native and other in found else None
        for name, other in RATIOS.items()
    }
    for name, ratio in ratios.items():
        print(f"{name} ({client}): {'not measured' if ratio is None else f'{ratio:.3f}'}")
    return ratios


def _measure(
    drive_with: Drive, contenders: Sequence[Contender], rounds: int, calls: int
) -> dict[str, Measured]:
    """In turns: 32 calls at once, for a second at least; then a fifth as many one at a time."""
    found = {contender.name: Measured() for contender in contenders}
    calls_of = {}
    answers = {contender.name: contender.answer() for contender in contenders}
    for contender in contenders:
        rate = drive_with(contender, _WARM_UP, 4, 8).calls_per_second
        calls_of[contender.name] = max(calls, round(rate))
    for _ in range(rounds):
        for contender in contenders:
            measured, calls = found[contender.name], calls_of[contender.name]
            with _only_hits(contender, calls):
                before = contender.cpu_seconds()
                measured.busy.append(drive_with(contender, calls, 4, 8))
                measured.cpu_seconds += contender.cpu_seconds() - before
                measured.calls += calls
            measured.calm.append(drive_with(contender, calls // 5, 1, 1))
    # That Triton's model answered would show: it says something else each time.
    for contender in contenders:
        if contender.name == who.TRITON and contender.answer() != answers[contender.name]:
            raise LoadError(f"{contender.name} did not answer from its cache")
    return found


def by_h2load(contender: Contender, calls: int, connections: int, streams: int) -> Load:
    """With h2load, which costs the machine far less than most servers do."""
    call = contender.call
    return drive(
        contender.address,
        call.method,
        call.request,
        calls=calls,
        connections=connections,
        streams=streams,
    )


def by_ghz(contender: Contender, calls: int, connections: int, streams: int) -> Load:
    """With ghz, a client of gRPC, which costs more than most servers do."""
    return alone.drive(
        contender.address, contender.call, calls=calls, connections=connections, streams=streams
    )


def _only_hits(contender: Contender, calls: int) -> AbstractContextManager[None]:
    """Raises `LoadError` if a sidecar answers from elsewhere than memory meanwhile."""
    if contender.name in (who.GRPCIO, who.NATIVE):
        return all_whole_hits(contender.address, calls)
    return nullcontext()


def _print(client: str, servers: Mapping[str, Mapping[str, float]]) -> None:
    print_table(
        f"{client}; one call at a time for p50 and p99",
        ("server", "calls/s, 4 connections x 8", "p50 ms", "p99 ms", "CPU s per 10,000"),
        [(name, *figures.values()) for name, figures in servers.items()],
    )


if __name__ == "__main__":
    main()
