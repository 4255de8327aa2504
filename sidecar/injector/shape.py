"""Reads untyped JSON: what is missing or null is empty, what has another shape is an error."""

from __future__ import annotations

from typing import Any

from sidecar.injector.errors import InjectionError


def mapping(parent: dict[str, Any], *path: str) -> dict[str, Any]:
    """The object at a path. Raises `InjectionError`."""
    value: Any = parent
    for depth, key in enumerate(path, start=1):
        value = value.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise InjectionError(f"{'.'.join(path[:depth])} must be a mapping")
    return value  # type: ignore[no-any-return]


def objects(parent: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The list of objects under a key. Raises `InjectionError`."""
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise InjectionError(f"{key} must be a list of mappings")
    return value
