"""What a run prints, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.report import print_table
from tests.chaos.parts import SIDECARS
from tests.chaos.record import FAILED, WRONG

if TYPE_CHECKING:
    from collections import Counter

    from tests.chaos.record import Record, Violation
    from tests.chaos.schedule import Fault
    from tests.chaos.timeline import Timeline

LEAST_TIME = 0.25
"""Of the time of a run, for how much each sidecar must be held to each need."""

_SHOWN = 20


@dataclass
class Report:
    """All that is known of a run."""

    seed: int
    seconds: float
    record: Record
    timeline: Timeline
    faults: Counter[tuple[str, str]]
    reached: dict[str, float] = field(default_factory=dict)
    """The share of the time for which each sidecar was held to what, by sidecar and need."""
    late: float = 0.0
    """The most that the harness itself was late, in seconds: latencies hold it too."""

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and enough calls were held to that."""
        calls = sum(self.record.calls.values())
        return calls > 0 and not self.record.violations and not self.held_to_too_little()

    def held_to_too_little(self) -> list[str]:
        """Why a run without violations says nothing; empty if it says something."""
        reasons = self.record.held_to_too_little()
        reasons += [
            f"{need}: {share:.0%} of the time"
            for need, share in self.reached.items()
            if share < LEAST_TIME
        ]
        restarts = sum(self.faults[part, "restart"] for part in SIDECARS)
        # One may come at a moment without calls.
        if restarts > 1 and not self.record.drained:
            reasons.append(f"sidecars were asked to end {restarts} times, never during a call")
        return reasons

    def show(self) -> None:
        """Prints it."""
        print()
        self._show_faults()
        self._show_calls()
        for need, share in self.reached.items():
            print(f"held to {need}: {share:.0%} of the time")
        self._show_latencies()
        for number, violation in enumerate(self.record.violations):
            if number < _SHOWN:
                self._show_violation(violation)
        if (more := len(self.record.violations) - _SHOWN) > 0:
            print(f"and {more} more")
        for reason in self.held_to_too_little():
            print(f"too little was held: {reason}")
        calls, held = sum(self.record.calls.values()), sum(self.record.held.values())
        print(
            f"seed {self.seed}, {self.seconds:.0f} s: {sum(self.faults.values())} faults,"
            f" {calls:,} calls, {held:,} held ({held / max(1, calls):.0%}),"
            f" {self.record.drained} answered by a sidecar that was ending,"
            f" {self.record.count(WRONG)} wrong answers,"
            f" {self.record.count(FAILED)} failed calls that must not fail,"
            f" {sum(self.record.excused.values())} failed for want of an encoder or Redis,"
            f" {len(self.record.violations)} violations:"
            f" {'PASS' if self.passed else 'FAIL'}"
        )

    def figures(self) -> dict[str, Any]:
        """For a file."""
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "faults": {f"{part}: {kind}": count for (part, kind), count in self.faults.items()},
            "calls": dict(self.record.calls),
            "held": dict(self.record.held),
            "reached": self.reached,
            "drained": self.record.drained,
            "wrong": self.record.count(WRONG),
            "failed": self.record.count(FAILED),
            "excused": {" / ".join(key): count for key, count in self.record.excused.items()},
            "violations": [vars(one) for one in self.record.violations],
            "latency_ms": {
                name: {"calls": count, "p50": p50, "p99": p99, "max": most}
                for name, count, p50, p99, most in self.record.latency_rows()
            },
        }

    def _show_faults(self) -> None:
        kinds = sorted({kind for _, kind in self.faults})
        parts = sorted({part for part, _ in self.faults})
        rows = [(part, *(self.faults[part, kind] or "" for kind in kinds)) for part in parts]
        print_table("faults injected", ("", *kinds), rows)

    def _show_calls(self) -> None:
        tiers = ("hot", "disk", "warm", "coalesced", "computed")
        failed: dict[str, int] = {}
        for (kind, _, _), count in self.record.excused.items():
            failed[kind] = failed.get(kind, 0) + count
        rows = [
            (
                kind,
                count,
                self.record.held[kind],
                f"{self.record.held[kind] / count:.0%}",
                *(self.record.tiers[kind][tier] for tier in tiers),
                self.record.moved[kind],
                failed.get(kind, 0),
            )
            for kind, count in sorted(self.record.calls.items())
        ]
        header = ("calls", "number", "held", "share", *tiers, "moved", "excused")
        print_table("calls, and items by the tier that answered", header, rows)
        if self.record.excused:
            rows = [(*key, count) for key, count in sorted(self.record.excused.items())]
            print_table("calls that may fail", ("call", "status", "why", "number"), rows)

    def _show_latencies(self) -> None:
        rows = list(self.record.latency_rows())
        title = f"latency in milliseconds; the harness itself was late by {self.late * 1000:.0f}"
        print_table(title, ("calls", "number", "p50", "p99", "most"), rows)

    def _show_violation(self, violation: Violation) -> None:
        start, end = (moment - self.timeline.began for moment in (violation.start, violation.end))
        print(f"\n{violation.kind}, {start:.2f} to {end:.2f} s: {violation.words}")
        for line in self.timeline.around(violation.start, violation.end):
            print(f"    {line}")


def show_plan(lanes: dict[str, list[Fault]]) -> None:
    """Prints a schedule."""
    for name, faults in lanes.items():
        print(f"{name}:")
        for fault in faults:
            print(f"    {fault}")
