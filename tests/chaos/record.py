"""What became of the calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LEAST_HELD, LEAST_HELD_OF_A_KIND = 0.8, 0.5
"""Shares of calls that must be held: of all, and of a kind of which there are `MANY`."""
MANY = 50

HITS = frozenset({"hot", "disk", "warm"})


@dataclass(frozen=True)
class Violation:
    """Something that must not be: a wrong answer, a call that failed, a part that died."""

    kind: str
    words: str
    start: float
    end: float


@dataclass
class Record:
    """Counts, latencies in seconds, and violations.

    ``held`` are the calls that nothing would have excused, ``drained`` those that were answered
    though their sidecar was asked to end meanwhile.
    """

    calls: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    drained: int = 0
    tiers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    excused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    def answered(
        self, kind: str, tiers: Sequence[str], seconds: float, *, sidecar_was_down: bool
    ) -> None:
        """A right answer, or a wrong one."""
        self.calls[kind] += 1
        self.tiers[kind].update(tiers)
        what = "" if not tiers else "hit" if HITS.issuperset(tiers) else "miss"
        where = " (sidecar down)" if sidecar_was_down else ""
        self.latencies[f"{kind} {what}{where}".replace("  ", " ").strip()].append(seconds)

    def failed(self, kind: str, code: str, excuse: str) -> None:
        """A call that failed for a reason that is no fault."""
        self.calls[kind] += 1
        self.excused[kind, code, excuse] += 1

    def violated(self, kind: str, words: str, start: float, end: float) -> None:
        """What must not be."""
        self.violations.append(Violation(kind, words, start, end))

    def count(self, kind: str) -> int:
        """Violations of one kind."""
        return sum(one.kind == kind for one in self.violations)

    def held_to_too_little(self) -> list[str]:
        """Why a run without violations says nothing; empty if it says something."""
        least = {
            kind: max(1.0, LEAST_HELD_OF_A_KIND * calls if calls >= MANY else 0.0)
            for kind, calls in self.calls.items()
        }
        reasons = [
            f"{kind}: {self.held[kind]:,} of {self.calls[kind]:,}"
            for kind, number in least.items()
            if self.held[kind] < number
        ]
        calls, held = sum(self.calls.values()), sum(self.held.values())
        if held < LEAST_HELD * calls:
            reasons.append(f"{held:,} of {calls:,} calls")
        return reasons

    def latency_rows(self) -> Iterable[tuple[str, int, float, float, float]]:
        """Class, calls, and milliseconds: median, 99th percentile, most."""
        for name, seconds in sorted(self.latencies.items()):
            p50, p99 = np.percentile(seconds, (50, 99)) * 1000
            yield name, len(seconds), float(p50), float(p99), max(seconds) * 1000


WRONG, FAILED, BROKEN = "wrong answer", "failed call", "broken part"
"""Kinds of violations."""
