"""The life of a release in a real control plane, from its installation to its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# What the chart makes; what controllers make of it is theirs to remove.
KINDS = (
    *("deployments", "statefulsets", "services", "configmaps", "secrets", "serviceaccounts"),
    *("networkpolicies", "poddisruptionbudgets", "horizontalpodautoscalers"),
    *("clusterroles", "clusterrolebindings", "mutatingwebhookconfigurations"),
)
OF_THE_SERVER = ("resourceVersion", "uid", "generation", "creationTimestamp", "managedFields")
OVERRIDES: dict[str, Any] = {
    "commonLabels": {"owner": "ml"},
    "podSecurityContext": {"fsGroup": None},
    "sidecar": {"logLevel": "debug", "nativeSidecar": "true"},
    "injector": {
        "failurePolicy": "Fail",
        "excludedNamespaces": ["build"],
        "hostNetwork": True,
        "port": 10250,
        "podDisruptionBudget": {"maxUnavailable": "50%"},
        "nodeSelector": {"pool": "system"},
    },
    "encoder": {
        "replicas": 5,
        "env": [{"name": "EMBERCACHE_LOG_LEVEL", "value": "debug"}, {"name": "M", "value": "1"}],
        "resources": {"limits": {"cpu": "4"}},
        "tls": {"existingSecret": "pool-tls"},
        "policy": {"existingSecret": "pool-policy"},
        "modelVolume": {"source": "image"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "podAnnotations": {"example.com/owner": "ml"},
        "topologySpreadConstraints": [],
        "podDisruptionBudget": {"enabled": False},
    },
    "redis": {"enabled": True},
    "networkPolicy": {"clients": [{"podSelector": {}}], "metricsReaders": [{"podSelector": {}}]},
    "dashboard": {"enabled": False},
}
SCALED = {name: {"autoscaling": {"enabled": True}} for name in ("injector", "encoder")}

Snapshot = dict[tuple[str, str], dict[str, Any]]


class Release:
    """A release whose live objects are looked at after each step."""

    def __init__(self, cluster: Any, helm: Any, chart: Any, namespace: str) -> None:
        self._cluster, self._helm, self._chart = cluster, helm, chart
        self._place = f"--namespace={namespace}"

    def helm(self, *arguments: Any, values: Mapping[str, Any] | None = None) -> str:
        done = self._helm.run(*arguments, self._place, values=values)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)

    def upgrade(self, values: Mapping[str, Any]) -> Snapshot:
        """Installs or upgrades; gives what is there then, which is what was rendered."""
        flags = ("--install", "--reset-values")
        self.helm("upgrade", "cache", self._chart, *flags, values=values)
        return self._look()

    def roll_back(self, revision: int) -> Snapshot:
        self.helm("rollback", "cache", str(revision))
        return self._look()

    def live(self) -> Snapshot:
        """All objects with the labels of the release, without what the API server adds."""
        found: Snapshot = {}
        selector = "--selector=app.kubernetes.io/instance=cache"
        for item in self._cluster.get(",".join(KINDS), selector, self._place)["items"]:
            item.pop("status", None)
            for key in OF_THE_SERVER:
                item["metadata"].pop(key, None)
            if item.get("spec", {}).get("clusterIP") not in (None, "None"):
                del item["spec"]["clusterIP"], item["spec"]["clusterIPs"]
            annotations = item["metadata"].get("annotations", {})
            annotations.pop("deployment.kubernetes.io/revision", None)
            found[item["kind"], item["metadata"]["name"]] = item
        return found

    def _look(self) -> Snapshot:
        manifest = self.helm("get", "manifest", "cache")
        shown = self._cluster.kubectl(
            "create",
            "--dry-run=client",
            "--output=json",
            "--filename=-",
            self._place,
            stdin=manifest,
        )
        live = self.live()
        rendered = {(each["kind"], each["metadata"]["name"]): each for each in documents(shown)}
        assert live.keys() == rendered.keys()
        for key, item in rendered.items():
            assert differences(item, live[key]) == [], key
        return live


def documents(text: str) -> Iterator[dict[str, Any]]:
    """Objects in JSON, one behind the other."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text.rstrip()):
        found, place = decoder.raw_decode(text, place)
        yield from found["items"] if found["kind"] == "List" else [found]
        while place < len(text) and text[place].isspace():
            place += 1


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Where a live object is not as it was rendered. The API server may add keys, no items."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        pairs = [(key, value, found.get(key)) for key, value in wanted.items()]
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        pairs = [(str(i), *pair) for i, pair in enumerate(zip(wanted, found, strict=True))]
    else:
        return [] if wanted == found or not (wanted or found) else [f"{path}: {wanted} {found}"]
    return [text for key, *pair in pairs for text in differences(*pair, f"{path}.{key}")]


@pytest.fixture
def release(cluster: Any, helm_of: Any, tool: Any, chart: Any, namespace: str) -> Iterator[Release]:
    helm = helm_of(tool("helm"), cluster.environment)
    yield Release(cluster, helm, chart, namespace)
    helm.run("uninstall", "cache", "--ignore-not-found", f"--namespace={namespace}")


def test_what_is_there_follows_from_the_values_and_not_from_those_before(
    release: Release, cluster: Any, namespace: str
) -> None:
    first = release.upgrade({})
    changed = release.upgrade(OVERRIDES)
    assert changed != first
    assert release.upgrade({}) == first
    scaled = release.upgrade(SCALED)
    scalers = {key for key in scaled if key[0] == "HorizontalPodAutoscaler"}
    assert scaled.keys() - first.keys() == scalers
    # The autoscaler begins where the release before has been.
    assert {key: scaled[key] for key in first} == first
    assert release.roll_back(2) == changed
    assert release.roll_back(1) == first
    release.helm("uninstall", "cache")
    assert release.live() == {}
    left = cluster.get("secrets,configmaps", f"--namespace={namespace}")["items"]
    assert [each["metadata"]["name"] for each in left] == ["kube-root-ca.crt"]
