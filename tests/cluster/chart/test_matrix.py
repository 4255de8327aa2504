"""Every pair of choices in the values gives objects that are valid and fit together."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]
# What a Kubernetes without additions does not know.
OTHERS = ("monitoring.coreos.com/", "cert-manager.io/")


@pytest.fixture(scope="session")
def check_schema() -> Callable[[dict[str, Any], str], None]:
    """Checks an object against the schemas of a version; each content once."""
    seen: set[tuple[str, str]] = set()

    def check(item: dict[str, Any], version: str) -> None:
        key = (json.dumps(item, sort_keys=True), version)
        if key not in seen and not item["apiVersion"].startswith(OTHERS):
            kubernetes_validate.validate(item, version, strict=True)
            seen.add(key)

    return check


def test_every_object_is_valid_in_the_oldest_the_newest_and_a_middle_version(
    helm: Any, values: dict[str, Any], check_schema: Any
) -> None:
    for version in (VERSIONS[0], "1.31", VERSIONS[-1]):
        for item in helm.render(values, f"--kube-version={version}.0"):
            check_schema(item, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_most_clusters_get_is_valid_in_every_version(
    helm: Any, check_schema: Any, chart: Any, version: str
) -> None:
    everything = {"redis": {"enabled": True}}
    cluster = f"--kube-version={version}.0"
    high = helm.render(None, cluster, f"--values={chart / 'values-ha.yaml'}")
    for item in [*helm.render(everything, cluster), *high]:
        check_schema(item, version)


def test_pods_that_are_not_ready_do_not_keep_a_node_from_being_drained(helm: Any) -> None:
    for version, policy in (("1.26.9", None), ("v1.27.0-gke.1", "AlwaysAllow")):
        budgets = helm.render(None, f"--kube-version={version}").of("PodDisruptionBudget")
        policies = [each["spec"].get("unhealthyPodEvictionPolicy") for each in budgets]
        assert policies == [policy, policy]


def test_no_two_objects_have_one_name(objects: Any) -> None:
    names = Counter((item["kind"], item["metadata"]["name"]) for item in objects)
    assert not [name for name, count in names.items() if count > 1]
    for kind, name in names:
        if kind.startswith(("Cluster", "Mutating")):
            # Names outside of namespaces have that of the release's in them.
            assert name.endswith("-injector.models")
            continue
        # A StatefulSet's pods carry its name and eleven characters more in a label.
        assert len(name) <= (52 if kind == "StatefulSet" else 63), name


def test_everything_is_labelled_and_in_the_namespace_of_the_release(
    objects: Any, values: dict[str, Any]
) -> None:
    for item in objects:
        metadata = item["metadata"]
        if metadata["name"] in ("cache-more", "cache-text"):
            continue
        assert metadata["labels"]["app.kubernetes.io/instance"] == "cache"
        assert metadata["labels"].items() >= values.get("commonLabels", {}).items()
        if not item["kind"].startswith(("Cluster", "Mutating")):
            assert metadata["namespace"] == "models"


def test_selectors_select_the_pods_of_exactly_one_workload(objects: Any) -> None:
    workloads = dict(objects.pod_templates())
    for item in objects:
        for selector in selectors(item):
            selected = [
                name
                for name, pod in workloads.items()
                if selector.items() <= pod["metadata"]["labels"].items()
            ]
            assert selected == [item["metadata"]["name"]], item


def selectors(item: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Labels of the pods that an object is about: those of one component."""
    spec = item.get("spec", {})
    match item["kind"]:
        case "Service":
            yield spec["selector"]
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
    template = spec.get("template", {}).get("spec", {})
    for constraint in template.get("topologySpreadConstraints", []):
        yield constraint["labelSelector"]["matchLabels"]


def test_ports_of_services_policies_and_probes_are_those_of_the_containers(objects: Any) -> None:
    templates = dict(objects.pod_templates())
    for item in objects:
        if item["kind"] not in ("Service", "NetworkPolicy"):
            continue
        ports = ports_of(templates[item["metadata"]["name"]])
        if item["kind"] == "Service":
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= ports.keys()
        else:
            rules = item["spec"]["ingress"]
            assert {port["port"] for rule in rules for port in rule["ports"]} == {*ports.values()}
    for _, template in objects.pod_templates():
        for container in containers_of(template):
            probes = [probe for key, probe in container.items() if key.endswith("Probe")]
            for probe in probes:
                target = probe.get("httpGet") or probe["tcpSocket"]
                assert target["port"] in ports_of(template)


def ports_of(template: dict[str, Any]) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for container in template["spec"]["containers"]
        for port in container.get("ports", [])
    }


def containers_of(template: dict[str, Any]) -> list[dict[str, Any]]:
    return [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]


def test_what_pods_refer_to_is_there(objects: Any, values: dict[str, Any]) -> None:
    there = {(item["kind"], item["metadata"]["name"]) for item in objects}
    # What cert-manager makes, and what the values say is there.
    there |= {("Secret", item["spec"]["secretName"]) for item in objects.of("Certificate")}
    there |= {("Secret", "tls"), ("ServiceAccount", "mine"), ("PersistentVolumeClaim", "m")}
    there |= {("Secret", name) for name in ("pool-tls", "pool-policy", "client-tls")}
    for _, template in objects.pod_templates():
        spec = template["spec"]
        if name := spec.get("serviceAccountName"):
            assert ("ServiceAccount", name) in there
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in there
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in there
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert ("PersistentVolumeClaim", claim) in there
        claims = {
            claim["metadata"]["name"]
            for item in objects.of("StatefulSet")
            if item["spec"]["template"] is template
            for claim in item["spec"].get("volumeClaimTemplates", [])
        }
        for container in containers_of(template):
            mounted = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounted <= volumes.keys() | claims
    for item in objects.of("HorizontalPodAutoscaler"):
        target = item["spec"]["scaleTargetRef"]
        scaled = objects.one(target["kind"], target["name"])
        assert "replicas" not in scaled["spec"], "an upgrade would undo what the autoscaler did"


def test_the_webhook_calls_a_port_of_the_injector(objects: Any, values: dict[str, Any]) -> None:
    for item in objects.of("MutatingWebhookConfiguration"):
        for webhook in item["webhooks"]:
            called = webhook["clientConfig"]["service"]
            service = objects.one("Service", called["name"])
            assert called["namespace"] == service["metadata"]["namespace"]
            (port,) = [each for each in service["spec"]["ports"] if each["port"] == called["port"]]
            pod = dict(objects.pod_templates())[called["name"]]
            number = ports_of(pod)[port["targetPort"]]
            assert f"--address=[::]:{number}" in pod["spec"]["containers"][0]["args"]


def test_pods_pass_the_restricted_pod_security_standard(
    objects: Any, values: dict[str, Any]
) -> None:
    for name, template in objects.pod_templates():
        spec = template["spec"]
        on_host = values.get("injector", {}).get("hostNetwork", False) and "-injector" in name
        assert spec.get("hostNetwork", False) == on_host
        assert not {"hostPID", "hostIPC", "hostUsers"} & spec.keys()
        for volume in spec.get("volumes", []):
            kinds = {"configMap", "secret", "emptyDir", "persistentVolumeClaim"}
            assert volume.keys() & kinds, volume
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] != 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers_of(template):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert all("hostPort" not in port for port in container.get("ports", []))


def test_pods_ask_for_cpu_and_memory_and_hold_no_token_they_do_not_need(objects: Any) -> None:
    for name, template in objects.pod_templates():
        reads_nodes = name.endswith("-injector") and bool(objects.of("ClusterRole"))
        assert template["spec"]["automountServiceAccountToken"] == reads_nodes
        assert template["spec"]["enableServiceLinks"] is False
        for container in containers_of(template):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}


def test_pods_are_placed_and_marked_as_the_values_say(objects: Any, values: dict[str, Any]) -> None:
    for name, template in objects.pod_templates():
        wanted = values.get(name.rpartition("-")[2], {})
        labels = template["metadata"]["labels"]
        assert labels.items() >= wanted.get("podLabels", {}).items()
        assert labels.items() >= values.get("commonLabels", {}).items()
        annotations = template["metadata"].get("annotations", {})
        assert annotations.items() >= wanted.get("podAnnotations", {}).items()
        for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName"):
            assert template["spec"].get(key) == wanted.get(key)
        assert template["spec"].get("imagePullSecrets") == values.get("imagePullSecrets")


def test_rendering_twice_gives_the_same_but_for_certificates_that_helm_makes(
    helm: Any, values: dict[str, Any]
) -> None:
    def without_certificate(text: str) -> list[str]:
        keys = ("caBundle:", "ca.crt:", "tls.crt:", "tls.key:")
        return [line for line in text.splitlines() if not line.strip().startswith(keys)]

    one, two = helm.text(values), helm.text(values)
    made_by_helm = values.get("injector", {}).get("certificate", {}).get("source", "helm") == "helm"
    made = made_by_helm and values.get("injector", {}).get("enabled", True)
    assert (one == two) is not made
    assert without_certificate(one) == without_certificate(two)


def test_objects_of_the_values_are_installed_with_their_templates_filled_in(
    objects: Any, values: dict[str, Any]
) -> None:
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    more = {("ConfigMap", "cache-more"), ("Secret", "cache-text")}
    assert names & more == (more if "extraObjects" in values else set())
