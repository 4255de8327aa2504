"""An item on its way through the tiers to the model, however many calls wait for it."""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING, Any

from sidecar.cache.items import CacheMode
from sidecar.spans import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.cache.items import Answer, Want
    from sidecar.demand import Demand


class Flight:
    """One item on its way. ``done`` holds its answer, or the error, as a plain result.

    ``demand`` is of all who wait for it, and for what else was begun together with it.
    """

    __slots__ = (
        *("demand", "done", "name", "removed", "replace", "stores", "submitted", "ttl", "waiters"),
        *("began_ms", "span", "want", "watchers", "work"),
    )

    def __init__(self, name: object, want: Want, mode: CacheMode, demand: Demand) -> None:
        self.name = name
        self.demand = demand
        self.want = want
        self.stores = False
        self.ttl: float | None = None
        self.replace = mode is CacheMode.REFRESH
        self.removed = False
        self.submitted = 0.0
        self.began_ms = 0
        self.waiters = 0
        self.done: asyncio.Future[Answer | Exception] = asyncio.get_running_loop().create_future()
        self.watchers: list[Callable[[asyncio.Future[Any]], None]] = []
        self.work: asyncio.Future[Any] | None = None
        # Of the call that began it, so that others who wait can tell for whom.
        self.span = current()

    def watch(self, watcher: Callable[[asyncio.Future[Any]], None]) -> None:
        """Has the computation shown to a caller, now or when it begins."""
        if self.work is None:
            self.watchers.append(watcher)
        else:
            watcher(self.work)

    def begin(self, work: asyncio.Future[Any], now_ms: int) -> None:
        """Takes note that the item is being computed."""
        self.work, self.submitted, self.began_ms = work, perf_counter(), now_ms
        for watcher in self.watchers:
            watcher(work)

    def store_for(self, ttl: float | None) -> None:
        """Has the result stored: of all that ask for it, for the shortest lifetime."""
        if ttl is not None and (self.ttl is None or ttl < self.ttl):
            self.ttl = ttl
        self.stores = True

    def land(self, result: Answer | Exception) -> None:
        """Tells everyone who waits."""
        if not self.done.done():
            self.done.set_result(result)
