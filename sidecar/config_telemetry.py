"""Settings of what is told to operators: logs, traces, prices."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from sidecar.config_section import Section


class PriceSettings(Section):
    """What computing costs, for statistics; in any currency."""

    per_call: float = Field(0.0, ge=0, description="for each item computed")
    per_1000_tokens: float = Field(
        0.0, ge=0, description="for each 1,000 tokens that a model reads"
    )
    per_1000_generated: float = Field(
        0.0, ge=0, description="for each 1,000 tokens of prompts and answers of a generator"
    )


class LogSettings(Section):
    """Logs, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description="'auto' is text on a terminal, else json"
    )


class TracingSettings(Section):
    """OpenTelemetry traces of calls, which are sent to a collector by OTLP over gRPC."""

    endpoint: str = Field(
        "",
        description="address of the collector: http://HOST:4317, or https:// for one that encrypts;"
        " empty for no traces",
    )
    sample: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of calls traced of those whose callers do not say; a call of a caller"
        " who is traced is always traced",
    )

    @field_validator("endpoint")
    @classmethod
    def _is_endpoint(cls, value: str) -> str:
        match = re.fullmatch(r"https?://[^/?#@\s]+:(\d{1,5})/?", value)
        if value and not (match and 0 < int(match[1]) < 65536):
            raise ValueError("write http://HOST:PORT or https://HOST:PORT, or nothing")
        return value.rstrip("/")
