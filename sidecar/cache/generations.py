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
MAX_KNOWN_TAGS = 100_000

_NO_BASE = 0
_PROVISIONAL_BITS = 40
_stamps = itertools.count(1)


class InvalidationNotSharedError(Exception):
    """An invalidation is in force here, but other sidecars could not be told."""


class NamespaceState:
    """What this sidecar knows of one namespace.

    ``stamp`` is a number that no state had before and that changes with every invalidation in
    the namespace: what was valid under the present stamp still is.
    """

    __slots__ = ("_tags", "base", "epoch", "name", "stamp")

    def __init__(self, name: str, epoch: int, base: int) -> None:
        self.name = name
        self.epoch = epoch
        self.base = base
        self.stamp = next(_stamps)
        self._tags: OrderedDict[bytes, int] = OrderedDict()

    def generation(self, tag: bytes) -> int | None:
        """The generation of a tag by its digest, None if this sidecar does not know it."""
        return self._tags.get(tag)

    def is_current(self, tags: Iterable[tuple[bytes, int]]) -> bool:
        """Whether every tag is known and still at the generation given."""
        known = self._tags
        return all(known.get(tag) == generation for tag, generation in tags)

    def learn(self, generations: Mapping[bytes, int]) -> None:
        """Takes note of generations; older ones than those known are ignored."""
        for tag, generation in generations.items():
            if generation > self._tags.get(tag, 0):
                self._tags[tag] = generation
            self._tags.move_to_end(tag)
        while len(self._tags) > MAX_KNOWN_TAGS:
            self._tags.popitem(last=False)

    def invalidate(self, generations: Mapping[bytes, int]) -> None:
        """Takes note of tags that were invalidated."""
        self.learn(generations)
        self.stamp = next(_stamps)

    def merge(self, epoch: int, base: int) -> None:
        """Takes note of the shared state. Another base makes every tag unknown."""
        if base != self.base:
            self.base = base
            self._tags.clear()
            self.stamp = next(_stamps)
        if epoch > self.epoch:
            self.epoch = epoch
            self.stamp = next(_stamps)

    def restamp(self) -> None:
        """Makes everything that was found valid so far be looked at again."""
        self.stamp = next(_stamps)

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        self._tags.clear()
        self.restamp()


class GenerationStore(Protocol):
    """Where epochs and generations are kept. Raises `StoreUnavailableError` if it is down."""

    async def load(self, namespace: str, epoch: int) -> tuple[int, int]:
        """Epoch and base of a namespace, the epoch raised to the one given if it is less."""
        ...

    async def generations(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """The generation of each tag."""
        ...

    async def bump_tags(self, namespace: str, tags: Sequence[bytes]) -> dict[bytes, int]:
        """Moves each tag to a new generation, tells all other sidecars, and returns them."""
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
        state = self._states[namespace] = NamespaceState(namespace, epoch, base)
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
            state.invalidate(await self._store.bump_tags(namespace, tags))
        except StoreUnavailableError as error:
            now = self._now_us()
            state.invalidate({tag: max(now, (state.generation(tag) or 0) + 1) for tag in tags})
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

        An epoch that the store had not taken is shared by this. Returns whether the store has
        lost state since it was last asked. Raises `StoreUnavailableError`.
        """
        lost = False
        for name in list(self._states)[:most]:
            state = self._states.get(name)
            if state is None:
                continue
            epoch, base = await self._store.load(name, _agreed_epoch(state))
            lost |= state.base not in (base, _NO_BASE)
            state.merge(epoch, base)
            if name in self._states:
                self._states.move_to_end(name)
        return lost

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        for state in self._states.values():
            state.forget_tags()


def _agreed_epoch(state: NamespaceState) -> int:
    return state.epoch if state.epoch >> _PROVISIONAL_BITS else 0
