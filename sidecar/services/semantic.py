"""Answers to other queries that mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.cache.codec import Value
from sidecar.cache.guard import Guard
from sidecar.cache.items import Product
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import numpy as np
    from numpy.typing import NDArray

    from sidecar.cache.items import Answer
    from sidecar.cache.semantic import SemanticIndex
    from sidecar.cache.semantic_follower import SemanticFollower
    from sidecar.cache.semantic_report import Outcome, SemanticReport
    from sidecar.models.verifier import Verifier


@dataclass(frozen=True, slots=True)
class SemanticValue(Value):
    """The answer to another query: which, and how near it is. Never stored."""

    query: str
    similarity: float
    created_ms: int


class SemanticAnswers:
    """Finds, and is told of, queries that have answers.

    An answer to another query is given if that query is near enough, if the guard sees no
    contradiction between the two, and if the verifier, where there is one, agrees. One that fails
    to say anything is asked no more for this query.
    """

    def __init__(
        self,
        index: SemanticIndex,
        report: SemanticReport,
        *,
        follower: SemanticFollower | None,
        verifier: Verifier | None,
    ) -> None:
        self.report = report
        self._index = index
        self._follower = follower
        self._verifier = verifier

    def add(self, scope: bytes, vector: NDArray[np.float32], key: bytes, expires_ms: int) -> None:
        """Takes note of a query that has an answer under ``key``, and tells other sidecars."""
        self._index.add(scope, vector, key, expires_ms)
        if self._follower is not None:
            self._follower.announce(scope, vector, key, expires_ms)

    async def find(
        self,
        kind: str,
        namespace: str,
        scope: bytes,
        vector: NDArray[np.float32],
        query: str,
        threshold: float,
        look_up: Callable[[bytes], Awaitable[tuple[str, Answer] | None]],
    ) -> Product | None:
        """The answer to the nearest query that may stand for this one, as a `SemanticValue`.

        ``look_up`` gives the query and the answer under a key, if that will do for this call. Where
        it does not, it may do for others.
        """
        judge = _Judge(kind, namespace, query, self._verifier)
        refusal: tuple[float, Outcome] | None = None
        with current().step("semantic") as span:
            for match in self._index.nearest(scope, vector):
                if match.similarity < threshold:
                    refusal = refusal or (match.similarity, "below_threshold")
                    break
                held = await look_up(match.key)
                # Without its text, guard and verifier could not tell what was asked.
                if held is None or not held[0]:
                    continue
                text, answer = held
                outcome = await judge.outcome(text, match.similarity)
                if outcome is None:
                    break
                if outcome == "answered":
                    self.report.count(namespace, match.similarity, outcome)
                    span.found(1)
                    return _product(answer, text, match.similarity)
                refusal = refusal or (match.similarity, outcome)
        if refusal is not None:
            self.report.count(namespace, *refusal)
        return None


def _product(answer: Answer, query: str, similarity: float) -> Product:
    entry = answer.entry
    value = SemanticValue(
        payload=entry.value.payload,
        codec=entry.value.codec,
        dimensions=entry.value.dimensions,
        tokens=entry.value.tokens,
        truncated=False,
        query=query,
        similarity=similarity,
        created_ms=entry.created_ms,
    )
    return Product(value, tier=answer.tier)


class _Judge:
    """Guard and verifier, for one query and all that are compared with it."""

    def __init__(self, kind: str, namespace: str, query: str, verifier: Verifier | None) -> None:
        self._kind = kind
        self._namespace = namespace
        self._query = query
        self._verifier = verifier
        self._guard = Guard(query)
        self._deadline: float | None = None

    async def outcome(self, matched: str, similarity: float) -> Outcome | None:
        """What becomes of the answer to another query; None if the verifier does not say it."""
        if self._guard.contradiction(matched) is not None:
            return "refused_by_guard"
        if self._verifier is None:
            return "answered"
        if self._deadline is None:
            self._deadline = self._verifier.deadline()
        accepted = await self._verifier.accepts(
            self._kind, self._namespace, self._query, matched, similarity, self._deadline
        )
        if accepted is None:
            return None
        return "answered" if accepted else "refused_by_verifier"
