"""``embercache injector`` as a process, for benchmarks and tests."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from bench.certificates import MountedPair

_HANG_GUARD = 60.0


class InjectorProcess:
    """An injector that serves on loopback while the context lasts.

    ``flags`` are those of the command, without dashes and with ``_`` for ``-``.
    """

    def __init__(
        self,
        folder: Path,
        pair: MountedPair,
        environment: Mapping[str, str] | None = None,
        **flags: object,
    ) -> None:
        self._log = folder / "injector.log"
        self.port, self.metrics_port = 0, _free_port()
        self._environment = environment or {}
        every = {
            "cert_file": pair.certificate,
            "key_file": pair.key,
            "address": "127.0.0.1:0",
            "metrics_address": f"127.0.0.1:{self.metrics_port}",
            "log_format": "json",
        } | flags
        self._flags = [f"--{name.replace('_', '-')}={value}" for name, value in every.items()]

    def __enter__(self) -> InjectorProcess:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("EMBERCACHE_", "KUBE"))}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "injector", *self._flags],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=clean | self._environment,
            )
        try:
            self.port = self.wait_for("serving")["port"]
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Of the webhook; paths are to be added."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Of probes and metrics; paths are to be added."""
        return f"http://127.0.0.1:{self.metrics_port}"

    @property
    def pid(self) -> int:
        """The process' id."""
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has written."""
        return self._log.read_text("utf-8")

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged."""
        complete = self.log.rpartition("\n")[0]
        return [json.loads(line) for line in complete.splitlines() if line.startswith("{")]

    def wait_for(self, event: str) -> dict[str, Any]:
        """Waits until it has logged an event, and gives that. It must not end before."""
        give_up = time.monotonic() + _HANG_GUARD
        while time.monotonic() < give_up:
            ended = self._process.poll() is not None
            for each in self.events:
                if each["event"] == event:
                    return each
            if ended:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the injector did not say {event!r}: {self.log}")

    def terminate(self) -> None:
        """Asks it to end, as Kubernetes does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status."""
        return self._process.wait(_HANG_GUARD)

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
