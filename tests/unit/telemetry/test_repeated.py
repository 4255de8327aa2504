"""Log lines that would come by the hundred come once a minute."""

from __future__ import annotations

import logging

from sidecar.telemetry.repeated import OnceAMinute


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("asyncio", logging.ERROR, "", 0, message, (), None)


def test_a_line_is_let_through_once_a_minute_whatever_its_end() -> None:
    now = 100.0
    once = OnceAMinute("accept", lambda: now)
    let_through = []
    for step in range(200):
        now = 100.0 + step
        let_through += [step] * once.filter(record(f"accept {step}"))
    assert let_through == [0, 60, 120, 180]


def test_other_lines_are_let_through() -> None:
    once = OnceAMinute("accept")
    assert [once.filter(record("another")) for _ in range(3)] == [True] * 3
