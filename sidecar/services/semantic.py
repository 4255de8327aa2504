"""Answers to other queries that mean the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.cache.guard import contradiction

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
class SemanticAnswer:
    """An answer to another query, and the cosine of the two queries."""

    answer: Answer
    query: str
    similarity: float


class SemanticAnswers:
    """Finds, and is told of, queries that have answers.

    An answer to another query is given if that query is near enough, if the guard sees no
    contradiction between the two, and if the verifier, where there is one, agrees.
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
    ) -> SemanticAnswer | None:
        """The answer to the nearest query that may stand for this one.

        ``look_up`` gives the query and the answer under a key, if the answer is still good.
        """
        refusal: tuple[float, Outcome] | None = None
        for match in self._index.nearest(scope, vector):
            if match.similarity < threshold:
                refusal = refusal or (match.similarity, "below_threshold")
                break
            held = await look_up(match.key)
            if held is None:
                self._index.remove(match.key)
                continue
            text, answer = held
            outcome = await self._judge(kind, namespace, query, text, match.similarity)
            if outcome == "answered":
                self.report.count(namespace, match.similarity, outcome)
                return SemanticAnswer(answer, text, match.similarity)
            refusal = refusal or (match.similarity, outcome)
        if refusal is not None:
            self.report.count(namespace, *refusal)
        return None

    async def _judge(
        self, kind: str, namespace: str, query: str, matched: str, similarity: float
    ) -> Outcome:
        if contradiction(query, matched) is not None:
            return "refused_by_guard"
        if self._verifier is None or await self._verifier.accepts(
            kind, namespace, query, matched, similarity
        ):
            return "answered"
        return "refused_by_verifier"
