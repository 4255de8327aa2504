"""What the comparison with other caches says of its rows, and what it needs to run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from bench.peers import generation, misses
from bench.peers.caches import CACHES
from bench.peers.comparison import Comparison
from bench.peers.docs import BEGIN, END, PAGE, replaced
from bench.peers.environments import REQUIREMENTS
from bench.peers.rows import OURS, Row, verdict


@dataclass
class Measured:
    value: float | None
    version: str = "1.0"


def value(figures: object) -> float | None:
    assert isinstance(figures, Measured)
    return figures.value


LESS = Row("latency", value, unit="ms", why={"A": "it is a map"}, otherwise="no reason")
MORE = Row("rate", value, more_is_better=True, otherwise="no reason")
SHARE = Row("wrong", value, unit="%", otherwise="no reason")


@pytest.mark.parametrize(
    ("row", "ours", "others", "said"),
    [
        (LESS, 1.0, {"A": 4.0, "B": 2.0}, "ahead of all; next is B, 2.0x"),
        (LESS, 2.0, {"A": 1.0, "B": 3.0}, "**behind A**, 2.0x: it is a map"),
        (LESS, 2.0, {"B": 1.0}, "**behind B**, 2.0x: no reason"),
        (LESS, 1.0, {"A": 1.04, "B": 3.0}, "as good as A; ahead of the others"),
        (LESS, 1.0, {"A": None}, "not compared: no other has it"),
        (MORE, 30.0, {"A": 10.0, "B": 20.0}, "ahead of all; next is B, 1.5x"),
        (MORE, 10.0, {"B": 20.0}, "**behind B**, 2.0x: no reason"),
        (SHARE, 0.0, {"A": 1.0, "B": 0.0}, "as good as B; ahead of the others"),
        (SHARE, 0.0, {"A": 0.0, "B": 0.0}, "as good as A, B"),
        (SHARE, 0.0, {"A": 1.0}, "ahead of all; next is A"),
        (SHARE, 0.02, {"B": 0.01}, "**behind B**, 2.0x: no reason"),
    ],
)
def test_a_row_says_who_is_ahead_by_how_much_and_why(
    row: Row, ours: float, others: dict[str, float | None], said: str
) -> None:
    measured = {OURS: Measured(ours), **{name: Measured(each) for name, each in others.items()}}

    assert verdict(row, measured) == said


def test_a_peer_that_cannot_be_had_stays_in_the_table_with_its_reason() -> None:
    table = Comparison("t", [LESS], {OURS: Measured(1.0), "A": "no wheel", "B": Measured(2.0)})

    assert table.header == ["", "Embercache 1.0", "A", "B 1.0"]
    assert table.rows == [["latency", "1 ms", "n/a", "2 ms"]]
    assert table.missing == {"A": "no wheel"}
    assert table.verdicts == [("latency", "ahead of all; next is B, 2.0x")]


def test_every_peer_has_requirements_at_fixed_versions() -> None:
    names = {cache.module for cache in CACHES[1:]} | {*misses.NAMES, generation.NAME}
    names.add("openai-frameworks")  # no peer: docs/openai.md shows how they use a sidecar

    assert {file.stem for file in REQUIREMENTS.glob("*.txt")} == names
    for file in REQUIREMENTS.glob("*.txt"):
        for line in file.read_text("utf-8").splitlines():
            assert re.fullmatch(r"[\w.\[\]-]+==[\w.+!]+( ; .+)?", line), f"{file.name}: {line}"


def test_a_run_replaces_what_is_between_the_marks_of_the_page() -> None:
    assert replaced(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="needs"):
        replaced("no marks", "new")
    assert BEGIN in PAGE.read_text("utf-8")
