"""The containers of the chart, run as processes with the arguments and files that it gives them."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from cryptography import x509
from embercache import Client, UnauthenticatedError, UnavailableError

from bench.certificates import Authority
from sidecar.dev_redis import find_redis_server
from sidecar.injector.patch import apply
from sidecar.injector.pod import inject
from sidecar.injector.settings import load_settings

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
        spec = template["spec"]
        every = [*spec.get("initContainers", []), *spec["containers"]]
        self._containers = {each["name"]: each for each in every}
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


TOKEN = "a-token-of-the-shop-s-sidecars"  # noqa: S105 - of this test
POLICY = """\
callers:
  - {name: shop, token_file: /etc/embercache/policy/shop, namespaces: [shop]}
"""
TRUST = {
    "tls": {"existingSecret": "pool-tls", "clientAuth": True, "clientSecret": "client-tls"},
    "policy": {"existingSecret": "pool-policy"},
}
SIDECAR = {
    "secretMounts": [{"secret": "pool-token", "path": "/etc/embercache/token"}],
    "env": [
        {"name": "EMBERCACHE_ENCODER_TOKEN_FILE", "value": "/etc/embercache/token/token"},
    ],
}


def secret(name: str, **files: bytes | str) -> dict[str, Any]:
    """A Secret; ``_`` in the name of a file stands for a dot."""
    data = {
        key.replace("_", "."): base64.b64encode(
            content.encode() if isinstance(content, str) else content
        ).decode()
        for key, content in files.items()
    }
    return {"kind": "Secret", "metadata": {"name": name}, "data": data}


def with_secrets(objects: Any, folder: Path) -> Any:
    """What a chart makes, and the Secrets that its values name, as cert-manager makes them."""
    authority = Authority()
    names = (
        x509.DNSName("cache-encoder.models.svc"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    )
    pairs = {"pool-tls": authority.issue(names=names), "client-tls": authority.issue()}
    # Files of a volume have no other name on this machine than in the policy.
    policy = POLICY.replace("/etc/embercache/policy", str(folder / "policy"))
    objects.append(secret("pool-policy", policy_yaml=policy, shop=TOKEN))
    objects.append(secret("pool-token", token=TOKEN))
    for name, (certificate, key) in pairs.items():
        objects.append(secret(name, tls_crt=certificate, tls_key=key, ca_crt=authority.pem))
    return objects


def injected(objects: Any, folder: Path) -> dict[str, Any]:
    """A pod with the sidecar that the chart's injector gives it."""
    config = folder / "injector.yaml"
    config.write_text(objects.one("ConfigMap", "cache-injector")["data"]["config.yaml"])
    pod: dict[str, Any] = {
        "kind": "Pod",
        "metadata": {"name": "app"},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    found = inject(pod, namespace="shop", settings=load_settings(config), native=True)
    patched: dict[str, Any] = apply(pod, found.operations)
    return patched


def status_of(url: str, context: ssl.SSLContext) -> int:
    try:
        with urllib.request.urlopen(url, context=context, timeout=HANG_GUARD) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.threat("A pod that says it was injected calls the encoder pool")
def test_sidecars_of_the_chart_call_its_pool_with_certificates_and_a_token(
    helm: Any, tmp_path: Path, minilm_folder: Path
) -> None:
    objects = with_secrets(helm.render({"encoder": TRUST, "sidecar": SIDECAR}), tmp_path)
    objects.append(injected(objects, tmp_path))
    pool, pod, test = (
        Pod(objects, name, tmp_path) for name in ("cache-encoder", "app", "cache-test")
    )
    anywhere = {"[::]:50551": "127.0.0.1:0", "[::]:50552": "127.0.0.1:0"}
    anywhere["/models"] = str(minilm_folder.parent)
    environment = pool.environment("encoder", anywhere)
    with running(pool.command("encoder", {}), environment, tmp_path / "encoder.log") as serves:
        event = serves()
        (address, *_) = event["addresses"]

        # The kubelet checks no certificate and shows none; Prometheus does both.
        kubelet = ssl._create_unverified_context()  # noqa: S323
        url = f"https://{event['metrics_address']}"
        assert [status_of(url + path, kubelet) for path in ("/livez", "/readyz")] == [200, 200]
        assert status_of(f"{url}/metrics", kubelet) == 403
        files = test.environment("encoder", {})
        prometheus = ssl.create_default_context(cafile=files["EMBERCACHE_CA_FILE"])
        prometheus.load_cert_chain(files["EMBERCACHE_CERT_FILE"], files["EMBERCACHE_KEY_FILE"])
        assert status_of(f"{url}/metrics", prometheus) == 200

        place = "tls://cache-encoder.models.svc:50551"
        done = ask(test, "encoder", {place: f"tls://{address}"}, {})
        assert (done.returncode, done.stdout) == (0, "SERVING\n"), done.stderr

        here = {
            "dns:///cache-encoder.models.svc:50551": address,
            "127.0.0.1:50551": "127.0.0.1:0",
            "[::]:50552": "127.0.0.1:0",
            "/run/embercache/embercache.sock": "",
        }
        with running(
            pod.command("embercache", {}), pod.environment("embercache", here), tmp_path / "app.log"
        ) as sidecar_serves:
            (own, *_) = sidecar_serves()["addresses"]
            with Client(own) as client:
                assert client.embed(["how warm is an ember?"]).tiers == ["computed"]

        # Whoever has the label and nothing to show gets no further than the handshake; and with a
        # certificate of somebody else, no further than the policy.
        tls = {"ca_file": files["EMBERCACHE_CA_FILE"]}
        with pytest.raises(UnavailableError), Client(f"tls://{address}", **tls) as client:
            client.embed(["how warm is an ember?"], timeout=5)
        tls |= {
            "cert_file": files["EMBERCACHE_CERT_FILE"],
            "key_file": files["EMBERCACHE_KEY_FILE"],
        }
        with pytest.raises(UnauthenticatedError), Client(f"tls://{address}", **tls) as client:
            client.embed(["how warm is an ember?"])


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
