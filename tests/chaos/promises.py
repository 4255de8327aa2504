"""What must not be served any more: invalidations, changes of documents, and from when on.

The bounds are those of docs/invalidation.md, "How stale an answer can be".
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.chaos.timeline import Circumstances
    from tests.chaos.truth import Truth

STALENESS = 5.0
"""``cache.staleness`` of the sidecars."""

CONNECTED = 1.0
"""What is "milliseconds" in the docs, on a machine where everything runs at once."""

# After the process was stopped its timers come first, but not before what has arrived.
_AFTER_STOP = 1.0
# Entries tell when they were made in whole milliseconds.
_CLOCK = 0.02
# What was sent before a fault may arrive this long after the call has failed.
_LATE = 15.0


@dataclass(frozen=True)
class Asked:
    """One process of a sidecar, and when it was asked and had answered."""

    sidecar: str
    starts: int
    start: float
    end: float

    def same_process(self, other: Asked) -> bool:
        return (self.sidecar, self.starts) == (other.sidecar, other.starts)


class Promises:
    """The invalidations that were acknowledged, each of a scope: any tuple."""

    def __init__(self, circumstances: Circumstances) -> None:
        self._circumstances = circumstances
        self._invalidated: dict[tuple[str, ...], list[Asked]] = defaultdict(list)

    def invalidated(self, scope: tuple[str, ...], asked: Asked) -> None:
        """Takes note of an acknowledged invalidation."""
        self._invalidated[scope].append(asked)

    def stale(
        self, scopes: Iterable[tuple[str, ...]], asked: Asked, age: float, *, has_tags: bool
    ) -> str:
        """Which invalidation an answer of this age should have heeded; empty if there is none."""
        made_at = asked.end - age
        for scope in scopes:
            for one in self._invalidated[scope]:
                if made_at < one.start - _CLOCK and self.heeded(one, asked, has_tags=has_tags):
                    return (
                        f"its {scope[0]} was invalidated at {one.sidecar}"
                        f" {asked.start - one.end:.3f} s before the call"
                    )
        return ""

    def heeded(self, change: Asked, asked: Asked, *, has_tags: bool) -> bool:
        """Whether a call must see nothing of what was before an acknowledged change."""
        since = change.end
        if change.same_process(asked):
            return asked.start > since
        if self._circumstances.follows(asked.sidecar, since - CONNECTED, asked.end):
            stopped = self._stopped(asked.sidecar, since, asked.start)
            return asked.start > since + CONNECTED + stopped
        if has_tags:
            stopped = self._stopped(asked.sidecar, since, asked.start)
            return asked.start > since + STALENESS + stopped
        # It hears of it when it reaches Redis again.
        follows = self._circumstances.follows(asked.sidecar, asked.start - CONNECTED, asked.end)
        return follows and asked.start > since + CONNECTED

    def _stopped(self, sidecar: str, start: float, end: float) -> float:
        seconds = self._circumstances.stopped_seconds(sidecar, start, end)
        return seconds + _AFTER_STOP if seconds else 0.0


@dataclass
class Change:
    """A version of a document, or its deletion: ``content`` is None then.

    ``started`` is when it was asked for first, ``done`` the attempt that was acknowledged.
    ``failed_at`` is when the last attempt ended that was not: its effect may come late.
    """

    version: int
    content: str | None
    lang: str
    started: float
    done: Asked | None = None
    failed_at: float = -math.inf

    def words(self, asked: Asked) -> str:
        """When it was made, seen from a call."""
        done = self.done
        assert done is not None
        failed = "" if math.isinf(self.failed_at) else ", after it had failed"
        return (
            f"version {self.version} was acknowledged by {done.sidecar}"
            f" {asked.start - done.end:.2f} s before the call, it took"
            f" {done.end - done.start:.2f} s{failed}"
        )


@dataclass(frozen=True)
class Found:
    """A document in a list of results."""

    id: str
    version: int
    content: str
    lang: str
    score: float


@dataclass
class Documents:
    """The history of every document of one collection; only one client writes each."""

    promises: Promises
    truth: Truth
    history: dict[str, list[Change]] = field(default_factory=lambda: defaultdict(list))
    tolerance: float = 1e-3

    def visible(self, document: str, asked: Asked) -> list[Change]:
        """The versions that a call may see, deletions too; the empty document is the first."""
        changes = [Change(0, None, "", -math.inf), *self.history[document]]
        return [
            change
            for change in changes
            if change.started < asked.end and self._replacement(document, change, asked) is None
        ]

    def wrong(self, query: str, lang: str, top_k: int, found: Sequence[Found], asked: Asked) -> str:
        """What is wrong with an answer to a search; empty if it is right.

        ``lang`` is the filter, empty for none.
        """
        if len({one.id for one in found}) < len(found) or len(found) > top_k:
            return "a document comes twice, or too many came"
        scores = [one.score for one in found]
        if scores != sorted(scores, reverse=True):
            return "the results are not in order"
        for one in found:
            if reason := self._wrong_result(query, lang, one, asked):
                return f"{one.id}, version {one.version}: {reason}"
        if lang:  # without a filter the index of Redis is not exact
            return self._missing(query, lang, top_k, found, asked)
        return ""

    def _wrong_result(self, query: str, lang: str, one: Found, asked: Asked) -> str:
        known = {change.version: change for change in self.history[one.id]}
        change = known.get(one.version)
        if change is None or (change.content, change.lang) != (one.content, one.lang):
            return "there was never such a version"
        if lang not in ("", one.lang):
            return "it does not pass the filter"
        if abs(one.score - self.truth.cosine(query, one.content)) > self.tolerance:
            return "its score is wrong"
        if (later := self._replacement(one.id, change, asked)) is not None:
            return f"it was replaced or deleted too long ago, {later.words(asked)}"
        return ""

    def _missing(
        self, query: str, lang: str, top_k: int, found: Sequence[Found], asked: Asked
    ) -> str:
        floor = found[-1].score if len(found) == top_k else -math.inf
        there = {one.id for one in found}
        for document in list(self.history):
            visible = self.visible(document, asked)
            if document in there or len(visible) != 1 or visible[0].content is None:
                continue
            (change,) = visible
            score = self.truth.cosine(query, change.content or "")
            if change.lang == lang and score > floor + self.tolerance:
                return f"{document} is missing, {change.words(asked)}"
        return ""

    def _replacement(self, document: str, change: Change, asked: Asked) -> Change | None:
        """The change because of which a call must not see this one any more."""
        for later in self.history[document]:
            if (
                later.version > change.version
                and later.done is not None
                and later.done.start > change.failed_at + _LATE
                and self.promises.heeded(later.done, asked, has_tags=True)
            ):
                return later
        return None
