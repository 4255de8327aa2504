"""What `embercache generate` shows of an answer, and what a terminal is kept from."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from embercache import Generated, GenerateTimings
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cli.generate_outputs import as_json, printable, summary


def generated(**given_: Any) -> Generated:
    values: dict[str, Any] = {
        "text": "An ember glows.",
        "tokens": [3, 4],
        "finish_reason": "stop",
        "prompt_tokens": 1024,
        "completion_tokens": 41,
        "reused_tokens": {"hot": 1000, "warm": 8},
        "tier": "computed",
        "age": 0.0,
        "model": "smollm2",
        "model_version": "v1",
        "timings": GenerateTimings(0.0, 0.0, 0.05, 1.05),
        "similarity": None,
    }
    return Generated(**(values | given_))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", "\\u001b]0;title\\u0007"),
        ("a\rb\bc\x7f", "a\\u000db\\u0008c\\u007f"),
        ("\x9b31m", "\\u009b31m"),
        ("a\u202eb\u2066c", "a\\u202eb\\u2066c"),
        ("line\n\tindented", "line\n\tindented"),
        ("Grüße, 世界 👩‍🚀", "Grüße, 世界 👩‍🚀"),
    ],
)
def test_what_would_control_a_terminal_is_shown_and_all_else_left(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_no_control_character_is_left_but_line_ends_and_tabs(text: str) -> None:
    left = [letter for letter in printable(text) if unicodedata.category(letter) == "Cc"]
    assert set(left) <= {"\n", "\t"}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_is_the_same_when_it_was_made_printable(text: str) -> None:
    written = json.dumps({"text": text}, ensure_ascii=False)
    assert json.loads(printable(written)) == {"text": text}


def test_json_has_all_that_is_known() -> None:
    values = json.loads(as_json(generated(text="Grüße\x1b")))
    assert values["text"] == "Grüße\x1b"
    assert values["reused_tokens"] == {"hot": 1000, "warm": 8}
    assert values["timings"]["first_token"] == 0.05


def test_the_summary_of_what_was_computed_tells_speed_and_what_was_reused() -> None:
    assert summary(generated(), 0.0456) == (
        "smollm2: computed; first text after 45.6 ms; 1,008 of 1,024 tokens of the prompt reused"
        " (1,000 hot, 8 warm); 41 tokens at 40.0/s; finish reason: stop"
    )


def test_the_summary_of_a_hit_tells_where_it_was_and_how_old() -> None:
    cached = {"reused_tokens": {}, "timings": GenerateTimings(0.0, 0.0, 0.0, 0.0)}
    assert summary(generated(tier="warm", age=12.4, **cached), 0.001) == (
        "smollm2: from the warm tier, 12 s old; first text after 1.0 ms; 41 tokens;"
        " finish reason: stop"
    )


@pytest.mark.parametrize(
    ("given_", "part"),
    [
        ({"reused_tokens": {}}, "; 0 of 1,024 tokens of the prompt reused; "),
        ({"completion_tokens": 1}, "; 1 token; "),
        ({"finish_reason": "length"}, "; finish reason: length"),
        ({"tier": "coalesced"}, "smollm2: coalesced; "),
        (
            {"tier": "hot", "similarity": 0.9512},
            "from the hot tier, 0 s old, the answer to another prompt, of similarity 0.9512; ",
        ),
    ],
)
def test_the_summary_tells_what_there_is_to_tell(given_: dict[str, Any], part: str) -> None:
    assert part in summary(generated(**given_), 0.05)


def test_the_summary_of_no_text_and_an_unknown_prompt_leaves_them_out() -> None:
    line = summary(generated(completion_tokens=0, prompt_tokens=0), None)
    assert line == "smollm2: computed; 0 tokens; finish reason: stop"
