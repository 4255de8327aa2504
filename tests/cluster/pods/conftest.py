"""Two pods as processes: each a sidecar and an app in Go that share a Unix socket. They share a
Redis and a pool of two encoders. ``make test-cluster`` builds the app.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.dev_redis import DevRedis
from sidecar.models.local import LocalEmbedder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

HANG_GUARD = 60.0
APP = Path(__file__).parents[1] / "app/build/app"
# The default is enough where the machine is not busy.
DRAIN_DELAY = "1500ms"


class Server:
    """``embercache serve`` with the same flags at every start."""

    def __init__(self, name: str, folder: Path, flags: dict[str, object], redis_url: str) -> None:
        self.name = name
        self._folder = folder
        self._flags = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items()]
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        self._environment = clean | {"EMBERCACHE_REDIS_URL": redis_url}
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def start(self) -> None:
        self._starts += 1
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "serve", "--log-format=json", *self._flags],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=self._environment,
            )

    def wait_until_it_serves(self) -> None:
        assert self._process is not None
        give_up = time.monotonic() + HANG_GUARD
        while "serving" not in [event["event"] for event in self.events]:
            assert time.monotonic() < give_up, self._log.read_text("utf-8")
            assert self._process.poll() is None, self._log.read_text("utf-8")
            time.sleep(0.01)

    def kill(self) -> None:
        """Ends it as a lost node does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(HANG_GUARD)

    def freeze(self) -> None:
        """Stops it without closing its connections: calls to it hang."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def terminate(self) -> None:
        """Asks it to end, as Kubernetes does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Waits until it has ended well."""
        assert self._process is not None
        assert self._process.wait(HANG_GUARD) == 0
        assert not [event for event in self.events if event["level"] in ("error", "critical")]

    def restart(self) -> None:
        """Lets it end and starts it again."""
        self.terminate()
        self.wait()
        self.start()
        self.wait_until_it_serves()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What it has logged since it was started last."""
        lines = self._log.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("}\n")]

    @property
    def _log(self) -> Path:
        return self._folder / f"{self.name}-{self._starts}.log"


class Encoder(Server):
    """A replica of the pool, at ``address``."""

    def __init__(self, name: str, folder: Path, minilm: Path) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        flags = {
            "server_address": self.address,
            "server_drain_delay": DRAIN_DELAY,
            "model_packs": minilm,
            "model_provider": "cpu",
            # A text's last bits depend on what else is in its run: so that all have one truth.
            "model_threads": 1,
            "encoder_batch_tokens": 1,
        }
        super().__init__(name, folder, flags, redis_url="")


class App:
    """The app of a pod; what became of its calls is in a file."""

    def __init__(self, name: str, folder: Path, address: str, flags: Sequence[str]) -> None:
        self._output = folder / f"app-{name}.jsonl"
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                [APP, f"-name={name}", *flags],
                stdin=subprocess.DEVNULL,
                stdout=output,
                env=os.environ | {"EMBERCACHE_ADDRESS": address},
            )

    @property
    def calls(self) -> list[dict[str, str]]:
        """The calls that have ended: text, and tier and digest or error."""
        lines = self._output.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        assert self._process.wait(HANG_GUARD) == 0

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(HANG_GUARD)


class Pod(Server):
    """A sidecar without a model, and beside it, while there is load, an app."""

    def __init__(
        self, name: str, folder: Path, encoders: Sequence[Encoder], redis_url: str
    ) -> None:
        self._socket = folder / f"{name}.sock"
        flags = {
            "server_address": "",
            "server_socket": self._socket,
            "server_drain_delay": DRAIN_DELAY,
            "model_packs": "minilm",
            "encoder_target": ",".join(encoder.address for encoder in encoders),
        }
        super().__init__(name, folder, flags, redis_url)
        self._apps = 0

    def start_app(self, peer: str, flags: Sequence[str]) -> App:
        """Starts an app, whose new texts no other has."""
        self._apps += 1
        name = f"{self.name}{self._apps}"
        flags = [f"-peer={peer}{self._apps}", *flags]
        return App(name, self._folder, f"unix:{self._socket}", flags)


class Load:
    """The apps of both pods, and of those that took their place."""

    def __init__(self, pods: Sequence[Pod], flags: Sequence[str]) -> None:
        self._pods = pods
        self._flags = flags
        self._all: list[App] = []
        self._running: dict[str, App] = {}
        for pod in pods:
            self.start_app(pod)

    def start_app(self, pod: Pod) -> None:
        """Starts the app of a pod, beside the one that runs there, if any."""
        (peer,) = (other.name for other in self._pods if other is not pod)
        app = pod.start_app(peer, self._flags)
        self._all.append(app)
        self._running[pod.name] = app

    def app(self, pod: Pod) -> App:
        """The app of a pod."""
        return self._running[pod.name]

    def go_on(self, calls: int) -> None:
        """Waits until every app has ended so many more calls."""
        wanted = {app: len(app.calls) + calls for app in self._running.values()}
        give_up = time.monotonic() + HANG_GUARD
        for app, count in wanted.items():
            while len(app.calls) < count:
                assert time.monotonic() < give_up
                time.sleep(0.02)

    def go_on_until_answered_by(self, tier: str) -> None:
        """Waits until that tier has answered one call more."""

        def answered() -> int:
            return sum(call.get("tier") == tier for app in self._all for call in app.calls)

        before = answered()
        while answered() == before:
            self.go_on(5)

    def end(self) -> list[dict[str, str]]:
        """Lets all calls end; returns them."""
        for app in self._running.values():
            app.terminate()
        for app in self._all:
            app.wait()
        return [call for app in self._all for call in app.calls]

    def kill(self) -> None:
        """Leaves nothing behind."""
        for app in self._all:
            app.kill()


@pytest.fixture(scope="module")
def redis_server() -> Iterator[DevRedis]:
    """The Redis that all sidecars share."""
    with DevRedis() as server:
        yield server


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, minilm_folder: Path, redis_server: DevRedis
) -> Iterator[tuple[list[Encoder], list[Pod]]]:
    """The pool and the pods, all serving."""
    folder = tmp_path_factory.mktemp("pods")
    encoders = [Encoder(f"encoder-{number}", folder, minilm_folder) for number in range(2)]
    pods = [Pod(name, folder, encoders, redis_server.url) for name in ("a", "b")]
    with contextlib.ExitStack() as exits:
        for servers in (encoders, pods):
            for server in servers:
                server.start()
                exits.callback(server.kill)
            for server in servers:
                server.wait_until_it_serves()
        yield encoders, pods


@pytest.fixture
def encoders(cluster: tuple[list[Encoder], list[Pod]]) -> list[Encoder]:
    """The replicas of the pool."""
    return cluster[0]


@pytest.fixture
def pods(cluster: tuple[list[Encoder], list[Pod]]) -> list[Pod]:
    """The pods."""
    return cluster[1]


@pytest.fixture
def load(pods: list[Pod]) -> Iterator[Callable[..., Load]]:
    """Starts the apps of both pods with these flags; returns when calls end steadily."""
    if not APP.exists():
        pytest.fail(f"{APP} is not there: run make test-cluster, which builds it")
    loads: list[Load] = []

    def start_load(*flags: str) -> Load:
        loads.append(Load(pods, flags))
        loads[-1].go_on(50)
        return loads[-1]

    yield start_load
    for each in loads:
        each.kill()


@pytest.fixture
async def truth(minilm_folder: Path) -> AsyncIterator[Callable[..., Awaitable[dict[str, str]]]]:
    """Digests of the vectors of texts, computed here, one by one."""
    model = LocalEmbedder.load(
        minilm_folder, "minilm", provider="cpu", threads=1, batch_tokens=1, queue_inputs=100_000
    )

    async def digests(texts: Sequence[str]) -> dict[str, str]:
        found = {}
        for text, future in zip(texts, model.submit(texts), strict=True):
            found[text] = hashlib.sha256((await future).vector.tobytes()).hexdigest()
        return found

    yield digests
    await model.close()


@pytest.fixture
def check(
    truth: Callable[..., Awaitable[dict[str, str]]], capsys: pytest.CaptureFixture[str]
) -> Callable[[list[dict[str, str]]], Awaitable[None]]:
    """No call failed, all vectors are right to the bit, and all tiers had a share."""

    async def check_calls(calls: list[dict[str, str]]) -> None:
        tiers = Counter(call.get("tier", "failed") for call in calls)
        with capsys.disabled():
            print(f" {len(calls)} calls: {dict(tiers)}", end=" ", flush=True)
        assert not Counter(call["error"] for call in calls if "error" in call)
        assert tiers.keys() >= {"computed", "warm", "hot"}
        expected = await truth(sorted({call["text"] for call in calls}))
        assert not [call for call in calls if call["digest"] != expected[call["text"]]]

    return check_calls


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
