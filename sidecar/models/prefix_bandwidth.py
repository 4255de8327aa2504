"""Whether blocks come faster from a lower tier than from the model: measured, not configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What is left of the loads before when another one is measured. Sums are kept, not a mean of rates,
# so that a load counts for as much as it took.
_KEPT = 0.75
# A tier that was too slow is tried again after so many seconds.
RETRY_SECONDS = 10.0


class Bandwidth:
    """A running estimate of the bytes that a tier brings a second.

    Bytes are those of blocks in memory, and seconds include decoding: so a codec that makes blocks
    smaller shows as more bandwidth. ``clock`` is monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._bytes = 0.0
        self._seconds = 0.0
        self._measured_at = clock()
        self._starts_anew = True

    @property
    def bytes_per_second(self) -> float | None:
        """The estimate; None as long as nothing was loaded."""
        return self._bytes / self._seconds if self._seconds else None

    def should_load(self, n_bytes: int, compute_seconds: float) -> bool:
        """Whether to load blocks that take ``compute_seconds`` to compute; 0 if that is not known.

        True before the first load, and now and then for a tier that was too slow: what is measured
        then replaces the estimate.
        """
        rate = self.bytes_per_second
        if rate is None or compute_seconds <= 0 or rate * compute_seconds > n_bytes:
            return True
        if self._clock() - self._measured_at < RETRY_SECONDS:
            return False
        # One tries, the others do not wait for it.
        self._measured_at = self._clock()
        self._starts_anew = True
        return True

    def measured(self, n_bytes: int, seconds: float) -> None:
        """Takes note of a load; one that was given up brought as many bytes as had come."""
        kept = 0.0 if self._starts_anew else _KEPT
        self._starts_anew = False
        self._measured_at = self._clock()
        self._bytes = self._bytes * kept + n_bytes
        # A clock may stand still for the shortest of loads.
        self._seconds = self._seconds * kept + max(seconds, 1e-6)
