"""Names, and quantities as people write them in settings: ``64MiB``, ``500ms``, ``24h``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""Of namespaces, collections and models."""

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12} | {
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _parse(text: object, units: dict[str, float] | dict[str, int], example: str) -> object:
    if not isinstance(text, str):
        return text
    match = _NUMBER.fullmatch(text)
    unit = match and units.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"write a number and a unit, like {example}")
    return float(match[1]) * unit


def _bytes(text: object) -> object:
    value = _parse(text, _BYTES, "64MiB")
    return round(value) if isinstance(value, float) else value


def _seconds(text: object) -> object:
    if text == "never":
        return None
    return _parse(text, _SECONDS, "500ms or 24h")


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))


_LONGEST = 10 * 365 * 86400

Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=_LONGEST)]
Lifetime = Annotated[Annotated[float, Field(gt=0, le=_LONGEST)] | None, BeforeValidator(_seconds)]
"""Seconds, or ``never``, which is None."""
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""A list; in a flag or variable, words with commas between."""

OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A path; empty for none."""
