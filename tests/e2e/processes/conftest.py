"""Sidecars as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

HANG_GUARD = 60.0


class Process:
    """``embercache serve``, run by the name of its package, behind the words of another command."""

    def __init__(
        self,
        log: Path,
        flags: dict[str, object],
        environment: dict[str, str],
        behind: Sequence[str],
    ) -> None:
        self._log = log
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        with log.open("wb") as stderr:
            self.popen = subprocess.Popen(
                [*behind, sys.executable, "-m", "sidecar", "serve", *arguments],
                stderr=stderr,
                stdin=subprocess.DEVNULL,
                env=clean | environment,
            )

    @property
    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text("utf-8")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def wait_until_it_serves(self) -> list[str]:
        """The addresses that it listens on."""
        give_up = time.monotonic() + HANG_GUARD
        while time.monotonic() < give_up and self.popen.poll() is None:
            for event in self.events:
                if event["event"] == "serving":
                    addresses: list[str] = event["addresses"]
                    return addresses
            time.sleep(0.01)
        raise AssertionError(f"it does not serve: {self.log}")

    def terminate(self) -> None:
        """Asks it to end, as Kubernetes does."""
        self.popen.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit code."""
        return self.popen.wait(HANG_GUARD)


@pytest.fixture
def launch(tmp_path: Path, tiny_pack: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes with flags of ``embercache serve``; kills those that the test leaves."""
    processes: list[Process] = []

    def launch_process(
        *,
        environment: dict[str, str] | None = None,
        behind: Sequence[str] = (),
        **flags: object,
    ) -> Process:
        defaults = {
            "server_address": "127.0.0.1:0",
            "server_drain_delay": 0,
            "model_packs": tiny_pack,
            "model_provider": "cpu",
            "log_format": "json",
        }
        log = tmp_path / f"log-{len(processes)}"
        processes.append(Process(log, defaults | flags, environment or {}, behind))
        return processes[-1]

    yield launch_process
    for process in processes:
        process.popen.kill()
        process.wait()
