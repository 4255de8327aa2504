"""Chooses which waiting inputs are computed together."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

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


# Measured with bench/encoder.py: a CPU gains nothing from more tokens in a run, and a short run
# delays the next caller less.
TEXT_LIMITS = {
    "cpu": BatchLimits(tokens=512, rows=128, run_cost=12),
    "cuda": BatchLimits(tokens=16384, rows=256, run_cost=1024),
}
"""The limits for texts, by what the model runs on."""


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    kind: Hashable
    rank: tuple[int, int]  # length, then arrival


_rank: Callable[[_Entry[T]], tuple[int, int]] = attrgetter("rank")


class Batcher(Generic[T]):
    """Waiting inputs, in order of arrival and of length. For one thread at a time.

    The input that has waited longest is in the next batch, so none starves. The rest of the batch
    are those of its neighbours in length that make it cheapest. Only inputs of one kind, such
    as tensors of one shape, share a batch.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._arrivals = 0
        self._by_arrival: OrderedDict[int, _Entry[T]] = OrderedDict()
        self._by_length: defaultdict[Hashable, list[_Entry[T]]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._by_arrival)

    def add(self, item: T, length: int, kind: Hashable = None) -> None:
        """Puts an input of so many tokens behind the others."""
        self._arrivals += 1
        entry = _Entry(item, kind, (length, self._arrivals))
        self._by_arrival[self._arrivals] = entry
        insort(self._by_length[kind], entry, key=_rank)

    def take(self) -> list[T]:
        """Removes and returns the next batch, shortest first; empty if nothing waits."""
        if not self._by_arrival:
            return []
        oldest = next(iter(self._by_arrival.values()))
        queue = self._by_length[oldest.kind]
        anchor = bisect_left(queue, oldest.rank, key=_rank)
        # No batch with the oldest in it has more rows than this.
        reach = max(1, min(self._limits.rows, self._limits.tokens // max(1, oldest.rank[0])))
        start = max(0, anchor - reach + 1)
        lengths = [entry.rank[0] for entry in queue[start : anchor + reach]]
        begin, end = cheapest_window(lengths, anchor - start, self._limits)
        batch = queue[start + begin : start + end]
        del queue[start + begin : start + end]
        self._forget(batch)
        return [entry.item for entry in batch]

    def discard(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Removes and returns the inputs for which ``unwanted`` is true."""
        gone = [entry for entry in self._by_arrival.values() if unwanted(entry.item)]
        for entry in gone:
            queue = self._by_length[entry.kind]
            del queue[bisect_left(queue, entry.rank, key=_rank)]
        self._forget(gone)
        return [entry.item for entry in gone]

    def _forget(self, entries: list[_Entry[T]]) -> None:
        for entry in entries:
            del self._by_arrival[entry.rank[1]]
            if not self._by_length[entry.kind]:
                del self._by_length[entry.kind]


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
