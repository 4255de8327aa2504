"""What may be in doubt, in bounded memory: beyond a number, everything that was not settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T", bound="Hashable")

MAX_DOUBTS = 10_000


class Doubts(Generic[T]):
    """A set that may have too much in it, but never too little.

    When it would have more than ``capacity``, it has everything but what is taken out from then
    on, and of that it knows ``capacity`` at most.
    """

    def __init__(self, capacity: int = MAX_DOUBTS) -> None:
        self._capacity = capacity
        self._doubtful: set[T] = set()
        # Where all else is doubtful.
        self._settled: set[T] | None = None

    def __contains__(self, one: T) -> bool:
        if self._settled is None:
            return one in self._doubtful
        return one not in self._settled

    def add(self, one: T) -> None:
        """Puts something in."""
        if self._settled is not None:
            self._settled.discard(one)
            return
        self._doubtful.add(one)
        if len(self._doubtful) > self._capacity:
            self._doubtful.clear()
            self._settled = set()

    def discard(self, one: T) -> None:
        """Takes something out, if it is in."""
        if self._settled is None:
            self._doubtful.discard(one)
            return
        if len(self._settled) >= self._capacity:
            self._settled.clear()
        self._settled.add(one)
