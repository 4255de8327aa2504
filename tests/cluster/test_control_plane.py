"""The real API server calls the real webhook; real controllers make the pods."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from bench.certificates import MountedPair
from bench.injector_process import InjectorProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

INJECT = "embercache.io/inject"
PODS = "pods.injector.embercache.io"
NAMESPACES = "namespaces.injector.embercache.io"
KEYS = "/etc/embercache/keys"
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def template(**spec: Any) -> dict[str, Any]:
    """Of a workload whose pods ask for a sidecar."""
    labels = {INJECT: "true", "app": "test"}
    containers = [{"name": "app", "image": "registry.test/app:1"}]
    return {"metadata": {"labels": labels}, "spec": {"containers": containers} | spec}


def expression(key: str, operator: str, *values: str) -> dict[str, Any]:
    one = {"key": key, "operator": operator} | ({"values": list(values)} if values else {})
    return {"matchExpressions": [one]}


@pytest.fixture(scope="module")
def injector(
    cluster: Any, asking_pod: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InjectorProcess]:
    """The injector, called for pods and for namespaces that ask."""
    folder = tmp_path_factory.mktemp("injector")
    pair = MountedPair(folder / "tls")
    pair.put(*cluster.authority.issue())
    (folder / "sidecar.yaml").write_text(
        "image: registry.test/embercache:1\nredisSecret: redis\nnativeSidecar: auto\n"
        f"secretMounts: [{{secret: cache-keys, path: {KEYS}}}]\n"
    )
    with InjectorProcess(folder, pair, config=folder / "sidecar.yaml", drain_delay="0s") as process:
        hooks = (
            cluster.webhook(
                PODS,
                f"{process.url}/mutate",
                objectSelector={"matchLabels": {INJECT: "true"}},
            ),
            cluster.webhook(
                NAMESPACES,
                f"{process.url}/mutate/namespace",
                namespaceSelector={"matchLabels": {INJECT: "true"}},
                objectSelector=expression(INJECT, "NotIn", "true", "false"),
            ),
        )
        with cluster.configured(*hooks):
            # The API server learns of a configuration a moment after it is stored.
            cluster.wait_for(lambda: is_injected(cluster.dry_run_pod("default", asking_pod())))
            yield process


def is_injected(made: dict[str, Any]) -> bool:
    return made["metadata"]["labels"].get("embercache.io/status") == "injected"


def sidecar_of(made: dict[str, Any]) -> dict[str, Any]:
    """The native sidecar of a pod."""
    first: dict[str, Any] = made["spec"]["initContainers"][0]
    assert (first["name"], first["restartPolicy"]) == ("embercache", "Always")
    return first


def variables(container: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value") for each in container.get("env", [])}


def test_a_labelled_pod_is_stored_with_a_native_sidecar(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    stored = cluster.create_pod(namespace, asking_pod(model="minilm"))
    sidecar = sidecar_of(stored)
    assert is_injected(stored)
    assert sidecar["image"] == "registry.test/embercache:1"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/readyz"
    assert variables(sidecar)["EMBERCACHE_MODEL_PACKS"] == "minilm"
    app = variables(stored["spec"]["containers"][0])
    assert app["EMBERCACHE_ADDRESS"] == "unix:/run/embercache/embercache.sock"


def test_the_sidecar_s_namespace_is_that_of_the_pod(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    sidecar = sidecar_of(cluster.create_pod(namespace, asking_pod()))
    assert variables(sidecar)["EMBERCACHE_CACHE_NAMESPACE"] == namespace


def test_pods_of_a_job_are_injected_so_that_the_job_can_end(
    cluster: Any, injector: InjectorProcess, namespace: str
) -> None:
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}}
    spec = {"template": template(restartPolicy="Never")}
    cluster.create(job | {"metadata": {"name": "job", "namespace": namespace}, "spec": spec})
    (made,) = cluster.wait_for(lambda: cluster.pods(namespace))
    sidecar_of(made)
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Job"


def test_pods_of_a_deployment_are_injected(
    cluster: Any, injector: InjectorProcess, namespace: str
) -> None:
    cluster.create(
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "web", "namespace": namespace},
            "spec": {
                "replicas": 3,
                "selector": {"matchLabels": {"app": "test"}},
                "template": template(),
            },
        }
    )
    made = cluster.wait_for(lambda: (found := cluster.pods(namespace))[2:] and found)
    assert [is_injected(each) for each in made] == [True, True, True]


def test_a_restricted_namespace_accepts_an_injected_pod(
    cluster: Any, injector: InjectorProcess, asking_pod: Callable[..., Any]
) -> None:
    plain, restricted = asking_pod("plain"), asking_pod("restricted")
    restricted["spec"]["containers"][0]["securityContext"] = RESTRICTED
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        assert is_injected(cluster.create_pod(namespace, restricted))
        with pytest.raises(AssertionError, match='container "app" must set'):
            cluster.create_pod(namespace, plain)


def test_kubectl_shows_why_a_pod_is_denied(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    stdin = json.dumps(asking_pod(port="80"))
    done = cluster.try_kubectl("create", "--filename=-", f"--namespace={namespace}", stdin=stdin)
    assert done.returncode != 0
    assert f'admission webhook "{PODS}" denied the request: embercache.io/port: ' in done.stderr
    assert cluster.pods(namespace) == []


def test_a_controller_tells_in_an_event_why_its_pods_are_denied(
    cluster: Any, injector: InjectorProcess, namespace: str
) -> None:
    wrong = template()
    wrong["metadata"]["annotations"] = {"embercache.io/modle": "minilm"}
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "test"}}, "template": wrong}
    metadata = {"name": "web", "namespace": namespace}
    cluster.create(
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": metadata, "spec": spec}
    )
    flags = ("--field-selector=reason=FailedCreate", f"--namespace={namespace}")
    (event, *_) = cluster.wait_for(lambda: cluster.get("events", *flags)["items"])
    assert "did you mean embercache.io/model?" in event["message"]


def test_a_label_on_the_namespace_asks_for_all_its_pods(
    cluster: Any, injector: InjectorProcess, asking_pod: Callable[..., Any]
) -> None:
    silent, declining = asking_pod("silent"), asking_pod("declining")
    del silent["metadata"]["labels"]
    declining["metadata"]["labels"][INJECT] = "false"
    with cluster.namespace({INJECT: "true"}) as namespace:
        sidecar_of(cluster.create_pod(namespace, silent))
        sidecar_of(cluster.create_pod(namespace, asking_pod("asking")))
        assert "initContainers" not in cluster.create_pod(namespace, declining)["spec"]


def test_a_pod_without_label_is_left_alone(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    made = asking_pod()
    del made["metadata"]["labels"]
    assert "initContainers" not in cluster.create_pod(namespace, made)["spec"]


def test_a_dry_run_shows_the_injected_pod_and_stores_none(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    sidecar_of(cluster.dry_run_pod(namespace, asking_pod()))
    assert cluster.pods(namespace) == []


def test_an_injected_pod_can_be_created_from_its_own_manifest(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    injected = cluster.dry_run_pod(namespace, asking_pod())
    again = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "again"}}
    again["metadata"] |= {key: injected["metadata"][key] for key in ("labels", "annotations")}
    stored = cluster.create_pod(namespace, again | {"spec": injected["spec"]})
    assert [each["name"] for each in stored["spec"]["initContainers"]] == ["embercache"]


def sources(pod: dict[str, Any], container: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a container has mounted, by place: the volumes."""
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    return {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}


@pytest.mark.threat("A container reads the secrets of the sidecar beside it")
def test_the_sidecar_alone_has_its_secrets_and_the_app_alone_the_token_of_the_pod(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    stored = cluster.create_pod(namespace, asking_pod())
    own = sources(stored, sidecar_of(stored))
    assert own[KEYS]["secret"]["secretName"] == "cache-keys"
    # The API server puts tokens into containers that webhooks add, too.
    assert "emptyDir" in own[TOKEN]
    apps = sources(stored, stored["spec"]["containers"][0])
    assert "projected" in apps[TOKEN]
    assert not [each for each in apps.values() if "secret" in each]


@pytest.mark.threat("A container reads the secrets of the sidecar beside it")
def test_a_pod_whose_app_counts_on_a_volume_of_the_sidecar_is_refused(
    cluster: Any, injector: InjectorProcess, namespace: str, asking_pod: Callable[..., Any]
) -> None:
    sly = asking_pod()
    hoped = {"name": "embercache-files", "mountPath": "/keys"}
    sly["spec"]["containers"][0]["volumeMounts"] = [hoped]
    stdin = json.dumps(sly)
    done = cluster.try_kubectl("create", "--filename=-", f"--namespace={namespace}", stdin=stdin)
    assert 'volumeMounts[0].name: Not found: "embercache-files"' in done.stderr


@pytest.mark.threat("A pod's author gets rights through the injector")
@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/securityContext/privileged", True),
        ("/securityContext/allowPrivilegeEscalation", True),
        ("/securityContext/capabilities/add", ["SYS_ADMIN"]),
        ("/securityContext/runAsUser", 0),
        ("/securityContext", {}),
        ("/ports/0/hostPort", 8080),
        ("/livenessProbe/httpGet/host", "169.254.169.254"),
    ],
)
def test_no_annotation_loosens_what_confines_the_sidecar_where_no_standard_is_enforced_either(
    cluster: Any,
    injector: InjectorProcess,
    namespace: str,
    asking_pod: Callable[..., Any],
    path: str,
    value: Any,
) -> None:
    patch = json.dumps([{"op": "add", "path": path, "value": value}])
    stdin = json.dumps(asking_pod(config_patch=patch))
    done = cluster.try_kubectl("create", "--filename=-", f"--namespace={namespace}", stdin=stdin)
    assert "denied the request: embercache.io/config-patch: " in done.stderr


@pytest.mark.threat("A pod's author gets rights through the injector")
def test_an_author_chooses_the_image_and_what_it_runs_and_the_standard_of_his_namespace_holds(
    cluster: Any, injector: InjectorProcess, asking_pod: Callable[..., Any]
) -> None:
    host = {"name": "host", "hostPath": {"path": "/"}}
    patch = json.dumps(
        [
            {"op": "add", "path": "/command", "value": ["sh"]},
            # Volumes are of pods, and are none of a patch's business.
            {"op": "add", "path": "/volumes", "value": [host]},
        ]
    )
    chosen = asking_pod("chosen", image="registry.test/mine:1", config_patch=patch)
    mounting = asking_pod("mounting")
    mounting["spec"]["volumes"] = [host]
    for each in (chosen, mounting):
        each["spec"]["containers"][0]["securityContext"] = RESTRICTED
    with cluster.namespace({"pod-security.kubernetes.io/enforce": "restricted"}) as namespace:
        stored = cluster.create_pod(namespace, chosen)
        sidecar = sidecar_of(stored)
        assert (sidecar["image"], sidecar["command"]) == ("registry.test/mine:1", ["sh"])
        assert sidecar["securityContext"].items() >= RESTRICTED.items()
        assert not [each for each in stored["spec"]["volumes"] if "hostPath" in each]
        # What the author asks for himself is judged after the injector.
        with pytest.raises(AssertionError, match=r'restricted volume types .*"hostPath"'):
            cluster.create_pod(namespace, mounting)
