"""What runs come to: quantiles, rates, who was the limit, and how two servers compare."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bench.ghz.tool import Run

# Below this share of the rate that was asked for, sent or answered, it was not reached.
_REACHED = 0.98
# So long may calls take while a rate is kept.
_IN_FLIGHT_SECONDS = 0.05
_QUANTILES = (50, 95, 99)
# A quantile with fewer calls above it is chance.
_LEAST_ABOVE = 10


@dataclass(frozen=True)
class Sample:
    """One run against one server.

    ``answered`` and ``built`` count calls by tier: as the sidecar's statistics have it, and as the
    data was made; both are empty for a server that has no tiers.
    """

    run: Run
    server_cpu_seconds: float
    answered: Counter[str]
    built: Counter[str]


@dataclass(frozen=True)
class Measured:
    """The runs of one scenario under one load, of all rounds; latencies are pooled."""

    scenario: str
    server: str
    samples: Sequence[Sample]

    @property
    def rate(self) -> int | None:
        """Calls a second that were asked for; none in closed loop."""
        return self.samples[0].run.rate

    @property
    def sent(self) -> float:
        """Calls a second that were sent."""
        return median(each.run.sent_per_second for each in self.samples)

    @property
    def throughput(self) -> float:
        """Calls a second that succeeded."""
        return median(each.run.answered_per_second for each in self.samples)

    @property
    def n(self) -> int:
        """How many calls the quantiles are of: those that succeeded."""
        return sum(len(each.run.latency_ms) for each in self.samples)

    @property
    def latency_ms(self) -> NDArray[np.float64]:
        """Quantiles 50, 95 and 99 from when a call was sent; NaN where `n` is too small for one."""
        return _quantiles([each.run.latency_ms for each in self.samples])

    @property
    def planned_ms(self) -> NDArray[np.float64]:
        """The same, from when a call should have been sent: no wait is left out."""
        return _quantiles([each.run.latency_ms + each.run.late_ms for each in self.samples])

    @property
    def answered(self) -> Counter[str]:
        """Calls by tier, of all rounds."""
        return sum((each.answered for each in self.samples), Counter())

    @property
    def built(self) -> Counter[str]:
        """The same, as the data was made."""
        return sum((each.built for each in self.samples), Counter())

    @property
    def errors(self) -> Counter[str]:
        """Calls that failed, by status; and items that failed in calls that did not."""
        statuses = sum((each.run.statuses for each in self.samples), Counter())
        statuses.pop("OK", None)
        if failed := self.answered["failed"]:
            statuses["items"] = failed
        return statuses

    @property
    def cpu_ms(self) -> tuple[float, float]:
        """What a call took of the processor, in ghz and in the server."""
        calls = sum(each.run.statuses.total() for each in self.samples)
        ghz = sum(each.run.cpu_seconds for each in self.samples)
        server = sum(each.server_cpu_seconds for each in self.samples)
        return ghz / calls * 1000, server / calls * 1000

    @property
    def limit(self) -> str:
        """Who did not keep up with the rate: ghz, the server or, if it was reached, nobody.

        A server does not keep up either if it is quick to refuse.
        """
        if self.rate is None:
            return ""
        total = sum(each.run.statuses.total() for each in self.samples)
        if self.errors.total() > (1 - _REACHED) * total:
            return "server"
        if self.sent < _REACHED * self.rate:
            return "ghz"
        calls = median(len(each.run.started) for each in self.samples)
        unanswered = median(each.run.unanswered for each in self.samples)
        allowed = (1 - _REACHED) * calls + self.rate * _IN_FLIGHT_SECONDS
        return "server" if unanswered > allowed else ""

    def ratio(self, reference: Measured, quantity: str) -> float:
        """Of a property of `Run`, or the median latency, round by round: the median ratio."""
        return median(
            _of(mine.run, quantity) / _of(theirs.run, quantity)
            for mine, theirs in zip(self.samples, reference.samples, strict=True)
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "scenario": self.scenario,
            "server": self.server,
            "asked_per_second": self.rate,
            "sent_per_second": self.sent,
            "answered_per_second": self.throughput,
            "latency_ms": _named(self.latency_ms),
            "latency_from_planned_ms": _named(self.planned_ms),
            "limit": self.limit,
            "cpu_ms_a_call": dict(zip(("ghz", "server"), self.cpu_ms, strict=True)),
            "n": self.n,
            "calls": sum(each.run.statuses.total() for each in self.samples),
            "errors": self.errors,
            "answered_by": self.answered,
            "built_for": self.built,
        }


def _quantiles(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    pooled = np.concatenate(parts)
    above = len(pooled) * (100 - np.array(_QUANTILES)) / 100
    return np.where(above >= _LEAST_ABOVE, np.percentile(pooled, _QUANTILES), np.nan)


def _named(values: NDArray[np.float64]) -> dict[str, float]:
    pairs = zip(_QUANTILES, values, strict=True)
    return {f"p{name}": float(value) for name, value in pairs if not np.isnan(value)}


def _of(run: Run, quantity: str) -> float:
    if quantity == "p50_ms":
        return float(np.median(run.latency_ms))
    return float(getattr(run, quantity))
