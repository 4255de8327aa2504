"""Documents of YAML and JSON, read and written again."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.documents import DocumentError, read_documents

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(
        [
            "y",
            "1e3",
            "0644",
            "12:30:45",
            "2024-01-01",
            "a\nb\n",
            " x",
            "x: y",
            "#",
            "-",
            "\x85",
            "\u2028a\r",
        ]
    ),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=6), children, max_size=3)
    ),
    max_leaves=12,
)


def rewritten(text: str) -> str:
    (document,) = read_documents(text)
    return document.patched([])


def scalars(text: str) -> list[tuple[str, str, str | None]]:
    """Every scalar's tag, text and style, as YAML has them."""
    return [
        (event.tag, event.value, event.style)
        for event in yaml.parse(text)
        if isinstance(event, yaml.ScalarEvent)
    ]


@given(
    value=st.fixed_dictionaries({"key": values}),
    style=st.sampled_from([None, '"', "'", "|", ">"]),
    flow=st.booleans(),
)
def test_a_document_that_is_written_again_means_the_same(
    value: Any, style: str | None, flow: bool
) -> None:
    text = yaml.safe_dump(value, default_style=style, default_flow_style=flow)
    (document,) = read_documents(text)
    assert document.value == value
    assert read_documents(document.patched([]))[0].value == value


@given(value=values)
def test_json_that_is_written_as_yaml_means_the_same(value: Any) -> None:
    text = json.dumps([value], indent="\t")
    assert yaml.safe_load(rewritten(text)) == [value]


@pytest.mark.parametrize(
    "scalar",
    [
        *("0644", "0o644", "1e3", "1_000", "12:30:45", "y", "NO", "on", "~", "null", "1.10", ".5"),
        *("2024-01-01", "2001-12-14t21:59:43.10-05:00", '"yes"', "'0644'", '"1e3"', '"y"'),
        *("+1", "0x1F", ".inf", '"\\u00e9"', "é", "a  b", "'it''s'"),
    ],
)
def test_a_scalar_stays_as_it_is_written_whatever_a_reader_takes_it_for(scalar: str) -> None:
    text = f"a:\n- {scalar}\n"
    assert scalars(rewritten(text)) == scalars(text)


@pytest.mark.parametrize(
    "text", ["y", "1e3", "true", "0644", "1.5", "12:30", "", "~", "a: b", "# x"]
)
def test_text_of_ours_is_quoted_where_it_could_be_taken_for_something_else(text: str) -> None:
    (document,) = read_documents("a: 1\n")
    assert (
        document.patched([{"op": "replace", "path": "/a", "value": text}])
        == f"---\na: {json.dumps(text)}\n"
    )


def test_a_tag_keeps_its_meaning() -> None:
    assert yaml.safe_load(rewritten("a: !!str 12\nb: !!int '3'\n")) == {"a": "12", "b": 3}


def test_blocks_of_lines_stay_blocks() -> None:
    text = "a: |\n  one\n  two\nb: |-\n  three\n"
    assert rewritten(f"---\n{text}") == f"---\n{text}"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x85", "\u2028", "\ufeff"])
def test_json_with_any_end_of_line_in_it_means_the_same_in_yaml(end: str) -> None:
    value = {"a": f"one\ntwo{end}three"}
    assert yaml.safe_load(rewritten(json.dumps(value))) == value


def test_comments_before_the_content_stay() -> None:
    text = "--- # first\n# Source: chart\n\n#\na: 1 # lost\n"
    assert rewritten(text) == "--- # first\n# Source: chart\n\n#\na: 1\n"


def test_what_an_alias_stands_for_is_written_in_its_place() -> None:
    text = "a: &x {k: 1}\nb: *x\nc: {<<: *x, l: 2}\n"
    expected = "---\na:\n  k: 1\nb:\n  k: 1\nc:\n  k: 1\n  l: 2\n"
    assert rewritten(text) == expected
    assert read_documents(text)[0].value == yaml.safe_load(expected)


def test_a_key_that_is_merged_from_an_alias_may_be_given_again() -> None:
    text = "a: {b: {c: &x {<<: {k: 1}, k: 2}}}\ny: {<<: *x, z: 1}\n"
    assert read_documents(text)[0].value == yaml.safe_load(text)


def test_documents_are_told_apart_and_have_their_lines() -> None:
    text = (
        "# licence\n---\na: |\n  x\n  --- no mark\n---\n---   \nb: 2\n--- {c: 3}\n--- # nothing\n"
    )
    documents = read_documents(text)
    assert "".join(document.text for document in documents) == text
    assert [(document.line, document.value) for document in documents] == [
        (1, None),
        (2, {"a": "x\n--- no mark\n"}),
        (6, None),
        (7, {"b": 2}),
        (9, {"c": 3}),
        (10, None),
    ]


def test_lines_may_end_as_on_windows_and_begin_with_a_byte_order_mark() -> None:
    documents = read_documents("\ufeffa: 1\r\n---\r\nb: 2\r\n")
    assert [document.value for document in documents] == [{"a": 1}, {"b": 2}]
    assert [document.text for document in documents] == ["a: 1\r\n", "---\r\nb: 2\r\n"]


def test_json_may_have_tabs_and_follow_on_itself() -> None:
    documents = read_documents('{\n\t"a": 1\n}\n{"b": [1, 2]}')
    assert [(document.line, document.value) for document in documents] == [
        (1, {"a": 1}),
        (4, {"b": [1, 2]}),
    ]


def test_flow_style_of_yaml_is_no_json() -> None:
    assert read_documents("{a: 1}\n---\n{b: 2}")[1].value == {"b": 2}


def test_keys_that_are_no_text_become_text_as_in_json() -> None:
    assert read_documents("1: a\ntrue: b\n")[0].value == {"1": "a", "true": "b"}
    assert rewritten("1: a\ntrue: b\n'2': c\n") == "---\n1: a\ntrue: b\n'2': c\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n---\nb: [\n", "line 4: not YAML: "),
        ("a: 1\n---\nb: 1\nc: 2\nb: 3\n", "line 5: not YAML: 'b' is there twice"),
        ("x: &a [*a]\n", "line 1"),
        ("x: !secret y\n", "line 1: not YAML: could not determine a constructor"),
        ("a: \x00", "the document at line 1 is not YAML of an object"),
        ("? [a, b]\n: c\n", "line 1"),
    ],
)
def test_what_is_no_yaml_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as caught:
        read_documents(text)
    assert message in str(caught.value)
