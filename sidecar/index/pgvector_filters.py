"""Filters as conditions of SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.sql import SQL, Composable
from psycopg.types.json import Jsonb

from sidecar.index.filters import And, In, Not, Or, Range
from sidecar.index.pgvector_rows import stored

if TYPE_CHECKING:
    from sidecar.index.filters import Filter


def condition(where: Filter | None) -> tuple[Composable, list[object]]:
    """A condition on the column ``metadata`` of type jsonb, and its parameters.

    It is true or false, never null. Comparisons of jsonb tell types apart as `matches` does.
    """
    parameters: list[object] = []
    return SQL("true") if where is None else _translate(where, parameters), parameters


def _translate(where: Filter, parameters: list[object]) -> Composable:
    match where:
        case In(field, values):
            parameters += [field, [Jsonb(stored(value)) for value in values]]
            return SQL("coalesce(metadata -> %s::text = any(%s::jsonb[]), false)")
        case Range():
            return _range(where, parameters)
        case And(conditions):
            return _join(SQL(" and "), conditions, parameters, empty=SQL("true"))
        case Or(conditions):
            return _join(SQL(" or "), conditions, parameters, empty=SQL("false"))
        case Not(negated):
            return SQL("not ({})").format(_translate(negated, parameters))


def _range(bounds: Range, parameters: list[object]) -> Composable:
    comparisons = [SQL("coalesce(jsonb_typeof(metadata -> %s::text) = 'number', false)")]
    parameters.append(bounds.field)
    for bound, comparison in (
        (bounds.above, SQL("metadata -> %s::text > %s")),
        (bounds.least, SQL("metadata -> %s::text >= %s")),
        (bounds.below, SQL("metadata -> %s::text < %s")),
        (bounds.most, SQL("metadata -> %s::text <= %s")),
    ):
        if bound is not None:
            parameters += [bounds.field, Jsonb(float(bound))]
            comparisons.append(comparison)
    return SQL("({})").format(SQL(" and ").join(comparisons))


def _join(
    operator: SQL, conditions: tuple[Filter, ...], parameters: list[object], *, empty: SQL
) -> Composable:
    if not conditions:
        return empty
    parts = [_translate(one, parameters) for one in conditions]
    return SQL("({})").format(operator.join(parts))
