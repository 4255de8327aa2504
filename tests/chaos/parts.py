"""What a run consists of: a real Redis, real encoders and sidecars as processes, and proxies.

::

    client -- sidecar-a --+-- link sidecar-a redis ------- redis
        \\                 +-- link sidecar-a encoder-1 --- encoder-1
         \\                +-- link sidecar-a encoder-2 --- encoder-2
          `- sidecar-b ...

Servers listen on Unix sockets, so that one that is started again finds its address free.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

from sidecar.dev_redis import DevRedis
from tests.chaos.proxy import FaultyProxy

if TYPE_CHECKING:
    from pathlib import Path

HANG_GUARD = 60.0
# As they are by themselves: calls are held to them, so they are given to the sidecars.
DRAIN_DELAY, DRAIN_TIMEOUT = 0.5, 30.0
# Redis says of garbage that it is an unknown command, as an old Redis does of a vector set.
_AFTER_GARBAGE = "the index cannot be used"
# gRPC's core tells of connections that broke, past the log.
_GRPC = re.compile(r"[IWE]\d{4} \d\d:|WARNING: All log messages before absl")
# What listens is for whoever runs this to choose, as in other tests.
_TRANSPORT = "EMBERCACHE_SERVER_TRANSPORT"
SIDECARS = ("sidecar-a", "sidecar-b")
ENCODERS = ("encoder-1", "encoder-2")
REDIS = "redis"


def link(sidecar: str, upstream: str) -> str:
    """The name of the way from a sidecar to Redis or an encoder."""
    return f"link {sidecar} {upstream}"


class Server:
    """``embercache serve`` with the same flags at every start, on a Unix socket."""

    def __init__(
        self, name: str, folder: Path, flags: dict[str, object], environment: dict[str, str]
    ) -> None:
        self.name = name
        self.socket = folder / f"{name}.sock"
        self.starts = 0
        self._folder = folder
        flags = {"server_address": "", "server_socket": self.socket, "log_format": "json"} | flags
        self._flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        clean = {
            name: value
            for name, value in os.environ.items()
            if name == _TRANSPORT or not name.startswith("EMBERCACHE_")
        }
        self._environment = clean | environment
        self._process: subprocess.Popen[bytes] | None = None
        self._is_to_run = False

    @property
    def address(self) -> str:
        """Where clients find it."""
        return f"unix:{self.socket}"

    @property
    def died(self) -> bool:
        """Whether it has ended without being told to."""
        return self._is_to_run and self._process is not None and self._process.poll() is not None

    async def start(self) -> None:
        """Starts it and returns when it serves."""
        self.starts += 1
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "serve", *self._flags],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
            )
        self._is_to_run = True
        give_up = time.monotonic() + HANG_GUARD
        while b'"event": "serving"' not in self._log.read_bytes():
            if time.monotonic() > give_up or self._process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start: {self._log.read_text('utf-8')}")
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Ends it as a lost node does."""
        self._is_to_run = False
        if self._process is not None:
            self._process.kill()
            self._process.wait(HANG_GUARD)

    def freeze(self) -> None:
        """Stops it without closing its connections."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    async def terminate(self) -> int:
        """Asks it to end, as Kubernetes does, and waits; its exit status."""
        assert self._process is not None
        self._is_to_run = False
        self._process.terminate()
        give_up = time.monotonic() + HANG_GUARD
        while (status := self._process.poll()) is None:
            if time.monotonic() > give_up:
                raise RuntimeError(f"{self.name} does not end: {self._log.read_text('utf-8')}")
            await asyncio.sleep(0.02)
        return status

    def complaints(self) -> list[str]:
        """What it has logged that names an error of its own, since it was started first."""
        return [
            f"{log.name}: {line[:2000]}"
            for log in self.logs
            for line in log.read_text("utf-8").splitlines()
            if _complains(line)
        ]

    @property
    def logs(self) -> list[Path]:
        """One of each start, the first one first."""
        return [self._log_of(number) for number in range(1, self.starts + 1)]

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    @property
    def _log(self) -> Path:
        return self._log_of(self.starts)

    def _log_of(self, number: int) -> Path:
        return self._folder / f"{self.name}-{number}.log"


class RedisPart:
    """A real Redis that keeps on disk what it has acknowledged, so that a kill loses nothing."""

    def __init__(self, folder: Path) -> None:
        self._server = DevRedis(data_folder=folder / "redis", arguments=("--appendfsync", "always"))
        # The server ends with the thread that started it.
        self._thread = ThreadPoolExecutor(1)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self._server.socket_path

    async def start(self) -> None:
        """Starts it and returns when it answers."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._server.start)

    def kill(self) -> None:
        """Ends it as a lost node does."""
        self._server.kill()

    def freeze(self) -> None:
        """Stops it without closing its connections."""
        self._server.freeze()

    def thaw(self) -> None:
        """Lets it go on."""
        self._server.thaw()

    def stop(self) -> None:
        """Leaves nothing behind."""
        self._server.stop()
        self._thread.shutdown()


class Cluster:
    """All parts, running for as long as the context lasts. Its files are in ``folder``."""

    def __init__(self, folder: Path, minilm: Path, generator: Path, seed: int) -> None:
        self._folder = folder
        self._packs = (minilm, generator)
        self._seed = seed
        self._exits = AsyncExitStack()
        self.redis = RedisPart(folder)
        self.links: dict[str, FaultyProxy] = {}
        self.encoders: dict[str, Server] = {}
        self.sidecars: dict[str, Server] = {}

    @property
    def servers(self) -> dict[str, Server]:
        """Encoders and sidecars by their names."""
        return self.encoders | self.sidecars

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._exits.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start(self) -> None:
        self._exits.callback(self.redis.stop)
        await self.redis.start()
        for name in ENCODERS:
            self.encoders[name] = Server(name, self._folder, self._encoder_flags(), {})
        for name in SIDECARS:
            links = {REDIS: await self._open_link(name, REDIS, self.redis.socket)}
            for encoder, server in self.encoders.items():
                links[encoder] = await self._open_link(name, encoder, server.socket)
            addresses = [links[encoder].address for encoder in ENCODERS]
            environment = {"EMBERCACHE_REDIS_URL": links[REDIS].url}
            self.sidecars[name] = Server(
                name, self._folder, self._sidecar_flags(name, addresses), environment
            )
        for servers in (self.encoders, self.sidecars):
            for server in servers.values():
                self._exits.callback(server.kill)
            await asyncio.gather(*(server.start() for server in servers.values()))

    async def _open_link(self, sidecar: str, upstream: str, socket: Path) -> FaultyProxy:
        name = link(sidecar, upstream)
        proxy = FaultyProxy(socket, name, self._seed)
        self.links[name] = await self._exits.enter_async_context(proxy)
        return proxy

    def _encoder_flags(self) -> dict[str, object]:
        return {
            "model_packs": self._packs[0],
            "model_provider": "cpu",
            # A text's last bits depend on what else is in its run: so that all have one truth.
            "model_threads": 1,
            "encoder_batch_tokens": 1,
        }

    def _sidecar_flags(self, name: str, encoders: list[str]) -> dict[str, object]:
        flags: dict[str, object] = {
            "model_packs": self._packs[0].name,
            "model_provider": "cpu",
            "model_threads": 1,
            "encoder_target": ",".join(encoders),
            "generator_packs": self._packs[1],
            "prefix_shared": "true",
            # Where all of this shares two cores, 0.1 s without an answer is no outage.
            "redis_timeout": 0.5,
            "server_drain_delay": DRAIN_DELAY,
            "server_drain_timeout": DRAIN_TIMEOUT,
        }
        if name == SIDECARS[0]:
            # The other one starts with nothing.
            flags["disk_folder"] = self._folder / "disk"
        return flags


def _complains(line: str) -> bool:
    """Whether a line of a log is an error, or none of the log's own lines, as a traceback is."""
    if _GRPC.match(line):
        return False
    if not line.startswith("{"):
        return True
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:  # cut off by a kill
        return False
    return event["level"] in ("error", "critical") and event["event"] != _AFTER_GARBAGE
