"""Conditions on metadata: ``(field("year") >= 2000) & (field("lang") == "en")``."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from embercache._fields import unicode_only
from embercache.errors import InvalidArgumentError
from embercache.v1 import search_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

Scalar: TypeAlias = str | float | bool
"""A value of metadata. Strings, numbers and truth values are three types: 1 is not ``True``."""

Where: TypeAlias = "Filter | Mapping[str, Scalar]"
"""A filter, or the values that fields must have."""


class Filter:
    """A condition; join them with ``&`` and ``|``, and negate them with ``~``.

    A comparison with a field that a document lacks, or whose value is of another type, is false;
    its negation is true.
    """

    __slots__ = ("message",)

    def __init__(self, message: search_pb2.Filter) -> None:
        self.message = message

    def __and__(self, other: Filter) -> Filter:
        return Filter(_joined("and", [*_parts(self, "and"), *_parts(_filter(other, "&"), "and")]))

    def __or__(self, other: Filter) -> Filter:
        return Filter(_joined("or", [*_parts(self, "or"), *_parts(_filter(other, "|"), "or")]))

    def __invert__(self) -> Filter:
        message = search_pb2.Filter()
        getattr(message, "not").CopyFrom(self.message)
        return Filter(message)

    def __bool__(self) -> bool:
        raise TypeError(
            "a filter is neither true nor false before it is sent: join filters with &, | and ~ "
            "(not and, or, not), and write a range as (field(x) > 1) & (field(x) < 5)"
        )


class Field:
    """A field of metadata. Comparing it makes a `Filter`: ``==``, ``!=``, ``<``, ``<=``, ``>``,
    ``>=`` and `is_in`.

    ``!=`` is the negation of ``==``, so it is true of documents without the field too.
    """

    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]
    __array_ufunc__ = None  # an array is no value, so it is not compared one by one

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of a field is a {type(name).__name__}; give a str")
        self.name = name

    def __eq__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return _equal(self.name, value)

    def __ne__(self, value: Scalar) -> Filter:  # type: ignore[override]
        return ~_equal(self.name, value)

    def __gt__(self, bound: float) -> Filter:
        return self._range(gt=self._bound(bound))

    def __ge__(self, bound: float) -> Filter:
        return self._range(gte=self._bound(bound))

    def __lt__(self, bound: float) -> Filter:
        return self._range(lt=self._bound(bound))

    def __le__(self, bound: float) -> Filter:
        return self._range(lte=self._bound(bound))

    def is_in(self, values: Iterable[Scalar]) -> Filter:
        """Its value is one of these."""
        if isinstance(values, str):
            raise TypeError("is_in takes a list of values, not a single str")
        message = search_pb2.Filter()
        with unicode_only():
            getattr(message, "in").key = self.name
        getattr(message, "in").values.extend(metadata_value(self.name, each) for each in values)
        return Filter(message)

    def _range(self, **bounds: float) -> Filter:
        with unicode_only():
            return Filter(search_pb2.Filter(range=search_pb2.Filter.Range(key=self.name, **bounds)))

    def _bound(self, value: float) -> float:
        if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
            raise TypeError(
                f"{self.name} is compared with a {type(value).__name__}; ranges are of numbers"
            )
        return _number(self.name, value)


def field(name: str) -> Field:
    """The field of that name, to be compared: ``field("year") >= 2000``."""
    return Field(name)


def metadata_value(name: str, value: object) -> search_pb2.MetadataValue:
    """A value as it is sent.

    Raises `TypeError` if it is no str, number or bool, `InvalidArgumentError` for numbers that a
    float64 cannot hold.
    """
    if isinstance(value, str):
        with unicode_only():
            return search_pb2.MetadataValue(text=value)
    if isinstance(value, bool | np.bool_):
        return search_pb2.MetadataValue(flag=bool(value))
    if isinstance(value, numbers.Real):
        return search_pb2.MetadataValue(number=_number(name, value))
    hint = f'; for one of several, use field("{name}").is_in(...)' if _is_several(value) else ""
    raise TypeError(f"{name} is a {type(value).__name__}; give a str, a number or a bool{hint}")


def where_message(where: Where) -> search_pb2.Filter | None:
    """A filter as it is sent; None if it holds for all documents."""
    if isinstance(where, Filter):
        return where.message
    if not isinstance(where, Mapping):
        raise TypeError(
            f'where is a {type(where).__name__}; give {{"lang": "en"}} or field("lang") == "en"'
        )
    parts = [_equal(Field(name).name, value).message for name, value in where.items()]
    if len(parts) > 1:
        return _joined("and", parts)
    return parts[0] if parts else None


def _equal(name: str, value: object) -> Filter:
    with unicode_only():
        equal = search_pb2.Filter.Equal(key=name, value=metadata_value(name, value))
    return Filter(search_pb2.Filter(equal=equal))


def _number(name: str, value: numbers.Real | float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InvalidArgumentError(f"{name} is compared with a number that is not finite")
    if isinstance(value, numbers.Integral) and number != value:
        raise InvalidArgumentError(
            f"{name} is a whole number of more than 53 bits, which would be rounded; give a str"
        )
    return number


def _joined(kind: str, parts: list[search_pb2.Filter]) -> search_pb2.Filter:
    message = search_pb2.Filter()
    getattr(message, kind).filters.extend(parts)
    return message


def _parts(of: Filter, kind: str) -> list[search_pb2.Filter]:
    """What is joined already, so that the order in which three are joined does not matter."""
    if of.message.WhichOneof("condition") == kind:
        return list(getattr(of.message, kind).filters)
    return [of.message]


def _filter(other: object, sign: str) -> Filter:
    if not isinstance(other, Filter):
        raise TypeError(
            f"{sign} joins two filters, not a filter and a {type(other).__name__}; put each "
            "comparison in parentheses"
        )
    return other


def _is_several(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset | np.ndarray)
