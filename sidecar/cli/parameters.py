"""Types of parameters that several commands take."""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from typing import TYPE_CHECKING, Any

import click
from embercache import Filter, InvalidArgumentError, field

if TYPE_CHECKING:
    from collections.abc import Sequence

_CONDITION = re.compile(r"\s*(\w+)\s*(<=|>=|!=|=|<|>)(.*)", re.DOTALL)
_COMPARISONS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class NumberType(click.FloatRange):
    """A number within a range, which "nan" and "inf" are not."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click asks for it."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is no number to reckon with", param, ctx)
        return number


class ConditionType(click.ParamType[Filter]):
    """A condition on one field of metadata, like ``lang=en`` or ``year>=2000``.

    Numbers, ``true`` and ``false`` are read as such, ``"2000"`` in quotes is a string, and
    ``["en", "de"]`` is any of the values.
    """

    name = "condition"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Filter:
        """As click asks for it."""
        if isinstance(value, Filter):
            return value
        match = _CONDITION.fullmatch(value)
        if match is None:
            self.fail('write a field and a value, like lang=en or "year>=2000"', param, ctx)
        name, sign, written = match.groups()
        meant = _meant(written.strip())
        try:
            if isinstance(meant, list) and sign in ("=", "!="):
                among = field(name).is_in(meant)
                return among if sign == "=" else ~among
            condition: Filter = _COMPARISONS[sign](field(name), meant)
        except TypeError as error:
            self.fail(str(error), param, ctx)
        except InvalidArgumentError as error:
            self.fail(error.message, param, ctx)
        return condition


def all_of(conditions: Sequence[Filter]) -> Filter | None:
    """A filter that holds if all of the conditions do; None if there are none."""
    return functools.reduce(operator.and_, conditions) if conditions else None


def _meant(written: str) -> Any:
    """The JSON value that is written, if it is one that metadata can have, else the text."""
    try:
        value = json.loads(written, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return written
    return value if isinstance(value, str | int | float | list) else written


def _refuse(name: str) -> None:
    raise ValueError(name)
