"""What the load tests make of ghz's report, and where they write it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bench.ghz import tool
from bench.ghz.docs import BEGIN, END, PAGE, PLOT, replaced, section
from bench.ghz.figures import Measured, Sample
from bench.ghz.measure import Results
from bench.ghz.scenarios import SCENARIOS
from bench.ghz.tables import tables
from bench.ghz.tool import Run, read
from bench.load import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MS = 1_000_000
ECHO = "bare grpcio echo, 10 bytes"


def details(starts_ms: Sequence[float], latencies_ms: Sequence[float]) -> list[dict[str, object]]:
    """As in a report of ghz, which has them in the order of their ends."""
    first = int(np.datetime64("2030-01-01T00:00:00", "ns").astype(np.int64))
    calls = sorted(zip(starts_ms, latencies_ms, strict=True), key=sum)
    return [
        {
            "timestamp": f"{np.datetime64(first + int((start + latency) * MS), 'ns')}Z",
            "latency": int(latency * MS),
            "status": "OK",
        }
        for start, latency in calls
    ]


def sample(starts_ms: Sequence[float], latency_ms: float = 1.0, rate: int | None = None) -> Sample:
    run = read(details(starts_ms, [latency_ms] * len(starts_ms)), 0, rate, 1.0)
    return Sample(run, 2.0, Counter(hot=len(starts_ms)), Counter(hot=len(starts_ms)))


def bare(one: Sample) -> Sample:
    return Sample(one.run, one.server_cpu_seconds, Counter(), Counter())


def test_calls_are_put_into_the_order_in_which_they_were_sent() -> None:
    one = read(details([0, 1, 2], [9, 1, 1]), 0, None, 0.0)

    assert one.latency_ms.tolist() == [9, 1, 1]


def test_the_calls_that_connect_are_left_out_but_their_errors_count() -> None:
    reported = details([0, 1, 2, 3], [50, 1, 1, 1])
    for each in reported:
        if each["latency"] == 50 * MS:
            each["status"] = "Unavailable"

    one = read(reported, 1, None, 0.0)

    assert one.latency_ms.tolist() == [1, 1, 1]
    assert one.statuses == {"OK": 3, "Unavailable": 1}


def test_failed_calls_have_no_latency() -> None:
    reported = details([0, 1, 2], [1, 2, 3])
    reported[0]["status"] = "Canceled"

    assert read(reported, 0, 1000, 0.0).latency_ms.tolist() == [2, 3]


def failing(count: int, failed: int, rate: int | None = None) -> Sample:
    """One call each millisecond, of which the last ones fail."""
    reported = details(range(count), [1] * count)
    for each in reported[count - failed :]:
        each["status"] = "ResourceExhausted"
    return Sample(read(reported, 0, rate, 1.0), 2.0, Counter(), Counter())


def test_throughput_counts_no_calls_that_failed() -> None:
    assert failing(100, 50).run.answered_per_second == pytest.approx(500)


def test_a_run_without_any_success_is_an_error() -> None:
    with pytest.raises(LoadError, match=r"none succeeded: \{'ResourceExhausted': 3\}"):
        failing(3, 3)


def test_the_server_is_the_limit_if_it_refuses_calls_though_it_does_so_quickly() -> None:
    assert Measured("embed-hot", "", [failing(1000, 30, 1000)]).limit == "server"
    assert Measured("embed-hot", "", [failing(1000, 10, 1000)]).limit == ""
    assert Measured("embed-hot", "", [failing(1000, 30)]).limit == ""


def test_items_that_fail_within_calls_make_the_server_the_limit_too() -> None:
    one = sample(range(1000), 1.0, 1000)
    one.answered["failed"] = 30

    assert Measured("embed-hot", "", [one]).limit == "server"


def test_too_few_calls_are_an_error() -> None:
    with pytest.raises(LoadError, match="2 calls are too few if the first 1 are left out"):
        read(details([0, 1], [1, 1]), 1, None, 0.0)


def test_what_ghz_leaves_out_when_it_is_late_is_counted_from_when_a_call_was_due() -> None:
    # One call each millisecond; from the tenth on ghz was away for 20 ms, then caught up.
    starts = [*range(10), *([30] * 20), *range(30, 1000)]

    measured = Measured("embed-hot", "", [sample(starts, 1.0, 1000)])

    assert measured.latency_ms.max() == pytest.approx(1.0)
    assert measured.planned_ms[0] == pytest.approx(1.0)
    assert measured.planned_ms[-1] > 9
    assert measured.limit == ""


def test_in_closed_loop_no_call_is_due() -> None:
    measured = Measured("embed-hot", "", [sample(range(0, 50_000, 50))])

    assert measured.planned_ms.tolist() == measured.latency_ms.tolist()
    assert measured.limit == ""


def test_ghz_is_the_limit_if_it_sends_fewer_calls_than_it_was_asked_for() -> None:
    assert Measured("embed-hot", "", [sample(range(0, 2000, 2), 1.0, 1000)]).limit == "ghz"


def test_the_server_is_the_limit_if_calls_pile_up() -> None:
    assert Measured("embed-hot", "", [sample(range(1000), 400.0, 1000)]).limit == "server"
    assert Measured("embed-hot", "", [sample(range(1000), 40.0, 1000)]).limit == ""


def test_quantiles_are_of_all_rounds_and_ratios_are_their_median() -> None:
    mine = Measured("embed-hot", "", [sample(range(9), ms) for ms in (2, 3, 8)])
    theirs = Measured("embed-hot", "", [sample(range(9), ms) for ms in (1, 1, 1)])

    assert mine.latency_ms[0] == pytest.approx(3)
    assert mine.ratio(theirs, "p50_ms") == pytest.approx(3)


@pytest.mark.parametrize(
    ("calls", "shown"), [(19, 0), (20, 1), (199, 1), (200, 2), (999, 2), (1000, 3)]
)
def test_a_quantile_with_fewer_than_ten_calls_above_it_is_left_out(calls: int, shown: int) -> None:
    one = Measured("embed-hot", "", [sample(range(calls), 7.0)])

    assert one.n == calls
    assert np.isfinite(one.latency_ms).tolist() == [True] * shown + [False] * (3 - shown)
    names = ["p50", "p95", "p99"][:shown]
    assert list(one.as_json()["latency_ms"]) == names
    ((_, header, (row,)),) = tables(Results([one], [], []))
    cells = dict(zip(header, row, strict=True))
    assert cells["n"] == calls
    assert [name for name in ("p50", "p95", "p99") if cells[f"{name} ms"] != ""] == names


def test_items_that_failed_within_calls_are_errors() -> None:
    one = sample([0, 1, 2])
    one.answered["failed"] = 2

    assert Measured("embed-hot", "", [one]).errors == {"items": 2}


@pytest.fixture
def results() -> Results:
    closed, rated = sample(range(100)), sample(range(100), 1.0, 1000)
    pair = [
        (Measured("embed-hot", ECHO, [bare(one)]), Measured("embed-hot", "Embercache", [one]))
        for one in (closed, rated)
    ]
    return Results([*pair[0]], [*pair[1]], [*pair[1]])


def test_the_section_has_a_row_for_every_line_of_every_table(results: Results) -> None:
    text = section(results, "these versions")

    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert sum(line.startswith(f"| {ECHO} |") for line in rows) == 3
    assert sum(line.startswith("| embed-hot |") for line in rows) == 3
    assert "1.00x echo" in text
    assert "images/ghz.svg" in text
    assert "made to be answered by" not in text


def test_the_section_says_if_other_tiers_answered_than_were_meant_to(results: Results) -> None:
    results.closed[1].samples[0].built["hot"] -= 10
    results.closed[1].samples[0].built["warm"] += 10

    assert (
        "embed-hot, closed loop: made to be answered by 90 % hot, 10 % warm, was answered by 100 %"
        " hot." in section(results, "these versions")
    )


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"

    assert replaced(page, "new") == f"before\n{BEGIN}\nnew\n{END}\nafter\n"
    assert replaced(replaced(page, "one"), "two") == replaced(page, "two")


@pytest.mark.parametrize("page", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_page_without_both_marks_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match=r"benchmarks\.md needs"):
        replaced(page, "new")


def test_the_documentation_has_its_marks() -> None:
    page = PAGE.read_text("utf-8")

    assert replaced(replaced(page, "new"), "newer") == replaced(page, "newer")


def test_the_documentation_has_a_row_for_every_scenario_in_the_tables_of_today(
    results: Results,
) -> None:
    _, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    lines = rest.partition(END)[0].splitlines()

    for _, header, _ in tables(results):
        assert f"| {' | '.join(header)} |" in lines
    rows = {line.split("|")[1].strip() for line in lines if line.startswith("| ")}
    assert rows >= {scenario.name for scenario in SCENARIOS}
    assert PLOT.is_file()


def test_without_ghz_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "GHZ", tmp_path / "ghz")

    with pytest.raises(LoadError, match="ghz is not at ghz: run make tools"):
        tool.ghz()


def test_a_run_is_known_by_its_rates() -> None:
    one: Run = sample(range(0, 100, 2), 1.0, 500).run

    assert one.sent_per_second == pytest.approx(500)
    assert one.answered_per_second == pytest.approx(50 / 0.099)
    assert one.unanswered == 1
