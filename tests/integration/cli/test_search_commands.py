"""`embercache documents` and `embercache search` against a real sidecar with the real minilm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    Run = Callable[..., Result]

DOCUMENTS = [
    {"id": "ember", "content": "An ember is a glowing piece of coal.", "metadata": {"year": 2024}},
    {"id": "cache", "content": "A cache keeps answers for later.", "metadata": {"year": 2020}},
    {"id": "bread", "chunks": [{"chunk_id": "title", "content": "Baking bread\nat home."}]},
]


@pytest.fixture
def shop(run: Run, namespace: str, tmp_path: Path) -> Run:
    """Runs commands in a namespace with three documents in the collection ``shop``."""
    file = tmp_path / "shop.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in DOCUMENTS))
    where = ("--namespace", namespace, "--collection", "shop")
    result = run("documents", "add", str(file), *where, "--tag", "release-7")
    assert result.exit_code == 0
    assert "3 documents in" in result.stdout
    assert ": 3 created; 3 chunks computed, 0 cached" in result.stdout

    def run_there(*arguments: str, **options: Any) -> Result:
        return run(*arguments, *where, **options)

    return run_there


def found(run: Run, query: str, *arguments: str) -> Any:
    result = run("search", query, "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def ids(answer: Any) -> list[str]:
    return [hit["id"] for hit in answer["results"]]


def test_the_nearest_is_first_and_the_second_time_it_is_cached(shop: Run) -> None:
    first = found(shop, "what glows?")
    assert ids(first)[0] == "ember"
    assert len(ids(first)) == 3
    assert (first["tier"], first["query_tier"]) == ("computed", "computed")
    second = found(shop, "what glows?")
    assert second["results"] == first["results"]
    assert second["tier"] == "hot"


def test_the_table_shows_rank_score_id_and_the_first_line_and_what_answered(shop: Run) -> None:
    computed = shop("search", "how do I bake?", "--top-k", "1").stdout.splitlines()
    cached = shop("search", "how do I bake?", "--top-k", "1").stdout.splitlines()
    assert computed[0].startswith("1 result in ")
    assert computed[0].endswith(" by minilm: computed; vector of the query: computed")
    assert " by minilm: from the hot tier, " in cached[0]
    assert cached[1:] == computed[1:]
    assert cached[1].split() == ["rank", "score", "id", "content"]
    rank, score, name, *content = cached[2].split()
    assert (rank, name, content) == ("1", "bread#title", ["Baking", "bread"])
    assert 0 < float(score) <= 1


def test_a_document_is_found_by_its_metadata(shop: Run) -> None:
    assert ids(found(shop, "what glows?", "--where", "year>=2024")) == ["ember"]
    assert ids(found(shop, "what glows?", "--where", "year=[2020,2021]")) == ["cache"]
    both = ("--where", "year>2000", "--where", "year!=2024")
    assert ids(found(shop, "what glows?", *both)) == ["cache"]
    none = shop("search", "what glows?", "--where", "lang=en")
    assert none.exit_code == 0
    assert none.stdout.startswith("0 results in ")


def test_results_are_reranked_on_request(shop: Run) -> None:
    result = found(shop, "what glows?", "--rerank")
    assert ids(result)[0] == "ember"
    scores = [hit["rerank_score"] for hit in result["results"]]
    assert scores == sorted(scores, reverse=True)
    table = shop("search", "what glows? ", "--rerank").stdout.splitlines()
    assert "scores of " in table[0]
    assert table[1].split()[:3] == ["rank", "score", "rerank"]


def test_the_answer_to_another_query_is_named(shop: Run) -> None:
    shop("search", "what is it that glows?", "--semantic")
    again = found(shop, "what is it that glows", "--semantic")
    assert again["semantic"]["query"] == "what is it that glows?"
    text = shop("search", "what is it that glows", "--semantic").stdout
    assert "the answer to another query, of similarity 0." in text
    assert found(shop, "what is it that glows", "--no-semantic")["semantic"] is None


def test_documents_that_are_there_already_cost_nothing(shop: Run) -> None:
    lines = "".join(json.dumps(each | {"tags": ["release-7"]}) + "\n" for each in DOCUMENTS)
    result = shop("documents", "add", "-", input=lines.encode())
    assert ": 3 unchanged; 0 chunks computed" in result.stdout


def test_a_changed_document_is_found_as_it_is_now(shop: Run) -> None:
    before = found(shop, "what glows?", "--top-k", "1")
    line = json.dumps({"id": "ember", "content": "The moon is a cold stone."})
    assert ": 1 updated;" in shop("documents", "add", "-", input=line.encode()).stdout
    after = found(shop, "what glows?", "--top-k", "3")
    assert before["results"][0]["content"] not in [hit["content"] for hit in after["results"]]
    assert after["tier"] == "computed"


def test_a_folder_is_stored_and_long_files_in_chunks(shop: Run, tmp_path: Path) -> None:
    folder = tmp_path / "guide"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "long.md").write_text("\n\n".join(f"Paragraph {i}." for i in range(20)))
    (folder / "short.txt").write_text("A whale is a mammal.")
    result = shop("documents", "add", str(folder), "--chunk-characters", "60")
    assert ": 2 created; 6 chunks computed" in result.stdout
    answer = found(shop, "which animal lives in the sea?", "--top-k", "1")
    assert ids(answer) == ["short.txt"]


def test_what_cannot_be_stored_is_named_and_the_rest_is_stored(shop: Run) -> None:
    lines = b'{"id": "", "content": "secret"}\nnot json\n{"id": "d", "content": "stored"}\n'
    result = shop("documents", "add", "-", input=lines)
    assert result.exit_code == 1
    assert "line 2: not JSON" in result.stderr
    assert "secret" not in result.stderr
    assert ": 1 created, 2 failed;" in result.stdout
    assert "d" in ids(found(shop, "stored"))


def test_an_id_that_comes_twice_is_what_it_was_last(shop: Run) -> None:
    lines = b'{"id": "x", "content": "an old sock"}\n{"id": "x", "content": "a new hat"}\n'
    assert "2 documents" in shop("documents", "add", "-", input=lines).stdout
    answer = found(shop, "a hat", "--top-k", "1")
    assert answer["results"][0]["content"] == "a new hat"


def test_deleted_documents_are_not_found_and_missing_ones_are_named(shop: Run) -> None:
    found(shop, "what glows?")
    result = shop("documents", "delete", "ember", "nobody")
    assert result.exit_code == 0
    assert result.stdout == "removed 1 of 2 documents\n"
    assert result.stderr == "not there: nobody\n"
    assert "ember" not in ids(found(shop, "what glows?"))


def test_a_wrong_collection_is_refused_with_the_reason(run: Run) -> None:
    result = run("search", "what glows?", "--collection", "no blanks")
    assert result.exit_code == 1
    assert "collection" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        ["invalidate", "--document", "ember", "--collection", "shop"],
        ["invalidate", "--query", "what glows?", "--collection", "shop"],
        ["invalidate", "--kind", "search"],
        ["invalidate", "--model-version", ""],
        ["invalidate", "--tag", "release-7"],
        ["events", "publish", "--type", "updated", "--id", "ember", "--collection", "shop"],
        ["events", "publish", "--type", "deleted", "--id", "ember", "--collection", "shop"],
        ["events", "publish", "--type", "created", "--collection", "shop"],
    ],
    ids=lambda change: " ".join(change[:4]),
)
def test_an_answer_that_was_invalidated_is_computed_again(
    shop: Run, run: Run, namespace: str, change: list[str]
) -> None:
    found(shop, "what glows?")
    assert found(shop, "what glows?")["tier"] == "hot"
    result = run(*change, "--namespace", namespace)
    assert result.exit_code == 0, result.stderr
    assert f"namespace {namespace}" in result.stdout
    assert found(shop, "what glows?")["tier"] == "computed"


@pytest.mark.parametrize(
    "change",
    [
        ["invalidate", "--document", "nobody", "--collection", "shop"],
        ["invalidate", "--document", "ember", "--collection", "elsewhere"],
        ["invalidate", "--query", "what glows?", "--collection", "shop", "--where", "year=1"],
        ["invalidate", "--query", "what glows?", "--collection", "shop", "--rerank"],
        ["invalidate", "--query", "another", "--collection", "shop"],
        ["invalidate", "--kind", "rerank"],
        ["events", "publish", "--type", "updated", "--id", "nobody", "--collection", "shop"],
    ],
    ids=" ".join,
)
def test_an_answer_that_was_not_named_stays(
    shop: Run, run: Run, namespace: str, change: list[str]
) -> None:
    found(shop, "what glows?")
    assert run(*change, "--namespace", namespace).exit_code == 0
    assert found(shop, "what glows?")["tier"] == "hot"


def test_an_event_about_no_document_is_refused_with_the_reason(run: Run) -> None:
    result = run("events", "publish", "--type", "updated")
    assert result.exit_code == 1
    assert "needs their ids" in result.stderr
