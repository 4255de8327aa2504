"""Which answers to other queries are looked at, and in what order guard and verifier are asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.cache import guard
from sidecar.cache.codec import Codec, Entry, Value
from sidecar.cache.items import Answer, Tier
from sidecar.cache.semantic import SemanticIndex
from sidecar.cache.semantic_report import SemanticReport
from sidecar.services.semantic import SemanticAnswers, SemanticValue

if TYPE_CHECKING:
    import pytest

VECTOR = np.array([1, 0], np.float32)
ENTRY = Entry(Value(b"answer", Codec.BYTES, 6, 3, truncated=False), 1000, 0)
QUERY = "how do I mute a conversation?"
OTHERS = [f"{QUERY} {word}" for word in ("please", "thanks", "now", "then")]


class Verifier:
    """Says what it is told to say, in turn; None where it fails."""

    def __init__(self, *answers: bool | None) -> None:
        self._answers = list(answers)
        self.asked: list[tuple[str, float]] = []
        self.searches = 0

    def deadline(self) -> float:
        self.searches += 1
        return 7.0

    async def accepts(
        self, kind: str, namespace: str, query: str, matched: str, near: float, deadline: float
    ) -> bool | None:
        self.asked.append((matched, deadline))
        return self._answers.pop(0)


class Held:
    """Queries that have answers, the nearest first."""

    def __init__(self, *texts: str, verifier: Any = None) -> None:
        self.texts: dict[bytes, str | None] = {text.encode(): text for text in texts}
        self.index = SemanticIndex(100, lambda: 0.0)
        for number, text in enumerate(texts):
            self.index.add(b"s", np.array([1, number / 100], np.float32), text.encode(), 0)
        self.report = SemanticReport()
        self.answers = SemanticAnswers(self.index, self.report, follower=None, verifier=verifier)

    async def find(self, query: str = QUERY, threshold: float = 0.9) -> str | None:
        async def look_up(key: bytes) -> Any:
            text = self.texts[key]
            return None if text is None else (text, Answer(ENTRY, Tier.WARM))

        found = await self.answers.find("search", "n", b"s", VECTOR, query, threshold, look_up)
        if found is None:
            return None
        assert isinstance(found.value, SemanticValue)
        assert found.value.payload == ENTRY.value.payload
        assert found.value.created_ms == ENTRY.created_ms
        # It is only answered, never stored.
        assert found.tier is Tier.WARM
        return found.value.query

    def counted(self) -> dict[str, int]:
        bands = [band for _, each in self.report.items() for band in each]
        names = ("answered", "refused_by_guard", "refused_by_verifier", "below_threshold")
        return {name: n for name in names if (n := sum(getattr(band, name) for band in bands))}


async def test_the_nearest_answers() -> None:
    held = Held(*OTHERS)
    assert await held.find() == OTHERS[0]
    assert held.counted() == {"answered": 1}


async def test_one_that_will_not_do_for_this_call_stays_for_others() -> None:
    held = Held(*OTHERS)
    held.texts[OTHERS[0].encode()] = None
    assert await held.find() == OTHERS[1]
    held.texts[OTHERS[0].encode()] = OTHERS[0]
    assert await held.find() == OTHERS[0]


async def test_an_answer_whose_query_is_not_known_is_not_given() -> None:
    held = Held(OTHERS[0], verifier=(verifier := Verifier(True, True)))
    held.texts[OTHERS[0].encode()] = ""
    assert await held.find() is None
    assert verifier.asked == []


async def test_what_the_guard_refuses_the_verifier_is_not_asked() -> None:
    held = Held("how do I not mute it?", OTHERS[0], verifier=(verifier := Verifier(True)))
    assert await held.find() == OTHERS[0]
    assert [matched for matched, _ in verifier.asked] == [OTHERS[0]]


async def test_the_next_may_answer_when_the_verifier_refuses_one() -> None:
    held = Held(*OTHERS, verifier=(verifier := Verifier(False, True)))
    assert await held.find() == OTHERS[1]
    assert held.counted() == {"answered": 1}
    # One limit of time for both.
    assert verifier.searches == 1
    assert verifier.asked == [(OTHERS[0], 7.0), (OTHERS[1], 7.0)]


async def test_a_verifier_that_fails_is_asked_no_more_and_has_refused_nothing() -> None:
    held = Held(*OTHERS, verifier=(verifier := Verifier(None)))
    assert await held.find() is None
    assert len(verifier.asked) == 1
    assert held.counted() == {}


async def test_a_refusal_counts_though_the_verifier_fails_afterwards() -> None:
    held = Held(*OTHERS, verifier=Verifier(False, None))
    assert await held.find() is None
    assert held.counted() == {"refused_by_verifier": 1}


async def test_the_query_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = guard.read

    def count(text: str) -> Any:
        read.append(text)
        return real(text)

    monkeypatch.setattr(guard, "read", count)
    held = Held(*(f"{text} not" for text in OTHERS))
    assert await held.find() is None
    assert read.count(QUERY) == 1
    assert len(read) == 5
