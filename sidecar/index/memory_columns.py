"""Metadata by field, so that a filter is a few operations on arrays."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sidecar.index.filters import And, In, Not, Or, Range

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar

Mask: TypeAlias = NDArray[np.bool_]

_NUMBER = -1


class Columns:
    """The metadata of documents that are numbered in the order in which they are added.

    Takes memory for the values that there are, not for every field of every document.
    """

    def __init__(self) -> None:
        self._columns: dict[str, _Column] = {}
        self._count = 0

    def add(self, metadata: Mapping[str, Scalar]) -> None:
        """Adds the next document."""
        for field, value in metadata.items():
            column = self._columns.get(field)
            if column is None:
                column = self._columns[field] = _Column()
            column.add(self._count, value)
        self._count += 1

    def select(self, where: Filter) -> Mask:
        """Tells of each document whether it `matches`."""
        match where:
            case In(field, values):
                column = self._columns.get(field)
                return self._mask(None if column is None else column.among(values))
            case Range(field):
                column = self._columns.get(field)
                return self._mask(None if column is None else column.within(where))
            case And(conditions):
                selected = np.ones(self._count, np.bool_)
                for condition in conditions:
                    selected &= self.select(condition)
                return selected
            case Or(conditions):
                selected = np.zeros(self._count, np.bool_)
                for condition in conditions:
                    selected |= self.select(condition)
                return selected
            case Not(condition):
                return ~self.select(condition)

    def keep(self, kept: Mask) -> Columns:
        """Those documents only, numbered anew in the same order."""
        numbers = np.cumsum(kept, dtype=np.int32) - 1
        columns = Columns()
        columns._count = int(kept.sum())
        for field, column in self._columns.items():
            some = column.keep(kept, numbers)
            if some is not None:
                columns._columns[field] = some
        return columns

    def _mask(self, numbers: NDArray[np.int32] | None) -> Mask:
        mask = np.zeros(self._count, np.bool_)
        if numbers is not None:
            mask[numbers] = True
        return mask


class _Column:
    """The values of one field, one entry for each document that has it.

    A string or truth value is stored as its place in a table; a number as itself.
    """

    def __init__(self) -> None:
        self._documents = array("i")
        self._codes = array("i")
        self._numbers = array("d")
        self._table: dict[str | bool, int] = {}

    def add(self, document: int, value: Scalar) -> None:
        number = np.nan
        code = _NUMBER
        if isinstance(value, (str, bool)):
            code = self._table.setdefault(value, len(self._table))
        else:
            number = value
        self._documents.append(document)
        self._codes.append(code)
        self._numbers.append(number)

    def among(self, values: Sequence[Scalar]) -> NDArray[np.int32]:
        """The documents whose value is one of these."""
        named = [value for value in values if isinstance(value, (str, bool))]
        codes = [self._table[value] for value in named if value in self._table]
        numbers = [value for value in values if not isinstance(value, (str, bool))]
        found = np.zeros(len(self._documents), np.bool_)
        if codes:
            found |= np.isin(_view(self._codes), np.array(codes, np.int32))
        if numbers:
            found |= np.isin(_view(self._numbers), np.array(numbers, np.float64))
        return self._where(found)

    def within(self, bounds: Range) -> NDArray[np.int32]:
        """The documents whose value is a number within the bounds."""
        # What is not a number is NaN among the numbers, and no comparison with it is true.
        found = _view(self._codes) == _NUMBER
        if bounds.above is not None:
            found &= _view(self._numbers) > bounds.above
        if bounds.least is not None:
            found &= _view(self._numbers) >= bounds.least
        if bounds.below is not None:
            found &= _view(self._numbers) < bounds.below
        if bounds.most is not None:
            found &= _view(self._numbers) <= bounds.most
        return self._where(found)

    def keep(self, kept: Mask, numbers: NDArray[np.int32]) -> _Column | None:
        """The entries of the documents that are kept, under their new numbers; None if none is."""
        documents = _view(self._documents)
        entries = np.flatnonzero(kept[documents])
        if not len(entries):
            return None
        some = _Column()
        some._documents.frombytes(numbers[documents[entries]].tobytes())
        some._numbers.frombytes(_view(self._numbers)[entries].tobytes())
        # Values that nothing has any more leave the table.
        codes, places = np.unique(_view(self._codes)[entries], return_inverse=True)
        values = list(self._table)
        named = [values[code] for code in codes if code != _NUMBER]
        some._table = {value: code for code, value in enumerate(named)}
        first = _NUMBER if codes[0] == _NUMBER else 0
        some._codes.frombytes((places + first).astype(np.int32).tobytes())
        return some

    def _where(self, found: Mask) -> NDArray[np.int32]:
        documents: NDArray[np.int32] = _view(self._documents)[found]
        return documents


def _view(values: array[int] | array[float]) -> NDArray[Any]:
    """The same memory as an array. The values cannot grow while it is referred to: give it no name,
    for an exception would keep it."""
    return np.frombuffer(values, np.dtype(values.typecode))
