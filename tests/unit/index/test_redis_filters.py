"""How filters are put to Redis. What they let through there, only a real Redis shows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sidecar.index.filters import And, In, Not, Or, Range
from sidecar.index.redis_filters import attributes, expressions

if TYPE_CHECKING:
    from sidecar.index.filters import Filter

EN = In("lang", ("en",))
RECENT = Range("year", least=2000.0)
MANY = In("lang", tuple("abcdefgh"))


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (EN, 1),
        (Not(EN), 1),
        (RECENT, 1),
        (Range("year", least=2000.0, below=2010.0), 1),
        (And((EN, RECENT, Not(In("a", (True,))))), 1),
        (Or((EN, Not(In("a", (True,))), In("b", (1.0,)))), 1),
        (MANY, 1),
        (Or((RECENT, Range("year", below=1900.0))), 1),
        (And((MANY, Or((RECENT, Range("year", below=1900.0))))), 1),
    ],
)
def test_most_filters_are_one_expression(where: Filter, count: int) -> None:
    assert len(expressions(where)) == count


@pytest.mark.parametrize(
    "where",
    [
        Or((EN, RECENT)),
        Or((RECENT, Range("pages", below=10.0))),
        Not(RECENT),
        Not(Range("year", least=2000.0, below=2010.0)),
        Not(And((Not(EN), RECENT))),
        Not(MANY),
        And((EN, Or((RECENT, Range("pages", below=10.0))))),
    ],
)
def test_conditions_that_need_a_field_are_apart_from_what_holds_without_it(where: Filter) -> None:
    assert len(expressions(where)) == 2


@pytest.mark.parametrize(
    "where", [In("a", ()), Or(()), Not(And(())), And((EN, Or(()))), Or((In("a", ()), Or(())))]
)
def test_a_filter_that_nothing_can_pass_has_no_expression(where: Filter) -> None:
    assert expressions(where) == ()


@pytest.mark.parametrize("where", [And(()), Not(Or(())), Not(In("a", ())), Or((EN, And(())))])
def test_a_filter_that_all_pass_is_true(where: Filter) -> None:
    assert expressions(where) == ("1",)


def test_a_filter_is_never_more_than_eight_expressions() -> None:
    ranges = tuple(Range(f"f{i}", least=1.0) for i in range(9))
    assert len(expressions(Or(ranges[:8]))) == 8
    assert len(expressions(Or((EN, *ranges[:7])))) == 8
    assert expressions(Or(ranges)) == ("1",)
    assert expressions(Or((EN, *ranges[:8]))) == ("1",)
    # Dropped from a conjunction, so that more documents pass rather than fewer.
    pairs = tuple(Or((ranges[i], ranges[i + 1])) for i in range(0, 8, 2))
    found = expressions(And((EN, *pairs)))
    assert len(found) == 8
    assert all("n_f6" not in one and ".t)" in one for one in found)


def test_a_filter_is_never_more_than_64_comparisons() -> None:
    ranges = [Range("f", above=2.0 * i, below=2.0 * i + 1) for i in range(33)]
    assert len(expressions(Or(tuple(ranges[:32])))) == 1
    assert expressions(Or(tuple(ranges))) == ("1",)
    assert expressions(And((EN, Or(tuple(ranges))))) == expressions(EN)
    doubled = And(tuple(Or((Range(f"a{i}", least=1.0), Range("b", least=1.0))) for i in range(99)))
    assert sum(map(len, expressions(doubled))) < 10_000


def test_the_same_condition_twice_is_not_searched_twice() -> None:
    assert len(expressions(Or((RECENT, RECENT, EN, EN)))) == 2


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        (Range("f", above=1.5), "(.n_f > 1.5)"),
        (Range("f", least=-2.0), "(.n_f >= -2.0)"),
        (Range("f", below=1e300), "(.n_f < 1e300)"),
        (Range("f", most=1e-7), "(.n_f <= 0.0000001)"),
        (Range("f", least=-1e-7), "(.n_f >= -0.0000001)"),
        (Range("f", least=0.0), "(.n_f >= 0.0)"),
        (Range("f", above=1.0, most=2.0), "((.n_f > 1.0) and (.n_f <= 2.0))"),
    ],
)
def test_numbers_are_written_as_redis_reads_them(bounds: Range, text: str) -> None:
    assert expressions(bounds) == (text,)


@pytest.mark.parametrize("tiny", [5e-324, 1e-250, -1e-250])
def test_bounds_too_small_for_redis_are_rounded_so_that_more_pass(tiny: float) -> None:
    [above] = expressions(Range("f", above=tiny))
    [below] = expressions(Range("f", below=tiny))
    assert re.fullmatch(r"\(\.n_f > -0\.0{199}1\)", above)
    assert re.fullmatch(r"\(\.n_f < 0\.0{199}1\)", below)


def test_no_text_of_a_user_is_in_an_expression() -> None:
    for where in (In("f", ('x" in .t or 1',)), In("f", tuple(f'"{i}' for i in range(9)))):
        [text] = expressions(where)
        tokens = re.findall(r'"([^"]*)"', text)
        assert tokens
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{12}", token) for token in tokens)


def test_attributes_tell_types_apart() -> None:
    values = ["1", 1.0, True, "true"]
    tokens = [attributes({"f": value})["v_f"] for value in values]
    assert len(set(tokens)) == len(values)
    assert attributes({"f": 1.0})["v_f"] == attributes({"f": 1})["v_f"]
    assert ["n_f" in attributes({"f": value}) for value in values] == [False, True, False, False]


def test_attributes_tell_fields_apart() -> None:
    assert attributes({"a": "x"})["v_a"] != attributes({"b": "x"})["v_b"]
    assert not set(attributes({"a": "x"})["t"]) & set(attributes({"b": "x"})["t"])
