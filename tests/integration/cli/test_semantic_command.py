"""`embercache semantic` against a real sidecar and the example file of the documentation."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from embercache import Client, Document

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    Run = Callable[..., Result]

EXAMPLE = Path(__file__).parents[3] / "docs/examples/pairs.jsonl"
PAIRS = [
    {"a": "How do I reset my password?", "b": "How can I reset my password?", "same": True},
    {"a": "Flights from Paris to Rome", "b": "Flights from Rome to Paris", "same": False},
    {"a": "How do I boil eggs?", "b": "Where is my order?", "same": False},
]


def write(path: Path, pairs: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


@pytest.fixture
def calibrate(run: Run) -> Callable[..., Any]:
    def run_calibrate(path: Path, *arguments: str) -> Any:
        result = run("semantic", "calibrate", str(path), "--json", *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run_calibrate


def test_the_example_shows_what_the_guard_is_worth(calibrate: Callable[..., Any]) -> None:
    figures = calibrate(EXAMPLE)
    row = next(row for row in figures["thresholds"] if row["threshold"] == 0.9)
    assert figures["model"] == "minilm"
    assert row["without_guard"]["wrong_rate"] > 0.3
    assert row["with_guard"]["wrong"] == 0
    assert row["with_guard"]["hit_rate"] == row["without_guard"]["hit_rate"] > 0.8
    # 159 pairs cannot show a rate under 1 %.
    assert figures["verdict"] == "too_small"


def test_pairs_that_are_alike_but_for_their_order_are_answered_without_the_guard_only(
    calibrate: Callable[..., Any], tmp_path: Path
) -> None:
    row = calibrate(write(tmp_path / "pairs.jsonl", PAIRS))["thresholds"][0]
    assert (row["without_guard"]["answered"], row["without_guard"]["wrong"]) == (2, 1)
    assert (row["with_guard"]["answered"], row["with_guard"]["wrong"]) == (1, 0)
    assert row["with_guard"]["hit_rate"] == 1


@pytest.mark.parametrize(("name", "delimiter"), [("pairs.csv", ","), ("pairs.tsv", "\t")])
def test_a_table_says_the_same_as_json_lines(
    calibrate: Callable[..., Any], tmp_path: Path, name: str, delimiter: str
) -> None:
    with (tmp_path / name).open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, ["same", "a", "b"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(PAIRS)
    lines = write(tmp_path / "pairs.jsonl", PAIRS)
    assert calibrate(tmp_path / name) == calibrate(lines)


def test_a_file_that_is_large_enough_gets_a_recommendation(
    calibrate: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    path = write(tmp_path / "pairs.jsonl", [PAIRS[0]] * 400 + PAIRS)
    assert calibrate(path)["threshold"] == 0.8
    assert calibrate(path, "--max-wrong", "0.001")["verdict"] == "too_small"
    table = run("semantic", "calibrate", str(path))
    assert "recommended: a threshold of 0.8; hit rate 100.0%" in table.stdout


def test_the_table_says_what_is_missing(run: Run) -> None:
    result = run("semantic", "calibrate", str(EXAMPLE))
    assert "159 pairs, 70 of which mean the same; minilm in version" in result.stdout
    assert "the file is too small to tell" in result.stdout
    assert "at least 381 answers" in result.stdout


def test_where_no_threshold_will_do_it_says_so(run: Run, tmp_path: Path) -> None:
    wrong = {**PAIRS[0], "same": False}
    result = run("semantic", "calibrate", str(write(tmp_path / "pairs.jsonl", [wrong] * 9)))
    assert "no threshold keeps the wrong-hit rate under 1.00%" in result.stdout


def test_texts_that_the_model_does_not_read_whole_are_left_out(
    calibrate: Callable[..., Any], run: Run, tmp_path: Path
) -> None:
    long = {"a": "word " * 500, "b": "word " * 500 + "other", "same": False}
    path = write(tmp_path / "pairs.jsonl", [*PAIRS, long])
    figures = calibrate(path)
    assert (figures["pairs"], figures["truncated"]) == (3, 1)
    assert "1 pairs left out" in run("semantic", "calibrate", str(path)).stdout


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"a": "secret", "same": true}', '"a" and "b" must be two texts'),
        ('{"a": "secret", "b": " ", "same": true}', '"a" and "b" must be two texts'),
        ('{"a": "secret", "b": "c", "same": "maybe"}', '"same" must be true or false'),
        ('{"a": "secret", "b": "c"}', '"same" must be true or false'),
    ],
)
def test_a_bad_line_is_named_by_its_number_not_by_its_text(
    run: Run, tmp_path: Path, line: str, reason: str
) -> None:
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = run("semantic", "calibrate", str(path))
    assert result.exit_code == 1
    assert f"line 5: {reason}" in result.stderr
    assert "secret" not in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("pairs.jsonl", b"\n", "there are no pairs in it"),
        ("pairs.csv", b"a,b,same\n", "there are no pairs in it"),
        ("pairs.csv", b"x,y\n1,2\n", 'line 2: "a" and "b" must be two texts'),
        ("pairs.jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(
    run: Run, tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(content)
    result = run("semantic", "calibrate", str(tmp_path / name))
    assert result.exit_code == 1
    assert reason in result.stderr


@pytest.fixture
def asked(address: str, namespace: str) -> str:
    """A namespace in which a question was asked, another way, and not."""
    with Client(address) as client:
        client.upsert([Document("1", "Reset it on the settings page.")], namespace=namespace)
        for query in ("reset my password?", "can I reset my password?", "not reset my password?"):
            client.search(f"How do I {query}", namespace=namespace, semantic=0.8)
    return namespace


def test_the_report_counts_lookups_by_band(run: Run, asked: str) -> None:
    result = run("semantic", "report", "--namespace", asked, "--json")
    (bands,) = json.loads(result.stdout).values()
    counted = [band for band in bands if band["looked_up"]]
    assert sum(band["answered"] for band in counted) == 1
    assert sum(band["refused_by_guard"] for band in counted) == 1
    assert all(band["start"] >= 0.9 for band in counted)


def test_the_report_is_a_table_from_the_nearest_band_down(run: Run, asked: str) -> None:
    result = run("semantic", "report", "--namespace", asked)
    first, _, *rows = result.stdout.splitlines()
    assert first == f"{asked}: 2 lookups"
    assert rows[-1].split()[3:5] == ["1", "100.0%"]
    starts = [float(row.split()[0]) for row in rows]
    assert starts == sorted(starts, reverse=True)


def test_a_namespace_without_lookups_has_no_report(run: Run, namespace: str) -> None:
    result = run("semantic", "report", "--namespace", namespace)
    assert result.stdout == "no semantic answer has been looked for since the sidecar started\n"
    assert json.loads(run("semantic", "report", "--namespace", namespace, "--json").stdout) == {}
