"""Values: what is wrong is refused in words, and what is written about them is so."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from sidecar import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]


def mounts(**fields: Any) -> dict[str, Any]:
    return {"sidecar": {"secretMounts": [{"secret": "keys", "path": "/etc/keys"} | fields]}}


def test_the_chart_passes_the_strict_linter(helm: Any, chart: Path) -> None:
    for values in ("values.yaml", "values-ha.yaml"):
        done = helm.run(
            "lint", "--strict", chart, "--kube-version=1.33.0", f"--values={chart / values}"
        )
        assert done.returncode == 0, done.stdout


def test_old_clusters_are_refused_by_version(helm: Any, chart: Path) -> None:
    done = helm.run("template", "cache", chart, "--kube-version=1.24.17")
    assert "chart requires kubeVersion: >=1.25.0-0" in done.stderr
    assert helm.run("template", "cache", chart, "--kube-version=1.25.0").returncode == 0
    # As a vendor's version looks.
    assert helm.run("template", "cache", chart, "--kube-version=v1.33.4-gke.12").returncode == 0


@pytest.mark.parametrize(
    ("values", "place", "reason"),
    [
        ({"replica": 3}, "''", "'replica' not allowed"),
        ({"injector": {"replica": 3}}, "/injector", "'replica' not allowed"),
        ({"injector": {"replicas": "three"}}, "/injector/replicas", "want integer"),
        ({"injector": {"replicas": 0}}, "/injector/replicas", "minimum"),
        ({"injector": {"failurePolicy": "ignore"}}, "/injector/failurePolicy", "'Ignore', 'Fail'"),
        ({"injector": {"timeoutSeconds": 60}}, "/injector/timeoutSeconds", "maximum"),
        ({"injector": {"port": 443}}, "/injector/port", "minimum"),
        ({"injector": {"podLabels": {"team": 5}}}, "/injector/podLabels/team", "want string"),
        ({"injector": {"certificate": {"source": "Helm"}}}, "/source", "'helm', 'certManager'"),
        ({"injector": {"certificate": {"caBundle": "TUlJ"}}}, "/caBundle", "BEGIN CERTIFICATE"),
        ({"injector": {"tolerations": [{"efect": "x"}]}}, "/tolerations/0", "'efect' not allowed"),
        ({"encoder": {"kind": "DaemonSet"}}, "/encoder/kind", "'Deployment', 'StatefulSet'"),
        ({"encoder": {"model": ""}}, "/encoder/model", "pattern"),
        ({"encoder": {"resources": {"requests": {"cpu": "1 CPU"}}}}, "/requests/cpu", "pattern"),
        ({"encoder": {"resources": {"limit": {}}}}, "/encoder/resources", "'limit' not allowed"),
        ({"encoder": {"env": [{"name": "A", "value": 5}]}}, "/encoder/env/0/value", "want string"),
        ({"encoder": {"drainTimeoutSeconds": "30s"}}, "/drainTimeoutSeconds", "want integer"),
        ({"sidecar": {"nativeSidecar": "yes"}}, "/sidecar/nativeSidecar", "'auto'"),
        ({"sidecar": {"redisUrl": "redis://r"}}, "/sidecar", "'redisUrl' not allowed"),
        (mounts(path="etc/keys"), "/sidecar/secretMounts/0/path", "pattern"),
        (mounts(path="/etc/../keys"), "/sidecar/secretMounts/0/path", "pattern"),
        (mounts(mode=256), "/sidecar/secretMounts/0", "'mode' not allowed"),
        ({"sidecar": {"secretMounts": [{"secret": "a"}]}}, "/secretMounts/0", "'path'"),
        ({"encoder": {"tls": {"existingSecret": "A"}}}, "/tls/existingSecret", "pattern"),
        ({"encoder": {"tls": {"issuerRef": {"kind": "Issuer"}}}}, "/tls/issuerRef", "'name'"),
        ({"encoder": {"policy": "secret"}}, "/encoder/policy", "want object"),
        ({"redis": {"enabled": "true"}}, "/redis/enabled", "want boolean"),
        ({"redis": {"existingSecret": "a b"}}, "/redis/existingSecret", "pattern"),
        ({"redis": {"maxMemory": "256 MiB"}}, "/redis/maxMemory", "pattern"),
        ({"networkPolicy": {"clients": [{"pods": {}}]}}, "/clients/0", "'pods' not allowed"),
        ({"podMonitor": {"enabled": "always"}}, "/podMonitor/enabled", "'auto', true, false"),
        ({"serviceMonitor": {"interval": 30}}, "/serviceMonitor/interval", "want string"),
        ({"imagePullSecrets": ["registry"]}, "/imagePullSecrets/0", "want object"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(
    helm: Any, values: dict[str, Any], place: str, reason: str
) -> None:
    refusal = helm.refusal(values)
    assert place in refusal
    assert reason in refusal


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"redis": {"enabled": True, "existingSecret": "redis"}}, "set only one of redis.enabled"),
        ({"redis": {"externalUrl": "http://redis"}}, "redis.externalUrl must begin with redis://"),
        ({"redis": {"externalUrl": "redis://:secret@r"}}, "name that in redis.existingSecret"),
        (
            {"injector": {"certificate": {"source": "existingSecret"}}},
            "name the Secret in injector.certificate.existingSecret",
        ),
        (
            {"injector": {"certificate": {"source": "existingSecret", "existingSecret": "tls"}}},
            "give injector.certificate.caBundle",
        ),
        (
            {"injector": {"certificate": {"validityDays": 90}}},
            "renewBeforeDays must be less than validityDays",
        ),
        ({"injector": {"serviceAccount": {"create": False}}}, "injector.serviceAccount.name"),
        (
            {"injector": {"autoscaling": {"enabled": True, "minReplicas": 9}}},
            "injector.autoscaling.minReplicas is more than maxReplicas",
        ),
        (
            {"encoder": {"autoscaling": {"enabled": True, "targetCPUUtilizationPercentage": 0}}},
            "encoder.autoscaling has nothing to follow",
        ),
        (
            {"encoder": {"rollingUpdate": {"maxSurge": 0}}},
            "encoder.rollingUpdate.maxSurge and maxUnavailable cannot both be 0",
        ),
        (
            {"injector": {"port": 9000, "metricsPort": 9000}},
            "injector.port and injector.metricsPort must not be the same",
        ),
        (
            {"redis": {"enabled": True, "maxMemory": "600mb"}},
            "redis.maxMemory, 600mb, must be less than redis.resources.limits.memory, 512Mi",
        ),
        ({"redis": {"enabled": True, "maxMemory": "0"}}, "and not 0, which is without end"),
        (
            {"encoder": {"tls": {"existingSecret": "pool", "issuerRef": {"name": "ours"}}}},
            "set only one of encoder.tls.existingSecret and encoder.tls.issuerRef",
        ),
        ({"encoder": {"tls": {"clientAuth": True}}}, "of no use without a certificate of the pool"),
        ({"encoder": {"tls": {"caConfigMap": "ca"}}}, "of no use without a certificate of the"),
        (
            {"encoder": {"tls": {"existingSecret": "pool", "clientAuth": True}}},
            "name the Secrets that have them in encoder.tls.clientSecret",
        ),
        (mounts(path="/run"), "nothing can be mounted at /run beside /run/embercache"),
        (
            mounts(path="/etc/embercache")
            | {"encoder": {"tls": {"existingSecret": "pool", "clientSecret": "mine"}}},
            "nothing can be mounted at /etc/embercache/encoder beside /etc/embercache",
        ),
        ({"encoder": {"modelVolume": {"source": "claim"}}}, "set encoder.kind to StatefulSet"),
        ({"encoder": {"modelVolume": {"pull": False}}}, "the volume stays empty"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_what_to_do(
    helm: Any, values: dict[str, Any], reason: str
) -> None:
    refusal = helm.refusal(values)
    assert reason in refusal
    assert "secret@" not in refusal


def test_a_chart_that_this_one_is_a_part_of_can_install_it_on_a_condition(
    helm: Any, chart: Path, tmp_path: Path
) -> None:
    (tmp_path / "charts").mkdir()
    (tmp_path / "charts/embercache").symlink_to(chart)
    dependency = {"name": "embercache", "version": "0.1.0", "condition": "embercache.enabled"}
    parent = {"apiVersion": "v2", "name": "all", "version": "1.0.0", "dependencies": [dependency]}
    (tmp_path / "Chart.yaml").write_text(yaml.safe_dump(parent))
    for enabled in (True, False):
        values = {"embercache": {"enabled": enabled}, "global": {"team": "search"}}
        done = helm.run("template", "all", tmp_path, "--kube-version=1.33.0", values=values)
        assert done.returncode == 0, done.stderr
        assert ("kind: Deployment" in done.stdout) is enabled


def test_users_and_groups_can_be_left_to_the_platform(helm: Any) -> None:
    none = dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"))
    for _, template in helm.render({"podSecurityContext": none}).pod_templates():
        context = template["spec"]["securityContext"]
        assert context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_a_packaged_chart_makes_what_its_folder_makes(
    helm: Any, chart: Path, tmp_path: Path
) -> None:
    done = helm.run("package", chart, f"--destination={tmp_path}")
    assert done.returncode == 0, done.stderr
    # What cert-manager makes is not different each time.
    flags = ("--kube-version=1.33.0", "--set=injector.certificate.source=certManager")
    (archive,) = tmp_path.glob("*.tgz")
    packaged, folder = (helm.run("template", "cache", each, *flags) for each in (archive, chart))
    assert packaged.returncode == 0, packaged.stderr
    assert packaged.stdout == folder.stdout


@pytest.mark.parametrize("name", ["readme", "schema", "dashboard"])
def test_what_is_made_from_the_values_and_panels_is_up_to_date(name: str) -> None:
    made = importlib.import_module(f"helm.make_{name}")
    assert made.FILE.read_text("utf-8") == made.text(), f"run python -m helm.make_{name}"


def test_every_object_of_the_schema_that_names_its_keys_refuses_others(chart: Path) -> None:
    schema = json.loads((chart / "values.schema.json").read_text("utf-8"))
    for path, each in objects_of(schema):
        if "properties" in each:
            assert each["additionalProperties"] is False, path


def objects_of(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings of a schema, with their places."""
    if isinstance(schema, dict):
        yield path, schema
        for name, child in schema.items():
            yield from objects_of(child, f"{path}/{name}")


def test_the_images_named_for_catalogues_are_those_that_are_installed(chart: Path) -> None:
    described = yaml.safe_load((chart / "Chart.yaml").read_text("utf-8"))
    values = yaml.safe_load((chart / "values.yaml").read_text("utf-8"))
    images = yaml.safe_load(described["annotations"]["artifacthub.io/images"])
    redis = values["redis"]["image"]
    assert [each["image"] for each in images] == [
        f"{values['image']['repository']}:{described['appVersion']}",
        f"{redis['repository']}:{redis['tag']}",
    ]


def test_the_chart_has_the_version_of_the_server(chart: Path) -> None:
    described = yaml.safe_load((chart / "Chart.yaml").read_text("utf-8"))
    assert described["appVersion"] == __version__
