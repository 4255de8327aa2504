"""On whose behalf a computation is asked for: its namespace, how urgent it is, and until when.

The seam between those who know of calls and the queues in front of models. It is noted once a call
misses the cache, in a variable of the call's own context, so that nothing is passed through the
layers between and a hit pays nothing.

A caller who waits for what another has begun must not fail because the other leaves sooner: so it
is not for the first of them alone that it is computed.
"""

from __future__ import annotations

import enum
import math
import time
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Priority(enum.IntEnum):
    """Who goes first: calls that somebody waits for, then what is done ahead of them."""

    INTERACTIVE = 0
    BACKGROUND = 1


@dataclass(slots=True)
class Demand:
    """Of whom a computation is. ``deadline`` is on the clock of `time.monotonic`, in seconds.

    That of a call stays as it is. Computations that several calls may come to wait for have one of
    their own, which the others `join`. It changes on the event loop, and is read by all threads.
    """

    namespace: str = ""
    priority: Priority = Priority.INTERACTIVE
    deadline: float = math.inf

    def join(self, other: Demand) -> None:
        """Takes note of another call that waits: all are served who may still be."""
        self.priority = min(self.priority, other.priority)
        self.deadline = max(self.deadline, other.deadline)


_current: ContextVar[Demand] = ContextVar("demand", default=Demand())  # noqa: B039 - not changed


def demand() -> Demand:
    """Of whom the call is whose context this is."""
    return _current.get()


def within(seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
    """Notes how long the caller of this context's call waits; None if he does not say."""
    if seconds is not None:
        _current.set(replace(_current.get(), deadline=clock() + seconds))


def demand_in(namespace: str) -> Demand:
    """For computations in a namespace that this context's call begins, and others may `join`."""
    return replace(_current.get(), namespace=namespace)


def act_for(who: Demand) -> None:
    """What this context asks for from now on, it asks for on behalf of these."""
    _current.set(who)


def in_background() -> None:
    """Notes that nobody waits for what this context asks for."""
    _current.set(replace(_current.get(), priority=Priority.BACKGROUND))
