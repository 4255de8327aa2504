"""What can be set of traces."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sidecar.config_telemetry import TracingSettings


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ""),
        ("http://collector:4317", "http://collector:4317"),
        ("https://collector.example:4317/", "https://collector.example:4317"),
        ("http://[::1]:4317", "http://[::1]:4317"),
    ],
)
def test_an_endpoint_is_a_url_with_a_port(written: str, meant: str) -> None:
    assert TracingSettings(endpoint=written).endpoint == meant


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4317",
        "http://collector",
        "grpc://collector:4317",
        "http://collector:4317/v1/traces",
        "http://user:secret@collector:4317",
        "http://collector:4317?key=secret",
        "http://collector:65536",
        "http://collector:0",
    ],
)
def test_any_other_endpoint_is_refused_with_what_to_write(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="write http://HOST:PORT or https://HOST:PORT"):
        TracingSettings(endpoint=endpoint)


@pytest.mark.parametrize("sample", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_none_and_all(sample: float) -> None:
    with pytest.raises(ValidationError):
        TracingSettings(sample=sample)
