"""The containers of the chart, run as processes with the arguments and files that it gives them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis

from sidecar.dev_redis import find_redis_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HANG_GUARD = 60.0
COMMAND = str(Path(sys.executable).with_name("embercache"))
# Makes a name of the cluster an address of this machine, port included.
RESOLVER = """\
import os, socket
found = socket.getaddrinfo
def find(host, port, *rest, **more):
    if host == os.environ["CLUSTER_HOST"]:
        host, port = "127.0.0.1", int(os.environ["CLUSTER_PORT"])
    return found(host, port, *rest, **more)
socket.getaddrinfo = find
"""


class Pod:
    """A pod of the chart whose volumes are folders of this machine."""

    def __init__(self, objects: Any, name: str, folder: Path) -> None:
        template = dict(objects.pod_templates())[name]
        self._objects = objects
        self._folder = folder
        self._containers = {each["name"]: each for each in template["spec"]["containers"]}
        self._volumes = {each["name"]: each for each in template["spec"].get("volumes", [])}

    def command(self, container: str, changes: Mapping[str, str]) -> list[str]:
        """A container's command line; ``changes`` are of words that are something else here."""
        spec = self._containers[container]
        # The program is a file of this machine, wherever that is.
        known = {COMMAND: COMMAND, "python": sys.executable, **changes}
        words = [*spec.get("command", [COMMAND]), *spec["args"]]
        return [self._here(container, known, word) for word in words]

    def environment(self, container: str, changes: Mapping[str, str]) -> dict[str, str]:
        """A container's variables, and those of this machine that are not ours."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("EMBERCACHE_")}
        own = {
            each["name"]: self._here(container, changes, each["value"])
            for each in self._containers[container].get("env", [])
            if "value" in each
        }
        return clean | own

    def _here(self, container: str, changes: Mapping[str, str], word: str) -> str:
        if word in changes:
            return changes[word]
        for mount in self._containers[container].get("volumeMounts", []):
            if mount["mountPath"] in word:
                word = word.replace(mount["mountPath"], str(self._volume(mount["name"])))
        return word

    def _volume(self, name: str) -> Path:
        volume, folder = self._volumes[name], self._folder / name
        files: dict[str, str] = {}
        if "configMap" in volume:
            files = self._objects.one("ConfigMap", volume["configMap"]["name"])["data"]
        elif "secret" in volume:
            encoded = self._objects.one("Secret", volume["secret"]["secretName"])["data"]
            files = {key: base64.b64decode(text).decode() for key, text in encoded.items()}
        folder.mkdir(exist_ok=True)
        for file, content in files.items():
            (folder / file).write_text(content)
        return folder


@contextlib.contextmanager
def running(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[Callable[[], dict[str, Any]]]:
    """Runs a program of ours; gives what waits until it logs that it serves."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=environment, stderr=stderr)

    def wait_until_it_serves() -> dict[str, Any]:
        give_up = time.monotonic() + HANG_GUARD
        while time.monotonic() < give_up and process.poll() is None:
            for line in log.read_text().splitlines():
                if line.startswith("{") and (event := json.loads(line))["event"] == "serving":
                    return dict(event)
            time.sleep(0.01)
        raise AssertionError(f"it does not serve: {log.read_text()}")

    try:
        yield wait_until_it_serves
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture
def installed(helm: Any) -> Any:
    """What the chart makes, with everything that can be run."""
    return helm.render({"redis": {"enabled": True}})


def test_helm_test_finds_the_injector_at_work(installed: Any, tmp_path: Path) -> None:
    pod = Pod(installed, "cache-injector", tmp_path)
    anywhere = {
        "--address=[::]:8443": "--address=127.0.0.1:0",
        "--metrics-address=[::]:8080": "--metrics-address=127.0.0.1:0",
    }
    environment = pod.environment("injector", {}) | {"POD_NAMESPACE": "models"}
    log = tmp_path / "injector.log"
    with running(pod.command("injector", anywhere), environment, log) as wait_until_it_serves:
        test = Pod(installed, "cache-test", tmp_path)
        (tmp_path / "sitecustomize.py").write_text(RESOLVER)
        place = {
            "PYTHONPATH": str(tmp_path),
            "CLUSTER_HOST": "cache-injector.models.svc",
            "CLUSTER_PORT": str(wait_until_it_serves()["port"]),
        }
        done = ask(test, "injector", {}, place)
        assert (done.returncode, done.stdout) == (0, "the injector answers, and adds a sidecar\n")
        # Another certificate is not trusted.
        other = Pod(installed, "cache-test", tmp_path).environment("injector", {})
        Path(other["CA_FILE"]).write_bytes(b"")
        untrusted = subprocess.run(
            test.command("injector", {}), env=other | place, capture_output=True, text=True
        )
        assert untrusted.returncode != 0


def ask(
    pod: Pod, container: str, changes: Mapping[str, str], more: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        pod.command(container, changes),
        env=pod.environment(container, {}) | more,
        capture_output=True,
        text=True,
        timeout=HANG_GUARD,
    )


def test_helm_test_finds_the_encoder_pool_at_work(
    installed: Any, tmp_path: Path, minilm_folder: Path
) -> None:
    pod = Pod(installed, "cache-encoder", tmp_path)
    here = {
        "[::]:50551": "127.0.0.1:0",
        "[::]:50552": "127.0.0.1:0",
        "/models": str(minilm_folder.parent),
    }
    environment = pod.environment("encoder", here)
    test = Pod(installed, "cache-test", tmp_path)
    place = "cache-encoder.models.svc:50551"
    log = tmp_path / "encoder.log"
    with running(pod.command("encoder", {}), environment, log) as wait_until_it_serves:
        (address, *_) = wait_until_it_serves()["addresses"]
        done = ask(test, "encoder", {place: address}, {})
        assert (done.returncode, done.stdout) == (0, "SERVING\n")
    done = ask(test, "encoder", {place: address, "10s": "100ms"}, {})
    assert done.returncode != 0


def test_the_redis_for_trying_out_starts_without_writing_and_evicts_what_is_not_used(
    installed: Any, tmp_path: Path
) -> None:
    pod = Pod(installed, "cache-redis", tmp_path)
    words = pod.command("redis", {"redis-server": str(find_redis_server())})
    socket = tmp_path / "redis.sock"
    folder = tmp_path / "read-only"
    folder.mkdir(mode=0o500)
    here = [*words, "--port", "0", "--unixsocket", str(socket)]
    with subprocess.Popen(here, cwd=folder, stdout=subprocess.DEVNULL) as process:
        try:
            client = wait_for_redis(socket, process)
            assert client.config_get("maxmemory*")["maxmemory"] == str(256 * 2**20)
            assert client.config_get("maxmemory-policy")["maxmemory-policy"] == "allkeys-lru"
            assert client.config_get("save")["save"] == ""
            assert client.config_get("appendonly")["appendonly"] == "no"
            assert client.config_get("protected-mode")["protected-mode"] == "no"
            client.close()
        finally:
            process.kill()
    assert not list(folder.iterdir())


def wait_for_redis(socket: Path, process: subprocess.Popen[bytes]) -> Any:
    client = redis.Redis(unix_socket_path=str(socket), decode_responses=True)
    give_up = time.monotonic() + HANG_GUARD
    while time.monotonic() < give_up and process.poll() is None:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            return client
        time.sleep(0.01)
    raise AssertionError("this Redis does not start")
