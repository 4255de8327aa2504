"""Logs say where an error came from, and nothing that a user sent."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from sidecar.config_telemetry import LogSettings
from sidecar.telemetry.logging import configure_logging

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Puts the configuration of both libraries back."""
    root = logging.getLogger()
    handlers, level, before = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**before)


def fail(text: str) -> None:
    try:
        int(text)
    except ValueError as error:
        raise KeyError(text) from error


def with_structlog(message: str) -> None:
    structlog.get_logger().exception(message)


def with_standard_library(message: str) -> None:
    logging.getLogger("library").exception(message)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("log", [with_structlog, with_standard_library])
def test_a_logged_error_tells_its_kind_and_place_but_no_value(
    log: Callable[[str], Any], form: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(LogSettings(format=form))
    text = "the text " + "of a user"  # the lines of the program are shown
    try:
        fail(text)
    except KeyError:
        log("it failed")
    shown = capsys.readouterr().err
    assert "it failed" in shown
    assert "builtins.ValueError" in shown
    assert "builtins.KeyError" in shown
    assert "in fail" in shown
    assert text not in shown


def test_json_has_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json", level="warning"))
    structlog.get_logger().info("left out")
    structlog.get_logger().warning("kept", number=1)
    logging.getLogger("library").warning("also %s", "kept")
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["level"], first["number"]) == ("kept", "warning", 1)
    assert second["event"] == "also kept"
