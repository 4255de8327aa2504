"""The tables of a run: on standard output and, in Markdown, in the documentation."""

from __future__ import annotations

import math
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

from bench.ghz.scenarios import SCENARIOS
from bench.ghz.tool import installed_version

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator, Sequence

    from bench.ghz.figures import Measured
    from bench.ghz.measure import Results

    Table = tuple[str, Sequence[str], Sequence[Sequence[object]]]

_TIERS = ("hot", "disk", "warm", "coalesced", "computed")
_REFERENCES = {scenario.name: scenario.reference for scenario in SCENARIOS}


def tables(results: Results) -> Iterator[Table]:
    """Title, header and rows of each."""
    yield (
        "closed loop: a call is sent when the last one was answered",
        (
            *("calls", "answered by", "calls/s", "of", "n"),
            *("p50 ms", "p95 ms", "p99 ms", "CPU ms", "errors"),
        ),
        [
            (
                label(each),
                _shares(each.answered),
                each.throughput,
                _ratio(each, results.closed, "answered_per_second"),
                each.n,
                *map(_milliseconds, each.latency_ms),
                "{:.2f} + {:.2f}".format(*each.cpu_ms),
                _errors(each),
            )
            for each in results.closed
        ],
    )
    header = (
        *("calls", "asked/s", "sent/s", "n", "p50 ms", "of", "p95 ms", "p99 ms"),
        *("p99 ms, as planned", "limit", "errors"),
    )
    for title, measured in (("fixed rate", results.fixed), ("ramp", results.ramp)):
        rows = [
            (
                label(each),
                each.rate,
                each.sent,
                each.n,
                _milliseconds(each.latency_ms[0]),
                _ratio(each, measured, "p50_ms"),
                *map(_milliseconds, (*each.latency_ms[1:], each.planned_ms[-1])),
                each.limit,
                _errors(each),
            )
            for each in measured
        ]
        if rows:
            yield title, header, rows


def notes(results: Results) -> Iterator[str]:
    """What a reader of the tables must know of this run, one sentence each."""
    for each in (*results.closed, *results.fixed, *results.ramp):
        total = each.built.total()
        off = {name for name in each.built | each.answered if _is_off(each, name)}
        if total and off:
            load = f"{each.rate:,} a second" if each.rate else "closed loop"
            yield (
                f"{each.scenario}, {load}: made to be answered by {_shares(each.built)}, was"
                f" answered by {_shares(each.answered)}."
            )
    if any(each.limit == "ghz" for each in (*results.fixed, *results.ramp)):
        yield "Where ghz was the limit, it did not send as fast as it was asked to."
    if any(each.errors["Canceled"] for each in (*results.closed, *results.fixed, *results.ramp)):
        yield (
            "Canceled are calls that gRPC's own code gave up on the server's side: more than a"
            " thousand waited to be handed to Python."
        )


def made_with() -> str:
    """The versions and the machine."""
    names = ("grpcio", "onnxruntime", "redis")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    cores = len(os.sched_getaffinity(0))
    return (
        f"ghz {installed_version()}, Python {platform.python_version()}, {versions};"
        f" {cores} cores for the servers and ghz together."
    )


def label(measured: Measured) -> str:
    """The scenario; of a bare server, its name."""
    return measured.scenario if measured.answered else measured.server


def _milliseconds(value: float) -> float | str:
    """Nothing for a quantile that is left out."""
    return "" if math.isnan(value) else value


def _shares(tiers: Counter[str]) -> str:
    total = sum(tiers[name] for name in _TIERS)
    shares = {name: tiers[name] / total * 100 for name in _TIERS if tiers[name]}
    return ", ".join(f"{share:.3g} % {name}" for name, share in shares.items())


def _is_off(measured: Measured, tier: str) -> bool:
    return abs(measured.built[tier] - measured.answered[tier]) > 0.01 * measured.built.total()


def _ratio(measured: Measured, others: Sequence[Measured], quantity: str) -> str:
    """To what it is compared with in the same table: an echo, or the same past the cache."""
    if not measured.answered:
        return ""
    reference = _REFERENCES[measured.scenario]
    for other in others:
        if other is not measured and (other.scenario, other.rate) == (reference, measured.rate):
            ratio = measured.ratio(other, quantity)
            return f"{ratio:.2f}x {other.scenario if other.answered else 'echo'}"
    return ""


def _errors(measured: Measured) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in measured.errors.items()) or "0"
