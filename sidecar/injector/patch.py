"""JSON Patch, RFC 6902: operations read, applied and made.

``add``, ``remove``, ``replace`` and ``test`` only: there is nothing to ``move`` in a container, and
a few dozen times ``copy`` would fill the memory.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

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


def apply(document: Any, operations: Iterable[Operation]) -> Any:
    """A patched copy of a document, which shares with it what is the same. Raises `PatchError`."""
    for number, operation in enumerate(operations, start=1):
        parts = [_unescape(part) for part in operation["path"].split("/")[1:]]
        try:
            document = _applied(document, parts, operation["op"], operation.get("value"))
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

        What is missing or null on the way is made.
        """
        node: Any = self.document
        for depth, part in enumerate(path[:-1], start=1):
            node = node.get(part) if isinstance(node, dict) else node[part]
            if node is None:
                for missing in reversed(path[depth:]):
                    value = [value] if missing in ("-", 0) else {missing: value}
                path = path[:depth]
                break
        operation = {"op": "add", "path": pointer(path), "value": value}
        self.document = apply(self.document, [operation])
        self.operations.append(operation)


def pointer(path: Iterable[str | int]) -> str:
    """A JSON Pointer, RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def _unescape(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _check(operation: object, number: int) -> None:
    if not isinstance(operation, dict):
        raise PatchError(f"operation {number}: write an object with op, path and value")
    op, path = operation.get("op"), operation.get("path")
    if not isinstance(op, str) or op not in _KNOWN:
        raise PatchError(f"operation {number}: op must be add, remove, replace or test")
    if not isinstance(path, str) or (path and not path.startswith("/")):
        raise PatchError(f"operation {number}: path must be text that begins with '/'")
    if op in _NEEDS_VALUE and "value" not in operation:
        raise PatchError(f"operation {number}: {op} needs a value")


def _applied(node: Any, parts: Sequence[str], op: str, value: Any) -> Any:
    if not parts:
        if op == "test":
            _compare(node, value)
            return node
        return value
    part, rest = parts[0], parts[1:]
    if not rest and op == "add":
        return _added(node, part, value)
    key = _existing(node, part)
    changed = node.copy()
    if rest or op != "remove":
        changed[key] = _applied(node[key], rest, op, value)
    else:
        del changed[key]
    return changed


def _existing(node: Any, part: str) -> Any:
    """The key or index that a part of a path stands for."""
    if isinstance(node, dict) and part in node:
        return part
    if isinstance(node, list) and _INDEX.fullmatch(part) and int(part) < len(node):
        return int(part)
    raise PatchError(f"there is no {part!r} there")


def _added(node: Any, part: str, value: Any) -> Any:
    if isinstance(node, dict):
        return node | {part: value}
    if isinstance(node, list):
        index = len(node) if part == "-" else int(part) if _INDEX.fullmatch(part) else -1
        if 0 <= index <= len(node):
            return [*node[:index], value, *node[index:]]
    raise PatchError(f"nothing can be added at {part!r} there")


def _compare(left: Any, right: Any) -> None:
    if not _equal(left, right):
        raise PatchError("the value there is another")


def _equal(left: Any, right: Any) -> bool:
    """Equality of JSON; Python holds True and 1 for equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)
