"""What one sidecar knows of one namespace: epochs, the generations of tags, and what changed.

All are numbers that only grow, taken from a clock in microseconds, so that two states that were
apart are merged by taking the larger. The epoch is part of every key in the namespace. An
invalidation of less than the whole namespace moves the number of a *scope*: a kind of entries, or
a version of a model; the epoch in a key is the largest of those that concern it.

An entry carries the generation that each of its tags had when it was computed, and is valid while
all of them are current; invalidating a tag moves its generation and touches no entry. A tag that
was never invalidated has the namespace's *base* as its generation: when a store loses its state,
the new base differs from the old one and every tagged entry is invalid, rather than valid again.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING

from sidecar.cells import Cell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from sidecar.cache.change_log import ChangeLog

MAX_KNOWN_TAGS = 200_000
"""Of all namespaces together."""
MAX_UNSHARED_TAGS = 10_000
"""Of one namespace, while the store is down. With one more, the whole namespace is invalidated."""
MAX_SCOPES = 100
"""Of one namespace that are kept apart. With one more, the oldest becomes the epoch of all."""

_LATE_US = 60 * 10**6

WHOLE_NAMESPACE = b""
"""The scope whose number is the namespace's epoch."""

_stamps = itertools.count(1)


def kind_scope(kind: str) -> bytes:
    """The scope of all entries of one kind."""
    return f"kind:{kind}".encode()


def model_scope(model: str, version: str) -> bytes:
    """The scope of all entries made by one version of a model. Names of models hold no colon."""
    return f"model:{model}:{version}".encode()


class KnownTags:
    """The generations of tags that this sidecar knows; those learnt longest ago are forgotten."""

    def __init__(self) -> None:
        self._generations: OrderedDict[tuple[int, bytes], int] = OrderedDict()

    def get(self, era: int, tag: bytes) -> int | None:
        """The generation, None if it is not known in this era."""
        return self._generations.get((era, tag))

    def set(self, era: int, tag: bytes, generation: int) -> None:
        """Remembers a generation."""
        self._generations[era, tag] = generation
        self._generations.move_to_end((era, tag))
        if len(self._generations) > MAX_KNOWN_TAGS:
            self._generations.popitem(last=False)

    def forget(self, era: int, tag: bytes) -> None:
        """Makes a tag unknown."""
        self._generations.pop((era, tag), None)


class Question:
    """Tags that the store is being asked about, and what is heard of them until it answers."""

    def __init__(self, era: int, tags: Iterable[bytes]) -> None:
        self.era = era
        self.heard = dict.fromkeys(tags, 0)


class NamespaceState:
    """What this sidecar knows of one namespace.

    ``stamp`` is a number that no state had before and that changes with every invalidation in
    the namespace: what was valid under the present stamp still is. ``cell`` always holds it, too.
    """

    __slots__ = (
        "_changes",
        "_era",
        "_known",
        "_questions",
        "_scopes",
        "base",
        "cell",
        "epoch",
        "name",
        "stamp",
        "synchronised",
        "unshared",
        "unshared_scopes",
    )

    def __init__(self, name: str, known: KnownTags, changes: ChangeLog) -> None:
        self.name = name
        # No state of a store has these.
        self.epoch = self.base = 0
        self.stamp = next(_stamps)
        self.cell = Cell(self.stamp)
        # When it was compared with the store, in the order of synchronisations.
        self.synchronised = 0
        # What was invalidated here while the store was down, each with a mark of its own.
        self.unshared: dict[bytes, int] = {}
        self.unshared_scopes: dict[bytes, int] = {}
        # Those above the epoch; the others make no difference.
        self._scopes: dict[bytes, int] = {}
        self._known = known
        self._changes = changes
        self._era = next(_stamps)
        self._questions: set[Question] = set()

    # Epochs

    def epoch_of(self, kind: str, model: str, version: str) -> int:
        """The epoch in the keys of entries of a kind that a version of a model made."""
        if not self._scopes:
            return self.epoch
        return max(
            self.epoch,
            self._scopes.get(kind_scope(kind), 0),
            self._scopes.get(model_scope(model, version), 0),
        )

    @property
    def scopes(self) -> Mapping[bytes, int]:
        """The numbers of scopes that were invalidated later than the whole namespace."""
        return self._scopes

    @property
    def newest(self) -> int:
        """The largest number of all, which the next one must exceed."""
        return max(self.epoch, *self._scopes.values(), 0)

    def raise_scope(self, scope: bytes, number: int) -> None:
        """Takes note of the number of a scope; one that changes nothing is ignored."""
        if number <= max(self.epoch, self._scopes.get(scope, 0)):
            return
        if scope == WHOLE_NAMESPACE:
            self.epoch = number
        else:
            self._scopes[scope] = number
            if len(self._scopes) > MAX_SCOPES:
                self.epoch = min(self._scopes.values())
        self._scopes = {name: held for name, held in self._scopes.items() if held > self.epoch}
        self.restamp()

    def raise_unshared(self, scope: bytes, now_us: int) -> None:
        """Invalidates a scope on this sidecar alone, until the store can be told."""
        self.raise_scope(scope, max(now_us, self.newest + 1))
        self.unshared_scopes[scope] = next(_stamps)
        if len(self.unshared_scopes) > MAX_SCOPES:
            self.unshared_scopes = {WHOLE_NAMESPACE: next(_stamps)}

    def scope_shared(self, scope: bytes, mark: int | None) -> None:
        """Takes note that the store was told of what had this mark when it was told."""
        if mark is not None and self.unshared_scopes.get(scope) == mark:
            del self.unshared_scopes[scope]

    # Tags

    def generation(self, tag: bytes) -> int | None:
        """The generation of a tag by its digest, None if this sidecar does not know it."""
        return self._known.get(self._era, tag)

    def stamped(self, tags: Sequence[bytes]) -> tuple[tuple[bytes, int], ...] | None:
        """Tags with their generations; None if one is not known, so that nothing may be stored."""
        known = [(tag, found) for tag in tags if (found := self.generation(tag)) is not None]
        return tuple(known) if len(known) == len(tags) else None

    def is_current(self, tags: Iterable[tuple[bytes, int]]) -> bool:
        """Whether every tag is known and still at the generation given."""
        return all(self.generation(tag) == generation for tag, generation in tags)

    def changes_since(self, tag: bytes, generation: int) -> list[bytes] | None:
        """The changes, as given to `Generations.announce`, that moved a tag from a generation.

        In order up to the generation that `generation` says now. None if the tag is not known, if
        one of the changes is not known, or if there are more than `change_log.MAX_CHANGES`.
        """
        current = self.generation(tag)
        if current is None:
            return None
        return self._changes.between(self.name, tag, generation, current)

    @contextlib.contextmanager
    def asking(self, tags: Iterable[bytes]) -> Iterator[Question]:
        """Keeps what is heard of tags while the store is asked: its answer may be older."""
        question = Question(self._era, tags)
        self._questions.add(question)
        try:
            yield question
        finally:
            self._questions.discard(question)

    def learn(self, question: Question, answer: Mapping[bytes, int]) -> None:
        """Takes note of generations in the store; ones older than those known are ignored."""
        for tag, generation in answer.items():
            if question.era != self._era:
                # Asked before all tags became unknown, so it may be as old as what was forgotten.
                self._note(tag, generation)
            elif tag not in self.unshared:
                known = self.generation(tag) or 0
                newest = max(generation, question.heard[tag], known)
                self._known.set(self._era, tag, newest)

    def hear(
        self, tag: bytes, generation: int, previous: int | None = None, change: bytes = b""
    ) -> None:
        """Takes note of a tag that was invalidated in the store.

        A tag that is not known stays so: what is heard may be older than what the store has by
        now, as it is after an outage.
        """
        self._note(tag, generation)
        if previous is not None:
            self._changes.add(self.name, tag, previous, generation, change)
        self.restamp()

    def invalidate_unshared(self, tags: Sequence[bytes], now_us: int) -> None:
        """Invalidates tags on this sidecar alone, until the store can be told."""
        for tag in tags:
            later = max(now_us, (self.generation(tag) or 0) + 1)
            self._known.set(self._era, tag, later)
            self.unshared[tag] = next(_stamps)
        if len(self.unshared) > MAX_UNSHARED_TAGS:
            self.invalidate_all_unshared(now_us)
        self.restamp()

    def invalidate_all_unshared(self, now_us: int) -> None:
        """Invalidates the whole namespace on this sidecar alone, in place of single tags."""
        self.unshared.clear()
        self.forget_tags()
        self.raise_unshared(WHOLE_NAMESPACE, now_us)

    @property
    def has_unshared(self) -> bool:
        """Whether there is something that the store has to be told of."""
        return bool(self.unshared or self.unshared_scopes)

    def tags_shared(self, told: Mapping[bytes, int]) -> None:
        """Takes note that the store was told of tags that had these marks when it was told.

        What it made of them is to be asked: our clock may be ahead of its.
        """
        for tag, mark in told.items():
            if self.unshared.get(tag) == mark:
                self._known.forget(self._era, tag)
                del self.unshared[tag]

    def merge_base(self, base: int) -> None:
        """Takes note of the shared base. Another one makes every tag unknown."""
        if base != self.base:
            self.base = base
            self.forget_tags()

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        self._era = next(_stamps)
        self.restamp()

    def restamp(self) -> None:
        """Makes everything that was found valid so far be looked at again."""
        self.stamp = self.cell.value = next(_stamps)

    def _note(self, tag: bytes, generation: int) -> None:
        for question in self._questions:
            if tag in question.heard:
                question.heard[tag] = max(generation, question.heard[tag])
        known = self.generation(tag)
        if known is None or tag in self.unshared:
            return
        if generation > known:
            self._known.set(self._era, tag, generation)
        elif known - generation > _LATE_US:
            # Very late, or the one known is not the store's, which has to be asked. Else the
            # invalidation would be without effect here for as long as the one known is ahead.
            self._known.forget(self._era, tag)
