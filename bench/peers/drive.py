"""A peer's process, and what is asked of it line by line."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TextIO

ROOT = Path(__file__).parents[2]
_END_SECONDS = 10


class PeerError(Exception):
    """A peer did not open, or refused what was asked; the message is its own."""


class Driven:
    """A process of `bench.peers.driver` in a Python that has the peer.

    ``version`` is the peer's. Raises `PeerError` if it does not open.
    """

    def __init__(self, python: str, module: str, settings: Mapping[str, str], log: TextIO) -> None:
        command = [python, "-m", "bench.peers.driver", module, json.dumps(dict(settings))]
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._log = log
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **offline, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.version: str = self.answer()

    def ask(self, do: str, **arguments: object) -> Any:
        """What the driver's method of that name answers; raises `PeerError`."""
        self.send(do, **arguments)
        return self.answer()

    def send(self, do: str, **arguments: object) -> None:
        """Asks without waiting; `answer` waits."""
        assert self._process.stdin is not None  # noqa: S101 - a pipe
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(self._last_words()) from None

    def answer(self) -> Any:
        """The next line."""
        assert self._process.stdout is not None  # noqa: S101 - a pipe
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._last_words())
        said = json.loads(line)
        if "error" in said:
            raise PeerError(said["error"])
        return said["answer"]

    def end(self) -> None:
        """Closes the peer and its process."""
        with contextlib.suppress(PeerError):
            self.ask("close")
        self._process.kill()
        self._process.wait(_END_SECONDS)

    def _last_words(self) -> str:
        self._log.flush()
        lines = Path(self._log.name).read_text("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a word"
