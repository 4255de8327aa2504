"""Filters say what they look like, and what makes no sense is refused."""

from __future__ import annotations

import math
import operator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embercache import Filter, InvalidArgumentError, field
from embercache.filters import where_message
from embercache.v1.search_pb2 import Filter as Message
from embercache.v1.search_pb2 import MetadataValue


def passes(message, metadata):
    """Whether a document passes, by the letter of the contract."""
    match message.WhichOneof("condition"):
        case "equal":
            return same(message.equal.value, metadata.get(message.equal.key))
        case "in":
            inside = getattr(message, "in")
            return any(same(each, metadata.get(inside.key)) for each in inside.values)
        case "range":
            return within(message.range, metadata.get(message.range.key))
        case "and":
            return all(passes(each, metadata) for each in getattr(message, "and").filters)
        case "or":
            return any(passes(each, metadata) for each in getattr(message, "or").filters)
        case "not":
            return not passes(getattr(message, "not"), metadata)


def same(sent, value):
    kinds = {"text": str, "number": float, "flag": bool}
    kind = sent.WhichOneof("value")
    if isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    return type(value) is kinds[kind] and getattr(sent, kind) == value


def within(bounds, value):
    if isinstance(value, bool) or not isinstance(value, float | int):
        return False
    holds = {"gt": value > bounds.gt, "gte": value >= bounds.gte}
    holds |= {"lt": value < bounds.lt, "lte": value <= bounds.lte}
    return all(holds[name] for name in holds if bounds.HasField(name))


BOOKS = [
    {"lang": "en", "year": 2000, "draft": True},
    {"lang": "de", "year": 1999.5},
    {"lang": "en", "year": 2010, "draft": False},
    {"year": "2000"},
    {"draft": 1},
    {},
]


def found(where):
    """The places of the books that pass."""
    message = where_message(where)
    return [place for place, book in enumerate(BOOKS) if passes(message, book)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (field("lang") == "en", [0, 2]),
        (field("lang") != "en", [1, 3, 4, 5]),
        (field("year") == 2000, [0]),
        (field("year") == "2000", [3]),
        (field("draft") == True, [0]),  # noqa: E712
        (field("draft") == 1, [4]),
        (field("draft") == False, [2]),  # noqa: E712
        (field("year") > 2000, [2]),
        (field("year") >= 2000, [0, 2]),
        (field("year") < 2000, [1]),
        (field("year") <= 2000, [0, 1]),
        (operator.le(2000, field("year")), [0, 2]),  # as 2000 <= field("year")
        (field("lang").is_in(["en", "fr"]), [0, 2]),
        (field("year").is_in([1999.5, 2010]), [1, 2]),
        (field("year").is_in([]), []),
        ((field("lang") == "en") & (field("year") > 2000), [2]),
        ((field("lang") == "de") | (field("year") > 2000), [1, 2]),
        (~(field("lang") == "en"), [1, 3, 4, 5]),
        (~((field("lang") == "en") | (field("year") == "2000")), [1, 4, 5]),
        ({"lang": "en"}, [0, 2]),
        ({"lang": "en", "year": 2000}, [0]),
        ({"draft": True}, [0]),
    ],
)
def test_a_filter_finds_what_it_says(where, expected):
    assert found(where) == expected


def test_not_equal_is_the_negation_of_equal_also_where_the_field_is_missing():
    message = where_message(field("lang") != "en")
    assert getattr(message, "not") == where_message(field("lang") == "en")


def test_an_empty_dict_is_no_filter():
    assert where_message({}) is None


def test_the_order_in_which_three_are_joined_does_not_matter():
    a, b, c = (field(name) == 1 for name in "abc")
    assert where_message((a & b) & c) == where_message(a & (b & c))
    assert where_message((a | b) | c) == where_message(a | (b | c))
    assert where_message((a & b) | c) != where_message(a & (b | c))


def test_joining_leaves_the_parts_as_they_are():
    a, b = field("a") == 1, field("b") == 2
    both = a & b
    _ = both & a
    assert where_message(both) == where_message({"a": 1, "b": 2})
    assert where_message(a) == where_message({"a": 1})


SCALARS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-(2**53), 2**53),
)


@given(SCALARS)
def test_the_type_of_a_value_is_kept(value):
    sent = where_message({"x": value}).equal.value
    kind = {str: "text", bool: "flag", int: "number", float: "number"}[type(value)]
    assert sent.WhichOneof("value") == kind
    assert getattr(sent, kind) == value


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.float32(0.5), MetadataValue(number=0.5)),
        (np.int64(3), MetadataValue(number=3)),
        (np.bool_(True), MetadataValue(flag=True)),
        (np.str_("a"), MetadataValue(text="a")),
        (Fraction(1, 2), MetadataValue(number=0.5)),
    ],
)
def test_the_numbers_of_numpy_and_others_are_values_too(value, sent):
    assert where_message(field("x") == value).equal.value == sent
    assert where_message(value == field("x")).equal.value == sent


def test_a_number_of_numpy_may_stand_on_the_left_of_a_range():
    assert where_message(np.float64(3) < field("x")) == Message(range=Message.Range(key="x", gt=3))


@pytest.mark.parametrize("value", [None, b"a", object(), 1j])
def test_what_is_no_value_is_refused_by_name(value):
    with pytest.raises(TypeError, match=r"lang is a .*; give a str, a number or a bool"):
        where_message({"lang": value})
    with pytest.raises(TypeError, match="lang is a"):
        _ = field("lang") == value


@pytest.mark.parametrize("values", [["en", "de"], ("en",), {"en"}, np.array(["en"])])
def test_a_list_in_a_dict_is_refused_with_the_way_to_say_it(values):
    with pytest.raises(TypeError, match=r'field\("lang"\)\.is_in\(\.\.\.\)'):
        where_message({"lang": values})


@pytest.mark.parametrize("bound", ["2000", True, np.bool_(True), None])
def test_a_range_of_anything_but_numbers_is_refused(bound):
    with pytest.raises(TypeError, match=r"year is compared with a .*; ranges are of numbers"):
        _ = field("year") > bound


@pytest.mark.parametrize("compare", [operator.eq, operator.lt])
def test_an_array_is_refused_rather_than_compared_one_by_one(compare):
    with pytest.raises(TypeError, match="x is"):
        compare(np.array([1, 2]), field("x"))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400])
def test_a_number_that_is_not_finite_is_refused(number):
    for compare in (lambda f: f == number, lambda f: f < number, lambda f: f.is_in([number])):
        with pytest.raises(InvalidArgumentError, match="not finite"):
            compare(field("x"))


def test_a_whole_number_that_would_be_rounded_is_refused():
    where_message({"x": 2**53})
    with pytest.raises(InvalidArgumentError, match="53 bits"):
        where_message({"x": 2**53 + 1})


def test_a_single_str_for_is_in_is_refused():
    with pytest.raises(TypeError, match="list of values"):
        field("lang").is_in("en")


def test_and_or_not_and_chained_comparisons_are_refused_with_what_to_write():
    a, b = field("a") == 1, field("b") == 2
    for mistake in (
        lambda: a and b,
        lambda: a or b,
        lambda: not a,
        lambda: 1 < field("a") < 5,
    ):
        with pytest.raises(TypeError, match=r"&, \| and ~"):
            mistake()


def test_a_comparison_without_parentheses_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match="parentheses"):
        _ = (field("a") == 1) & True
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = field("a") == 1 & field("b") == 2


@pytest.mark.parametrize("where", ["lang=en", 3, [field("a") == 1], field("a")])
def test_what_is_no_filter_is_refused(where):
    with pytest.raises(TypeError, match="where is a"):
        where_message(where)


def test_the_name_of_a_field_must_be_a_str():
    with pytest.raises(TypeError, match="give a str"):
        field(3)
    with pytest.raises(TypeError, match="give a str"):
        where_message({3: "a"})


@pytest.mark.parametrize("name", ["secret \ud800", "x"])
def test_a_lone_surrogate_is_refused_without_quoting_it(name):
    for compare in (
        lambda: field(name) == "secret \ud800",
        lambda: field("secret \ud800") < 3,
        lambda: field("secret \ud800").is_in([1]),
    ):
        with pytest.raises(InvalidArgumentError, match="surrogate") as caught:
            compare()
        assert "secret" not in str(caught.value)


def test_a_field_cannot_be_a_key():
    with pytest.raises(TypeError, match="unhashable"):
        hash(field("a"))


def test_filters_are_of_one_type():
    assert isinstance(field("a") == 1, Filter)
    assert isinstance(~(field("a") == 1), Filter)
