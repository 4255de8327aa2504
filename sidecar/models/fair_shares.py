"""Which namespace's turn it is, where several wait for one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Share: TypeAlias = "Callable[[str], float]"
"""The weight of a namespace, above 0."""

_FEW = 64


def equal_shares(_namespace: str) -> float:
    """The weight of every namespace where none has more than others."""
    return 1.0


class FairShares:
    """Start-time fair queueing: Goyal, Vin and Cheng, SIGCOMM 1996.

    The start of a namespace is the work that was done for it, divided by its weight. The least
    start has the next turn. What time it is goes on with the work that is done, divided by the
    weights of all that wait: at most a run from the least start, and not past the greatest. A
    namespace that begins to wait starts no earlier than that. So none saves up turns while it wants
    nothing, and a row of newcomers does not keep others from theirs, which they would if time were
    the least start, as in the paper. Nor is one forgiven what it was ahead. Work is in full runs of
    the model.
    """

    def __init__(self, share: Share = equal_shares) -> None:
        self._share = share
        self._now = 0.0
        self._turn = 0.0  # the start of the namespace that had it
        self._done = 0.0  # work since then
        self._waiting: dict[str, float] = {}
        # Starts of those that want nothing, and are ahead of the others.
        self._ahead: dict[str, float] = {}
        self._most_ahead = _FEW

    def begin(self, namespace: str) -> None:
        """Something of a namespace waits from now on."""
        self._waiting[namespace] = max(self._now, self._ahead.pop(namespace, 0.0))

    def end(self, namespace: str) -> None:
        """Nothing of it waits any more."""
        start = self._waiting.pop(namespace)
        if not self._waiting:
            self._now = self._turn = self._done = 0.0
            self._ahead.clear()
        elif start > self._now:
            self._ahead[namespace] = start
            self._forget_the_past()

    def turn(self) -> str:
        """Whose turn it is, of those that wait."""
        namespace = min(self._waiting, key=self._waiting.__getitem__)
        self._turn = self._waiting[namespace]
        weights = sum(map(self._share, self._waiting))
        now, self._done = self._now + self._done / weights, 0.0
        self._now = min(max(now, self._turn), self._turn + 1.0, max(self._waiting.values()))
        return namespace

    def may_join(self, namespace: str) -> bool:
        """Whether it may fill up the run of another, which it pays for as for its own.

        Not once it is a run ahead: it would go on to fill the runs of others, and leave them little
        of each.
        """
        return (self._waiting[namespace] - self._turn) * self._share(namespace) <= 1.0

    def charge(self, namespace: str, work: float) -> None:
        """Takes note of work that is done for it."""
        self._waiting[namespace] += work / self._share(namespace)
        self._done += work

    def _forget_the_past(self) -> None:
        if len(self._ahead) > self._most_ahead:
            self._ahead = {name: at for name, at in self._ahead.items() if at > self._now}
            self._most_ahead = 2 * len(self._ahead) + _FEW
