"""A Kubernetes control plane of real parts: etcd, kube-apiserver and kube-controller-manager."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.certificates import Authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

TOOLS = Path(__file__).parents[2] / ".tools" / "bin"
HANG_GUARD = 90.0
# Those that act on what the tests create. Nothing here schedules or runs a pod.
CONTROLLERS = (
    *("cronjob", "daemonset", "deployment", "job", "replicaset", "statefulset"),
    *("disruption", "horizontal-pod-autoscaler", "namespace", "serviceaccount"),
    "root-ca-certificate-publisher",
)
# The interpreter becomes the program, after it has asked to be killed with this process.
DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the parent has gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture(scope="session")
def tool() -> Callable[[str], Path]:
    """Finds a program that ``make tools`` builds."""

    def find(name: str) -> Path:
        path = TOOLS / name
        if not path.is_file():
            pytest.fail(f"there is no {path}: run make tools", pytrace=False)
        return path

    return find


class Part:
    """A process of the control plane."""

    def __init__(self, kube: Path, folder: Path, name: str, *flags: str, memory: str) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        command = [sys.executable, "-c", DIE_WITH_PARENT, str(os.getpid()), str(kube), name, *flags]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"GOMEMLIMIT": memory},
            )

    def runs(self) -> bool:
        return self._process.poll() is None

    def end_of_log(self) -> str:
        return self._log.read_text("utf-8", errors="replace")[-2000:]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Cluster:
    """What tests use of a control plane.

    ``kubeconfig`` is that of an administrator; ``environment`` is what helm needs to find it.
    """

    def __init__(self, kube: Path, folder: Path, url: str, authority: Authority) -> None:
        self._kube = kube
        self.url = url
        self.token = secrets.token_hex(16)
        self.authority = authority
        self.authority_file = folder / "authority.pem"
        self.authority_file.write_bytes(authority.pem)
        self.kubeconfig = folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(self._config()))
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "HOME": str(folder),
            "HELM_CACHE_HOME": str(folder / "helm"),
            "HELM_CONFIG_HOME": str(folder / "helm"),
            "HELM_DATA_HOME": str(folder / "helm"),
        }

    def try_kubectl(
        self, *arguments: str, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl."""
        return subprocess.run(
            [self._kube, "kubectl", *arguments],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=HANG_GUARD,
        )

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """What kubectl prints; it must succeed."""
        done = self.try_kubectl(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def create(self, *objects: Mapping[str, Any]) -> None:
        """Creates objects; all must be accepted."""
        self.kubectl("create", "--filename=-", stdin=as_list(objects))

    def get(self, *arguments: str) -> dict[str, Any]:
        """An object, or a list of some, as ``kubectl get`` finds it."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "--output=json", *arguments))
        return found

    def wait_for(self, seen: Callable[[], Any]) -> Any:
        """Waits for something to be true, and gives it."""
        give_up = time.monotonic() + HANG_GUARD
        while time.monotonic() < give_up:
            if found := seen():
                return found
            time.sleep(0.05)
        raise AssertionError(f"this did not come true: {seen}")

    @contextmanager
    def namespace(self, labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A new namespace in which pods can be created."""
        name = f"test-{secrets.token_hex(4)}"
        metadata = {"name": name, "labels": labels or {}}
        self.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.wait_for(lambda: self.has_account(name))
        yield name
        self.kubectl("delete", "namespace", name, "--wait=false")

    def create_pod(self, namespace: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        """A pod as it was stored."""
        arguments = ("create", "--filename=-", f"--namespace={namespace}")
        self.kubectl(*arguments, stdin=json.dumps(pod))
        return self.get("pod", pod["metadata"]["name"], f"--namespace={namespace}")

    def dry_run_pod(self, namespace: str, pod: Mapping[str, Any]) -> dict[str, Any]:
        """A pod as it would be stored."""
        flags = ("--dry-run=server", "--output=json", f"--namespace={namespace}")
        shown: dict[str, Any] = json.loads(
            self.kubectl("create", "--filename=-", *flags, stdin=json.dumps(pod))
        )
        return shown

    def pods(self, namespace: str) -> list[dict[str, Any]]:
        """All pods of a namespace."""
        found: list[dict[str, Any]] = self.get("pods", f"--namespace={namespace}")["items"]
        return found

    def webhook(self, name: str, url: str, **fields: Any) -> dict[str, Any]:
        """A mutating webhook for new pods, for all unless ``fields`` have a selector."""
        rule = {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"]}
        authority = base64.b64encode(self.authority.pem).decode()
        return {
            "name": name,
            "clientConfig": {"url": url, "caBundle": authority},
            "rules": [rule | {"resources": ["pods"]}],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded",
            "timeoutSeconds": 10,
        } | fields

    @contextmanager
    def configured(self, *webhooks: Mapping[str, Any]) -> Iterator[None]:
        """Webhooks that the API server calls; it learns of them a moment after the context begins.

        They are called in the order of the first one's name among those of all configurations.
        """
        name = webhooks[0]["name"]
        self.create(
            {
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": "MutatingWebhookConfiguration",
                "metadata": {"name": name},
                "webhooks": list(webhooks),
            }
        )
        yield
        self.kubectl("delete", "mutatingwebhookconfiguration", name)

    def has_account(self, namespace: str) -> bool:
        """Whether pods can be created in a namespace by now."""
        found = self.try_kubectl("get", "serviceaccount", "default", f"--namespace={namespace}")
        return found.returncode == 0

    def _config(self) -> dict[str, Any]:
        cluster = {"server": self.url, "certificate-authority": str(self.authority_file)}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace for this test alone."""
    with cluster.namespace() as name:
        yield name


@pytest.fixture(scope="session")
def asking_pod() -> Callable[..., dict[str, Any]]:
    """Makes pods that ask for a sidecar; annotations are written with ``_`` for ``-``."""

    def make(name: str = "app", **annotations: str) -> dict[str, Any]:
        named = {f"embercache.io/{key.replace('_', '-')}": v for key, v in annotations.items()}
        labels = {"embercache.io/inject": "true"}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": labels, "annotations": named},
            "spec": {"containers": [{"name": "app", "image": "registry.test/app:1"}]},
        }

    return make


def as_list(objects: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


def free_ports(count: int) -> list[int]:
    with ExitStack() as sockets:
        opened = [sockets.enter_context(socket.socket()) for _ in range(count)]
        for each in opened:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in opened]


@pytest.fixture(scope="session")
def cluster(
    tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """A control plane on loopback, with Pod Security admission; nothing runs the pods."""
    kube, folder = tool("kube"), tmp_path_factory.mktemp("cluster")
    with ExitStack() as parts:

        def start(name: str, *flags: str, memory: str) -> Part:
            part = Part(kube, folder, name, *flags, memory=memory)
            parts.callback(part.kill)
            return part

        etcd, peers, secure, controllers = free_ports(4)
        made = Cluster(kube, folder, f"https://127.0.0.1:{secure}", Authority())
        running = [
            start("etcd", *etcd_flags(etcd, peers), memory="256MiB"),
            start("apiserver", *apiserver_flags(made, folder, secure, etcd), memory="768MiB"),
        ]
        wait_until_ready(made, running)
        running.append(start("controllers", *controller_flags(made, controllers), memory="256MiB"))
        made.wait_for(lambda: all_run(running) and made.has_account("default"))
        yield made


def etcd_flags(port: int, peers: int) -> list[str]:
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peers}"
    return [
        "--data-dir=etcd",
        "--unsafe-no-fsync",
        "--log-level=warn",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def apiserver_flags(made: Cluster, folder: Path, port: int, etcd: int) -> list[str]:
    certificate, key = made.authority.issue()
    (folder / "apiserver.crt").write_bytes(certificate)
    (folder / "apiserver.key").write_bytes(key)
    (folder / "accounts.key").write_bytes(Authority().issue()[1])
    (folder / "tokens.csv").write_text(f'{made.token},admin,admin,"system:masters"\n')
    return [
        f"--etcd-servers=http://127.0.0.1:{etcd}",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--tls-cert-file=apiserver.crt",
        "--tls-private-key-file=apiserver.key",
        "--token-auth-file=tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--service-account-key-file=accounts.key",
        "--service-account-signing-key-file=accounts.key",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
    ]


def controller_flags(made: Cluster, port: int) -> list[str]:
    return [
        f"--kubeconfig={made.kubeconfig}",
        "--controllers=" + ",".join(f"{name}-controller" for name in CONTROLLERS),
        "--service-account-private-key-file=accounts.key",
        f"--root-ca-file={made.authority_file}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--cert-dir=controllers",
    ]


def all_run(parts: Sequence[Part]) -> bool:
    for part in parts:
        assert part.runs(), f"{part.name} ended: {part.end_of_log()}"
    return True


def wait_until_ready(made: Cluster, parts: Sequence[Part]) -> None:
    made.wait_for(
        lambda: all_run(parts) and made.try_kubectl("get", "--raw=/readyz").returncode == 0
    )
