"""Conditions of the command line, and what they mean."""

from __future__ import annotations

from typing import Any

import click
import pytest
from embercache import Filter, field

from sidecar.cli.parameters import ConditionType, all_of


def condition(text: str) -> Any:
    return ConditionType().convert(text, None, None).message


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("lang=en", field("lang") == "en"),
        (" lang = en ", field("lang") == "en"),
        ("title=a=b", field("title") == "a=b"),
        ("title=a b", field("title") == "a b"),
        ("title=", field("title") == ""),
        ("lang!=en", field("lang") != "en"),
        ("year=2000", field("year") == 2000),
        ("year=-1.5e3", field("year") == -1500),
        ("zip=02134", field("zip") == "02134"),
        ('zip="2134"', field("zip") == "2134"),
        ("draft=true", field("draft") == True),  # noqa: E712
        ("draft!=false", field("draft") != False),  # noqa: E712
        ("x=NaN", field("x") == "NaN"),
        ("x=null", field("x") == "null"),
        ('x={"a": 1}', field("x") == '{"a": 1}'),
        ("year<2000", field("year") < 2000),
        ("year<=2000", field("year") <= 2000),
        ("year>2000", field("year") > 2000),
        ("year>=2000", field("year") >= 2000),
        ('lang=["en", "de"]', field("lang").is_in(["en", "de"])),
        ("year!=[1, 2.5]", ~field("year").is_in([1, 2.5])),
    ],
)
def test_a_condition_means_what_it_says(text: str, meaning: Filter) -> None:
    assert condition(text) == meaning.message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lang", "write a field and a value"),
        ("=en", "write a field and a value"),
        ("a.b=en", "write a field and a value"),
        ("year>soon", "ranges are of numbers"),
        ("year>[1]", "ranges are of numbers"),
        ("draft>true", "ranges are of numbers"),
        ("x=[[1]]", "give a str, a number or a bool"),
        ("x=9007199254740993", "more than 53 bits"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(click.BadParameter, match=complaint):
        condition(text)


def test_several_conditions_must_all_hold() -> None:
    parts = [field("lang") == "en", field("year") > 2000]
    joined = all_of(parts)
    assert joined is not None
    assert joined.message == (parts[0] & parts[1]).message
    assert all_of([]) is None
