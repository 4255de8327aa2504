"""What the contract and the pages document is what the scenarios here produce, all of it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import grpc

from tests.e2e.statuses import plain, states
from tests.e2e.statuses.conditions import EVERY
from tests.e2e.statuses.contract import (
    EVERY_METHOD,
    Documented,
    comment_of,
    conditions,
    documented,
    owners,
    same_as,
    table,
)
from tests.e2e.statuses.scenario import ITEMS, METHODS, Scenario

TABLES = {
    name: value
    for module in (plain, states)
    for name, value in vars(module).items()
    if isinstance(value, list) and value and isinstance(value[0], Scenario)
}
PRODUCED = {scenario.documented for each in TABLES.values() for scenario in each} | set(EVERY)
# Its own page has a table of it.
ELSEWHERE = "Generate"


def test_every_status_that_the_contract_documents_is_produced_and_no_other() -> None:
    assert sorted(documented() - PRODUCED) == []
    assert sorted(PRODUCED - documented()) == []


def test_every_scenario_is_called() -> None:
    sources = "".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in TABLES if f", {name}, subtests" not in sources] == []


def test_every_method_and_every_error_of_an_item_says_with_what_it_may_end() -> None:
    assert owners() == METHODS.keys() | ITEMS.keys()
    told = {one.owner for one in documented()} | same_as().keys()
    silent = sorted(owners() - told)
    assert [name for name in silent if "no other status than" not in comment_of(name)] == []
    assert {one.status for one in documented()} < {code.name for code in grpc.StatusCode}


def test_the_page_of_the_api_has_the_statuses_of_the_contract() -> None:
    found = defaultdict(set)
    for status, when, of in table("api.md", "### When"):
        for owner in of.split(", "):
            (condition,) = conditions(when)
            found[status.strip("`"), condition].add(owner.strip("`"))
    expected = defaultdict(set)
    for owner, status, when in documented():
        if owner != ELSEWHERE:
            expected[status, when].add("every method" if owner == EVERY_METHOD else owner)
    assert found == expected


def test_the_page_of_the_api_says_what_to_do_about_each_status() -> None:
    rows = [status.strip("`") for status, _ in table("api.md", "## Errors")]
    assert sorted(rows) == sorted({one.status for one in documented()})


def test_the_page_on_generation_has_the_statuses_of_the_contract() -> None:
    found = {
        Documented(ELSEWHERE, status.strip("`"), when)
        for status, cell, _ in table("generate.md", "## Errors")
        for when in conditions(cell)
    }
    assert found == {one for one in documented() if one.owner == ELSEWHERE}
