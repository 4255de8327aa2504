"""Filters as expressions that Redis evaluates on the attributes of a vector set's elements.

An expression is false as a whole if it names an attribute that an element lacks, numbers and truth
values are equal, and nothing in it stops at the first part that decides. So each field becomes:

- a token of the field and its value in the array ``t``, which every document has, for equality;
- a token of the field and whether it is a number in the array ``p``, likewise, for its presence;
- ``v_FIELD``, the token of its value, to look for among many values;
- ``n_FIELD`` if it is a number, for ranges.

A condition that can only be put to documents with the field becomes an expression of its own, and
the documents that pass the filter are those that pass one of the expressions.
"""

from __future__ import annotations

import itertools
import re
from base64 import urlsafe_b64encode
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from sidecar.cache.keys import digest
from sidecar.index.filters import And, In, Not, Or, Range, canonical_scalar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sidecar.index.filters import Filter
    from sidecar.index.types import Scalar

# Each is one more search.
_MAX_EXPRESSIONS = 8
# All chunks of a collection may have to be compared, and each comparison takes up to 0.4 us.
_MAX_COMPARISONS = 64
# Looking for a token among those of a document costs about as much as comparing 30 values.
_FEW_VALUES = 4
# 72 bits: a token never means two things.
_TOKEN_BYTES = 9
# Redis reads at most 256 characters of a number, and no negative exponent.
_SMALLEST = 1e-200

_TRUE = "1"

# By the attributes that an element must have, an expression for the elements that have them. A
# document passes if one of the expressions holds.
_Union: TypeAlias = "Mapping[frozenset[str], str]"
_ANYWHERE: frozenset[str] = frozenset()
_ALL: _Union = {_ANYWHERE: _TRUE}


def attributes(metadata: Mapping[str, Scalar]) -> dict[str, object]:
    """What the expressions of `expressions` look at, to be written as JSON."""
    tokens: list[str] = []
    present: list[str] = []
    values: dict[str, object] = {}
    for field, value in metadata.items():
        token = _token(field, value)
        number = not isinstance(value, (str, bool))
        tokens.append(token)
        present.append(_presence(field, number=number))
        values[f"v_{field}"] = token
        if number:
            values[f"n_{field}"] = value
    # The tokens come first, where they are found soonest.
    return {"t": tokens, "p": present, **values}


def expressions(where: Filter) -> tuple[str, ...]:
    """Expressions of which one holds for every document that passes; none if no document can.

    They may also hold for documents that do not pass: if there would have to be more than eight
    expressions or 64 comparisons, and for bounds of less than 1e-200. So `matches` has the last
    word.
    """
    return tuple(_translate(where, wanted=True).values())


def _translate(where: Filter, *, wanted: bool) -> _Union:
    """The documents for which ``where`` is ``wanted``."""
    match where:
        case In(field, values):
            return _in(field, values, wanted=wanted)
        case Range():
            return _range(where, wanted=wanted)
        case And(conditions) | Or(conditions):
            parts = [_translate(condition, wanted=wanted) for condition in conditions]
            return _both(parts) if isinstance(where, And) == wanted else _either(parts)
        case Not(condition):
            return _translate(condition, wanted=not wanted)


def _in(field: str, values: Sequence[Scalar], *, wanted: bool) -> _Union:
    tokens = sorted({_token(field, value) for value in values})
    if not tokens:
        return {} if wanted else _ALL
    if len(tokens) <= _FEW_VALUES:
        found = _any([_has(token) for token in tokens])
        return {_ANYWHERE: found if wanted else _not(found)}
    one_of = f"(.v_{field} in [{','.join(map(_quoted, tokens))}])"
    if wanted:
        return {frozenset([f"v_{field}"]): one_of}
    return {_ANYWHERE: _not(_present(field)), frozenset([f"v_{field}"]): _not(one_of)}


def _range(bounds: Range, *, wanted: bool) -> _Union:
    number = _has(_presence(bounds.field, number=True), among="p")
    name = f"n_{bounds.field}"
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
    if not inside:
        return {_ANYWHERE: number if wanted else _not(number)}
    if wanted:
        return {frozenset([name]): _all(inside)}
    return {_ANYWHERE: _not(number), frozenset([name]): _any(outside)}


def _both(parts: Sequence[_Union]) -> _Union:
    """The documents that are in all of the unions."""
    result = _ALL
    for part in parts:
        if not part:
            return {}
        product: dict[frozenset[str], list[str]] = defaultdict(list)
        for (some, one), (more, other) in itertools.product(result.items(), part.items()):
            product[some | more].append(_all([one, other]))
        found = _joined(product)
        # Without this part there are more documents, but none is missing.
        if _is_cheap(found):
            result = found
    return result


def _either(parts: Sequence[_Union]) -> _Union:
    """The documents that are in one of the unions."""
    union: dict[frozenset[str], list[str]] = defaultdict(list)
    for part in parts:
        for fields, text in part.items():
            union[fields].append(text)
    found = _joined(union)
    return found if found.get(_ANYWHERE) != _TRUE and _is_cheap(found) else _ALL


def _joined(texts: Mapping[frozenset[str], Sequence[str]]) -> _Union:
    return {fields: _any(list(dict.fromkeys(several))) for fields, several in texts.items()}


def _is_cheap(union: _Union) -> bool:
    comparisons = sum(len(re.findall(r"\.[a-z]", text)) for text in union.values())
    return len(union) <= _MAX_EXPRESSIONS and comparisons <= _MAX_COMPARISONS


def _all(texts: Sequence[str]) -> str:
    texts = [text for text in texts if text != _TRUE]
    return _bracketed(texts, " and ") if texts else _TRUE


def _any(texts: Sequence[str]) -> str:
    return _TRUE if _TRUE in texts else _bracketed(texts, " or ")


def _bracketed(texts: Sequence[str], operator: str) -> str:
    return texts[0] if len(texts) == 1 else f"({operator.join(texts)})"


def _comparison(name: str, operator: str, bound: float) -> str:
    if 0 < abs(bound) < _SMALLEST:
        # Rounded away from where the numbers are that pass.
        bound = _SMALLEST if operator.startswith("<") else -_SMALLEST
    text = repr(float(bound)).replace("+", "")
    if "e-" in text:
        text = format(Decimal(text), "f")
    return f"(.{name} {operator} {text})"


def _present(field: str) -> str:
    kinds = [_presence(field, number=number) for number in (False, True)]
    return _any([_has(token, among="p") for token in kinds])


def _not(text: str) -> str:
    return f"(not {text})"


def _has(token: str, *, among: str = "t") -> str:
    return f"({_quoted(token)} in .{among})"


def _quoted(token: str) -> str:
    return f'"{token}"'


def _token(field: str, value: Scalar) -> str:
    return _short(b"is", field.encode(), canonical_scalar(value))


def _presence(field: str, *, number: bool) -> str:
    return _short(b"number" if number else b"other", field.encode())


def _short(*parts: bytes) -> str:
    return urlsafe_b64encode(digest(*parts)[:_TOKEN_BYTES]).decode()
