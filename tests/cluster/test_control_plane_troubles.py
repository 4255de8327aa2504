"""What the real API server makes of an injector that is away, or not alone, or has no rights."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from bench.certificates import MountedPair
from bench.injector_process import InjectorProcess
from sidecar.injector.metrics import InjectorMetrics
from sidecar.injector.nodes import ApiServer, Nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IN_NAMESPACE = "kubernetes.io/metadata.name"


@pytest.fixture
def pair(cluster: Any, tmp_path: Path) -> MountedPair:
    made = MountedPair(tmp_path / "tls")
    made.put(*cluster.authority.issue())
    return made


@pytest.fixture
def injector(tmp_path: Path, pair: MountedPair) -> Iterator[InjectorProcess]:
    with InjectorProcess(tmp_path, pair) as process:
        yield process


class AddsContainer(BaseHTTPRequestHandler):
    """Another webhook: it adds a container to pods that have none of that name."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        response = {"uid": request["uid"], "allowed": True}
        containers = request["object"]["spec"]["containers"]
        if all(each["name"] != "late" for each in containers):
            added = {"name": "late", "image": "registry.test/late:1"}
            patch = [{"op": "add", "path": "/spec/containers/-", "value": added}]
            response["patchType"] = "JSONPatch"
            response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
        body = json.dumps(review | {"response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving(pair: MountedPair) -> Iterator[str]:
    """The URL of the other webhook while it serves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    server = ThreadingHTTPServer(("127.0.0.1", 0), AddsContainer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def names(pod: dict[str, Any], key: str) -> list[str]:
    return [each["name"] for each in pod["spec"].get(key, [])]


def test_a_pod_that_asks_comes_up_without_sidecar_while_the_injector_is_down(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    hook = cluster.webhook(
        "pods.injector.embercache.io",
        f"{injector.url}/mutate",
        failurePolicy="Ignore",
        namespaceSelector={"matchLabels": {IN_NAMESPACE: namespace}},
    )
    with cluster.configured(hook):
        cluster.wait_for(
            lambda: names(cluster.dry_run_pod(namespace, asking_pod()), "initContainers")
        )
        injector.kill()
        assert names(cluster.create_pod(namespace, asking_pod()), "initContainers") == []


def test_a_container_that_a_later_webhook_adds_gets_the_address_too(
    cluster: Any,
    injector: InjectorProcess,
    pair: MountedPair,
    namespace: str,
    asking_pod: Callable[..., Any],
) -> None:
    here = {"namespaceSelector": {"matchLabels": {IN_NAMESPACE: namespace}}}
    with serving(pair) as url:
        first = cluster.webhook("a.embercache.io", f"{injector.url}/mutate", **here)
        later = cluster.webhook("b.example.com", url, **here)
        with cluster.configured(first, later):
            cluster.wait_for(
                lambda: "late" in names(cluster.dry_run_pod(namespace, asking_pod()), "containers")
            )
            pod = cluster.create_pod(namespace, asking_pod())
    assert names(pod, "initContainers") == ["embercache"]
    assert names(pod, "containers") == ["app", "late"]
    for container in pod["spec"]["containers"]:
        assert names({"spec": container}, "env") == ["EMBERCACHE_ADDRESS"]
        assert "/run/embercache" in [each["mountPath"] for each in container["volumeMounts"]]


@pytest.fixture
def account(cluster: Any, namespace: str, tmp_path: Path) -> Path:
    """The files of a service account, as Kubernetes mounts them."""
    cluster.kubectl("create", "serviceaccount", "injector", f"--namespace={namespace}")
    token = cluster.kubectl("create", "token", "injector", f"--namespace={namespace}")
    (tmp_path / "token").write_text(token)
    (tmp_path / "ca.crt").write_bytes(cluster.authority.pem)
    return tmp_path


@pytest.fixture
def may_list_nodes(cluster: Any, account: Path, namespace: str) -> Iterator[None]:
    subject = f"--serviceaccount={namespace}:injector"
    cluster.kubectl("create", "clusterrole", "nodes", "--verb=list", "--resource=nodes")
    cluster.kubectl("create", "clusterrolebinding", "nodes", "--clusterrole=nodes", subject)
    yield
    cluster.kubectl("delete", "clusterrole/nodes", "clusterrolebinding/nodes")


@contextmanager
def node(cluster: Any, name: str, kubelet: str) -> Iterator[None]:
    """A node whose kubelet tells a version."""
    metadata = {"name": name}
    cluster.create({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
    patch = json.dumps({"status": {"nodeInfo": {"kubeletVersion": kubelet}}})
    cluster.kubectl("patch", "node", name, "--subresource=status", "--patch", patch)
    yield
    cluster.kubectl("delete", "node", name)


async def test_one_old_kubelet_makes_all_sidecars_classic(
    cluster: Any, account: Path, may_list_nodes: None
) -> None:
    nodes = Nodes(ApiServer(cluster.url, account), InjectorMetrics())
    with node(cluster, "new", "v1.36.3"):
        await nodes.ask()
        assert nodes.are_native
        with node(cluster, "old", "v1.28.15-eks-1"):
            await nodes.ask()
            assert not nodes.are_native
        await nodes.ask()
        assert nodes.are_native


async def test_without_the_right_to_list_nodes_the_injector_counts_a_failure(
    cluster: Any, account: Path
) -> None:
    metrics = InjectorMetrics()
    nodes = Nodes(ApiServer(cluster.url, account), metrics)
    with node(cluster, "old", "v1.28.0"):
        await nodes.ask()
    failures = metrics.registry.get_sample_value("embercache_injector_node_failures_total")
    assert failures == 1
    assert nodes.are_native
