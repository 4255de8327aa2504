"""How long ago this sidecar knew of everything that others had invalidated."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What is left of the bound is for an event loop that is late.
_SHARE = 0.9


class Contact:
    """Sees to it that nothing is believed for longer than ``staleness`` seconds without contact.

    Contact is dated by when Redis was *asked*: whatever it had before that is in its answer, but an
    answer that took long says nothing of the time that it took. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, staleness: float, clock: Callable[[], float]) -> None:
        self._staleness = staleness
        self._limit = staleness * _SHARE
        self._clock = clock
        self._asked_at = self._forgot_at = clock()

    def heard(self, asked_at: float) -> None:
        """Takes note of an answer that was complete."""
        self._asked_at = max(self._asked_at, asked_at)

    def ago(self) -> float:
        """Seconds since this sidecar last knew everything."""
        return self._clock() - self._asked_at

    def due(self) -> float:
        """Seconds until all that may have changed is to be forgotten; 0 if it is time."""
        believed_since = max(self._asked_at, self._forgot_at)
        return max(0.0, believed_since + self._limit - self._clock())

    def left(self) -> float:
        """Seconds for which what is believed now may be believed, also if nobody forgets it."""
        believed_since = max(self._asked_at, self._forgot_at)
        return max(0.0, believed_since + self._staleness - self._clock())

    def forgot(self) -> None:
        """Takes note that it was forgotten: what is learnt from now on is believed anew."""
        self._forgot_at = self._clock()
