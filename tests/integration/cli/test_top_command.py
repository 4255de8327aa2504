"""`embercache top` on a real terminal, and without one."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from typing import TYPE_CHECKING

import grpc
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from click.testing import Result

HANG_GUARD = 60.0
# What other tests did is told first, and what does not fit is cut off below.
ROWS = 200
CODES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")


class Terminal:
    """A terminal of some size in which ``embercache top`` runs."""

    def __init__(self, address: str, *arguments: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(100, ROWS)
        self.modes = termios.tcgetattr(self.slave)
        self.text = ""
        command = [sys.executable, "-m", "sidecar", "top", "--address", address, *arguments]
        # A size that stands in the environment goes before that of the terminal.
        environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            command,
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment | {"TERM": "xterm-256color"},
            preexec_fn=self._take,
        )

    def _take(self) -> None:
        """As a shell does, so that Ctrl-C reaches the command."""
        os.setsid()
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def wait_for(self, *words: str) -> str:
        """What was shown since the last call, as soon as all these words were among it."""
        give_up = time.monotonic() + HANG_GUARD
        while not all(word in self.text for word in words):
            assert time.monotonic() < give_up, self.text
            if select.select([self.master], [], [], 0.1)[0]:
                self.text += CODES.sub("", os.read(self.master, 65536).decode(errors="ignore"))
        shown, self.text = self.text, ""
        return shown

    def end(self) -> int:
        """The exit code; what is still shown is read, lest the command waits for that."""
        give_up = time.monotonic() + HANG_GUARD
        while self.process.poll() is None and time.monotonic() < give_up:
            if select.select([self.master], [], [], 0.05)[0]:
                os.read(self.master, 65536)
        return self.process.wait(1)


@pytest.fixture
def open_top() -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def open_terminal(address: str, *arguments: str) -> Terminal:
        terminals.append(Terminal(address, *arguments))
        return terminals[-1]

    yield open_terminal
    for terminal in terminals:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
        os.close(terminal.slave)


@pytest.mark.parametrize("keys", [b"q", b"\x03"], ids=["q", "ctrl-c"])
def test_it_shows_the_sidecar_until_told_to_leave_and_leaves_the_terminal_as_it_was(
    keys: bytes, address: str, open_top: Callable[..., Terminal]
) -> None:
    top = open_top(address, "--every", "100ms")
    shown = top.wait_for("hit rate", "computed", "q to leave")
    assert "minilm" in shown
    top.press(keys)
    assert top.end() == 0
    assert termios.tcgetattr(top.slave) == top.modes


def test_another_size_of_the_terminal_is_filled_without_waiting_for_the_next_look(
    address: str, open_top: Callable[..., Terminal]
) -> None:
    top = open_top(address, "--every", "1h")
    assert "evictions" in top.wait_for("hit rate", "waiting")
    top.resize(50, ROWS)
    assert "evictions" not in top.wait_for("hit rate", "waiting")
    top.press(b"q")
    assert top.end() == 0


def test_a_sidecar_that_goes_away_and_comes_back_is_told_meanwhile(
    tmp_path: Path, minilm_folder: Path, open_top: Callable[..., Terminal]
) -> None:
    socket = tmp_path / "sidecar.sock"
    command = [sys.executable, "-m", "sidecar", "serve", "--server-address", ""]
    command += ["--server-socket", str(socket), "--model-packs", str(minilm_folder)]
    command += ["--server-drain-delay", "0", "--log-level", "error"]

    def start() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command)
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            grpc.channel_ready_future(channel).result(timeout=HANG_GUARD)
        return process

    sidecar = start()
    try:
        top = open_top(f"unix:{socket}", "--every", "100ms")
        top.wait_for("● healthy")
        sidecar.send_signal(signal.SIGKILL)
        sidecar.wait(HANG_GUARD)
        top.wait_for("■ no answer for", "trying again")
        sidecar = start()
        top.wait_for("● healthy")
        top.press(b"q")
        assert top.end() == 0
    finally:
        sidecar.kill()
        sidecar.wait(HANG_GUARD)


def test_without_a_terminal_it_is_plain_text_and_one_look_is_enough(
    run: Callable[..., Result],
) -> None:
    result = run("top", "--once")
    assert result.exit_code == 0
    assert result.output.startswith("Embercache")
    assert "● healthy" in result.output
    assert "\x1b" not in result.output
    assert "q to leave" not in result.output


def test_where_there_is_no_sidecar_it_says_what_to_do(run: Callable[..., Result]) -> None:
    result = run("top", "--address", "unix:///nowhere.sock")
    assert result.exit_code == 1
    assert "embercache serve --dev" in result.output
