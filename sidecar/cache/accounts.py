"""Who used the cache, and what it was worth: counters by kind of entry, namespace and model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.cache.items import Tier

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from sidecar.cache.items import Answer

MAX_ACCOUNTS = 500
OTHERS = "(others)"

# To look a member of an enum up takes 0.2 us, each time.
_MISSES = (Tier.COMPUTED, Tier.COALESCED)


@dataclass(slots=True, eq=False)
class Account:
    """Counters since start-up of one kind of entries, in one namespace, of one model.

    ``answered`` counts items by the tier that answered, ``whole`` those in responses that were
    given again whole, from memory. ``tokens_saved`` are the tokens that a model would have read
    for what a tier answered. Times are summed over items: ``compute_seconds`` from asking the
    model to its answer, ``lookup_seconds`` before that, and ``hit_seconds`` of ``timed_hits``
    that were found in a tier.
    """

    kind: str
    namespace: str
    model: str
    answered: dict[Tier, int] = field(default_factory=lambda: dict.fromkeys(Tier, 0))
    whole: int = 0
    failed: int = 0
    tokens_saved: int = 0
    compute_seconds: float = 0.0
    lookup_seconds: float = 0.0
    hit_seconds: float = 0.0
    timed_hits: int = 0
    hot_entries: int = 0
    hot_bytes: int = 0
    evictions: int = 0

    def count(self, answers: Sequence[Answer | Exception], seconds: float) -> None:
        """Counts the items of a call, which took so long together."""
        found = 0
        for answer in answers:
            if isinstance(answer, Exception):
                self.failed += 1
                continue
            self.answered[answer.tier] += 1
            if answer.tier not in _MISSES:
                self.tokens_saved += answer.entry.value.tokens
                found += 1
        if found == len(answers):
            self.hit_seconds += seconds * found
            self.timed_hits += found


class Accounts:
    """The account of everyone who uses the cache; beyond `MAX_ACCOUNTS`, namespaces share one.

    Those that were to be kept apart have accounts of their own nevertheless.
    """

    def __init__(self) -> None:
        self._accounts: dict[tuple[str, str, str], Account] = {}
        self._apart: Collection[str] = (OTHERS,)

    def keep_apart(self, namespaces: Iterable[str]) -> None:
        """Says which namespaces are never to share an account."""
        self._apart = {OTHERS, *namespaces}

    def __iter__(self) -> Iterator[Account]:
        return iter(self._accounts.values())

    def of(self, kind: str, namespace: str, model: str) -> Account:
        """The account of a kind of entries, in a namespace, of a model."""
        name = (kind, namespace, model)
        account = self._accounts.get(name)
        if account is None:
            if len(self._accounts) >= MAX_ACCOUNTS and namespace not in self._apart:
                return self.of(kind, OTHERS, model)
            account = self._accounts[name] = Account(kind, namespace, model)
        return account
