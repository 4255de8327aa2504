"""The chart, installed by helm into a real control plane."""

from __future__ import annotations

import base64
import datetime
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

OTHERS = ("monitoring.coreos.com/", "cert-manager.io/")
MONITORS = {"ServiceMonitor": "servicemonitors", "PodMonitor": "podmonitors"}
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
SECRET = "secret/cache-injector-certificate"  # noqa: S105 - a name
EXPIRES = "embercache.io/certificate-expires"


@pytest.fixture(scope="session")
def models(cluster: Any) -> Iterator[str]:
    """The namespace that rendered objects are for, where only restricted pods may be."""
    metadata = {"name": "models", "labels": RESTRICTED}
    cluster.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    cluster.wait_for(lambda: cluster.has_account("models"))
    yield "models"
    cluster.kubectl("delete", "namespace", "models", "--wait=false")


@pytest.fixture
def release(cluster: Any, helm_of: Any, tool: Any, chart: Any) -> Iterator[Any]:
    """Installs and upgrades a release in a namespace of its own; gives what helm says."""
    helm = helm_of(tool("helm"), cluster.environment)
    with cluster.namespace(RESTRICTED) as namespace:

        def upgrade(values: Mapping[str, Any] | None = None) -> str:
            # Without values Helm would take those of the release before.
            flags = ("--install", "--reset-values", f"--namespace={namespace}")
            done = helm.run("upgrade", "cache", chart, *flags, values=values or {})
            assert done.returncode == 0, done.stderr
            return str(done.stdout)

        upgrade.namespace = namespace  # type: ignore[attr-defined]
        yield upgrade
        helm.run("uninstall", "cache", f"--namespace={namespace}")


def test_the_api_server_takes_every_choice_of_values(
    cluster: Any, models: str, objects: Any, values: dict[str, Any]
) -> None:
    own = [
        {**item, "metadata": {"namespace": models, **item["metadata"]}}
        for item in objects
        if not item["apiVersion"].startswith(OTHERS)
    ]
    if not own:
        return
    on_host = values.get("injector", {}).get("hostNetwork", False)
    # A warning is a template whose pods would be refused.
    flags = ["--dry-run=server", f"--warnings-as-errors={not on_host}".lower()]
    whole = {"apiVersion": "v1", "kind": "List", "items": own}
    done = cluster.try_kubectl("apply", "--filename=-", *flags, stdin=json.dumps(whole))
    assert done.returncode == 0, done.stderr


def test_all_pods_are_made_where_only_restricted_ones_may_be(cluster: Any, release: Any) -> None:
    release({"redis": {"enabled": True}, "encoder": {"kind": "StatefulSet", "replicas": 3}})

    def count() -> dict[str, int]:
        names = [pod["metadata"]["name"] for pod in cluster.pods(release.namespace)]
        components = ("injector", "encoder", "redis")
        return {each: sum(f"cache-{each}" in name for name in names) for each in components}

    cluster.wait_for(lambda: count() == {"injector": 2, "encoder": 3, "redis": 1})


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet"])
def test_with_an_autoscaler_an_upgrade_leaves_the_number_of_pods_alone(
    cluster: Any, release: Any, kind: str
) -> None:
    place = f"--namespace={release.namespace}"
    workloads = (f"{kind}/cache-encoder", "deployment/cache-injector")

    def replicas() -> list[int]:
        return [cluster.get(name, place)["spec"]["replicas"] for name in workloads]

    encoder, injector = {"kind": kind, "replicas": 4}, {"replicas": 3}
    release({"encoder": encoder, "injector": injector})
    scaling = {"autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 9}}
    scaled = {"encoder": encoder | scaling, "injector": injector | scaling}
    release(scaled)
    assert replicas() == [4, 3]
    # As the autoscaler does.
    cluster.kubectl("scale", *workloads, "--replicas=7", place)
    release(scaled)
    assert replicas() == [7, 7]
    release({"encoder": encoder, "injector": injector})
    assert replicas() == [4, 3]


def test_a_variable_of_the_chart_comes_back_when_that_of_the_user_goes(
    cluster: Any, release: Any
) -> None:
    def level() -> list[str]:
        found = cluster.get("deployment/cache-encoder", f"--namespace={release.namespace}")
        (container,) = found["spec"]["template"]["spec"]["containers"]
        name = "EMBERCACHE_LOG_LEVEL"
        return [each["value"] for each in container["env"] if each["name"] == name]

    release()
    release({"encoder": {"env": [{"name": "EMBERCACHE_LOG_LEVEL", "value": "debug"}]}})
    assert level() == ["debug"]
    release()
    assert level() == ["info"]


def test_an_upgrade_keeps_the_certificate(cluster: Any, release: Any) -> None:
    release()
    before, trusted = certificate_of(cluster, release.namespace)
    release({"injector": {"logLevel": "debug"}, "encoder": {"enabled": False}})
    assert certificate_of(cluster, release.namespace) == (before, trusted)


def test_an_upgrade_renews_a_certificate_before_it_ends_and_goes_on_trusting_the_old_one(
    cluster: Any, release: Any
) -> None:
    release()
    old, _ = certificate_of(cluster, release.namespace)
    soon = datetime.date.today() + datetime.timedelta(days=300)
    place = f"--namespace={release.namespace}"
    cluster.kubectl("annotate", SECRET, f"{EXPIRES}={soon}", "--overwrite", place)
    release()
    new, trusted = certificate_of(cluster, release.namespace)
    assert new["tls.crt"] != old["tls.crt"]
    # Pods present the old one until their volume is up to date.
    authorities = x509.load_pem_x509_certificates(trusted)
    assert len(authorities) == 2
    for pair, authority in zip((new, old), authorities, strict=True):
        certificate = x509.load_pem_x509_certificate(pair["tls.crt"])
        certificate.verify_directly_issued_by(authority)
    # That of the one before is not kept for ever.
    cluster.kubectl("annotate", SECRET, f"{EXPIRES}={soon}", "--overwrite", place)
    release()
    _, trusted = certificate_of(cluster, release.namespace)
    assert x509.load_pem_x509_certificates(trusted)[1] == authorities[0]
    assert len(x509.load_pem_x509_certificates(trusted)) == 2


def certificate_of(cluster: Any, namespace: str) -> tuple[dict[str, bytes], bytes]:
    """The certificate and what the API server trusts, which must be the same everywhere."""
    secret = cluster.get(SECRET, f"--namespace={namespace}")
    data = {key: base64.b64decode(text) for key, text in secret["data"].items()}
    configuration = cluster.get("mutatingwebhookconfiguration", f"cache-injector.{namespace}")
    (trusted,) = {
        base64.b64decode(webhook["clientConfig"]["caBundle"])
        for webhook in configuration["webhooks"]
    }
    assert data["ca.crt"] == trusted
    return data, trusted


def test_a_second_injector_is_refused_and_a_second_pool_of_the_same_name_is_not(
    cluster: Any, release: Any, helm_of: Any, tool: Any, chart: Any
) -> None:
    release()
    helm = helm_of(tool("helm"), cluster.environment)
    with cluster.namespace(RESTRICTED) as other:

        def install(values: Mapping[str, Any]) -> Any:
            return helm.run("install", "cache", chart, f"--namespace={other}", values=values)

        refused = install({})
        assert f"MutatingWebhookConfiguration cache-injector.{release.namespace}" in refused.stderr
        done = install({"injector": {"enabled": False}})
        assert done.returncode == 0, done.stderr
        helm.run("uninstall", "cache", f"--namespace={other}")


def test_monitors_come_with_an_upgrade_once_the_cluster_knows_them(
    cluster: Any, release: Any
) -> None:
    release()
    definitions = [definition(kind, plural) for kind, plural in MONITORS.items()]
    cluster.create(*definitions)
    names = [each["metadata"]["name"] for each in definitions]
    try:
        condition = "--for=condition=Established"
        cluster.kubectl("wait", condition, *(f"crd/{name}" for name in names))
        release()
        for plural, count in (("servicemonitors", 2), ("podmonitors", 1)):
            found = cluster.get(plural, f"--namespace={release.namespace}")["items"]
            assert len(found) == count
    finally:
        cluster.kubectl("delete", "crd", *names)


def definition(kind: str, plural: str) -> dict[str, Any]:
    """A resource that is known by its name only."""
    group = "monitoring.coreos.com"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


@pytest.mark.parametrize(
    ("values", "said", "not_said"),
    [
        (
            {},
            ["kubectl label namespace YOURS embercache.io/inject=true", "There is no Redis"],
            ["forgets everything", "There is no encoder pool"],
        ),
        (
            {"redis": {"enabled": True}},
            [
                "a small Redis for trying out",
                "forgets everything when it restarts",
                "Every pod with the label embercache.io/status: injected reaches it",
            ],
            ["There is no Redis", "Only injected pods", "kubectl delete"],
        ),
        (
            {"redis": {"existingSecret": "address/url"}, "encoder": {"enabled": False}},
            ["The Secret address must be in each namespace", "There is no encoder pool"],
            ["There is no Redis", "a pool of encoders"],
        ),
        (
            {"injector": {"failurePolicy": "Fail", "replicas": 1}},
            [
                "set\n    injector.replicas to 3",
                "kubectl delete mutatingwebhookconfiguration cache-injector.",
            ],
            ["start without a sidecar"],
        ),
        (
            {"injector": {"hostNetwork": True, "port": 10250}},
            ["guard\n    ports 10250 and 8080 by the firewall"],
            [],
        ),
        (
            {"injector": {"enabled": False}, "networkPolicy": {"enabled": False}},
            [
                "a pool of encoders for minilm",
                "are not encrypted: set encoder.tls.existingSecret",
                "asks nobody who he is: set encoder.tls.clientAuth",
                "set networkPolicy.enabled",
            ],
            ["kubectl label namespace", "certificate"],
        ),
        (
            {
                "encoder": {
                    "tls": {"existingSecret": "pool", "clientSecret": "mine", "caConfigMap": "ca"},
                    "policy": {"existingSecret": "policy"},
                }
            },
            ["the Secret mine and the ConfigMap ca must be in each namespace with sidecars"],
            ["not encrypted", "asks nobody"],
        ),
    ],
)
def test_helm_says_what_was_installed_what_to_do_next_and_what_to_beware_of(
    release: Any, values: dict[str, Any], said: list[str], not_said: list[str]
) -> None:
    notes = release(values).partition("NOTES:")[2]
    assert f"helm test cache --namespace {release.namespace}" in notes
    assert [each for each in said if each not in notes] == []
    assert [each for each in not_said if each in notes] == []
