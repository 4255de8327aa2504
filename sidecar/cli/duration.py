"""The type of a parameter that is a duration."""

from __future__ import annotations

from typing import Any

import click

from sidecar.quantities import LONGEST_SECONDS, parse_seconds


class DurationType(click.ParamType[float]):
    """Seconds, written with a unit."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """As click asks for it."""
        try:
            seconds = parse_seconds(value) if isinstance(value, str) else float(value)
        except ValueError:
            self.fail("write a number and a unit, like 90s or 24h", param, ctx)
        if seconds > LONGEST_SECONDS:
            self.fail("that is more than ten years", param, ctx)
        return seconds
