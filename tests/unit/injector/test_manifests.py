"""Manifests that get sidecars before they come to a cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar.injector.manifests import Injected, ManifestError, Rules, inject_manifests
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Callable

ASKING = {"labels": {"embercache.io/inject": "true", "app": "web"}}
SPEC = {"containers": [{"name": "app", "image": "web"}]}
TEMPLATE = {"metadata": ASKING, "spec": SPEC}
SELECTOR = {"selector": {"matchLabels": {"app": "web"}}}
META = {"metadata": {"name": "web", "namespace": "shop"}}
JOB_TEMPLATE = TEMPLATE | {"spec": SPEC | {"restartPolicy": "Never"}}
WORKLOADS = {
    "Pod": {"apiVersion": "v1", "metadata": META["metadata"] | ASKING, "spec": SPEC},
    "PodTemplate": {"apiVersion": "v1", "template": TEMPLATE} | META,
    "ReplicationController": {"apiVersion": "v1", "spec": {"template": TEMPLATE}} | META,
    "Deployment": {"apiVersion": "apps/v1", "spec": SELECTOR | {"template": TEMPLATE}} | META,
    "StatefulSet": {
        "apiVersion": "apps/v1",
        "spec": SELECTOR | {"serviceName": "web", "template": TEMPLATE},
    }
    | META,
    "DaemonSet": {"apiVersion": "apps/v1", "spec": SELECTOR | {"template": TEMPLATE}} | META,
    "ReplicaSet": {"apiVersion": "apps/v1", "spec": SELECTOR | {"template": TEMPLATE}} | META,
    "Job": {"apiVersion": "batch/v1", "spec": {"template": JOB_TEMPLATE}} | META,
    "CronJob": {
        "apiVersion": "batch/v1",
        "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": JOB_TEMPLATE}}},
    }
    | META,
}


def run(text: str, *, everything: bool = False, native: bool = True, **settings: Any) -> Injected:
    chosen = InjectorSettings.model_validate(settings)
    rules = Rules(chosen, native=native, namespace="", everything=everything)
    return inject_manifests(text, rules)


def manifest(kind: str, **changes: Any) -> dict[str, Any]:
    return {"kind": kind} | WORKLOADS[kind] | changes


def pod_of(workload: dict[str, Any]) -> dict[str, Any]:
    """The pod, or pod template, in an object."""
    pod = workload if workload["kind"] == "Pod" else workload.get("template")
    if pod is None:
        pod = (
            workload["spec"].get("template") or workload["spec"]["jobTemplate"]["spec"]["template"]
        )
    return dict(pod)


@pytest.mark.parametrize("kind", WORKLOADS)
def test_every_kind_that_makes_pods_gets_a_sidecar_and_stays_valid(
    kind: str, check_latest_schema: Callable[[dict[str, Any]], None]
) -> None:
    result = run(yaml.safe_dump(manifest(kind)))
    changed = yaml.safe_load(result.text)
    check_latest_schema(changed)
    pod = pod_of(changed)
    assert pod["spec"]["initContainers"][0]["name"] == "embercache"
    assert pod["metadata"]["labels"]["embercache.io/status"] == "injected"
    assert changed["metadata"]["namespace"] == "shop"
    assert result.report == [f"document 1 (line 1), {kind} web: injected"]


def test_what_makes_no_pods_passes_to_the_byte() -> None:
    text = "# all of it\n---\nkind: ConfigMap   # this too\ndata: {a: 'b'}\n...\n---\n- 1\n---\n"
    result = run(text, everything=True)
    assert result.text == text
    assert result.report == []


def test_json_without_pods_passes_to_the_byte() -> None:
    text = '{"kind": "Service"}\n{"kind":\t"Service"}'
    assert run(text, everything=True).text == text


def test_what_only_has_comments_does_not_count_as_a_document() -> None:
    result = run(f"# licence\n---\n{yaml.safe_dump(manifest('Pod'))}")
    assert result.report == ["document 1 (line 2), Pod web: injected"]


def test_documents_beside_an_injected_one_pass_to_the_byte() -> None:
    first, last = "# c\na:   1\n", "---\nkind:   Service # s\n"
    result = run(f"{first}---\n{yaml.safe_dump(manifest('Deployment'))}{last}")
    assert result.text.startswith(f"{first}---\n")
    assert result.text.endswith(last)


def test_an_object_of_another_api_group_is_not_what_its_kind_says() -> None:
    text = yaml.safe_dump(manifest("Job", apiVersion="batch.example.com/v1"))
    assert run(text).text == text


@pytest.mark.parametrize("as_json", [False, True])
def test_the_objects_of_a_list_are_each_looked_at(as_json: bool) -> None:
    items = [{"kind": "Service"}, manifest("Deployment"), manifest("Job")]
    nested = {"apiVersion": "v1", "kind": "List", "items": [{"kind": "List", "items": items}]}
    text = json.dumps(nested) if as_json else yaml.safe_dump(nested)
    result = run(text)
    found = yaml.safe_load(result.text)["items"][0]["items"]
    assert found[0] == {"kind": "Service"}
    assert [pod_of(item)["spec"]["initContainers"][0]["name"] for item in found[1:]] == [
        "embercache",
        "embercache",
    ]
    assert result.count == 2


def test_json_with_json_beside_it_becomes_documents_of_yaml() -> None:
    result = run('{"kind": "Service"}\n' + json.dumps(manifest("Pod")))
    service, pod = yaml.safe_load_all(result.text)
    assert service == {"kind": "Service"}
    assert pod["spec"]["initContainers"][0]["name"] == "embercache"


@pytest.mark.parametrize("native", [True, False])
def test_injecting_twice_is_the_same_as_once(native: bool) -> None:
    once = run(yaml.safe_dump(manifest("Deployment")), native=native)
    twice = run(once.text, native=native)
    assert twice.text == once.text
    assert twice.report == ["document 1 (line 1), Deployment web: has its sidecar already"]


def labelled(value: str | None) -> str:
    labels = {} if value is None else {"embercache.io/inject": value}
    return yaml.safe_dump(manifest("Pod", metadata={"name": "web", "labels": labels}))


@pytest.mark.parametrize(
    ("label", "everything", "outcome"),
    [
        ("true", False, "injected"),
        ("true", True, "injected"),
        (None, True, "injected"),
        (None, False, 'left as it is: it is not labelled embercache.io/inject: "true"'),
        ("false", False, 'left as it is: it is labelled embercache.io/inject: "false"'),
        ("false", True, 'left as it is: it is labelled embercache.io/inject: "false"'),
    ],
)
def test_the_label_decides_and_all_stands_for_the_label_of_a_namespace(
    label: str | None, everything: bool, outcome: str
) -> None:
    text = labelled(label)
    result = run(text, everything=everything)
    assert result.report == [f"document 1 (line 1), Pod web: {outcome}"]
    assert (result.text == text) == (outcome != "injected")


def test_pods_of_excluded_namespaces_are_left_as_they_are() -> None:
    text = yaml.safe_dump(manifest("Deployment"))
    result = run(text, excludedNamespaces=["shop"])
    assert result.text == text
    assert result.report[0].endswith("left as it is: the namespace shop is excluded")


def test_pods_that_are_never_injected_are_left_as_they_are_with_the_reason() -> None:
    text = yaml.safe_dump(manifest("Job"))
    result = run(text, native=False)
    assert result.text == text
    assert "left as it is: it is to end, and a sidecar that is not native" in result.report[0]


def test_the_report_says_what_to_look_at_in_a_pod_that_is_injected() -> None:
    once = run(yaml.safe_dump(manifest("Pod", spec=SPEC | {"hostNetwork": True})))
    assert once.report == [
        (
            "document 1 (line 1), Pod web: injected; on the node's network no names of services are"
            " resolved: set dnsPolicy: ClusterFirstWithHostNet"
        )
    ]
    assert run(once.text).report == ["document 1 (line 1), Pod web: has its sidecar already"]


def test_without_a_namespace_the_sidecar_asks_its_pod_for_it() -> None:
    text = yaml.safe_dump(manifest("Deployment", metadata={"name": "web"}))
    pod = pod_of(yaml.safe_load(run(text).text))
    reference = {"fieldRef": {"fieldPath": "metadata.namespace"}}
    variable = {"name": "EMBERCACHE_CACHE_NAMESPACE", "valueFrom": reference}
    assert variable in pod["spec"]["initContainers"][0]["env"]


def test_every_object_that_cannot_be_injected_is_named() -> None:
    bad = {"annotations": {"embercache.io/port": "x"}} | ASKING
    text = yaml.safe_dump_all(
        [
            manifest("Pod"),
            manifest("Pod", metadata={"generateName": "job-"} | bad),
            manifest("Deployment", spec={"template": {"metadata": bad, "spec": SPEC}}),
            manifest("Pod", spec={"containers": []}),
            manifest("Pod", metadata={"labels": {"embercache.io/inject": True}}),
            manifest("Pod", metadata=[]),
        ]
    )
    with pytest.raises(ManifestError) as caught:
        run(text)
    lines = [
        line.partition(" (line ")[0] + line.partition(")")[2]
        for line in str(caught.value).splitlines()
    ]
    port = "embercache.io/port: write a number from 1024 to 65535, not 'x'"
    assert lines == [
        f"document 2, Pod job-: {port}",
        f"document 3, Deployment web: {port}",
        "document 4, Pod web: the pod has no containers",
        (
            "document 5, Pod without a name: label embercache.io/inject: write"
            ' "true" or "false", not true'
        ),
        "document 6, Pod without a name: metadata must be a mapping",
    ]


def test_containers_that_share_their_environment_by_an_alias_get_one_address_each() -> None:
    text = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {embercache.io/inject: "true"}}
spec:
  containers:
  - {name: app, image: web, env: &env [{name: A, value: "1"}]}
  - {name: worker, image: web, env: *env}
"""
    containers = yaml.safe_load(run(text).text)["spec"]["containers"]
    for container in containers:
        assert [each["name"] for each in container["env"]] == ["EMBERCACHE_ADDRESS", "A"]
