"""The documents of one collection in memory: changed by one thread, read by many."""

from __future__ import annotations

import heapq
from array import array
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.index.memory_columns import Columns
from sidecar.index.memory_documents import Packed, memory_of, read_body
from sidecar.index.memory_order import OrderedIds
from sidecar.index.memory_scan import nearest
from sidecar.index.types import Hit, Revision
from sidecar.index.vectors import unit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from sidecar.index.filters import Filter
    from sidecar.index.types import Vector

_MIN_DEAD_ROWS = 1024


class Table:
    """Documents by number and their vectors by row, both in the order in which they came.

    ``bytes`` are what the live documents take, see `memory_of`. A document that is replaced or
    deleted is only marked as dead, and what came later has other rows: so a search that has noted
    under the lock how many rows there are and which of them count goes on without it. When too many
    are dead, `without_dead` makes another table.
    """

    def __init__(self, dimensions: int) -> None:
        self._lock = Lock()
        self._numbers: dict[str, int] = {}
        self._order = OrderedIds()
        # By number.
        self._ids: list[str] = []
        self._contents: list[bytes] = []
        self._wholes: list[bytes] = []
        self._bodies: list[bytes] = []
        # One more, for where the rows of the last document end.
        self._first_rows = [0]
        self._alive = bytearray()
        self._costs = array("q")
        self._columns = Columns()
        # By row, with room for more.
        self._vectors: Vector = np.empty((0, dimensions), np.float32)
        self._inverse_lengths: Vector = np.empty(0, np.float32)
        self._owners: NDArray[np.int32] = np.empty(0, np.int32)
        self._rows = 0
        self._live_rows = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._numbers)

    def bytes_of(self, ids: Sequence[str]) -> int:
        """What those of these documents take that are here, as in ``bytes``."""
        with self._lock:
            return sum(self._costs[self._numbers[one]] for one in ids if one in self._numbers)

    @property
    def is_sparse(self) -> bool:
        """Whether more than half is dead."""
        return self._rows - self._live_rows > max(self._live_rows, _MIN_DEAD_ROWS)

    def revisions(self, ids: Sequence[str]) -> list[Revision | None]:
        """As `Index.revisions`."""
        with self._lock:
            found = [self._numbers.get(one) for one in ids]
            return [None if number is None else self._revision(number) for number in found]

    def get(self, one: str) -> Packed | None:
        """The document with that id."""
        with self._lock:
            number = self._numbers.get(one)
            return None if number is None else self._packed(number)

    def page(self, after: str, count: int) -> list[Packed]:
        """Documents in order of id, from the first whose id is greater than ``after``."""
        with self._lock:
            return [self._packed(self._numbers[one]) for one in self._order.after(after, count)]

    def search(self, vector: Vector, count: int, where: Filter | None) -> list[Hit]:
        """As `Index.search`."""
        with self._lock:
            # No later change touches what these arrays hold up to here, nor the lists.
            vectors = self._vectors[: self._rows]
            inverse_lengths = self._inverse_lengths[: self._rows]
            owners = self._owners[: self._rows]
            rows = self._select(where)
        rows, scores = nearest(vectors, inverse_lengths, rows, unit(vector), count)

        def hit(row: int, score: float) -> Hit:
            number = owners[row]
            body = read_body(self._bodies[number])
            chunk, text = body.chunks[row - self._first_rows[number]]
            return Hit(self._ids[number], chunk, score, text, body.metadata, body.tags)

        hits = map(hit, rows.tolist(), scores.tolist())
        return heapq.nsmallest(count, hits, key=lambda hit: (-hit.score, hit.document, hit.chunk))

    def put(self, documents: Sequence[Packed]) -> None:
        """Adds one document or more; each replaces the one that has its id."""
        bodies = [read_body(one.body) for one in documents]
        sizes = [len(one.vectors) for one in documents]
        self._make_room(sum(sizes))
        self._fill(documents, sizes)
        with self._lock:
            for packed, body in zip(documents, bodies, strict=True):
                if not self._kill(packed.id):
                    self._order.add(packed.id)
                self._numbers[packed.id] = len(self._ids)
                self._ids.append(packed.id)
                self._contents.append(packed.revision.content)
                self._wholes.append(packed.revision.whole)
                self._bodies.append(packed.body)
                self._alive.append(True)
                self._costs.append(memory_of(packed, len(body.metadata)))
                self.bytes += self._costs[-1]
                self._columns.add(body.metadata)
                self._first_rows.append(self._first_rows[-1] + len(packed.vectors))
            self._rows = self._first_rows[-1]
            self._live_rows += sum(sizes)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes documents that are there."""
        with self._lock:
            for one in ids:
                if self._kill(one):
                    self._order.remove(one)

    def without_dead(self) -> Table:
        """A table of the live documents. To be called by the thread that changes this one."""
        alive = np.array(self._alive, np.bool_)
        kept = np.flatnonzero(alive).tolist()
        rows = np.flatnonzero(alive[self._owners[: self._rows]])
        sizes = [self._size(number) for number in kept]
        other = Table(self._vectors.shape[1])
        other._ids = [self._ids[number] for number in kept]
        other._contents = [self._contents[number] for number in kept]
        other._wholes = [self._wholes[number] for number in kept]
        other._bodies = [self._bodies[number] for number in kept]
        other._first_rows = [0, *accumulate(sizes)]
        other._numbers = {one: number for number, one in enumerate(other._ids)}
        other._order = self._order.copy()
        other._alive = bytearray(b"\1" * len(kept))
        other._costs = array("q", (self._costs[number] for number in kept))
        other.bytes = self.bytes
        other._columns = self._columns.keep(alive)
        other._vectors = self._vectors[rows]
        other._inverse_lengths = self._inverse_lengths[rows]
        other._owners = np.repeat(np.arange(len(kept), dtype=np.int32), sizes)
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

    def _size(self, number: int) -> int:
        return self._first_rows[number + 1] - self._first_rows[number]

    def _revision(self, number: int) -> Revision:
        return Revision(self._contents[number], self._wholes[number])

    def _packed(self, number: int) -> Packed:
        rows = slice(self._first_rows[number], self._first_rows[number + 1])
        vectors = self._vectors[rows].copy()
        return Packed(self._ids[number], self._revision(number), self._bodies[number], vectors)

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

    def _fill(self, documents: Sequence[Packed], sizes: list[int]) -> None:
        """Writes rows that nobody looks at yet."""
        vectors = np.concatenate([one.vectors for one in documents])
        rows = slice(self._rows, self._rows + len(vectors))
        self._vectors[rows] = vectors
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        self._inverse_lengths[rows] = 1 / np.sqrt(squares)
        numbers = np.arange(len(documents), dtype=np.int32) + len(self._ids)
        self._owners[rows] = np.repeat(numbers, sizes)

    def _kill(self, one: str) -> bool:
        number = self._numbers.pop(one, None)
        if number is None:
            return False
        self._alive[number] = False
        self.bytes -= self._costs[number]
        self._live_rows -= self._size(number)
        return True


def _longer(values: NDArray[Any], used: int, length: int) -> NDArray[Any]:
    longer = np.empty((length, *values.shape[1:]), values.dtype)
    longer[:used] = values[:used]
    return longer
