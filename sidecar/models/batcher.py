"""Chooses which waiting inputs are computed together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from sidecar.demand import Priority
from sidecar.models.fair_shares import FairShares, equal_shares

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from sidecar.models.fair_shares import Share

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """What one run may hold, and what it costs.

    ``tokens`` counts padding: the longest input times the number of inputs. Only an input that is
    alone may exceed it. ``rows`` bounds the number of inputs. ``run_cost`` is what a run costs
    besides its tokens, in tokens: the more, the more padding is worth one run less.
    """

    tokens: int
    rows: int
    run_cost: int

    def work(self, length: int) -> float:
        """What part of a full run an input of so many tokens is; above 1 if it exceeds one."""
        return max(length / self.tokens, 1 / self.rows)

    @property
    def run_work(self) -> float:
        """What a run costs besides its inputs, as such a part."""
        return self.run_cost / self.tokens


# Measured with bench/encoder.py: a CPU gains nothing from more tokens in a run, and a short run
# delays the next caller less.
TEXT_LIMITS = {
    "cpu": BatchLimits(tokens=512, rows=128, run_cost=12),
    "cuda": BatchLimits(tokens=16384, rows=256, run_cost=1024),
}
"""The limits for texts, by what the model runs on."""

# A run holds ``reach`` inputs at most; to choose from more than so many times that gains nothing.
_ENOUGH = 32
# Runs of others before one of the background's, as long as both wait.
BACKGROUND_TURN = 20


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    kind: Hashable
    namespace: str
    rank: tuple[int, int]  # length, then arrival


_rank: Callable[[_Entry[T]], tuple[int, int]] = attrgetter("rank")


class Batcher(Generic[T]):
    """Waiting inputs, by priority, namespace, arrival and length. For one thread at a time.

    Whose turn it is `FairShares` says, and of that namespace the input that has waited longest is
    in the next batch. The background has a turn when nothing else waits, and after
    ``BACKGROUND_TURN`` turns of others: so none starves. The rest of the batch are those of its
    neighbours in length that make it cheapest, of any namespace that is not ahead of the others.
    Only inputs of one priority and kind, such as tensors of one shape, share a batch.
    """

    def __init__(self, limits: BatchLimits, share: Share = equal_shares) -> None:
        self._limits = limits
        self._arrivals = 0
        self._classes: dict[Priority, _Class[T]] = {each: _Class(share) for each in Priority}
        self._passed_over = 0

    def __len__(self) -> int:
        return sum(map(len, self._classes.values()))

    def add(
        self,
        item: T,
        length: int,
        kind: Hashable = None,
        *,
        namespace: str = "",
        priority: Priority = Priority.INTERACTIVE,
    ) -> None:
        """Puts an input of so many tokens behind the others of its namespace."""
        self._arrivals += 1
        entry = _Entry(item, kind, namespace, (length, self._arrivals))
        self._classes[priority].add(entry)

    def take(self) -> list[T]:
        """Removes and returns the next batch, shortest first; empty if nothing waits."""
        waiting = self._next_class()
        if not waiting:
            return []
        oldest = waiting.oldest_of_turn()
        # No batch with the oldest in it has more rows than this.
        reach = max(1, min(self._limits.rows, self._limits.tokens // max(1, oldest.rank[0])))
        near = waiting.neighbours(oldest, reach)
        anchor = bisect_left(near, oldest.rank, key=_rank)
        start = max(0, anchor - reach + 1)
        lengths = [entry.rank[0] for entry in near[start : anchor + reach]]
        begin, end = cheapest_window(lengths, anchor - start, self._limits)
        batch = near[start + begin : start + end]
        waiting.serve(batch, self._limits)
        return [entry.item for entry in batch]

    def discard(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Removes and returns the inputs for which ``unwanted`` is true, in no order."""
        return [item for each in self._classes.values() for item in each.discard(unwanted)]

    def _next_class(self) -> _Class[T]:
        interactive = self._classes[Priority.INTERACTIVE]
        background = self._classes[Priority.BACKGROUND]
        if not background:
            self._passed_over = 0
        elif not interactive or self._passed_over == BACKGROUND_TURN:
            self._passed_over = 0
            return background
        else:
            self._passed_over += 1
        return interactive


class _Namespace(Generic[T]):
    """The inputs of one namespace, in order of arrival and of length."""

    def __init__(self) -> None:
        self.by_arrival: OrderedDict[int, _Entry[T]] = OrderedDict()
        self.by_length: defaultdict[Hashable, list[_Entry[T]]] = defaultdict(list)

    def add(self, entry: _Entry[T]) -> None:
        self.by_arrival[entry.rank[1]] = entry
        insort(self.by_length[entry.kind], entry, key=_rank)

    def near(self, anchor: _Entry[T], reach: int) -> list[_Entry[T]]:
        """Those next to an input in length, ``reach`` less one in each direction, and it."""
        queue = self.by_length.get(anchor.kind, [])
        place = bisect_left(queue, anchor.rank, key=_rank)
        return queue[max(0, place - reach + 1) : place + reach]

    def remove(self, first: _Entry[T], count: int) -> None:
        """Removes an input and those that come behind it by length, ``count`` together."""
        queue = self.by_length[first.kind]
        place = bisect_left(queue, first.rank, key=_rank)
        for entry in queue[place : place + count]:
            del self.by_arrival[entry.rank[1]]
        del queue[place : place + count]
        if not queue:
            del self.by_length[first.kind]


class _Class(Generic[T]):
    """The inputs of one priority."""

    def __init__(self, share: Share) -> None:
        self._shares = FairShares(share)
        self._namespaces: dict[str, _Namespace[T]] = {}

    def __len__(self) -> int:
        return sum(len(each.by_arrival) for each in self._namespaces.values())

    def __bool__(self) -> bool:
        return bool(self._namespaces)

    def add(self, entry: _Entry[T]) -> None:
        name = entry.namespace
        if name not in self._namespaces:
            self._namespaces[name] = _Namespace()
            self._shares.begin(name)
        self._namespaces[name].add(entry)

    def oldest_of_turn(self) -> _Entry[T]:
        """Of the namespace whose turn it is, the input that has waited longest."""
        return next(iter(self._namespaces[self._shares.turn()].by_arrival.values()))

    def neighbours(self, anchor: _Entry[T], reach: int) -> list[_Entry[T]]:
        """Those next to an input in length that may share a run with it, in order; it is one.

        Of its own namespace there are ``reach`` less one in each direction, or all there are; of
        others as many, until there are enough to choose from.
        """
        near = self._namespaces[anchor.namespace].near(anchor, reach)
        for name, each in self._namespaces.items():
            if len(near) > _ENOUGH * reach:
                break
            if name != anchor.namespace and self._shares.may_join(name):
                near += each.near(anchor, reach)
        near.sort(key=_rank)
        return near

    def serve(self, batch: Sequence[_Entry[T]], limits: BatchLimits) -> None:
        """Removes a batch of `neighbours` without gaps, for which their namespaces pay."""
        parts: defaultdict[str, list[_Entry[T]]] = defaultdict(list)
        for entry in batch:
            parts[entry.namespace].append(entry)
        for name, part in parts.items():
            self._namespaces[name].remove(part[0], len(part))
            self._shares.charge(name, sum(limits.work(entry.rank[0]) for entry in part))
            self._forget_if_empty(name)

    def discard(self, unwanted: Callable[[T], bool]) -> list[T]:
        gone = [
            entry
            for each in self._namespaces.values()
            for entry in each.by_arrival.values()
            if unwanted(entry.item)
        ]
        for entry in gone:
            self._namespaces[entry.namespace].remove(entry, 1)
            self._forget_if_empty(entry.namespace)
        return [entry.item for entry in gone]

    def _forget_if_empty(self, name: str) -> None:
        if not self._namespaces[name].by_arrival:
            del self._namespaces[name]
            self._shares.end(name)


def cheapest_window(lengths: Sequence[int], anchor: int, limits: BatchLimits) -> tuple[int, int]:
    """Returns begin and end of the window around ``anchor`` that saves most by being one run.

    ``lengths`` ascend. What is compared is the cost of one run, padding included, with that of a
    run for each input: to compare costs a token instead would leave short inputs to runs of their
    own. On real texts this comes within 1 % of the best partition of all that waits.
    """
    sizes = np.asarray(lengths)
    total = np.concatenate([[0], np.cumsum(sizes)])
    begins = np.arange(anchor + 1)[:, None]
    ends = np.arange(anchor + 1, len(sizes) + 1)[None, :]
    rows = ends - begins
    padded = rows * sizes[ends - 1]
    singly = rows * limits.run_cost + total[ends] - total[begins]
    cost = (limits.run_cost + padded) / np.maximum(singly, 1)
    cost[(padded > limits.tokens) | (rows > limits.rows)] = np.inf
    cost[anchor, 0] = min(cost[anchor, 0], np.finfo(np.float64).max)  # the anchor alone
    begin, end = np.unravel_index(np.argmin(cost), cost.shape)
    return int(begin), anchor + 1 + int(end)
