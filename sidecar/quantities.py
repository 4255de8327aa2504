"""Reads quantities as people write them: ``64MiB``, ``500ms``, ``24h``."""

from __future__ import annotations

import re

LONGEST_SECONDS = 10 * 365 * 86400

_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")
_BYTES = {"": 1.0, "b": 1.0, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12} | {
    "kib": 2.0**10,
    "mib": 2.0**20,
    "gib": 2.0**30,
    "tib": 2.0**40,
}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_bytes(text: str) -> int:
    """Bytes. Raises `ValueError` with what to write instead."""
    return round(_parse(text, _BYTES, "64MiB"))


def parse_seconds(text: str) -> float:
    """Seconds. Raises `ValueError` with what to write instead."""
    return _parse(text, _SECONDS, "500ms or 24h")


def _parse(text: str, units: dict[str, float], example: str) -> float:
    match = _NUMBER.fullmatch(text)
    unit = match and units.get(match[2].lower())
    if match is None or unit is None:
        raise ValueError(f"write a number and a unit, like {example}")
    return float(match[1]) * unit
