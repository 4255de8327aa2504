"""The chart, rendered by the real helm."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "embercache"
KUBERNETES = "1.33.0"
HANG_GUARD = 120.0
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"


class Objects(list[dict[str, Any]]):
    """What a chart makes."""

    def of(self, kind: str) -> Objects:
        """Those of a kind."""
        return Objects(each for each in self if each["kind"] == kind)

    def one(self, kind: str, name: str = "") -> dict[str, Any]:
        """The only one of a kind, or the one of a name."""
        found = [each for each in self.of(kind) if name in ("", each["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} of {kind} {name}"
        return found[0]

    def pod_templates(self) -> list[tuple[str, dict[str, Any]]]:
        """Names of workloads with the templates of their pods, and of single pods."""
        found = []
        for each in self:
            if each["kind"] in ("Deployment", "StatefulSet"):
                found.append((each["metadata"]["name"], each["spec"]["template"]))
            elif each["kind"] == "Pod":
                found.append((each["metadata"]["name"], each))
        return found


class Helm:
    """helm, with the release ``cache`` in the namespace ``models``."""

    def __init__(self, program: Path, environment: Mapping[str, str]) -> None:
        self._program = program
        self._environment = environment

    def run(
        self, *arguments: str | Path, values: Mapping[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs helm; ``values`` are those that differ from the chart's."""
        return subprocess.run(
            [self._program, *arguments, *(["--values=-"] if values is not None else [])],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=HANG_GUARD,
        )

    def text(self, values: Mapping[str, Any] | None = None, *arguments: str) -> str:
        """What ``helm template`` prints."""
        done = self._template(values or {}, arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def render(self, values: Mapping[str, Any] | None = None, *arguments: str) -> Objects:
        """All objects that ``helm template`` makes."""
        loaded = yaml.load_all(self.text(values, *arguments), Loader=yaml.CSafeLoader)
        return Objects(each for each in loaded if each)

    def refusal(self, values: Mapping[str, Any]) -> str:
        """What ``helm template`` says of values that it refuses."""
        done = self._template(values, ())
        assert done.returncode != 0, "these values were not refused"
        return done.stderr

    def _template(
        self, values: Mapping[str, Any], arguments: tuple[str, ...]
    ) -> subprocess.CompletedProcess[str]:
        cluster = ("--namespace=models", f"--kube-version={KUBERNETES}")
        return self.run("template", "cache", CHART, *cluster, *arguments, values=values)


@pytest.fixture(scope="session")
def chart() -> Path:
    """The chart's folder."""
    return CHART


@pytest.fixture(scope="session")
def helm(tool: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """helm, without a cluster."""
    folder = str(tmp_path_factory.mktemp("helm"))
    places = ("HOME", "HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME")
    return Helm(tool("helm"), dict.fromkeys(places, folder))


@pytest.fixture(scope="session")
def helm_of() -> type[Helm]:
    """For a helm with another environment."""
    return Helm


PEER = {"namespaceSelector": {"matchLabels": {"team": "search"}}}
PLACEMENT = {
    "podLabels": {"team": "search"},
    "podAnnotations": {"example.com/owner": "search"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "high",
}
QUEUED = {
    "type": "External",
    "external": {
        "metric": {"name": "embercache_model_queued"},
        "target": {"type": "AverageValue", "averageValue": "50"},
    },
}


def monitors(enabled: object) -> dict[str, Any]:
    names = ("serviceMonitor", "podMonitor", "prometheusRule")
    return {name: {"enabled": enabled, "labels": {"release": "prometheus"}} for name in names}


def factors() -> dict[str, list[dict[str, Any]]]:
    """Choices, each with its values; the first of each are the defaults."""

    def injector(**values: object) -> dict[str, Any]:
        return {"injector": values}

    def certificate(source: str, **more: object) -> dict[str, Any]:
        return injector(certificate={"source": source, **more})

    def encoder(**values: object) -> dict[str, Any]:
        return {"encoder": values}

    return {
        "certificate": [
            {},
            certificate("certManager"),
            certificate("certManager", issuerRef={"name": "ours", "kind": "ClusterIssuer"}),
            certificate("existingSecret", existingSecret="tls", caBundle=AUTHORITY),
        ],
        "injector": [{}, injector(enabled=False)],
        "native": [
            {},
            {"sidecar": {"nativeSidecar": True}},
            {"sidecar": {"nativeSidecar": "false"}},
        ],
        "network": [{}, injector(hostNetwork=True, port=10250, metricsPort=10251)],
        "injectors": [
            {},
            {"injector": {"autoscaling": {"enabled": True}, "failurePolicy": "Fail"}},
        ],
        "account": [{}, injector(serviceAccount={"create": False, "name": "mine"})],
        "encoder": [
            {},
            encoder(kind="StatefulSet", modelVolume={"source": "image"}),
            encoder(kind="StatefulSet", modelVolume={"source": "claim"}),
            encoder(model="minilm, Other_model.1"),
            encoder(modelVolume={"source": "claim", "existingClaim": "m", "pull": False}),
            encoder(enabled=False),
        ],
        "trust": [
            {},
            encoder(tls={"existingSecret": "pool-tls", "caConfigMap": "authorities"}),
            encoder(
                tls={
                    "issuerRef": {"name": "ours", "kind": "ClusterIssuer"},
                    "clientAuth": True,
                    "clientSecret": "client-tls",
                },
                policy={"existingSecret": "pool-policy"},
            ),
        ],
        "gpu": [{}, encoder(gpu={"enabled": True, "runtimeClassName": "nvidia"})],
        "encoders": [
            {},
            encoder(autoscaling={"enabled": True}),
            encoder(
                autoscaling={
                    "enabled": True,
                    "targetCPUUtilizationPercentage": 0,
                    "metrics": [QUEUED],
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": 600}},
                }
            ),
        ],
        "redis": [
            {},
            {"redis": {"enabled": True}},
            {"redis": {"externalUrl": "rediss://redis.example:6380/0"}},
            {"redis": {"existingSecret": "redis/address"}},
        ],
        "policies": [
            {},
            {"networkPolicy": {"enabled": False}},
            {
                "networkPolicy": {
                    "clients": [PEER],
                    "metricsReaders": [PEER],
                    "encoderEgress": [{"to": [PEER], "ports": [{"port": 4317}]}],
                }
            },
        ],
        "monitors": [{}, monitors(enabled=True), monitors(enabled=False)],
        "budgets": [
            {},
            {name: {"podDisruptionBudget": {"enabled": False}} for name in ("injector", "encoder")},
            {
                name: {"podDisruptionBudget": {"maxUnavailable": "25%"}}
                for name in ("injector", "encoder")
            },
        ],
        "placement": [{}, dict.fromkeys(("injector", "encoder", "redis"), PLACEMENT)],
        "labels": [
            {},
            {"commonLabels": {"owner": "ml"}, "imagePullSecrets": [{"name": "registry"}]},
        ],
        "names": [{}, {"fullnameOverride": "a-name-as-long-as-the-schema-will-allow1"}],
        "dashboard": [{}, {"dashboard": {"enabled": False}}],
        "tests": [{}, {"tests": {"enabled": False}}],
        "extra": [
            {},
            {
                "extraObjects": [
                    {
                        "apiVersion": "v1",
                        "kind": "ConfigMap",
                        "metadata": {"name": "{{ .Release.Name }}-more"},
                    },
                    "apiVersion: v1\nkind: Secret\nmetadata: {name: '{{ .Release.Name }}-text'}\n",
                ]
            },
        ],
    }


def pairwise(sizes: list[int]) -> Iterator[list[int]]:
    """Cases, a choice for every factor each, in which all pairs of choices of two factors occur."""
    places = itertools.combinations(range(len(sizes)), 2)
    left = {
        (one, first, two, second)
        for one, two in places
        for first in range(sizes[one])
        for second in range(sizes[two])
    }
    while left:
        one, first, two, second = min(left)
        case = {one: first, two: second}
        for factor in range(len(sizes)):
            if factor not in case:
                options = [{**case, factor: choice} for choice in range(sizes[factor])]
                case = max(options, key=lambda option: len(left & pairs_of(option)))
        left -= pairs_of(case)
        yield [case[factor] for factor in range(len(sizes))]


def pairs_of(case: dict[int, int]) -> set[tuple[int, int, int, int]]:
    chosen = itertools.combinations(sorted(case.items()), 2)
    return {(one, first, two, second) for (one, first), (two, second) in chosen}


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    both = one | two
    for key in one.keys() & two.keys():
        if isinstance(one[key], dict) and isinstance(two[key], dict):
            both[key] = merged(one[key], two[key])
    return both


CASES = list(pairwise([len(choices) for choices in factors().values()]))


@pytest.fixture(scope="session", params=CASES, ids=lambda case: "".join(map(str, case)))
def values(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The values of one case."""
    made: dict[str, Any] = {}
    for choices, choice in zip(factors().values(), request.param, strict=True):
        made = merged(made, choices[choice])
    return made


@pytest.fixture(scope="session")
def objects(helm: Helm, values: dict[str, Any]) -> Objects:
    """What the chart makes of them."""
    return helm.render(values)
