"""Bars on a terminal, and what is there without one."""

from __future__ import annotations

import io
import re
import sys
from typing import TYPE_CHECKING

import pytest
from embercache import MigrateModelProgress

from sidecar.cli.migrate import stage_bars
from sidecar.cli.progress import count_lines, progress_bar

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        """What was written, without the codes that move the cursor and choose colours."""
        return re.sub(r"\x1b\[[\d;?]*\w", "", self.getvalue())


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Terminal]:
    """Makes standard error a terminal; to be called in the test, after pytest has captured it."""

    def make() -> Terminal:
        written = Terminal()
        monkeypatch.setattr(sys, "stderr", written)
        return written

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return make


def test_a_bar_shows_how_much_is_done(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with progress_bar("lines", 4) as show:
        show(3)
    assert "75%" in screen.text()
    assert "3 lines" in screen.text()


def test_a_total_may_become_known_later(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with progress_bar("queries") as show:
        show(1)
        show(2, 8)
        show(4)
    assert "50%" in screen.text()


def test_there_is_no_bar_where_it_would_be_in_the_way(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with progress_bar("lines", 4, is_quiet=True) as show:
        show(3)
    assert screen.text() == ""


def test_there_is_no_bar_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("lines", 4) as show:
        show(3)
    assert capsys.readouterr() == ("", "")


def test_the_lines_to_come_are_counted_and_then_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"first\nsecond\nthird\n")
    with (tmp_path / "file").open("rb") as file:
        file.readline()
        assert count_lines(file) == 2
        assert file.read() == b"second\nthird\n"
    assert count_lines(None) is None


STEPS = [
    MigrateModelProgress("documents", 0, 0, 0),
    MigrateModelProgress("documents", 5, 20, 1),
    MigrateModelProgress("queries", 2, 4, 0),
    MigrateModelProgress("switched", 0, 0, 0),
]


def test_a_migration_has_a_bar_for_each_stage(terminal: Callable[[], Terminal]) -> None:
    screen = terminal()
    with stage_bars() as show:
        for step in STEPS:
            show(step)
    lines = screen.text().splitlines()[-2:]
    assert "documents " in lines[0]
    assert " 5/20 " in lines[0]
    assert "1 failed" in lines[0]
    assert "popular queries " in lines[1]
    assert " 2/4 " in lines[1]


def test_without_a_terminal_a_migration_tells_each_stage_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stage_bars() as show:
        for step in STEPS:
            show(step)
    assert capsys.readouterr().err == "embedding documents\nembedding 4 popular queries\n"
