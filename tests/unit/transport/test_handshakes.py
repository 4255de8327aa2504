"""How often it is told that handshakes fail."""

from __future__ import annotations

import ssl
from typing import Any

import structlog

from sidecar.transport.handshakes import Handshakes


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def error(reason: str) -> ssl.SSLError:
    failed = ssl.SSLError(1, "a message")
    failed.reason = reason
    return failed


def test_each_reason_is_told_once_a_minute_with_how_often_it_was_since() -> None:
    clock = Clock()
    handshakes = Handshakes("server.openai_address", clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            handshakes.failed(error("HTTP_REQUEST"))
            handshakes.failed(error("NO_SHARED_CIPHER"))
        clock.now += 59.9
        handshakes.failed(error("HTTP_REQUEST"))
        clock.now += 0.2
        for _ in range(2):
            handshakes.failed(error("HTTP_REQUEST"))
    told: list[tuple[Any, Any]] = [(log["reason"].split()[-1], log["not_logged"]) for log in logs]
    assert told == [("https://", 0), ("safe", 0), ("https://", 3)]


def test_a_reason_that_has_no_words_is_told_in_those_of_openssl() -> None:
    with structlog.testing.capture_logs() as logs:
        Handshakes("server.openai_address").failed(error("BAD_PACKET"))
    assert logs[0]["reason"] == "BAD_PACKET"
