"""`embercache stats`, `invalidate` and `flush` against a real sidecar."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    Run = Callable[..., Result]


def tiers(result: Result) -> list[str]:
    return [json.loads(line)["tier"] for line in result.stdout.splitlines()]


def counters(run: Run) -> Any:
    return json.loads(run("stats", "--json").stdout)


def cells(result: Result, first: str) -> list[str]:
    """The cells of the table row that begins so."""
    return next(line.split() for line in result.stdout.splitlines() if line.startswith(first))


def test_stats_counts_what_was_answered_by_tier(run: Run, embed: Run) -> None:
    before = counters(run)
    embed("a", "b")
    embed("a")
    after = counters(run)
    answered = {
        tier: after["tiers"][tier]["answered"] - before["tiers"][tier]["answered"]
        for tier in after["tiers"]
    }
    assert answered == {"hot": 1, "disk": 0, "warm": 0, "computed": 2, "coalesced": 0}
    assert after["models"][0]["computed"] - before["models"][0]["computed"] == 2


def test_the_table_says_what_the_json_says(run: Run, embed: Run) -> None:
    embed("a", "a")
    embed("a")
    values = counters(run)
    table = run("stats")
    answered = {name: tier["answered"] for name, tier in values["tiers"].items()}
    hits = answered["hot"] + answered["disk"] + answered["warm"]
    assert values["hit_rate"] == hits / sum(answered.values())
    assert f"hit rate {values['hit_rate']:.1%} of {sum(answered.values()):,} inputs" in table.stdout
    assert "Redis: up; 0 errors" in table.stdout
    for name, count in answered.items():
        assert cells(table, name)[1:3] == [f"{count:,}", f"{count / sum(answered.values()):.1%}"]
    assert cells(table, "hot")[3] == f"{values['tiers']['hot']['entries']:,}"
    assert cells(table, "minilm")[1] == f"{values['models'][0]['computed']:,}"
    assert cells(table, "minilm")[-1] == values["models"][0]["version"]


def test_what_the_cache_was_worth_is_told_by_namespace(
    run: Run, embed: Run, namespace: str
) -> None:
    embed("a", "b")
    embed("a", "b")
    embed("a", "b")
    (usage,) = [each for each in counters(run)["usage"] if each["namespace"] == namespace]
    assert (usage["kind"], usage["model"]) == ("embed", "minilm")
    assert (usage["answered"]["hot"], usage["answered"]["computed"]) == (4, 2)
    assert usage["hot_entries"] == 2
    assert usage["seconds_saved"] > 0
    line = next(line for line in run("stats").stdout.splitlines() if namespace[:8] in line)
    assert "66.7%" in line.split()


def test_stats_are_watched_with_rates_until_they_are_interrupted(address: str) -> None:
    command = [sys.executable, "-m", "sidecar", "stats", "--watch", "--every", "50ms"]
    process = subprocess.Popen(
        command, env=os.environ | {"EMBERCACHE_ADDRESS": address}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pages = 0
    rates = 0
    for line in process.stdout:
        pages += line.startswith("Embercache ")
        rates += line.startswith("in the last ")
        if rates == 2:
            break
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert pages == 3  # the first has nothing to compare with


def test_a_tag_takes_its_entries_with_it(run: Run, embed: Run, namespace: str) -> None:
    embed("--tag", "release-7", "a")
    embed("b")
    result = run("invalidate", "--tag", "release-7", "--namespace", namespace)
    assert result.exit_code == 0
    assert result.stdout == (
        f"invalidated every entry with the tag release-7 in the namespace {namespace}\n"
    )
    assert tiers(embed("a", "b")) == ["computed", "hot"]


def test_a_text_or_an_entity_is_invalidated_alone(run: Run, embed: Run, namespace: str) -> None:
    entities = b"\n".join(
        [
            b'{"text": "x", "id": "1"}',
            b'{"text": "y", "id": "1", "chunk_id": "c"}',
            b'{"text": "z", "id": "2"}',
        ]
    )
    embed("a", "b")
    embed("--jsonl", input=entities)
    result = run("invalidate", "--text", "a", "--id", "2", "--namespace", namespace)
    assert "the entries of 2 inputs" in result.stdout
    assert tiers(embed("a", "b")) == ["computed", "hot"]
    assert tiers(embed("--jsonl", input=entities)) == ["hot", "hot", "computed"]
    run("invalidate", "--id", "1", "--chunk-id", "c", "--namespace", namespace)
    assert tiers(embed("--jsonl", input=entities)) == ["hot", "computed", "hot"]


def test_a_whole_namespace_goes_and_no_other(run: Run, embed: Run, namespace: str) -> None:
    embed("a")
    run("embed", "--namespace", namespace[:8], "a")
    result = run("invalidate", "--whole-namespace", "--namespace", namespace)
    assert result.stdout == f"invalidated everything in the namespace {namespace}\n"
    assert tiers(embed("a")) == ["computed"]
    assert tiers(run("embed", "--namespace", namespace[:8], "a")) == ["hot"]


def test_without_a_name_the_sidecar_knows_which_namespace_is_meant(run: Run) -> None:
    result = run("invalidate", "--tag", "a-tag-of-nobody")
    assert result.stdout.endswith(" in the sidecar's own namespace\n")
    result = run("events", "publish", "--type", "updated", "--id", "a-document-of-nobody")
    assert result.stdout.endswith(" in the collection default of the sidecar's own namespace\n")


def test_what_is_flushed_is_served_again_by_redis(run: Run, embed: Run) -> None:
    embed("a")
    result = run("flush", "--tier", "hot")
    assert result.exit_code == 0
    assert result.stdout.startswith("removed ")
    assert counters(run)["tiers"]["hot"]["entries"] == 0
    assert tiers(embed("a")) == ["warm"]


def test_a_wrong_name_is_refused_with_the_reason(run: Run) -> None:
    result = run("invalidate", "--tag", "a", "--namespace", "no blanks")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: a namespace has 1 to 64 letters")
