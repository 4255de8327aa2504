"""What `embercache embed` makes of lines."""

from __future__ import annotations

import io
import json
from typing import Any

import click
import pytest
from embercache import Entity
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli import embed_inputs
from sidecar.cli.embed_inputs import BadInputError, Inputs, from_arguments, from_lines


def read(content: bytes, *, is_json: bool = False) -> list[Any]:
    """Inputs; what is bad as its message."""
    read = from_lines(io.BytesIO(content), is_json=is_json)
    return [str(item) if isinstance(item, BadInputError) else item for item in read]


def test_a_line_is_a_text_without_its_end() -> None:
    assert read(b"one\ntwo\r\n three \n") == ["one", "two", " three "]


def test_the_last_line_needs_no_end() -> None:
    assert read(b"one\ntwo") == ["one", "two"]


def test_an_empty_file_has_no_lines() -> None:
    assert read(b"") == []


def test_an_empty_line_is_an_empty_text_so_that_rows_stay_lines() -> None:
    assert read(b"one\n\nthree\n") == ["one", "", "three"]


def test_only_a_line_feed_ends_a_line() -> None:
    text = "one\rtwo\u2028three\x0bfour\x85five"
    assert read(text.encode()) == [text]


def test_a_byte_order_mark_in_front_of_the_file_is_no_text() -> None:
    assert read(b"\xef\xbb\xbfone\n\xef\xbb\xbftwo") == ["one", "\ufefftwo"]
    assert read(b'\xef\xbb\xbf{"text": "one"}', is_json=True) == ["one"]


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\ufeff", codec="utf-8")), min_size=1))
def test_texts_come_back_as_they_were_written(texts: list[str]) -> None:
    assert read("".join(text + "\n" for text in texts).encode()) == texts


def test_a_line_that_is_not_utf8_is_named_by_its_byte_and_spares_the_others() -> None:
    assert read(b"one\nab\xffcd\nthree") == ["one", "not UTF-8 (byte 3 of the line)", "three"]


def test_a_line_too_long_for_memory_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_inputs, "MAX_LINE_BYTES", 8)
    long = "longer than 8 bytes"
    assert read(b"1234567\n12345678\n" + b"x" * 50 + b"\nlast") == ["1234567", long, long, "last"]


def test_a_json_line_is_a_text_or_with_an_id_an_entity() -> None:
    lines = [
        {"text": "plain"},
        {"text": "named", "id": "a", "other": [1]},
        {"text": "part", "id": "a", "chunk_id": "1"},
        {"text": "numbered", "id": 7, "chunk_id": 0},
    ]
    assert read("\n".join(map(json.dumps, lines)).encode(), is_json=True) == [
        "plain",
        Entity("a", "named"),
        Entity("a", "part", "1"),
        Entity("7", "numbered", "0"),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("secret", "not JSON (Expecting value at character 1)"),
        ("", "not JSON (Expecting value at character 1)"),
        ('["secret"]', "not a JSON object"),
        ('{"txt": "secret"}', 'has no string "text"'),
        ('{"text": null}', 'has no string "text"'),
        ('{"text": "secret", "id": null}', '"id" is neither a string nor a whole number'),
        ('{"text": "secret", "id": true}', '"id" is neither a string nor a whole number'),
        ('{"text": "secret", "id": "a", "chunk_id": 1.5}', '"chunk_id" is neither a string nor'),
        ('{"text": "secret \\ud800"}', "not Unicode (half of a surrogate pair)"),
        ('{"text": "secret", "id": "\\udfff"}', "not Unicode (half of a surrogate pair)"),
        ("[" * 100_000, "not usable JSON (nested too deeply, or a number too long)"),
        ("9" * 10_000, "not usable JSON (nested too deeply, or a number too long)"),
    ],
)
def test_a_bad_json_line_is_told_why_but_not_quoted(line: str, reason: str) -> None:
    good = b'\n{"text": "next"}'
    bad, text = read(line.encode() + good, is_json=True)
    assert bad.startswith(reason)
    assert "secret" not in bad
    assert text == "next"


@given(st.binary(), st.booleans())
def test_whatever_the_bytes_there_is_one_item_a_line(content: bytes, is_json: bool) -> None:
    lines = content.count(b"\n") + (not content.endswith(b"\n") and content != b"")
    assert len(read(content, is_json=is_json)) == lines


def test_an_argument_in_another_encoding_is_bad() -> None:
    good, bad = from_arguments(["fine", b"\xff".decode(errors="surrogateescape")])
    assert good == "fine"
    assert isinstance(bad, BadInputError)


def test_bad_inputs_wait_for_their_turn() -> None:
    errors = [BadInputError(str(number)) for number in range(4)]
    inputs = Inputs([errors[0], "a", errors[1], errors[2], "b", errors[3]])
    assert list(inputs) == ["a", "b"]
    assert [inputs.bad_at(index) for index in range(7)] == [
        errors[0],
        None,
        errors[1],
        errors[2],
        None,
        errors[3],
        None,
    ]


def test_a_file_that_is_mostly_bad_ends_the_command_before_it_fills_memory() -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        while True:
            read += 1
            yield BadInputError("not UTF-8")

    with pytest.raises(click.ClickException, match=r"number 1000 \(not UTF-8\): is this the right"):
        list(Inputs(endless()))
    assert read == 1000


def test_bad_inputs_that_had_their_turn_do_not_count() -> None:
    inputs = Inputs(item for _ in range(3000) for item in (BadInputError("bad"), "good"))
    index = 0
    for _ in inputs:
        assert inputs.bad_at(index) is not None
        index += 2
    assert index == 6000
