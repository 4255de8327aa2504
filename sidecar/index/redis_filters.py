"""Filters as expressions that Redis evaluates on the attributes of a vector set's elements.

An expression is false as a whole if it names an attribute that an element lacks, numbers and truth
values are equal, and nothing in it stops at the first part that decides. So each field becomes:

- tokens in the array ``t`` that every document has: one of the field and its value, for equality,
  and one of the field, for its presence;
- ``v_FIELD``, the token of its value, to look for among many values;
- ``n_FIELD`` if it is a number, for ranges.

A condition that only holds up on documents that have the field becomes an expression of its own,
and the documents that pass the filter are those that pass one of the expressions.
"""

from __future__ import annotations

import itertools
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from sidecar.cache.keys import digest
from sidecar.index.filters import And, In, Not, Or, Range, canonical_scalar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar

# Each is one more search.
_MAX_EXPRESSIONS = 8
# Looking at the tokens of a document costs about as much as comparing 30 values.
_FEW_VALUES = 4
# 72 bits: a token never means two things.
_TOKEN_BYTES = 9
# Redis reads at most 256 characters of a number, and no negative exponent.
_SMALLEST = 1e-200

_TRUE = "1"


@dataclass(frozen=True, slots=True)
class _Expressions:
    """A union: ``anywhere`` can be evaluated for every document, ``others`` cannot."""

    anywhere: str | None
    others: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return self.others if self.anywhere is None else (self.anywhere, *self.others)


def attributes(metadata: Mapping[str, Scalar]) -> dict[str, object]:
    """What the expressions of `expressions` look at, to be written as JSON."""
    tokens: list[str] = []
    values: dict[str, object] = {}
    for field, value in metadata.items():
        token = _token(field, value)
        number = not isinstance(value, (str, bool))
        tokens += [token, _presence(field, number=number)]
        values[f"v_{field}"] = token
        if number:
            values[f"n_{field}"] = value
    # The tokens come first, where they are found soonest.
    return {"t": tokens, **values}


def expressions(where: Filter) -> tuple[str, ...]:
    """Expressions of which one holds for every document that passes; none if no document can.

    They may also hold for documents that do not pass: if there would have to be more than eight
    expressions, and for bounds of less than 1e-200. So `matches` has the last word.
    """
    return _translate(where, wanted=True).all


def _translate(where: Filter, *, wanted: bool) -> _Expressions:
    """The documents for which ``where`` is ``wanted``."""
    match where:
        case In(field, values):
            return _in(field, values, wanted=wanted)
        case Range(field):
            return _range(where, wanted=wanted)
        case And(conditions) | Or(conditions):
            parts = [_translate(condition, wanted=wanted) for condition in conditions]
            return _both(parts) if isinstance(where, And) == wanted else _either(parts)
        case Not(condition):
            return _translate(condition, wanted=not wanted)


def _in(field: str, values: Sequence[Scalar], *, wanted: bool) -> _Expressions:
    tokens = sorted({_token(field, value) for value in values})
    if len(tokens) <= _FEW_VALUES:
        found = _any([_has(token) for token in tokens])
        if wanted:
            return _Expressions(found)
        return _Expressions(_TRUE if found is None else _not(found))
    one_of = f"(.v_{field} in [{','.join(map(_quoted, tokens))}])"
    if wanted:
        return _Expressions(None, (one_of,))
    return _Expressions(_not(_present(field)), (_not(one_of),))


def _range(bounds: Range, *, wanted: bool) -> _Expressions:
    number = _has(_presence(bounds.field, number=True))
    name = f".n_{bounds.field}"
    inside: list[str] = []
    outside: list[str] = []
    for bound, operator, opposite in (
        (bounds.above, ">", "<="),
        (bounds.least, ">=", "<"),
        (bounds.below, "<", ">="),
        (bounds.most, "<=", ">"),
    ):
        if bound is not None:
            inside.append(_comparison(name, operator, bound))
            outside.append(_comparison(name, opposite, bound))
    if wanted:
        return _Expressions(None, (_all(inside),)) if inside else _Expressions(number)
    found = _any(outside)
    return _Expressions(_not(number), () if found is None else (found,))


def _both(parts: Sequence[_Expressions]) -> _Expressions:
    """The documents that are in all of the unions: all ways to choose one of each."""
    result = _Expressions(_TRUE)
    for part in parts:
        if not part.all:
            return _Expressions(None)
        if len(result.all) * len(part.all) > _MAX_EXPRESSIONS:
            # Without this part there are more documents, but none is missing.
            continue
        anywhere = None
        if result.anywhere is not None and part.anywhere is not None:
            anywhere = _all([result.anywhere, part.anywhere])
        pairs = itertools.product(result.all, part.all)
        others = [_all(pair) for pair in pairs if pair != (result.anywhere, part.anywhere)]
        result = _Expressions(anywhere, tuple(others))
    return result


def _either(parts: Sequence[_Expressions]) -> _Expressions:
    anywhere = _any([part.anywhere for part in parts if part.anywhere is not None])
    others = tuple(dict.fromkeys(other for part in parts for other in part.others))
    union = _Expressions(anywhere, others)
    return union if len(union.all) <= _MAX_EXPRESSIONS else _Expressions(_TRUE)


def _all(texts: Sequence[str]) -> str:
    texts = [text for text in texts if text != _TRUE]
    return f"({' and '.join(texts)})" if texts else _TRUE


def _any(texts: Sequence[str]) -> str | None:
    if not texts:
        return None
    return _TRUE if _TRUE in texts else f"({' or '.join(texts)})"


def _comparison(name: str, operator: str, bound: float) -> str:
    if 0 < abs(bound) < _SMALLEST:
        # Rounded away from where the numbers are that pass.
        bound = _SMALLEST if operator.startswith("<") else -_SMALLEST
    text = repr(float(bound)).replace("+", "")
    if "e-" in text:
        text = format(Decimal(text), "f")
    return f"{name} {operator} {text}"


def _present(field: str) -> str:
    kinds = (_presence(field, number=number) for number in (False, True))
    return f"({' or '.join(map(_has, kinds))})"


def _not(text: str) -> str:
    return f"(not {text})"


def _has(token: str) -> str:
    return f"({_quoted(token)} in .t)"


def _quoted(token: str) -> str:
    return f'"{token}"'


def _token(field: str, value: Scalar) -> str:
    return _short(b"is", field.encode(), canonical_scalar(value))


def _presence(field: str, *, number: bool) -> str:
    return _short(b"number" if number else b"other", field.encode())


def _short(*parts: bytes) -> str:
    return urlsafe_b64encode(digest(*parts)[:_TOKEN_BYTES]).decode()
