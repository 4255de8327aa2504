"""Where epochs and generations are kept, seen from `sidecar.cache.generations`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class StoreUnavailableError(Exception):
    """The store of epochs and generations cannot be reached."""


class Stored(NamedTuple):
    """What a store has of a namespace. ``scopes`` are those above the epoch."""

    epoch: int
    base: int
    scopes: Mapping[bytes, int]


class Bumped(NamedTuple):
    """Tags that were moved to new generations: of each the last one and the new one."""

    base: int
    steps: Mapping[bytes, tuple[int, int]]


class GenerationStore(Protocol):
    """Where epochs and generations are kept. Raises `StoreUnavailableError` if it is down.

    A store that lost what it had of a namespace begins it anew with the first call that would
    write: with another base, and with an epoch above all that the caller knows, so that nothing
    from before is valid under it.
    """

    async def load(self, namespace: str, epoch: int, scopes: Mapping[bytes, int]) -> Stored:
        """What is stored of a namespace, raised to the epoch and the scopes given if it is less.

        When there are more than `MAX_SCOPES` scopes, the epoch is moved to the oldest of them.
        """
        ...

    async def generations(
        self, namespace: str, tags: Sequence[bytes]
    ) -> tuple[int, dict[bytes, int]] | None:
        """The largest number of epoch and scopes, and the generation of each tag.

        None if the store has lost the namespace.
        """
        ...

    async def bump_tags(self, namespace: str, tags: Sequence[bytes], change: bytes) -> Bumped:
        """Moves each tag to a new generation and tells all other sidecars, with the change.

        When the namespace holds more than `MAX_STORED_TAGS`, all of its tags are forgotten first
        and the base is moved, which invalidates all that is tagged.
        """
        ...

    async def bump_scope(self, namespace: str, scope: bytes, known: int) -> int:
        """Moves a scope to a new number, tells all other sidecars, and returns it.

        It is larger than ``known`` and than every other number of the namespace.
        """
        ...

    async def remove(self, namespace: str, keys: Sequence[bytes]) -> None:
        """Removes entries from the shared tier, and tells all other sidecars to do so too."""
        ...

    async def expect(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """Notes, for a day at most, that a tag will be moved for these changes, until `settle`."""
        ...

    async def expected(
        self, namespace: str, tag: bytes, changes: Sequence[bytes]
    ) -> list[bytes | None]:
        """For each change the token of who expects it, and has not settled it."""
        ...

    async def settle(
        self, namespace: str, tag: bytes, changes: Sequence[bytes], token: bytes
    ) -> None:
        """Forgets what was expected with this token."""
        ...
