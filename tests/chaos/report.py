"""What a run prints, and how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import print_table
from tests.chaos.record import FAILED, WRONG

if TYPE_CHECKING:
    from collections import Counter

    from tests.chaos.record import Record, Violation
    from tests.chaos.schedule import Fault
    from tests.chaos.timeline import Timeline

_SHOWN = 20


@dataclass
class Report:
    """All that is known of a run."""

    seed: int
    seconds: float
    record: Record
    timeline: Timeline
    faults: Counter[tuple[str, str]]
    late: float = 0.0
    """The most that the harness itself was late, in seconds: latencies hold it too."""

    @property
    def passed(self) -> bool:
        """Whether nothing happened that must not, and there were calls at all."""
        return not self.record.violations and sum(self.record.calls.values()) > 0

    def show(self) -> None:
        """Prints it."""
        print()
        self._show_faults()
        self._show_calls()
        self._show_latencies()
        for number, violation in enumerate(self.record.violations):
            if number < _SHOWN:
                self._show_violation(violation)
        if (more := len(self.record.violations) - _SHOWN) > 0:
            print(f"and {more} more")
        calls = sum(self.record.calls.values())
        print(
            f"seed {self.seed}, {self.seconds:.0f} s: {sum(self.faults.values())} faults,"
            f" {calls:,} calls, {self.record.count(WRONG)} wrong answers,"
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
                *(self.record.tiers[kind][tier] for tier in tiers),
                self.record.moved[kind],
                failed.get(kind, 0),
            )
            for kind, count in sorted(self.record.calls.items())
        ]
        header = ("calls", "number", *tiers, "repeated elsewhere", "failed, excused")
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
