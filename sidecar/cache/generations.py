"""What is still valid: epochs of namespaces and generations of tags.

Both are numbers that only grow, taken from a clock in microseconds, so that two states that were
apart are merged by taking the larger. A namespace's epoch is part of every key in it. An entry
carries the generation that each of its tags had when it was computed, and is valid while all of
them are current; invalidating a tag moves its generation and touches no entry. A tag that was
never invalidated has the namespace's *base* as its generation: when a store loses its state, the
new base differs from the old one and every tagged entry is invalid, rather than valid again.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

MAX_NAMESPACES = 10_000
MAX_KNOWN_TAGS = 200_000
"""Of all namespaces together."""
MAX_STORED_TAGS = 100_000
"""Of one namespace."""

_NO_BASE = 0
_PROVISIONAL_BITS = 40
_stamps = itertools.count(1)


class InvalidationNotSharedError(Exception):
    """An invalidation is in force here, but other sidecars could not be told."""


class _KnownTags:
    """The generations of tags that this sidecar knows, those used least of late forgotten."""

    def __init__(self) -> None:
        self._generations: OrderedDict[tuple[int, bytes], int] = OrderedDict()

    def get(self, era: int, tag: bytes) -> int | None:
        return self._generations.get((era, tag))

    def set(self, era: int, tag: bytes, generation: int) -> None:
        self._generations[era, tag] = generation
        self._generations.move_to_end((era, tag))
        if len(self._generations) > MAX_KNOWN_TAGS:
            self._generations.popitem(last=False)

    def forget(self, era: int, tag: bytes) -> None:
        self._generations.pop((era, tag), None)


class NamespaceState:
    """What this sidecar knows of one namespace.

    ``stamp`` is a number that no state had before and that changes with every invalidation in
    the namespace: what was valid under the present stamp still is.
    """

    __slots__ = ("_era", "_known", "base", "epoch", "name", "stamp", "synchronised", "unshared")

    def __init__(self, name: str, epoch: int, base: int, known: _KnownTags) -> None:
        self.name = name
        self.epoch = epoch
        self.base = base
        self.stamp = next(_stamps)
        # When it was compared with the store, in the order of synchronisations.
        self.synchronised = 0
        # Tags that were invalidated here while the store was down.
        self.unshared: set[bytes] = set()
        self._known = known
        self._era = next(_stamps)

    def generation(self, tag: bytes) -> int | None:
        """The generation of a tag by its digest, None if this sidecar does not know it."""
        return self._known.get(self._era, tag)

    def is_current(self, tags: Iterable[tuple[bytes, int]]) -> bool:
        """Whether every tag is known and still at the generation given."""
        return all(self.generation(tag) == generation for tag, generation in tags)

    def learn(self, generations: Mapping[bytes, int]) -> None:
        """Takes note of generations in the store; ones older than those known are ignored."""
        for tag, generation in generations.items():
            if tag not in self.unshared:
                self._known.set(self._era, tag, max(generation, self.generation(tag) or 0))

    def invalidate(self, generations: Mapping[bytes, int]) -> None:
        """Takes note of tags that were invalidated in the store."""
        self.learn(generations)
        self.stamp = next(_stamps)

    def invalidate_unshared(self, tags: Sequence[bytes], now_us: int) -> None:
        """Invalidates tags on this sidecar alone, until the store can be told."""
        for tag in tags:
            later = max(now_us, (self.generation(tag) or 0) + 1)
            self._known.set(self._era, tag, later)
        self.unshared.update(tags)
        self.stamp = next(_stamps)

    def shared(self, tags: Iterable[bytes]) -> None:
        """Takes note that the store was told of tags that had been invalidated here alone.

        What it made of them is to be asked: our clock may be ahead of its.
        """
        for tag in self.unshared.intersection(tags):
            self._known.forget(self._era, tag)
            self.unshared.discard(tag)

    def merge(self, epoch: int, base: int) -> None:
        """Takes note of the shared state. Another base makes every tag unknown."""
        if base != self.base:
            self.base = base
            self.forget_tags()
        if epoch > self.epoch:
            self.epoch = epoch
            self.stamp = next(_stamps)

    def restamp(self) -> None:
        """Makes everything that was found valid so far be looked at again."""
        self.stamp = next(_stamps)

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        self._era = next(_stamps)
        self.restamp()


class GenerationStore(Protocol):
    """Where epochs and generations are kept. Raises `StoreUnavailableError` if it is down."""

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """Epoch and base of a namespace, the epoch raised to the one given if it is less."""
        ...

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """The generation of each tag."""
        ...

    async def bump_tags(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]]:
        """Moves each tag to a new generation, tells all other sidecars, and returns them.

        The namespace's base comes with them. When it holds more than `MAX_STORED_TAGS`, all of
        its tags are forgotten first and the base is moved, which invalidates all that is tagged.
        """
        ...

    async def bump_epoch(self, namespace: str) -> int:
        """Moves the namespace to a new epoch, tells all other sidecars, and returns it."""
        ...

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Removes entries from the shared tier, and tells all other sidecars to do so too."""
        ...


class StoreUnavailableError(Exception):
    """The store of epochs and generations cannot be reached."""


class Generations:
    """The states of all namespaces in use, kept in agreement with a store."""

    def __init__(self, store: GenerationStore, now_us: Callable[[], int] | None = None) -> None:
        self._store = store
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        self._states: OrderedDict[str, NamespaceState] = OrderedDict()
        self._known_tags = _KnownTags()
        self._rounds = itertools.count(1)
        self._loading: dict[str, asyncio.Task[NamespaceState]] = {}

    def in_memory(self, namespace: str) -> NamespaceState | None:
        """The state of a namespace that was in use of late."""
        return self._states.get(namespace)

    async def state(self, namespace: str) -> NamespaceState:
        """The state of a namespace.

        While the store is down, a namespace that was not in use before gets an epoch that
        nobody else has: its entries are good for this sidecar, until `synchronise` succeeds.
        """
        state = self._states.get(namespace)
        if state is not None:
            self._states.move_to_end(namespace)
            return state
        loading = self._loading.get(namespace)
        if loading is None:
            loading = self._loading[namespace] = asyncio.create_task(self._load(namespace))
            loading.add_done_callback(lambda _: self._loading.pop(namespace))
        # A caller that goes away must not take the state from the others.
        return await asyncio.shield(loading)

    async def _load(self, namespace: str) -> NamespaceState:
        try:
            epoch, base = await self._store.load(namespace, 0)
        except StoreUnavailableError:
            # Below any epoch that a clock gives, so that the shared one replaces it.
            epoch, base = secrets.randbits(_PROVISIONAL_BITS), _NO_BASE
        state = self._states[namespace] = NamespaceState(namespace, epoch, base, self._known_tags)
        if len(self._states) > MAX_NAMESPACES:
            _, forgotten = self._states.popitem(last=False)
            # It hears of no invalidation any more, so nothing may be valid under it.
            forgotten.restamp()
        return state

    async def resolve(self, state: NamespaceState, tags: Iterable[bytes]) -> None:
        """Makes the generations of tags known, where the store can be asked."""
        unknown = [tag for tag in dict.fromkeys(tags) if state.generation(tag) is None]
        if not unknown:
            return
        base = state.base
        try:
            found = await self._store.generations(state.name, unknown)
        except StoreUnavailableError:
            return
        if state.base == base:
            state.learn(found)

    async def invalidate_tags(self, namespace: str, tags: Sequence[bytes]) -> None:
        """Invalidates every entry that carries one of the tags.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone.
        """
        state = await self.state(namespace)
        try:
            await self._bump_tags(state, tags)
        except StoreUnavailableError as error:
            state.invalidate_unshared(tags, self._now_us())
            raise InvalidationNotSharedError(str(error)) from error

    async def invalidate_namespace(self, namespace: str) -> None:
        """Invalidates every entry of a namespace.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone.
        """
        state = await self.state(namespace)
        try:
            state.merge(await self._store.bump_epoch(namespace), state.base)
        except StoreUnavailableError as error:
            state.merge(max(self._now_us(), state.epoch + 1), state.base)
            raise InvalidationNotSharedError(str(error)) from error

    async def agree(self, namespace: str) -> tuple[NamespaceState, bool]:
        """The state of a namespace, and whether it is what the store has at this moment."""
        state = await self.state(namespace)
        try:
            await self._synchronise(state)
        except StoreUnavailableError:
            return state, False
        return state, True

    async def remove_shared(self, state: NamespaceState, keys: Sequence[bytes]) -> None:
        """Removes entries from the shared tier and from the tiers of all other sidecars.

        Raises `InvalidationNotSharedError` if that could not be done.
        """
        state.restamp()
        try:
            await self._store.remove(state.name, keys)
        except StoreUnavailableError as error:
            raise InvalidationNotSharedError(str(error)) from error

    async def synchronise(self, most: int = MAX_NAMESPACES) -> bool:
        """Brings states in memory and the store together, those first that have waited longest.

        What was invalidated while the store was down is shared by this. Returns whether the
        store has lost state since it was last asked. Raises `StoreUnavailableError`.
        """
        waiting = sorted(self._states.values(), key=lambda state: state.synchronised)
        lost = False
        for state in waiting[:most]:
            lost |= await self._synchronise(state)
        return lost

    async def _synchronise(self, state: NamespaceState) -> bool:
        epoch, base = await self._store.load(state.name, _agreed_epoch(state))
        lost = state.base not in (base, _NO_BASE)
        state.merge(epoch, base)
        if state.unshared:
            await self._bump_tags(state, list(state.unshared))
        state.synchronised = next(self._rounds)
        return lost

    async def _bump_tags(self, state: NamespaceState, tags: Sequence[bytes]) -> None:
        base, generations = await self._store.bump_tags(state.name, tags)
        state.merge(state.epoch, base)
        state.shared(tags)
        state.invalidate(generations)

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        for state in self._states.values():
            state.forget_tags()


def _agreed_epoch(state: NamespaceState) -> int:
    return state.epoch if state.epoch >> _PROVISIONAL_BITS else 0
