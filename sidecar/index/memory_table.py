"""The documents of one collection in memory: changed by one thread, read by many."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.index.memory_columns import Columns
from sidecar.index.memory_order import OrderedIds
from sidecar.index.memory_scan import nearest, unit
from sidecar.index.types import Hit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.index.filters import Filter
    from sidecar.index.types import Document, Revision, Vector

_MIN_DEAD_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Stored:
    """A document whose chunks have no vectors, and the vectors: shape ``[chunks, dimensions]``."""

    document: Document
    vectors: Vector


class Table:
    """Documents by number and their vectors by row, both in the order in which they came.

    A document that is replaced or deleted is only marked as dead, and what came later has other
    rows: so a search that has noted under the lock how many rows there are and which of them count
    goes on without it. When too many are dead, `without_dead` makes another table.
    """

    def __init__(self, dimensions: int) -> None:
        self._lock = Lock()
        self._numbers: dict[str, int] = {}
        self._order = OrderedIds()
        # By number.
        self._documents: list[Document] = []
        self._first_rows: list[int] = []
        self._alive = bytearray()
        self._columns = Columns()
        # By row, with room for more.
        self._vectors: Vector = np.empty((0, dimensions), np.float32)
        self._inverse_lengths: Vector = np.empty(0, np.float32)
        self._owners: NDArray[np.int32] = np.empty(0, np.int32)
        self._rows = 0
        self._live_rows = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def revisions(self, ids: Sequence[str]) -> list[Revision | None]:
        """As `Index.revisions`."""
        with self._lock:
            found = [self._numbers.get(one) for one in ids]
            return [None if at is None else self._documents[at].revision for at in found]

    def get(self, one: str) -> Stored | None:
        """The document with that id."""
        with self._lock:
            number = self._numbers.get(one)
            return None if number is None else self._stored(number)

    def page(self, after: str, count: int) -> list[Stored]:
        """Documents in order of id, from the first whose id is greater than ``after``."""
        with self._lock:
            return [self._stored(self._numbers[one]) for one in self._order.after(after, count)]

    def search(self, vector: Vector, count: int, where: Filter | None) -> list[Hit]:
        """As `Index.search`."""
        with self._lock:
            # No later change touches anything that these arrays and lists hold up to here.
            vectors = self._vectors[: self._rows]
            inverse_lengths = self._inverse_lengths[: self._rows]
            owners, documents, first_rows = self._owners, self._documents, self._first_rows
            rows = self._select(where)
        rows, scores = nearest(vectors, inverse_lengths, rows, unit(vector), count)

        def hit(row: int, score: float) -> Hit:
            owner = owners[row]
            document = documents[owner]
            chunk = document.chunks[row - first_rows[owner]]
            metadata, tags = document.metadata, document.tags
            return Hit(document.id, chunk.id, score, chunk.text, metadata, tags)

        hits = map(hit, rows.tolist(), scores.tolist())
        return heapq.nsmallest(count, hits, key=lambda hit: (-hit.score, hit.document, hit.chunk))

    def put(self, documents: Sequence[Stored]) -> None:
        """Adds documents; each replaces the one that has its id."""
        lengths = [np.linalg.norm(one.vectors.astype(np.float64), axis=1) for one in documents]
        self._make_room(sum(map(len, lengths)))
        with self._lock:
            for stored, length in zip(documents, lengths, strict=True):
                one = stored.document.id
                if not self._kill(one):
                    self._order.add(one)
                self._append(stored, 1 / length)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes documents that are there."""
        with self._lock:
            for one in ids:
                if self._kill(one):
                    self._order.remove(one)

    @property
    def is_sparse(self) -> bool:
        """Whether more than half is dead."""
        return self._rows - self._live_rows > max(self._live_rows, _MIN_DEAD_ROWS)

    def without_dead(self) -> Table:
        """A table of the live documents. To be called by the thread that changes this one."""
        alive = np.array(self._alive, np.bool_)
        rows = np.flatnonzero(alive[self._owners[: self._rows]])
        other = Table(self._vectors.shape[1])
        other._documents = [self._documents[number] for number in np.flatnonzero(alive)]
        other._numbers = {one.id: number for number, one in enumerate(other._documents)}
        other._order = self._order.copy()
        other._alive = bytearray(b"\1" * len(other._documents))
        other._columns = self._columns.keep(alive)
        sizes = [len(one.chunks) for one in other._documents]
        other._first_rows = [0, *accumulate(sizes)][:-1]
        other._vectors = self._vectors[rows]
        other._inverse_lengths = self._inverse_lengths[rows]
        other._owners = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        other._rows = other._live_rows = len(rows)
        return other

    def _select(self, where: Filter | None) -> NDArray[np.intp] | None:
        """The rows of live documents that match; None for every row."""
        if where is None and self._rows == self._live_rows:
            return None
        chosen = np.array(self._alive, np.bool_)
        if where is not None:
            chosen &= self._columns.select(where)
        return np.flatnonzero(chosen[self._owners[: self._rows]])

    def _stored(self, number: int) -> Stored:
        document = self._documents[number]
        first = self._first_rows[number]
        return Stored(document, self._vectors[first : first + len(document.chunks)].copy())

    def _make_room(self, rows: int) -> None:
        wanted = self._rows + rows
        if wanted <= len(self._vectors):
            return
        # What is not written to yet takes no memory.
        room = wanted + wanted // 2
        longer = [
            _longer(values, self._rows, room)
            for values in (self._vectors, self._inverse_lengths, self._owners)
        ]
        with self._lock:
            self._vectors, self._inverse_lengths, self._owners = longer

    def _append(self, stored: Stored, inverse_lengths: NDArray[np.float64]) -> None:
        number = len(self._documents)
        self._numbers[stored.document.id] = number
        self._documents.append(stored.document)
        self._first_rows.append(self._rows)
        self._alive.append(True)
        self._columns.add(stored.document.metadata)
        rows = slice(self._rows, self._rows + len(stored.vectors))
        self._vectors[rows] = stored.vectors
        self._inverse_lengths[rows] = inverse_lengths
        self._owners[rows] = number
        self._rows = rows.stop
        self._live_rows += len(stored.vectors)

    def _kill(self, one: str) -> bool:
        number = self._numbers.pop(one, None)
        if number is None:
            return False
        self._alive[number] = False
        self._live_rows -= len(self._documents[number].chunks)
        return True


def _longer(values: NDArray[Any], used: int, length: int) -> NDArray[Any]:
    longer = np.empty((length, *values.shape[1:]), values.dtype)
    longer[:used] = values[:used]
    return longer
