"""The image, built by following the Dockerfile, since no container engine is at hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.image.engine import Engine, Stage, first_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[3]
HANG_GUARD = 100.0
SOCKET_FOLDER = "/run/embercache"


class Image:
    """What was built, and how it is run: as its user, with nothing that can be written to."""

    def __init__(self, engine: Engine, stage: Stage) -> None:
        self._engine = engine
        self.stage = stage

    def run(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs the entry point with these arguments until it ends; its output is in ``stdout``."""
        command = [*self.stage.entry_point, *arguments]
        return self.run_command(command, **options)

    def run_command(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command until it ends."""
        process = self._engine.popen(self.stage, command, stderr=subprocess.STDOUT, **options)
        output, _ = process.communicate(timeout=HANG_GUARD)
        return subprocess.CompletedProcess(command, process.returncode, output)


class Container(Image):
    """What runs after `start`, as a pod's sidecar would: it listens on a socket in ``folder``."""

    def __init__(self, engine: Engine, stage: Stage, folder: Path, log: Path) -> None:
        super().__init__(engine, stage)
        self.address = f"unix:{folder}/embercache.sock"
        self._folder = folder
        self._log = log
        self._options: dict[str, Any] = {}
        self._process: subprocess.Popen[str] | None = None

    def start(
        self,
        *,
        mounts: Mapping[Path, str] | None = None,
        **settings: str,
    ) -> None:
        """Runs the image's default command; ``settings`` are variables without their prefix."""
        environment = {f"EMBERCACHE_{name.upper()}": value for name, value in settings.items()}
        environment["EMBERCACHE_SERVER_ADDRESS"] = ""
        environment["EMBERCACHE_SERVER_SOCKET"] = f"{SOCKET_FOLDER}/embercache.sock"
        mounts = {self._folder: SOCKET_FOLDER} | dict(mounts or {})
        self._options = {"environment": environment, "mounts": mounts}
        command = [*self.stage.entry_point, *self.stage.command]
        with self._log.open("wb") as log:
            self._process = self._engine.popen(
                self.stage, command, stderr=log.fileno(), **self._options
            )

    def health(self) -> subprocess.CompletedProcess[str]:
        """Runs the image's health check with the environment of what was started."""
        return self.run_command(self.stage.health, **self._options)

    def wait_for(self, event: str) -> None:
        """Waits until that is in its log."""
        self._wait_until(lambda: event in [line["event"] for line in self.events])

    def wait_until_it_handles(self, number: signal.Signals) -> None:
        """Waits until its first process has a handler of its own for the signal."""

        def handles() -> bool:
            try:
                status = Path(f"/proc/{self._pid}/status").read_text("utf-8")
            except IndexError:  # there is no process in it yet
                return False
            fields = dict(line.split(":\t", 1) for line in status.splitlines())
            is_ours = "embercache" in fields["Name"]
            return is_ours and bool(int(fields["SigCgt"], 16) >> (number - 1) & 1)

        self._wait_until(handles)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to its first process."""
        os.kill(self._pid, number)

    def wait(self) -> int:
        """Its exit status."""
        assert self._process is not None
        return self._process.wait(HANG_GUARD)

    def kill(self) -> None:
        """Leaves nothing behind."""
        if self._process is not None:
            if self._process.poll() is None:
                # Not the process that stands for it: the one inside would go on without it.
                os.kill(self._pid, signal.SIGKILL)
            self._process.communicate()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        lines = self._log.read_text("utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    @property
    def _pid(self) -> int:
        assert self._process is not None
        return first_process(self._process)

    def _wait_until(self, condition: Callable[[], bool]) -> None:
        assert self._process is not None
        give_up = time.monotonic() + HANG_GUARD
        while not condition():
            assert self._process.poll() is None, self._log.read_text("utf-8")
            assert time.monotonic() < give_up, self._log.read_text("utf-8")
            time.sleep(0.001)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Stage]]:
    """The image with minilm in it, and what runs it."""
    if os.geteuid() != 0:
        pytest.fail(
            "only root may build the image without a container engine: run"
            " `sudo .venv/bin/python -m pytest tests/cluster/image`",
            pytrace=False,
        )
    folder = tmp_path_factory.mktemp("image")
    engine = Engine(folder, ROOT, {"MODELS": "minilm", "REVISION": "f00d"})
    yield engine, engine.build(ROOT / "Dockerfile")
    shutil.rmtree(folder)


@pytest.fixture
def image(built: tuple[Engine, Stage]) -> Image:
    """The image."""
    return Image(*built)


@pytest.fixture
def container(built: tuple[Engine, Stage], tmp_path: Path) -> Iterator[Container]:
    """A container to be started."""
    folder = tmp_path / "socket"
    folder.mkdir()
    shutil.chown(folder, 65532, 65532)
    container = Container(*built, folder, tmp_path / "log")
    yield container
    container.kill()
