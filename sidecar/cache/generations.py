"""What is still valid: the states of namespaces, kept in agreement with a store.

What the states are made of is told in `sidecar.cache.namespace_state`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from sidecar.cache.change_log import MAX_CHANGE_BYTES, ChangeLog
from sidecar.cache.generation_store import (
    Bumped,
    GenerationStore,
    Stored,
    StoreUnavailableError,
)
from sidecar.cache.namespace_state import (
    WHOLE_NAMESPACE,
    KnownTags,
    NamespaceState,
    kind_scope,
    model_scope,
)
from sidecar.shared_task import create_shared_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "Bumped",
    "Expectation",
    "GenerationStore",
    "Generations",
    "InvalidationNotSharedError",
    "InvalidationRefusedError",
    "NamespaceState",
    "StoreUnavailableError",
    "Stored",
    "kind_scope",
    "model_scope",
]

MAX_NAMESPACES = 10_000
MAX_STORED_TAGS = 100_000
"""Of one namespace."""
MAX_UNSHARED_NAMESPACES = 5_000
"""That may have something to tell the store when it is back, fewer than `MAX_NAMESPACES`."""
MAX_ALL_UNSHARED_TAGS = 200_000
"""Of all namespaces, while the store is down. With more, the one that has most is invalidated."""
NAMESPACES_A_ROUND = 20
SYNCHRONISE_SECONDS = 5.0
"""How often so many namespaces are compared with the store, unasked."""

_MAX_PROVISIONAL = 2**40


class InvalidationNotSharedError(Exception):
    """An invalidation is in force here, but other sidecars could not be told."""


class InvalidationRefusedError(InvalidationNotSharedError):
    """An invalidation is in force nowhere: too many could not be shared already."""


class Expectation(NamedTuple):
    """Changes under a tag that somebody is about to make or has made, by the token of who."""

    namespace: str
    tag: bytes
    changes: Mapping[bytes, Sequence[bytes]]


class Generations:
    """The states of all namespaces in use, kept in agreement with a store."""

    def __init__(self, store: GenerationStore, now_us: Callable[[], int] | None = None) -> None:
        self._store = store
        self._now_us = now_us or (lambda: time.time_ns() // 1000)
        self._states: OrderedDict[str, NamespaceState] = OrderedDict()
        self._known_tags = KnownTags()
        self._changes = ChangeLog()
        self._rounds = itertools.count(1)
        self._loading: dict[str, asyncio.Task[NamespaceState]] = {}
        self._coming: dict[str, NamespaceState] = {}

    def listener(self, namespace: str) -> NamespaceState | None:
        """The state that must hear of what is invalidated in a namespace; it may be on its way."""
        return self._states.get(namespace) or self._coming.get(namespace)

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
            loading = self._loading[namespace] = create_shared_task(self._load(namespace))
            loading.add_done_callback(lambda _: self._loading.pop(namespace))
        # A caller that goes away must not take the state from the others.
        return await asyncio.shield(loading)

    async def _load(self, namespace: str) -> NamespaceState:
        state = NamespaceState(namespace, self._known_tags, self._changes)
        self._coming[namespace] = state
        try:
            _merge(state, await self._store.load(namespace, 0, {}))
        except StoreUnavailableError:
            # Below any epoch that a clock gives, so that the shared one replaces it.
            state.raise_scope(WHOLE_NAMESPACE, 1 + secrets.randbelow(_MAX_PROVISIONAL))
        finally:
            del self._coming[namespace]
        self._states[namespace] = state
        if len(self._states) > MAX_NAMESPACES:
            self._forget_one()
        return state

    def _forget_one(self) -> None:
        """Forgets the namespace that was not in use for longest and has nothing to share."""
        for name, state in self._states.items():
            if not state.has_unshared:
                del self._states[name]
                # It hears of no invalidation any more, so nothing may be valid under it.
                state.restamp()
                return

    async def resolve(self, state: NamespaceState, tags: Iterable[bytes]) -> None:
        """Makes the generations of tags known, where the store can be asked."""
        unknown = [tag for tag in dict.fromkeys(tags) if state.generation(tag) is None]
        if not unknown:
            return
        try:
            with state.asking(unknown) as question:
                answer = await self._store.generations(state.name, unknown)
                if answer is not None and answer[0] <= state.newest:
                    state.learn(question, answer[1])
                else:
                    # The keys of whoever asks are of an epoch that is over.
                    await self._synchronise(state)
        except StoreUnavailableError:
            return

    async def invalidate_tags(self, namespace: str, tags: Sequence[bytes]) -> None:
        """Invalidates every entry that carries one of the tags.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone.
        """
        await self._invalidate_tags(namespace, tags, b"")

    async def announce(self, namespace: str, tag: bytes, change: bytes) -> None:
        """Moves a tag to a new generation, and tells all sidecars for which change that is.

        An entry with an older generation is not current any more, but may live on if none of
        `NamespaceState.changes_since` concerns it. What ``change`` means is up to the caller; an
        empty one, or one of more than `MAX_CHANGE_BYTES`, concerns everything.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone; the change is
        then forgotten. Of the same kind is `InvalidationRefusedError`, as of the others here.
        """
        state = await self.state(namespace)
        if len(change) > MAX_CHANGE_BYTES or tag in state.unshared:
            # Others were not told of an earlier one, so this one alone would not be the truth.
            change = b""
        await self._invalidate_tags(namespace, [tag], change)

    async def _invalidate_tags(self, namespace: str, tags: Sequence[bytes], change: bytes) -> None:
        state = await self.state(namespace)
        try:
            await self._bump_tags(state, tags, change)
        except StoreUnavailableError as error:
            self._refuse_if_too_many(state)
            state.invalidate_unshared(tags, self._now_us())
            if sum(len(each.unshared) for each in self._states.values()) > MAX_ALL_UNSHARED_TAGS:
                most = max(self._states.values(), key=lambda each: len(each.unshared))
                most.invalidate_all_unshared(self._now_us())
            raise _not_shared(error) from error

    async def expect(self, namespace: str, tag: bytes, changes: Sequence[bytes]) -> Expectation:
        """Has every sidecar know what is about to be changed, until it was announced.

        Raises `InvalidationNotSharedError`; then it is better not changed.
        """
        token = secrets.token_bytes(8)
        try:
            await self._store.expect(namespace, tag, changes, token)
        except StoreUnavailableError as error:
            raise InvalidationNotSharedError(
                f"{error}; nothing was changed, because others could not be told: repeat the call"
            ) from error
        return Expectation(namespace, tag, {token: list(changes)})

    async def expected(self, namespace: str, tag: bytes, changes: Sequence[bytes]) -> Expectation:
        """Which of these changes somebody was about to make, and has not announced.

        Raises `InvalidationNotSharedError`.
        """
        found: dict[bytes, list[bytes]] = {}
        try:
            tokens = await self._store.expected(namespace, tag, changes) if changes else []
        except StoreUnavailableError as error:
            raise InvalidationNotSharedError(
                f"{error}; it is not known whether others were told of this: repeat the call"
            ) from error
        for change, token in zip(changes, tokens, strict=True):
            if token is not None:
                found.setdefault(token, []).append(change)
        return Expectation(namespace, tag, found)

    async def settle(self, expectation: Expectation) -> None:
        """Says that it was announced. If that fails, it is announced once more at some time."""
        with contextlib.suppress(StoreUnavailableError):
            for token, changes in expectation.changes.items():
                await self._store.settle(expectation.namespace, expectation.tag, changes, token)

    async def invalidate_namespace(self, namespace: str) -> None:
        """Invalidates every entry of a namespace.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone.
        """
        await self.invalidate_scope(namespace, WHOLE_NAMESPACE)

    async def invalidate_scope(self, namespace: str, scope: bytes) -> None:
        """Invalidates every entry of a `kind_scope` or a `model_scope` in a namespace.

        Raises `InvalidationNotSharedError` if it is in force on this sidecar alone.
        """
        state = await self.state(namespace)
        try:
            await self._bump_scope(state, scope)
        except StoreUnavailableError as error:
            self._refuse_if_too_many(state)
            state.raise_unshared(scope, self._now_us())
            raise _not_shared(error) from error

    def _refuse_if_too_many(self, state: NamespaceState) -> None:
        """Keeps room for what the store has to be told of: a namespace with such stays here."""
        waiting = sum(each.has_unshared for each in self._states.values())
        if not state.has_unshared and waiting >= MAX_UNSHARED_NAMESPACES:
            raise InvalidationRefusedError(
                f"nothing was invalidated: the invalidations of {waiting} namespaces wait to be"
                " shared already; repeat the call when the store of invalidations is back"
            )

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
            raise _not_shared(error) from error

    async def synchronise(self, most: int = MAX_NAMESPACES) -> None:
        """Brings states in memory and the store together, those first that have waited longest.

        What was invalidated while the store was down is shared by this. Raises
        `StoreUnavailableError`.
        """
        waiting = sorted(self._states.values(), key=lambda state: state.synchronised)
        for state in waiting[:most]:
            await self._synchronise(state)

    async def _synchronise(self, state: NamespaceState) -> None:
        epoch = state.epoch if state.epoch > _MAX_PROVISIONAL else 0
        _merge(state, await self._store.load(state.name, epoch, state.scopes))
        if state.unshared:
            await self._bump_tags(state, list(state.unshared), b"")
        for scope in list(state.unshared_scopes):
            await self._bump_scope(state, scope)
        state.synchronised = next(self._rounds)

    async def _bump_tags(self, state: NamespaceState, tags: Sequence[bytes], change: bytes) -> None:
        told = {tag: state.unshared[tag] for tag in tags if tag in state.unshared}
        with state.asking(tags) as question:
            base, steps = await self._store.bump_tags(state.name, tags, change)
            state.merge_base(base)
            state.tags_shared(told)
            state.learn(question, {tag: generation for tag, (_, generation) in steps.items()})
        for tag, (previous, generation) in steps.items():
            state.hear(tag, generation, previous, change)

    async def _bump_scope(self, state: NamespaceState, scope: bytes) -> None:
        mark = state.unshared_scopes.get(scope)
        number = await self._store.bump_scope(state.name, scope, state.newest)
        state.scope_shared(scope, mark)
        state.raise_scope(scope, number)

    def restamp(self) -> None:
        """Makes everything that was found valid so far be looked at again."""
        for state in self._states.values():
            state.restamp()

    def forget_tags(self) -> None:
        """Makes every tag unknown: some invalidations may have been missed."""
        for state in self._states.values():
            state.forget_tags()


def _not_shared(error: StoreUnavailableError) -> InvalidationNotSharedError:
    return InvalidationNotSharedError(
        f"{error}; an invalidation is in force on this sidecar alone: repeat the call"
    )


def _merge(state: NamespaceState, stored: Stored) -> None:
    state.merge_base(stored.base)
    state.raise_scope(WHOLE_NAMESPACE, stored.epoch)
    for scope, number in stored.scopes.items():
        state.raise_scope(scope, number)
