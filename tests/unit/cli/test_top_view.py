"""What `embercache top` shows of which answers."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from embercache import (
    InternalError,
    ModelStats,
    OverloadedError,
    Stats,
    Tier,
    TierStats,
    UnauthenticatedError,
    UnavailableError,
    UsageStats,
    WarmState,
)
from rich.console import Console

from sidecar.cli.top import _look
from sidecar.cli.top_view import Looks, view


def stats(uptime: float, **answered: int) -> Stats:
    names: tuple[Tier, ...] = ("hot", "disk", "warm", "computed", "coalesced")
    usage = UsageStats(
        *("embed", "[red]shop", "minilm", {"hot": 3, "computed": 1}, 0, 0, 0, 0.0, 0, 0),
        *(20.0, 90.0, 1.5, 0.5, 0.1),
    )
    return Stats(
        version="1.0",
        uptime_seconds=uptime,
        response_hits=0,
        items_failed=0,
        tiers={name: TierStats(answered.get(name, 0), 0, 0, 0, 0, 0, 0) for name in names},
        disk=None,
        warm=WarmState("up", 0, 0, 0, 0, 0, 0.0),
        models=[ModelStats("minilm", "v1", 0, 0, 0, 0, 0, 0, 0)],
        usage=[usage],
        semantic=[],
        generators=[],
        quotas=[],
        forged=[],
    )


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def looks(clock: Clock) -> Looks:
    return Looks(clock)


def shown(looks: Looks, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(view(looks, "here:1", width, keys="q to leave"))
    file: Any = console.file
    return [line.rstrip() for line in file.getvalue().splitlines()]


def line(looks: Looks, begin: str, width: int = 100) -> str:
    (found,) = (each for each in shown(looks, width) if each.startswith(begin))
    return found


def test_shares_and_rates_are_of_the_time_since_the_last_look(looks: Looks) -> None:
    looks.take(stats(10, hot=100, computed=100))
    assert line(looks, "hit rate").split()[2:4] == ["-", "50.0%"]
    looks.take(stats(12, hot=190, computed=110))
    assert line(looks, "hit rate").split()[2:4] == ["90.0%", "63.3%"]
    assert line(looks, "inputs/s").split()[1] == "50"
    assert line(looks, "hot ").split()[1:4] == ["45.0", "90.0%", "190"]


def test_what_is_wrong_comes_first_with_what_to_do(looks: Looks) -> None:
    looks.take(stats(10))
    assert shown(looks)[1].startswith("● healthy")
    down = WarmState("down", 5, 0, 0, 0, 0, 9.0)
    looks.take(replace(stats(12), warm=down))
    lines = shown(looks)
    assert lines[1].startswith("▲ needs attention   Redis: left alone")
    assert lines[2].startswith("  Redis is left alone. Five calls")
    assert any(line.startswith("  → Look at Redis") for line in lines[3:6])


def test_a_failure_is_forgotten_after_a_minute(looks: Looks, clock: Clock) -> None:
    looks.take(stats(0))
    clock.now = 30
    looks.take(replace(stats(30, computed=1), items_failed=5))
    assert "Inputs fail" in shown(looks)[2]
    clock.now = 95
    looks.take(replace(stats(95, computed=1), items_failed=5))
    assert shown(looks)[1].startswith("● healthy")


def test_a_sidecar_that_does_not_answer_is_told_and_its_figures_stay(
    looks: Looks, clock: Clock
) -> None:
    looks.take(stats(10, hot=7))
    clock.now = 12
    looks.miss()
    assert shown(looks)[1].startswith("■ no answer for 12 s")
    assert line(looks, "hot ").split()[3] == "7"
    looks.take(stats(13, hot=8))
    assert shown(looks)[1].startswith("● healthy")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnavailableError("connection refused"), "it has stopped, restarts, or cannot be reached;"),
        (OverloadedError("too many calls: try again"), "too many calls: try again;"),
        (UnauthenticatedError("the token is no longer valid"), "the token is no longer valid;"),
        (InternalError("see the log"), "see the log;"),
    ],
)
def test_whatever_a_call_fails_with_is_told_and_does_not_end_it(
    error: Exception, told: str, looks: Looks
) -> None:
    class Failing:
        def stats(self, timeout: float) -> Stats:
            raise error

    client: Any = Failing()
    looks.take(stats(10))
    _look(client, looks)
    assert told in " ".join(shown(looks))
    looks.take(stats(13))
    assert shown(looks)[1].startswith("● healthy")


def test_a_sidecar_that_was_restarted_is_looked_at_anew(looks: Looks) -> None:
    looks.take(stats(100, hot=900))
    looks.take(stats(1, hot=4))
    assert line(looks, "hit rate").split()[2:4] == ["-", "100.0%"]
    looks.take(stats(3, hot=8))
    assert line(looks, "inputs/s").split()[1] == "2"


@pytest.mark.parametrize("width", [1, 24, 40, 76, 200])
def test_no_line_is_wider_than_the_terminal_nor_is_a_number_cut(width: int, looks: Looks) -> None:
    for uptime in range(1, 40):
        looks.take(stats(2 * uptime, hot=uptime * uptime))
    lines = shown(looks, width)
    assert max(map(len, lines)) <= max(width, 24)
    if width >= 40:
        assert line(looks, "hot ", width).split()[3] == "1,521"


def test_names_are_text_and_no_markup(looks: Looks) -> None:
    looks.take(stats(1))
    assert "[red]shop" in line(looks, "embed")
