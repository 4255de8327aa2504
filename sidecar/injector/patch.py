"""JSON Patch, RFC 6902: operations read, applied and made.

`add`, `remove`, `replace` and `test` only: there is nothing to `move` in a pod, and a few dozen
times `copy` would fill the memory.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any, TypeAlias

Operation: TypeAlias = dict[str, Any]

_NEEDS_VALUE = {"add", "replace", "test"}
_KNOWN = {*_NEEDS_VALUE, "remove"}
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


class PatchError(ValueError):
    """A JSON Patch that cannot be read or applied. The message names the operation."""


def read_operations(text: str) -> tuple[Operation, ...]:
    """A JSON Patch from its text. Raises `PatchError`."""
    try:
        operations = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise PatchError("write a JSON Patch: a list of operations, as JSON") from None
    if not isinstance(operations, list):
        raise PatchError("a JSON Patch is a list of operations, in [ and ]")
    for number, operation in enumerate(operations, start=1):
        _check(operation, number)
    return tuple(operations)


def apply(document: Any, operations: list[Operation] | tuple[Operation, ...]) -> Any:
    """A patched copy of a document. Raises `PatchError`."""
    document = copy.deepcopy(document)
    for number, operation in enumerate(operations, start=1):
        try:
            document = _apply_one(document, operation)
        except PatchError as error:
            place = f"operation {number} ({operation['op']} {operation['path']})"
            raise PatchError(f"{place}: {error}") from None
    return document


class Changes:
    """Makes a patch of additions. ``document`` is what it leads to; the original stays."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.operations: list[Operation] = []

    def add(self, *path: str | int, value: Any) -> None:
        """Adds a value at the end of a path, where ``-`` and 0 are places in a list.

        What is missing or null on the way is made. What is already there is not overwritten:
        the caller knows that it is not, or that it is null.
        """
        node: Any = self.document
        for depth, part in enumerate(path[:-1], start=1):
            node = node.get(part) if isinstance(node, dict) else node[part]
            if node is None:
                for missing in reversed(path[depth:]):
                    value = [value] if missing in ("-", 0) else {missing: value}
                path = path[:depth]
                break
        self.document = _with(self.document, path, value)
        pointer = "".join(f"/{_escape(str(part))}" for part in path)
        self.operations.append({"op": "add", "path": pointer, "value": value})


def _with(node: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a node with the addition. What is not on the path is shared with the original."""
    part, rest = path[0], path[1:]
    node = node.copy()
    if rest:
        node[part] = _with(node[part], rest, value)
    else:
        _add(node, str(part), value)
    return node


def _escape(key: str) -> str:
    """A key as a part of a JSON Pointer, RFC 6901."""
    return key.replace("~", "~0").replace("/", "~1")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check(operation: object, number: int) -> None:
    if not isinstance(operation, dict):
        raise PatchError(f"operation {number}: write an object with op, path and value")
    if operation.get("op") not in _KNOWN:
        raise PatchError(f"operation {number}: op must be add, remove, replace or test")
    path = operation.get("path")
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise PatchError(f"operation {number}: path must be text that begins with '/'")
    if operation["op"] in _NEEDS_VALUE and "value" not in operation:
        raise PatchError(f"operation {number}: {operation['op']} needs a value")


def _apply_one(document: Any, operation: Operation) -> Any:
    parts = [
        part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
    ]
    value = copy.deepcopy(operation.get("value"))
    if not parts:
        return _at_root(document, operation["op"], value)
    parent = document
    for part in parts[:-1]:
        parent = parent[_existing(parent, part)]
    last = parts[-1]
    if operation["op"] == "add":
        _add(parent, last, value)
        return document
    key = _existing(parent, last)
    if operation["op"] == "remove":
        del parent[key]
    elif operation["op"] == "replace":
        parent[key] = value
    elif not _equal(parent[key], value):
        raise PatchError("the value there is another")
    return document


def _at_root(document: Any, op: str, value: Any) -> Any:
    if op == "remove":
        raise PatchError("the whole cannot be removed")
    if op == "test" and not _equal(document, value):
        raise PatchError("the value there is another")
    return document if op == "test" else value


def _existing(parent: Any, part: str) -> Any:
    """The key or index that a part of a path stands for."""
    if isinstance(parent, dict) and part in parent:
        return part
    if isinstance(parent, list) and _INDEX.fullmatch(part) and int(part) < len(parent):
        return int(part)
    raise PatchError(f"there is no {part!r} there")


def _add(parent: Any, part: str, value: Any) -> None:
    if isinstance(parent, dict):
        parent[part] = value
    elif isinstance(parent, list) and part == "-":
        parent.append(value)
    elif isinstance(parent, list) and _INDEX.fullmatch(part) and int(part) <= len(parent):
        parent.insert(int(part), value)
    else:
        raise PatchError(f"nothing can be added at {part!r} there")


def _equal(left: Any, right: Any) -> bool:
    """Equality of JSON; Python holds True and 1 for equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
