"""The injector as the chart runs it: its certificate, its settings, whom it is asked about."""

from __future__ import annotations

import base64
import datetime
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.injector.annotations import INJECT_LABEL
from sidecar.injector.settings import SET_BY_INJECTOR, InjectorSettings, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = "cache-injector.models.svc"


@pytest.fixture
def settings_of(helm: Any, tmp_path: Path) -> Callable[..., InjectorSettings]:
    """The settings that an injector of the chart reads."""

    def read(values: dict[str, Any] | None = None) -> InjectorSettings:
        config = helm.render(values).one("ConfigMap", "cache-injector")["data"]["config.yaml"]
        (tmp_path / "config.yaml").write_text(config)
        return load_settings(tmp_path / "config.yaml")

    return read


def test_the_defaults_of_the_chart_are_those_of_the_injector(settings_of: Any) -> None:
    settings = settings_of({"encoder": {"enabled": False}})
    image = {"image": "embercache/embercache:0.1.0", "image_pull_policy": "IfNotPresent"}
    assert settings == InjectorSettings().model_copy(update=image)


def test_sidecars_use_the_encoder_pool_and_the_redis_of_the_release(settings_of: Any) -> None:
    settings = settings_of(
        {"redis": {"enabled": True}, "encoder": {"model": "minilm, /models/our-model"}}
    )
    assert settings.encoder_target == "dns:///cache-encoder.models.svc:50551"
    assert settings.model == "minilm,our-model"
    assert settings.redis_url == "redis://cache-redis.models.svc:6379/0"


def upstream_of(settings: InjectorSettings) -> dict[str, str]:
    """What sidecars are told of TLS towards the pool."""
    prefix = "EMBERCACHE_UPSTREAM_TLS_"
    return {
        each["name"].removeprefix(prefix): each["value"]
        for each in settings.env
        if each["name"].startswith(prefix)
    }


def test_sidecars_check_the_certificate_of_an_encrypted_pool_and_show_theirs_if_it_asks(
    settings_of: Any,
) -> None:
    secret = {"existingSecret": "pool-tls", "clientSecret": "client-tls"}
    settings = settings_of({"encoder": {"tls": secret}})
    (mount,) = settings.secret_mounts
    assert mount.secret == "client-tls"  # noqa: S105 - a name
    assert not mount.optional
    assert upstream_of(settings) == {"ENABLED": "true", "CA_FILE": f"{mount.path}/ca.crt"}
    mutual = settings_of({"encoder": {"tls": secret | {"clientAuth": True}}})
    assert upstream_of(mutual) == upstream_of(settings) | {
        "CERT_FILE": f"{mount.path}/tls.crt",
        "KEY_FILE": f"{mount.path}/tls.key",
    }


def test_the_authority_of_the_pool_may_come_from_a_config_map(settings_of: Any) -> None:
    tls = {"existingSecret": "pool-tls", "caConfigMap": "authorities"}
    settings = settings_of({"encoder": {"tls": tls}})
    (mount,) = settings.config_map_mounts
    assert mount.config_map == "authorities"
    assert settings.secret_mounts == ()
    assert upstream_of(settings) == {"ENABLED": "true", "CA_FILE": f"{mount.path}/ca.crt"}
    mutual = tls | {"clientAuth": True, "clientSecret": "client-tls"}
    both = upstream_of(settings_of({"encoder": {"tls": mutual}}))
    assert both["CA_FILE"] == f"{mount.path}/ca.crt"
    assert both["CERT_FILE"].endswith("/tls.crt")
    # Without either, authorities are those of the image.
    bare = upstream_of(settings_of({"encoder": {"tls": {"existingSecret": "pool-tls"}}}))
    assert bare == {"ENABLED": "true"}


def test_nothing_is_added_for_another_pool_or_where_sidecars_are_told_already(
    settings_of: Any,
) -> None:
    tls = {"encoder": {"tls": {"existingSecret": "pool-tls", "clientSecret": "client-tls"}}}
    variable = {"name": "EMBERCACHE_UPSTREAM_TLS_ENABLED", "value": "false"}
    for sidecar in ({"encoderTarget": "dns:///other.models.svc:50551"}, {"env": [variable]}):
        settings = settings_of(tls | {"sidecar": sidecar})
        assert settings.secret_mounts == ()
        assert list(settings.env) == sidecar.get("env", [])
    off = settings_of({"encoder": tls["encoder"] | {"enabled": False}})
    assert off.env == ()


def test_what_is_mounted_for_the_pool_comes_beside_what_the_values_say(settings_of: Any) -> None:
    keys = {"secret": "keys", "path": "/etc/embercache/keys"}
    variable = {"name": "EMBERCACHE_ENCRYPTION_KEYS_FILE", "value": "/etc/embercache/keys/keys"}
    values = {
        "sidecar": {"secretMounts": [keys], "env": [variable]},
        "encoder": {"tls": {"existingSecret": "pool-tls", "clientSecret": "client-tls"}},
    }
    settings = settings_of(values)
    assert [each.secret for each in settings.secret_mounts] == ["keys", "client-tls"]
    assert settings.env[0] == variable


def test_what_is_said_of_sidecars_wins_over_what_follows_from_the_release(settings_of: Any) -> None:
    values = {
        "image": {"repository": "registry.example/embercache", "tag": "1"},
        "sidecar": {
            "image": "mine:2",
            "imagePullPolicy": "Always",
            "encoderTarget": "openai://models.example/v1",
            "model": "theirs",
            "nativeSidecar": True,
            "drainDelaySeconds": 2.5,
            "resources": {"limits": {"cpu": 1}},
            "env": [{"name": "EMBERCACHE_HOT_MAX_BYTES", "value": "64MiB"}],
            "runAsUser": None,
        },
        "redis": {"existingSecret": "redis/address"},
        "injector": {"excludedNamespaces": ["build"]},
    }
    settings = settings_of(values)
    assert settings.image == "mine:2"
    assert settings.image_pull_policy == "Always"
    assert settings.encoder_target == "openai://models.example/v1"
    assert settings.model == "theirs"
    assert settings.native_sidecar == "true"
    assert settings.drain_delay_seconds == 2.5
    assert settings.resources.limits == {"cpu": "1", "memory": "1Gi"}
    assert settings.env == ({"name": "EMBERCACHE_HOT_MAX_BYTES", "value": "64MiB"},)
    assert settings.run_as_user is None
    assert settings.redis_secret == "redis/address"  # noqa: S105 - a name
    assert settings.redis_url == ""
    assert settings.excludes("build")
    assert not settings.excludes("shop")


def test_every_choice_of_values_is_a_file_that_the_injector_takes(
    objects: Any, tmp_path: Path
) -> None:
    for item in objects.of("ConfigMap"):
        if config := item.get("data", {}).get("config.yaml"):
            (tmp_path / "config.yaml").write_text(config)
            load_settings(tmp_path / "config.yaml")


def files(*paths: str) -> dict[str, Any]:
    """Mounts of Secrets and ConfigMaps in turn."""
    secrets = [{"secret": "s", "path": path} for path in paths[::2]]
    configs = [{"configMap": "c", "path": path, "optional": True} for path in paths[1::2]]
    return {"sidecar": {"secretMounts": secrets, "configMapMounts": configs}}


def resources(**kinds: dict[str, object] | None) -> dict[str, Any]:
    return {"sidecar": {"resources": kinds}}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"sidecar": {"metricsPort": 50551}}, "sidecar.port and sidecar.metricsPort"),
        (resources(limits={"memory": "256Mi"}), "requests.memory, 512Mi, is more than its limit"),
        (resources(requests={"cpu": 2}, limits={"cpu": "1500m"}), "2, is more than its limit"),
        (resources(requests={"cpu": "1.5"}, limits={"cpu": "15e-1"}), ""),
        (resources(limits={"memory": "2e9"}), ""),
        (resources(limits={"memory": 1073741824}), ""),
        (resources(limits={"memory": "1G"}, requests={"memory": "1Gi"}), "is more than its limit"),
        (resources(limits={"memory": "512"}), "at least 16Mi"),
        (resources(limits={"memory": "600000m"}), "at least 16Mi"),
        (resources(requests={"cpu": "500u"}), "at least 1m"),
        (resources(requests={"cpu": 0}), "at least 1m"),
        (resources(limits={"cpu": -1}), "minimum"),
        (resources(limits={"cpu": "1e100"}), "such as 250m"),
        (resources(limits={"cpu": "1.2.3"}), "pattern"),
        (resources(limits={"cpu": "0" * 41}), "maxLength"),
        (resources(claims={"name": "gpu"}), "'claims' not allowed"),
        (resources(limits={"example.com/nic": 1}), ""),
        (resources(limits=None), ""),
        (resources(requests=None, limits={"memory": None}), ""),
        ({"sidecar": {"resources": None, "env": None}}, ""),
        ({"redis": {"enabled": True, "resources": {"limits": None}}}, ""),
        ({"redis": {"externalUrl": "redis://r?password=s"}}, "put the URL into a Secret"),
        ({"redis": {"externalUrl": "redis://r?PassWord=s"}}, "put the URL into a Secret"),
        ({"redis": {"externalUrl": "redis+cluster://r:6379"}}, ""),
        ({"redis": {"existingSecret": "a" * 254}}, "pattern"),
        ({"redis": {"existingSecret": "a" * 253 + "/" + "b" * 253}}, ""),
        ({"sidecar": {"drainDelaySeconds": 100_000}}, "maximum"),
        ({"sidecar": {"image": "a b"}}, "pattern"),
        ({"image": {"tag": "1 "}}, "pattern"),
        ({"sidecar": {"model": "a" * 256}}, "pattern"),
        ({"sidecar": {"model": "a, b"}}, ""),
        ({"sidecar": {"encoderTarget": "a" * 2049}}, "maxLength"),
        ({"sidecar": {"runAsUser": 1000660000, "runAsGroup": None}}, ""),
        (files("/etc/a", "/etc/a-b", "/etc/.a"), ""),
        (files("/etc/a", "/etc/a/b"), "nothing can be mounted at /etc/a/b beside /etc/a"),
        (files("/etc/a/b", "/etc/a"), "nothing can be mounted at /etc/a beside /etc/a/b"),
        (files("/a", "/a"), "nothing can be mounted at /a beside /a: give each Secret and"),
        (files("/var/run/secrets"), "beside /var/run/secrets/kubernetes.io/serviceaccount"),
        (files("/etc/..a"), "pattern"),
        (files("/" + "a" * 511), ""),
        (files("/" + "a" * 512), "maxLength"),
        ({"sidecar": {"secretMounts": None, "configMapMounts": None}}, ""),
    ],
)
def test_what_helm_accepts_the_injector_takes_and_what_it_refuses_it_says_in_words(
    helm: Any, settings_of: Any, values: dict[str, Any], reason: str
) -> None:
    if reason:
        assert reason in helm.refusal(values)
    else:
        settings_of(values)


@pytest.mark.parametrize("name", sorted(SET_BY_INJECTOR))
def test_a_variable_that_the_injector_sets_is_refused(helm: Any, name: str) -> None:
    refusal = helm.refusal({"sidecar": {"env": [{"name": name, "value": "x"}]}})
    assert f"sidecar.env: {name} is set by the injector" in refusal


def test_another_configuration_replaces_the_pods_and_another_certificate_does_not(
    helm: Any,
) -> None:
    def annotations(values: dict[str, Any] | None = None) -> dict[str, str]:
        template = dict(helm.render(values).pod_templates())["cache-injector"]
        return dict(template["metadata"]["annotations"])

    assert annotations() == annotations()
    assert annotations() != annotations({"sidecar": {"logLevel": "debug"}})


@pytest.mark.parametrize(
    ("namespace", "pod", "called"),
    [
        ({}, {}, None),
        ({}, {INJECT_LABEL: "true"}, "/mutate"),
        ({}, {INJECT_LABEL: "false"}, None),
        ({INJECT_LABEL: "true"}, {}, "/mutate/namespace"),
        ({INJECT_LABEL: "true"}, {INJECT_LABEL: "true"}, "/mutate"),
        ({INJECT_LABEL: "true"}, {INJECT_LABEL: "false"}, None),
        # So that its author is told.
        ({}, {INJECT_LABEL: "yes"}, "/mutate"),
        ({}, {INJECT_LABEL: ""}, "/mutate"),
        ({INJECT_LABEL: "true"}, {INJECT_LABEL: "yes"}, "/mutate"),
        ({INJECT_LABEL: "false"}, {}, None),
        ({INJECT_LABEL: "false"}, {INJECT_LABEL: "true"}, "/mutate"),
    ],
)
def test_a_pod_is_looked_at_once_if_it_or_its_namespace_asks(
    helm: Any, namespace: dict[str, str], pod: dict[str, str], called: str | None
) -> None:
    webhooks = helm.render({"injector": {"excludedNamespaces": ["build"]}}).one(
        "MutatingWebhookConfiguration"
    )["webhooks"]
    expectations = {"shop": called, **dict.fromkeys(("kube-system", "models", "build"))}
    for name, expected in expectations.items():
        labels = namespace | {"kubernetes.io/metadata.name": name}
        paths = [
            webhook["clientConfig"]["service"]["path"]
            for webhook in webhooks
            if selects(webhook["namespaceSelector"], labels)
            and selects(webhook["objectSelector"], pod)
        ]
        assert paths == ([expected] if expected else [])


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """As the API server reads a selector."""
    for expression in selector.get("matchExpressions", []):
        value = labels.get(expression["key"])
        met = {
            "NotIn": value not in expression.get("values", []),
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not met[expression["operator"]]:
            return False
    return labels.items() >= selector.get("matchLabels", {}).items()


def test_no_pod_waits_long_and_none_is_refused_unless_that_is_wanted(helm: Any) -> None:
    for webhook in helm.render().one("MutatingWebhookConfiguration")["webhooks"]:
        assert webhook["failurePolicy"] == "Ignore"
        assert webhook["timeoutSeconds"] == 5
        assert webhook["sideEffects"] == "None"
        assert webhook["reinvocationPolicy"] == "IfNeeded"
        assert webhook["matchPolicy"] == "Equivalent"
        assert webhook["rules"][0]["operations"] == ["CREATE"]
        assert webhook["rules"][0]["resources"] == ["pods"]
    strict = helm.render({"injector": {"failurePolicy": "Fail"}})
    webhooks = strict.one("MutatingWebhookConfiguration")["webhooks"]
    assert {webhook["failurePolicy"] for webhook in webhooks} == {"Fail"}


@pytest.mark.parametrize(("on_host", "surge", "unavailable"), [(False, 1, 0), (True, 0, 1)])
def test_on_the_network_of_nodes_an_old_pod_gives_its_ports_to_a_new_one(
    helm: Any, on_host: bool, surge: int, unavailable: int
) -> None:
    injector = helm.render({"injector": {"hostNetwork": on_host}}).one(
        "Deployment", "cache-injector"
    )
    update = injector["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": surge, "maxUnavailable": unavailable}


def test_the_injector_may_list_nodes_only_where_it_must_know_their_versions(helm: Any) -> None:
    role = helm.render().one("ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]
    told = helm.render({"sidecar": {"nativeSidecar": "true"}})
    assert not {"ClusterRole", "ClusterRoleBinding", "Role"} & {item["kind"] for item in told}
    policy = told.one("NetworkPolicy", "cache-injector")
    assert policy["spec"]["egress"] == []


def test_the_certificate_that_helm_makes_is_for_the_service_and_trusted_by_the_webhooks(
    helm: Any,
) -> None:
    objects = helm.render()
    data = {key: base64.b64decode(text) for key, text in secret_of(objects)["data"].items()}
    certificate = x509.load_pem_x509_certificate(data["tls.crt"])
    authority = x509.load_pem_x509_certificate(data["ca.crt"])
    certificate.verify_directly_issued_by(authority)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [HOST]
    # Ed25519 would not do: some API servers do not take it.
    assert isinstance(certificate.public_key(), ec.EllipticCurvePublicKey)
    end = certificate.not_valid_after_utc
    years = (end - datetime.datetime.now(datetime.UTC)).days / 365
    assert 9.9 < years < 10.1
    noted = secret_of(objects)["metadata"]["annotations"]["embercache.io/certificate-expires"]
    assert abs(datetime.date.fromisoformat(noted) - end.date()).days <= 1
    for webhook in objects.one("MutatingWebhookConfiguration")["webhooks"]:
        assert base64.b64decode(webhook["clientConfig"]["caBundle"]) == data["ca.crt"]


def secret_of(objects: Any) -> dict[str, Any]:
    found: dict[str, Any] = objects.one("Secret", "cache-injector-certificate")
    return found


def test_with_cert_manager_nothing_of_its_own_is_templated(helm: Any) -> None:
    values = {"injector": {"certificate": {"source": "certManager"}}}
    objects = helm.render(values)
    configuration = objects.one("MutatingWebhookConfiguration")
    for webhook in configuration["webhooks"]:
        assert "caBundle" not in webhook["clientConfig"]
    assert not objects.of("Secret")
    source = configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"]
    namespace, _, name = source.partition("/")
    certificate = objects.one("Certificate", name)
    assert certificate["metadata"]["namespace"] == namespace
    assert certificate["spec"]["dnsNames"] == [HOST]
    assert certificate["spec"]["privateKey"]["algorithm"] == "ECDSA"
    # Signed by an authority that outlives it, which is signed by itself.
    issuer = objects.one("Issuer", certificate["spec"]["issuerRef"]["name"])
    authority = objects.one("Certificate", "cache-injector-ca")
    assert issuer["spec"]["ca"]["secretName"] == authority["spec"]["secretName"]
    assert authority["spec"]["isCA"] is True
    root = objects.one("Issuer", authority["spec"]["issuerRef"]["name"])
    assert root["spec"] == {"selfSigned": {}}


def test_an_issuer_of_ones_own_takes_the_place_of_those_of_the_chart(helm: Any) -> None:
    reference = {"name": "internal", "kind": "ClusterIssuer"}
    certificate = {"source": "certManager", "issuerRef": reference}
    objects = helm.render({"injector": {"certificate": certificate}})
    assert objects.one("Certificate")["spec"]["issuerRef"] == reference
    assert not objects.of("Issuer")


def test_a_secret_of_ones_own_is_mounted_and_its_authority_trusted(helm: Any) -> None:
    authority = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"
    given = {"source": "existingSecret", "existingSecret": "tls", "caBundle": authority}
    objects = helm.render({"injector": {"certificate": given}})
    assert not objects.of("Secret")
    template = dict(objects.pod_templates())["cache-injector"]
    assert {"name": "certificate", "secret": {"secretName": "tls"}} in template["spec"]["volumes"]
    for webhook in objects.one("MutatingWebhookConfiguration")["webhooks"]:
        assert base64.b64decode(webhook["clientConfig"]["caBundle"]).decode() == authority
