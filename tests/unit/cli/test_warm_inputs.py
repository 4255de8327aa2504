"""What `embercache warm` reads, and in which parts it is asked for."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from embercache import Entity, Search, field

from sidecar.cli import warm_inputs
from sidecar.cli.warm_inputs import Part, parts


def of_lines(*lines: Any, from_line: int = 1, namespace: str = "") -> list[Part]:
    """The parts of JSON lines."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    file = io.BytesIO(text.encode())
    return list(parts(file, is_json=True, from_line=from_line, namespace=namespace))


def of_text(text: str, from_line: int = 1) -> list[Part]:
    file = io.BytesIO(text.encode())
    return list(parts(file, is_json=False, from_line=from_line, namespace=""))


def test_lines_of_text_are_texts() -> None:
    (part,) = of_text("a\n\nb\r\n")
    assert part == Part(1, 3, ["a", "", "b"])
    assert not part.holds_searches


def test_a_part_holds_so_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_inputs, "PART_LINES", 2)
    cut = of_text("a\nb\nc\nd\ne\n")
    assert cut == [Part(1, 2, ["a", "b"]), Part(3, 2, ["c", "d"]), Part(5, 1, ["e"])]
    assert [part.lines for part in of_lines("bad", "bad", "bad")] == [2, 1]


def test_lines_before_the_first_are_skipped_and_keep_their_numbers() -> None:
    assert of_text("a\nb\nc\n", from_line=3) == [Part(3, 1, ["c"])]
    assert of_text("a\nb\nc\n", from_line=4) == []


def test_texts_entities_and_searches_are_told_apart() -> None:
    cut = of_lines(
        {"text": "a"},
        {"text": "b", "id": "doc", "chunk_id": "1"},
        {"query": "q", "collection": "c", "top_k": 3, "where": {"lang": "en"}, "rerank": True},
        {"query": "r"},
        {"text": "c"},
    )
    assert [(part.first_line, part.lines, part.holds_searches) for part in cut] == [
        (1, 2, False),
        (3, 2, True),
        (5, 1, False),
    ]
    assert cut[0].items == ["a", Entity("doc", "b", "1")]
    search = cut[1].items[0]
    assert isinstance(search, Search)
    assert (search.message.text, search.message.collection) == ("q", "c")
    assert search.message.filter == (field("lang") == "en").message
    assert search.message.HasField("rerank")


def test_a_search_without_a_namespace_is_in_the_one_that_is_given() -> None:
    (part,) = of_lines({"query": "q"}, {"query": "r", "namespace": "own"}, namespace="given")
    names = [item.message.namespace for item in part.items if isinstance(item, Search)]
    assert names == ["given", "own"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("secret", "not JSON"),
        ({"txt": "secret"}, 'has no string "text"'),
        ({"query": ["secret"]}, "give a str"),
        ({"query": "secret", "colour": "red"}, "has 'colour'; a search has query, top_k, where"),
        ({"query": "secret", "top_k": 0}, "top_k is 0"),
        ({"query": "secret", "top_k": "3"}, "not supported between"),
        ({"query": "secret", "where": "lang"}, "where is a str"),
    ],
)
def test_a_bad_line_is_told_why_but_not_quoted_and_spoils_no_other(line: Any, reason: str) -> None:
    (part,) = of_lines({"text": "a"}, line, {"text": "b"})
    assert (part.lines, part.items) == (3, ["a", "b"])
    ((number, bad),) = part.bad
    assert number == 2
    assert reason in str(bad)
    assert "secret" not in str(bad)


def test_bad_lines_alone_are_a_part_too() -> None:
    (part,) = of_lines("x", "y")
    assert (part.items, [number for number, _ in part.bad]) == ([], [1, 2])
    assert not part.holds_searches
