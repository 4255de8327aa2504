"""Conditions on metadata, with one meaning in every index.

A comparison with a field that a document does not have, or whose value is of another type, is
false; `Not` makes of it true. Strings, numbers and truth values are three types: ``True`` does not
equal ``1``. Fields and numbers are as `sidecar.services.search_request` lets them through.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import TYPE_CHECKING, TypeAlias

from sidecar.cache.keys import canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.index.types import Scalar

_NUMBER = struct.Struct("<d")


@dataclass(frozen=True, slots=True)
class In:
    """The field has one of the values. Equality is `In` with one value."""

    field: str
    values: tuple[Scalar, ...]
    # By type and value, for there may be many: ``True == 1`` would mix two of them.
    _known: frozenset[tuple[type, Scalar]] = dataclass_field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        known = frozenset((_kind(value), value) for value in self.values)
        object.__setattr__(self, "_known", known)

    def has(self, value: Scalar) -> bool:
        """Whether this is one of the values."""
        return (_kind(value), value) in self._known


@dataclass(frozen=True, slots=True)
class Range:
    """The field is a number within bounds; None is no bound.

    ``above`` and ``below`` do not belong to the range, ``least`` and ``most`` do.
    """

    field: str
    above: float | None = None
    least: float | None = None
    below: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class And:
    """All of the conditions hold; true if there are none."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the conditions holds; false if there are none."""

    conditions: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The condition does not hold."""

    condition: Filter


Filter: TypeAlias = In | Range | And | Or | Not


def matches(where: Filter, metadata: Mapping[str, Scalar]) -> bool:
    """Whether a document with this metadata passes."""
    match where:
        case In(field):
            value = metadata.get(field)
            return value is not None and where.has(value)
        case Range(field):
            return _is_within(where, metadata.get(field))
        case And(conditions):
            return all(matches(condition, metadata) for condition in conditions)
        case Or(conditions):
            return any(matches(condition, metadata) for condition in conditions)
        case Not(condition):
            return not matches(condition, metadata)


def cost(where: Filter) -> int:
    """How many comparisons `matches` makes at most."""
    match where:
        case And(conditions) | Or(conditions):
            return sum(map(cost, conditions)) or 1
        case Not(condition):
            return cost(condition)
        case _:
            return 1


def canonical_filter(where: Filter | None) -> bytes:
    """Bytes that are equal for filters that differ in the order or repetition of their parts."""
    match where:
        case None:
            return b""
        case In(field, values):
            return canonical([b"in", field.encode(), *sorted(set(map(canonical_scalar, values)))])
        case Range(field, above, least, below, most):
            bounds = [
                b"" if x is None else _NUMBER.pack(x + 0.0) for x in (above, least, below, most)
            ]
            return canonical([b"range", field.encode(), *bounds])
        case And(conditions):
            return canonical([b"and", *sorted(set(map(canonical_filter, conditions)))])
        case Or(conditions):
            return canonical([b"or", *sorted(set(map(canonical_filter, conditions)))])
        case Not(condition):
            return canonical([b"not", canonical_filter(condition)])


def canonical_scalar(value: Scalar) -> bytes:
    """Bytes that are equal for equal values of the same type only."""
    if isinstance(value, bool):
        return b"b1" if value else b"b0"
    if isinstance(value, str):
        return b"s" + value.encode()
    # Adding zero makes one of the two zeros.
    return b"n" + _NUMBER.pack(value + 0.0)


def _kind(value: Scalar) -> type:
    if isinstance(value, bool):
        return bool
    return str if isinstance(value, str) else float


def _is_within(bounds: Range, value: Scalar | None) -> bool:
    if value is None or isinstance(value, (bool, str)):
        return False
    return (
        (bounds.above is None or value > bounds.above)
        and (bounds.least is None or value >= bounds.least)
        and (bounds.below is None or value < bounds.below)
        and (bounds.most is None or value <= bounds.most)
    )
