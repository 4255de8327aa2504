"""The load tests, by the real ghz, against a real sidecar."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench.ghz.files import write_files
from bench.ghz.scenarios import SCENARIOS, Scenario, short_texts
from bench.ghz.tool import ROOT, run
from bench.processes import echo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# On a busy machine, models take their time.
pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def figures(
    tool: Callable[[str], Path], minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Of a quick run of two scenarios, and of what they are compared with."""
    tool("ghz")
    folder = tmp_path_factory.mktemp("ghz")
    command = [sys.executable, "-m", "bench.ghz", "--quick", "embed-hot", "embed-mixed"]
    command += ["--json", str(folder / "figures.json"), "--plot", str(folder / "plot.svg")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    assert (folder / "plot.svg").read_text("utf-8").startswith("<?xml")
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text("utf-8"))
    return found


def _lines(figures: dict[str, Any], *loads: str) -> Iterator[dict[str, Any]]:
    for load in loads:
        yield from figures[load]


def test_every_scenario_stands_beside_its_reference(figures: dict[str, Any]) -> None:
    closed = [(line["scenario"], line["server"] == "Embercache") for line in figures["closed"]]

    assert closed == [
        ("embed-hot", False),
        ("embed-hot", True),
        ("embed-mixed", True),
        ("embed-bypass", True),
    ]
    assert [line["scenario"] for line in figures["fixed"]] == [
        "embed-hot",
        "embed-hot",
        "embed-mixed",
    ]
    assert {line["scenario"] for line in figures["ramp"]} == {"embed-hot", "embed-mixed"}


def test_all_calls_succeed_in_closed_loop_and_at_a_fixed_rate(figures: dict[str, Any]) -> None:
    for line in _lines(figures, "closed", "fixed"):
        assert line["calls"] >= 40, line
        assert line["errors"] == {}, line


def test_what_was_drawn_to_be_hot_is_answered_by_memory(figures: dict[str, Any]) -> None:
    for line in _lines(figures, "closed", "fixed"):
        if (line["scenario"], line["server"]) == ("embed-hot", "Embercache"):
            assert line["answered_by"] == {"hot": line["calls"]}


def test_mixed_calls_are_answered_by_the_tiers_for_which_they_were_drawn(
    figures: dict[str, Any],
) -> None:
    for line in _lines(figures, "closed", "fixed"):
        if line["scenario"] == "embed-mixed":
            assert set(line["built_for"]) == {"hot", "warm", "computed"}
            for tier, built in line["built_for"].items():
                # A lookup in Redis that takes too long is a miss.
                assert line["answered_by"][tier] == pytest.approx(built, abs=0.02 * line["calls"])


def test_past_the_cache_every_call_is_computed(figures: dict[str, Any]) -> None:
    (line,) = (line for line in figures["closed"] if line["scenario"] == "embed-bypass")

    assert line["answered_by"] == {"computed": line["calls"]}


@pytest.fixture(scope="module")
def bare_server(
    tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of a server whose answer is a message of any type: an empty one."""
    tool("ghz")
    write_files(short_texts())
    address = f"unix:{tmp_path_factory.mktemp('echo')}/echo.sock"
    with echo(address, b""):
        yield address


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_ghz_takes_the_settings_as_they_are(
    scenario: Scenario, bare_server: str, tool: Callable[[str], Path]
) -> None:
    command = [str(tool("ghz")), f"--config={scenario.file}", "--total=20", "--rps=0", "--no-async"]
    command += ["--skipFirst=0", "--concurrency=4", "--format=json", bare_server]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    assert json.loads(done.stdout)["statusCodeDistribution"] == {"OK": 20}


def test_a_fixed_rate_is_kept_on_average(bare_server: str) -> None:
    done = run(SCENARIOS[0], bare_server, 300, 200)

    assert done.statuses == {"OK": 300}
    assert done.sent_per_second == pytest.approx(200, rel=0.25)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["embed-hott"], "no scenario embed-hott: there are embed-hot, "),
        (["--write-docs", "--quick"], "the documentation takes a full run"),
        (["--write-docs", "embed-hot"], "the documentation takes a full run"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str) -> None:
    command = [sys.executable, "-m", "bench.ghz", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
