"""A table of the comparison: rows, peers, and what is to be said of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.peers.rows import OURS, cells, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.peers.rows import Row


@dataclass(frozen=True)
class Comparison:
    """``results`` has what each peer was measured as, or why it could not be had."""

    title: str
    rows_: Sequence[Row]
    results: Mapping[str, object]

    @property
    def image(self) -> str:
        """The name of its plot."""
        return f"peers-{self.title.lower()}.svg"

    @property
    def measured(self) -> dict[str, object]:
        """Those that were."""
        return {name: each for name, each in self.results.items() if not isinstance(each, str)}

    @property
    def missing(self) -> dict[str, str]:
        """Those that were not, and why."""
        return {name: each for name, each in self.results.items() if isinstance(each, str)}

    @property
    def header(self) -> list[str]:
        """The peers, with their versions."""
        versions = {name: getattr(each, "version", "") for name, each in self.measured.items()}
        return ["", *(f"{name} {versions.get(name, '')}".strip() for name in self.results)]

    @property
    def rows(self) -> list[list[str]]:
        """The table."""
        return [cells(row, list(self.results), self.measured) for row in self.rows_]

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """A sentence for each row; none if Embercache could not be had."""
        if OURS not in self.measured:
            return []
        return [(row.title, verdict(row, self.measured)) for row in self.rows_]
