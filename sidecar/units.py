"""Types of settings: names, and quantities as people write them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from sidecar.quantities import LONGEST_SECONDS, parse_bytes, parse_seconds

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
"""Of namespaces, collections and models."""


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _seconds(value: object) -> object:
    if value == "never":
        return None
    return parse_seconds(value) if isinstance(value, str) else value


def _words(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0, le=LONGEST_SECONDS)]
Lifetime = Annotated[
    Annotated[float, Field(gt=0, le=LONGEST_SECONDS)] | None, BeforeValidator(_seconds)
]
"""Seconds, or ``never``, which is None."""
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
"""A list; in a flag or variable, words with commas between."""

OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value)]
"""A path; empty for none."""
