"""`embercache warm` and `embercache models migrate` against a real sidecar."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from embercache import Client

from sidecar.cli import warm_inputs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Run = Callable[..., Result]


@pytest.fixture
def warm(run: Run, namespace: str) -> Run:
    """Runs ``embercache warm`` in the test's own namespace."""

    def run_warm(*arguments: str, **options: Any) -> Result:
        return run("warm", "--namespace", namespace, *arguments, **options)

    return run_warm


def summary(result: Result) -> str:
    return re.sub(r" in [\d.]+ s", "", result.stdout.strip())


def lines(folder: Path, count: int) -> str:
    file = folder / "lines.txt"
    file.write_text("".join(f"line {number}\n" for number in range(1, count + 1)))
    return str(file)


def test_what_is_cached_already_is_skipped_and_counted(
    warm: Run, embed: Run, tmp_path: Path
) -> None:
    embed("line 2")
    first = warm(lines(tmp_path, 3))
    assert first.exit_code == 0
    assert summary(first) == "3 items: 1 cached already, 2 computed, 0 failed"
    assert summary(warm(lines(tmp_path, 3))) == "3 items: 3 cached already, 0 computed, 0 failed"
    tiers = [json.loads(line)["tier"] for line in embed("line 1", "line 3").stdout.splitlines()]
    assert tiers == ["hot", "hot"]


def test_a_file_is_warmed_from_the_line_that_is_named(warm: Run, tmp_path: Path) -> None:
    assert summary(warm(lines(tmp_path, 5), "--from-line", "4")).startswith("2 items: ")


def test_searches_and_texts_may_be_mixed(warm: Run, run: Run, namespace: str) -> None:
    search = json.dumps({"query": "what glows?", "collection": "c", "top_k": 3})
    result = warm("-", "--jsonl", input=f'{{"text": "a"}}\n{search}\n{{"text": "b"}}\n'.encode())
    assert summary(result) == "3 items: 0 cached already, 3 computed, 0 failed"
    found = run(
        *("search", "what glows?", "--collection", "c", "--top-k", "3"),
        *("--namespace", namespace, "--json"),
    )
    assert json.loads(found.stdout)["tier"] == "hot"


def test_what_cannot_be_warmed_is_named_and_the_rest_is_warmed(warm: Run) -> None:
    result = warm("-", "--jsonl", input=b'{"text": "a"}\nsecret\n{"query": "q", "top_k": 0}\n')
    assert result.exit_code == 1
    assert "line 2: not JSON" in result.stderr
    assert "line 3: top_k is 0" in result.stderr
    assert "secret" not in result.stderr
    assert summary(result) == "3 items: 0 cached already, 1 computed, 2 failed"


def test_an_option_that_is_wrong_ends_the_command_and_says_how_to_go_on(
    warm: Run, tmp_path: Path
) -> None:
    file = lines(tmp_path, 3)
    result = warm(file, "--model", "nobody", "--from-line", "2")
    assert result.exit_code == 1
    assert f"to go on: embercache warm {file} --from-line 2" in result.stderr
    assert "Error: no such model here" in result.stderr


def test_how_to_go_on_is_a_command_that_can_be_run(
    warm: Run, run: Run, namespace: str, tmp_path: Path
) -> None:
    file = tmp_path / "what's asked; often.txt"
    file.write_text("one\ntwo\n")
    command = warm(str(file), "--model", "nobody").stderr.partition("to go on: embercache ")[2]
    *arguments, _, _, _, _, _, _ = shlex.split(command.partition("\n")[0])
    result = run(*arguments, "--namespace", namespace)
    assert summary(result) == "2 items: 0 cached already, 2 computed, 0 failed"


def test_of_standard_input_it_says_that_it_is_to_be_given_again(warm: Run) -> None:
    result = warm("-", "--model", "nobody", input=b"one\n")
    assert "embercache warm - --from-line 1 and the options that were given" in result.stderr
    assert "with the same input from its beginning" in result.stderr


def test_lines_that_all_fail_are_named_with_the_reason_and_the_rest_is_warmed(warm: Run) -> None:
    wrong = b'{"query": "secret", "namespace": "a b"}\n'
    result = warm("-", "--jsonl", input=wrong + b'{"text": "a"}\n' + 2 * wrong)
    assert result.exit_code == 1
    assert "line 1: a namespace has" in result.stderr
    assert "lines 3 to 4: a namespace has" in result.stderr
    assert "secret" not in result.stderr
    assert summary(result) == "4 items: 0 cached already, 1 computed, 3 failed"


@pytest.mark.parametrize("number", ["nan", "inf", "0"])
def test_a_pace_that_makes_no_sense_is_refused(warm: Run, run: Run, number: str) -> None:
    for command in (warm, run):
        arguments = ("-",) if command is warm else ("models", "migrate", "minilm", "--to", "other")
        result = command(*arguments, "--per-second", number, input=b"a\n")
        assert result.exit_code == 2
        assert "--per-second" in result.stderr


def test_an_interrupted_warming_says_how_to_go_on(
    address: str, namespace: str, tmp_path: Path
) -> None:
    file = lines(tmp_path, 2 * warm_inputs.PART_LINES)
    command = [sys.executable, "-m", "sidecar", "warm", file, "--namespace", namespace]
    process = subprocess.Popen(
        [*command, "--per-second", "20"],
        env=os.environ | {"EMBERCACHE_ADDRESS": address},
        stderr=subprocess.PIPE,
        text=True,
    )
    with Client(address) as client:
        # Its first inputs are there, and many are still to come.
        while client.embed(
            ["line 1"], mode="only_if_cached", on_error="return", namespace=namespace
        ).errors:
            assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"stopped at line 1; to go on: embercache warm {file} --from-line 1" in errors


def test_popular_queries_are_warmed(warm: Run, run: Run, namespace: str) -> None:
    for _ in range(3):
        run("search", "what do all ask?", "--namespace", namespace)
    run("invalidate", "--kind", "search", "--namespace", namespace)
    result = warm("--popular", "5")
    assert result.exit_code == 0
    assert summary(result) == "1 item: 0 cached already, 1 computed, 0 failed"
    again = run("search", "what do all ask?", "--namespace", namespace, "--json")
    assert json.loads(again.stdout)["tier"] == "hot"


def test_a_name_can_mean_another_model_and_its_own_again(run: Run, namespace: str) -> None:
    def models() -> list[str]:
        result = run("search", "what glows?", "--namespace", namespace, "--json")
        answer = json.loads(result.stdout)
        return [answer["model_version"], *(hit["id"] for hit in answer["results"])]

    line = b'{"id": "ember", "content": "An ember is a glowing piece of coal."}'
    run("documents", "add", "-", "--namespace", namespace, input=line)
    own = models()
    try:
        migrated = run("models", "migrate", "minilm", "--to", "minilm-v2")
        assert migrated.exit_code == 0, migrated.stderr
        assert "minilm means minilm-v2 now, on every sidecar" in migrated.stdout
        other = models()
        assert other[0] != own[0]
        assert other[1:] == own[1:] == ["ember"]
        again = run("models", "migrate", "minilm", "--to", "minilm-v2")
        assert again.exit_code == 1
    finally:
        result = run("models", "rollback", "minilm")
    assert result.stdout == "minilm means its own model again, on every sidecar\n"
    assert models() == own


def test_a_model_that_is_not_served_cannot_be_migrated_to(run: Run) -> None:
    result = run("models", "migrate", "minilm", "--to", "nobody")
    assert result.exit_code == 1
    assert "no such model here" in result.stderr
