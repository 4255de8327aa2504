"""JSON Patch, against the examples of RFC 6902, appendix A, and the texts of RFC 6901."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from sidecar.injector.patch import Changes, PatchError, apply, pointer, read_operations


def patched(document: Any, *operations: dict[str, Any]) -> Any:
    before = copy.deepcopy(document)
    result = apply(document, read_operations(json.dumps(operations)))
    assert document == before
    return result


@pytest.mark.parametrize(
    ("document", "operation", "result"),
    [
        ({"foo": "bar"}, {"op": "add", "path": "/baz", "value": 1}, {"foo": "bar", "baz": 1}),
        ({"foo": [1, 3]}, {"op": "add", "path": "/foo/1", "value": 2}, {"foo": [1, 2, 3]}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/-", "value": [2]}, {"foo": [1, [2]]}),
        ({"foo": [1]}, {"op": "add", "path": "/foo/1", "value": 2}, {"foo": [1, 2]}),
        ({"foo": 1}, {"op": "add", "path": "/foo", "value": None}, {"foo": None}),
        ({"foo": 1}, {"op": "add", "path": "", "value": []}, []),
        ({"foo": 1, "baz": 2}, {"op": "remove", "path": "/baz"}, {"foo": 1}),
        ({"foo": [1, 2, 3]}, {"op": "remove", "path": "/foo/1"}, {"foo": [1, 3]}),
        ({"foo": 1}, {"op": "replace", "path": "/foo", "value": 2}, {"foo": 2}),
        ({"foo": [1, 2]}, {"op": "replace", "path": "/foo/0", "value": 3}, {"foo": [3, 2]}),
        ({"foo": 1}, {"op": "add", "path": "/b", "value": {"c": 1}}, {"foo": 1, "b": {"c": 1}}),
        ({"foo": 1}, {"op": "add", "path": "/b", "value": 1, "xyz": 2}, {"foo": 1, "b": 1}),
        ({"/": 9, "~1": 10}, {"op": "replace", "path": "/~01", "value": 1}, {"/": 9, "~1": 1}),
        ({"/": 9, "~1": 10}, {"op": "replace", "path": "/~1", "value": 1}, {"/": 1, "~1": 10}),
        ({"": 1}, {"op": "remove", "path": "/"}, {}),
    ],
)
def test_operations_do_what_the_standard_says(
    document: Any, operation: dict[str, Any], result: Any
) -> None:
    assert patched(document, operation) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "add", "path": "/baz/bat", "value": 1},
        {"op": "add", "path": "/list/3", "value": 1},
        {"op": "add", "path": "/list/01", "value": 1},
        {"op": "add", "path": "/list/x", "value": 1},
        {"op": "add", "path": "/foo/x", "value": 1},
        {"op": "remove", "path": "/nothing"},
        {"op": "remove", "path": "/list/-"},
        {"op": "remove", "path": "/list/2"},
        {"op": "replace", "path": "/nothing", "value": 1},
        {"op": "test", "path": "/foo", "value": 10},
        {"op": "test", "path": "/one", "value": True},
        {"op": "test", "path": "/list", "value": [2, 1]},
        {"op": "test", "path": "", "value": {}},
    ],
)
def test_an_operation_that_cannot_be_done_is_named(operation: dict[str, Any]) -> None:
    document = {"foo": "bar", "one": 1, "list": [1, 2]}
    with pytest.raises(PatchError, match=f"^operation 2 \\({operation['op']} {operation['path']}"):
        patched(document, {"op": "test", "path": "/foo", "value": "bar"}, operation)


def test_a_test_compares_numbers_by_value_and_objects_without_order() -> None:
    document = {"a": {"x": 1, "y": [2.0, None]}}
    operation = {"op": "test", "path": "/a", "value": {"y": [2, None], "x": 1.0}}
    assert patched(document, operation) == document


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "write a JSON Patch: a list of operations, as JSON"),
        ("[NaN]", "write a JSON Patch: a list of operations, as JSON"),
        ("[" * 100_000, "write a JSON Patch: a list of operations, as JSON"),
        ("{}", "a JSON Patch is a list of operations, in"),
        ("[1]", "operation 1: write an object with op, path and value"),
        ('[{"op": "remove", "path": "/a"}, {}]', "operation 2: op must be add, remove, replace or"),
        ('[{"op": "copy", "from": "/a", "path": "/b"}]', "op must be add, remove, replace or test"),
        ('[{"op": [], "path": ""}]', "operation 1: op must be"),
        ('[{"op": "remove"}]', "operation 1: path must be text that begins with '/'"),
        ('[{"op": "remove", "path": "a"}]', "operation 1: path must be text that begins with '/'"),
        ('[{"op": "add", "path": "/a"}]', "operation 1: add needs a value"),
    ],
)
def test_what_is_no_patch_is_refused_with_what_is_missing(text: str, message: str) -> None:
    with pytest.raises(PatchError, match=message):
        read_operations(text)


def test_additions_make_what_is_missing_or_null_on_the_way() -> None:
    changes = Changes({"a": None, "kept": {"list": [{"x": 1}]}})
    changes.add("a", "b", "-", value=1)
    changes.add("a", "b", "-", value=2)
    changes.add("kept", "list", 0, "y/z", value=3)
    changes.add("new", 0, value=4)
    result = {"a": {"b": [1, 2]}, "kept": {"list": [{"x": 1, "y/z": 3}]}, "new": [4]}
    assert changes.document == result
    assert [operation["path"] for operation in changes.operations] == [
        "/a",
        "/a/b/-",
        "/kept/list/0/y~1z",
        "/new",
    ]


def test_a_pointer_escapes_what_has_a_meaning_in_it() -> None:
    assert pointer(("a/b", "m~n", 0, "")) == "/a~1b/m~0n/0/"
