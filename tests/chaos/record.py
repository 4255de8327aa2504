"""What became of the calls."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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
    """Counts, latencies in seconds, and violations."""

    calls: Counter[str] = field(default_factory=Counter)
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

    def latency_rows(self) -> Iterable[tuple[str, int, float, float, float]]:
        """Class, calls, and milliseconds: median, 99th percentile, most."""
        for name, seconds in sorted(self.latencies.items()):
            p50, p99 = np.percentile(seconds, (50, 99)) * 1000
            yield name, len(seconds), float(p50), float(p99), max(seconds) * 1000


WRONG, FAILED, BROKEN = "wrong answer", "failed call", "broken part"
"""Kinds of violations."""
