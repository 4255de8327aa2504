"""What `embercache documents add` reads, and how it cuts texts into chunks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click
import pytest
from embercache import Chunk, Document
from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.cli.document_inputs import Source, cut
from sidecar.cli.embed_inputs import MAX_LINE_BYTES, BadInputError

if TYPE_CHECKING:
    from pathlib import Path

MOST = 40


def read(path: Path) -> dict[str, Document | str]:
    """What each thing that was found is, or why it is bad."""
    return {
        name: str(found) if isinstance(found, BadInputError) else found
        for name, found in Source(str(path), MOST)
    }


def parsed(tmp_path: Path, value: Any) -> Document | str:
    """The document of one JSON line, or why it is bad."""
    file = tmp_path / "one.jsonl"
    file.write_text(value if isinstance(value, str) else json.dumps(value))
    return read(file)[f"{file}, line 1"]


def test_a_line_has_all_that_a_document_has(tmp_path: Path) -> None:
    line = {
        "id": "a",
        "content": "text",
        "metadata": {"lang": "en", "year": 2000, "draft": False},
        "tags": ["t"],
    }
    expected = Document("a", "text", {"lang": "en", "year": 2000, "draft": False}, ["t"])
    assert parsed(tmp_path, line) == expected


def test_an_id_may_be_a_whole_number(tmp_path: Path) -> None:
    assert parsed(tmp_path, {"id": 17, "content": "text"}) == Document("17", "text", tags=[])


def test_chunks_are_taken_as_they_are(tmp_path: Path) -> None:
    chunks = ["x" * 100, {"chunk_id": "title", "content": "y"}, {"chunk_id": 3, "content": "z"}]
    document = parsed(tmp_path, {"id": "a", "chunks": chunks})
    assert isinstance(document, Document)
    assert document.content == ["x" * 100, Chunk("title", "y"), Chunk("3", "z")]


def test_a_long_content_is_cut(tmp_path: Path) -> None:
    document = parsed(tmp_path, {"id": "a", "content": "one two\n\n" * 10})
    assert isinstance(document, Document)
    assert len(document.content) > 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("secret", "not JSON"),
        ('["secret"]', "not a JSON object"),
        ({"content": "secret"}, 'has no "id"'),
        ({"id": "secret"}, 'needs one of "content" and "chunks"'),
        ({"id": "a", "content": "secret", "chunks": []}, 'needs one of "content" and "chunks"'),
        ({"id": None, "content": "secret"}, '"id" is neither a string nor a whole number'),
        ({"id": "a", "content": ["secret"]}, '"content" is not a string'),
        ({"id": "a", "content": " \n "}, "has no text"),
        ({"id": "a", "chunks": "secret"}, '"chunks" is not a list'),
        ({"id": "a", "chunks": [{"text": "secret"}]}, 'with a string "content"'),
        ({"id": "a", "chunks": [{"content": "secret", "chunk_id": 1.5}]}, '"chunk_id" is neither'),
        ({"id": "a", "content": "secret", "metadata": ["lang"]}, '"metadata" is not an object'),
        ({"id": "a", "content": "secret", "metadata": {"lang": None}}, "lang is a NoneType"),
        ({"id": "a", "content": "secret", "metadata": {"n": 2**60 + 1}}, "more than 53 bits"),
        ('{"id": "a", "content": "secret", "metadata": {"n": NaN}}', "not finite"),
        ({"id": "a", "content": "secret", "tags": "t"}, '"tags" is not a list of strings'),
        ({"id": "a", "content": "secret", "text": "x"}, "has 'text'; only chunks, content, id"),
        ('{"id": "a", "content": "secret \\ud800"}', "half of a surrogate pair"),
        ('{"id": "a", "content": "secret", "metadata": {"n": "\\ud800"}}', "surrogate"),
    ],
)
def test_a_bad_line_is_told_why_but_not_quoted(tmp_path: Path, line: Any, reason: str) -> None:
    bad = parsed(tmp_path, line)
    assert isinstance(bad, str)
    assert reason in bad
    assert "secret" not in bad


def test_a_bad_line_does_not_spoil_the_others(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_bytes(b'{"id": 1, "content": "a"}\n\xff\n{"id": 3, "content": "c"}\n')
    found = read(file)
    assert list(found) == [f"{file}, line {number}" for number in (1, 2, 3)]
    assert [isinstance(each, Document) for each in found.values()] == [True, False, True]


def test_every_file_of_a_folder_is_a_document_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "guide" / ".drafts").mkdir(parents=True)
    (tmp_path / "b.txt").write_text("\ufeffbee")
    (tmp_path / "guide" / "a.md").write_text("one two\n\n" * 10)
    (tmp_path / "guide" / ".hidden").write_text("hidden")
    (tmp_path / "guide" / ".drafts" / "c.md").write_text("draft")
    found = read(tmp_path)
    assert list(found) == ["b.txt", "guide/a.md"]
    assert found["b.txt"] == Document("b.txt", "bee")
    long = found["guide/a.md"]
    assert isinstance(long, Document)
    assert long.id == "guide/a.md"
    assert len(long.content) > 1


def test_a_file_is_a_document_named_as_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("text")
    assert read(file) == {str(file): Document(file.as_posix(), "text")}


def test_what_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff")
    (tmp_path / "empty.txt").write_text(" \n")
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(MAX_LINE_BYTES + 1)
    assert read(tmp_path) == {
        "empty.txt": "has no text",
        "large.txt": f"longer than {MAX_LINE_BYTES} bytes",
        "picture.png": "not UTF-8, and so no text",
    }


def test_a_file_that_is_not_there_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match=r"cannot read .*nobody: No such file"):
        read(tmp_path / "nobody")


def test_a_short_text_is_one_chunk_without_a_name() -> None:
    assert cut("  one\n\ntwo \n", 40) == "one\n\ntwo"


def test_paragraphs_that_fit_together_are_one_chunk() -> None:
    text = "aaaa bbbb\n\ncccc dddd\n   \n\neeee ffff\ngggg"
    assert cut(text, 20) == ["aaaa bbbb\n\ncccc dddd", "eeee ffff\ngggg"]


def test_a_long_paragraph_is_cut_between_words_and_a_long_word_anywhere() -> None:
    assert cut("aaa bbb ccc\n\n" + "d" * 25, 10) == ["aaa bbb", "ccc", "d" * 10, "d" * 10, "d" * 5]


def test_a_long_paragraph_is_cut_at_the_end_of_a_line_if_that_is_not_too_short() -> None:
    assert cut("aaa bbb\nccc ddd", 10) == ["aaa bbb", "ccc ddd"]
    assert cut("a\nbbb ccc ddd eee", 10) == ["a\nbbb ccc", "ddd eee"]


@given(st.text(st.sampled_from("ab \n\t")), st.integers(1, 12))
@example("a b", 1)
def test_chunks_are_no_longer_than_allowed_and_hold_all_the_letters(text: str, most: int) -> None:
    if not text.strip():
        with pytest.raises(BadInputError, match="has no text"):
            cut(text, most)
        return
    content = cut(text, most)
    chunks = [content] if isinstance(content, str) else content
    assert all(isinstance(chunk, str) and 1 <= len(chunk) <= most for chunk in chunks)
    assert all(chunk == chunk.strip() for chunk in chunks if isinstance(chunk, str))
    assert "".join("".join(map(str, chunks)).split()) == "".join(text.split())
