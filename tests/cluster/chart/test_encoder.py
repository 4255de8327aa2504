"""The encoder pool: where its models come from, where it runs, how it grows and ends."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sidecar.config_sources import all_settings, load_settings

OPENSHIFT_DNS = [5353, 5353]
MODELS = {"name": "models", "mountPath": "/models"}


def pod_of(objects: Any) -> dict[str, Any]:
    spec: dict[str, Any] = dict(objects.pod_templates())["cache-encoder"]["spec"]
    return spec


def encoder_of(helm: Any, **values: Any) -> dict[str, Any]:
    """The container that encodes."""
    (container,) = pod_of(helm.render({"encoder": values}))["containers"]
    return dict(container)


def variables(container: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container["env"]}


def test_each_pod_pulls_the_models_it_serves_before_it_starts(helm: Any) -> None:
    spec = pod_of(helm.render({"encoder": {"model": "minilm, Ours_2.1,/opt/another"}}))
    pulls = {each["name"]: each["args"] for each in spec["initContainers"]}
    assert pulls == {
        "pull-minilm": ["models", "pull", "minilm"],
        "pull-ours-2-1": ["models", "pull", "Ours_2.1"],
    }
    for container in [*spec["initContainers"], *spec["containers"]]:
        assert MODELS in container["volumeMounts"]
        assert variables(container)["EMBERCACHE_MODEL_FOLDER"] == MODELS["mountPath"]
    assert {"name": "models", "emptyDir": {"sizeLimit": "2Gi"}} in spec["volumes"]


def test_packs_with_names_alike_are_pulled_by_containers_of_different_names(helm: Any) -> None:
    packs = ["a.b", "a-b", "A_B", "_", "c", "x" * 70, "x" * 71]
    spec = pod_of(helm.render({"encoder": {"model": ",".join([*packs, "c"])}}))
    names = [each["name"] for each in spec["initContainers"]]
    assert [each["args"][-1] for each in spec["initContainers"]] == packs
    assert len(set(names)) == len(packs)
    assert all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)


def test_models_in_the_image_are_neither_pulled_nor_hidden(helm: Any) -> None:
    objects = helm.render({"encoder": {"modelVolume": {"source": "image"}}})
    spec = pod_of(objects)
    assert "initContainers" not in spec
    assert MODELS not in spec["containers"][0]["volumeMounts"]
    # Nothing is fetched, so nothing may be.
    ports = [
        port["port"]
        for rule in objects.one("NetworkPolicy", "cache-encoder")["spec"]["egress"]
        for port in rule["ports"]
    ]
    assert ports == [53, 53, *OPENSHIFT_DNS]


def test_each_pod_of_a_stateful_set_has_a_volume_that_keeps_its_models(helm: Any) -> None:
    volume = {"source": "claim", "size": "5Gi", "storageClass": "fast"}
    objects = helm.render({"encoder": {"kind": "StatefulSet", "modelVolume": volume}})
    workload = objects.one("StatefulSet")
    assert (
        workload["spec"]["serviceName"]
        == objects.one("Service", "cache-encoder")["metadata"]["name"]
    )
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == MODELS["name"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "5Gi"}
    assert claim["spec"]["storageClassName"] == "fast"


def test_gpus_come_with_an_image_and_a_setting_that_use_them(helm: Any) -> None:
    assert variables(encoder_of(helm))["EMBERCACHE_MODEL_PROVIDER"] == "cpu"
    gpu = {"enabled": True, "count": 2, "runtimeClassName": "nvidia"}
    container = encoder_of(helm, gpu=gpu)
    assert container["image"] == "embercache/embercache:0.1.0-cuda"
    assert variables(container)["EMBERCACHE_MODEL_PROVIDER"] == "cuda"
    for kind in ("requests", "limits"):
        assert container["resources"][kind]["nvidia.com/gpu"] == 2
    assert container["resources"]["requests"]["cpu"] == "1"
    assert pod_of(helm.render({"encoder": {"gpu": gpu}}))["runtimeClassName"] == "nvidia"
    named = encoder_of(helm, gpu=gpu, image={"repository": "ours", "tag": "7"})
    assert named["image"] == "ours:7"


def test_variables_are_settings_and_pods_outlive_their_drain(helm: Any) -> None:
    values = {
        "drainDelaySeconds": 7,
        "drainTimeoutSeconds": 120,
        "model": "minilm,/models/ours",
        "logLevel": "warning",
        "env": [{"name": "EMBERCACHE_ENCODER_BATCH_TOKENS", "value": "1024"}],
    }
    given = variables(encoder_of(helm, **values))
    # A name that is no setting would be overlooked.
    assert given.keys() <= {setting.variable for setting in all_settings()}
    settings = load_settings(None, given, {})
    assert settings.server.insecure
    assert settings.server.address == "[::]:50551"
    assert settings.server.metrics_address == "[::]:50552"
    assert settings.model.packs == ("minilm", "/models/ours")
    # Sidecars have the cache; the pool computes.
    assert settings.hot.max_bytes == 0
    assert settings.log.level == "warning"
    assert settings.encoder.batch_tokens == 1024
    drain = settings.server.drain_delay + settings.server.drain_timeout
    assert drain == 127
    assert pod_of(helm.render({"encoder": values}))["terminationGracePeriodSeconds"] > drain


TLS = {"existingSecret": "pool-tls"}
MUTUAL = TLS | {"clientAuth": True, "clientSecret": "client-tls"}


@pytest.mark.parametrize("tls", [TLS, MUTUAL], ids=["TLS", "mutual TLS"])
def test_a_pool_with_a_certificate_listens_to_nobody_unencrypted(
    helm: Any, tls: dict[str, Any]
) -> None:
    container = encoder_of(helm, tls=tls)
    given = variables(container)
    assert not [name for name in given if "INSECURE" in name]
    assert given.keys() <= {setting.variable for setting in all_settings()}
    settings = load_settings(None, given, {})
    assert str(settings.tls.cert_file) == "/etc/embercache/tls/tls.crt"
    assert str(settings.tls.key_file) == "/etc/embercache/tls/tls.key"
    authority = "/etc/embercache/tls/ca.crt" if tls is MUTUAL else "None"
    assert str(settings.tls.client_ca_file) == authority
    assert settings.server.metrics_address == "[::]:50552"
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        # The kubelet checks no certificate, and shows none.
        assert container[kind]["httpGet"]["scheme"] == "HTTPS"


def test_only_the_container_that_serves_has_the_pool_s_secrets(helm: Any) -> None:
    spec = pod_of(helm.render({"encoder": {"tls": TLS, "policy": {"existingSecret": "policy"}}}))
    volumes = {each["name"]: each.get("secret") for each in spec["volumes"]}
    assert volumes["tls"] == {"secretName": "pool-tls"}
    assert volumes["policy"] == {"secretName": "policy"}
    (encoder,), (pull,) = spec["containers"], spec["initContainers"]
    read_only = {"readOnly": True}
    for name in ("tls", "policy"):
        mount = {"name": name, "mountPath": f"/etc/embercache/{name}"} | read_only
        assert mount in encoder["volumeMounts"]
        assert mount not in pull["volumeMounts"]


def test_a_policy_comes_from_a_secret(helm: Any) -> None:
    given = variables(encoder_of(helm, policy={"existingSecret": "policy"}))
    settings = load_settings(None, given, {})
    assert str(settings.access.policy_file) == "/etc/embercache/policy/policy.yaml"
    assert "EMBERCACHE_ACCESS_POLICY_FILE" not in variables(encoder_of(helm))


def test_cert_manager_makes_the_certificate_of_the_pool_if_an_issuer_is_named(helm: Any) -> None:
    issuer = {"name": "internal", "kind": "ClusterIssuer"}
    objects = helm.render({"encoder": {"tls": {"issuerRef": issuer}}})
    certificate = objects.one("Certificate")["spec"]
    assert certificate["issuerRef"] == issuer
    assert certificate["privateKey"]["algorithm"] == "ECDSA"
    volumes = pod_of(objects)["volumes"]
    assert {"name": "tls", "secret": {"secretName": certificate["secretName"]}} in volumes
    # The name by which sidecars call it.
    (name,) = certificate["dnsNames"]
    config = objects.one("ConfigMap", "cache-injector")["data"]["config.yaml"]
    assert f"encoderTarget: dns:///{name}:50551" in config
    assert not helm.render({"encoder": {"tls": TLS}}).of("Certificate")


def test_a_variable_of_ones_own_takes_the_place_of_the_chart_s(helm: Any) -> None:
    level = {"name": "EMBERCACHE_LOG_LEVEL", "value": "debug"}
    mine = {"name": "MINE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    container = encoder_of(helm, env=[level | {"value": "info"}, mine, level])
    names = [each["name"] for each in container["env"]]
    assert len(set(names)) == len(names)
    assert [each for each in container["env"] if each["name"] in (level["name"], "MINE")] == [
        level,
        mine,
    ]
    # What a variable refers to must stand before it.
    assert names[-2:] == [level["name"], "MINE"]


def test_sidecars_find_every_pod_that_is_ready_behind_one_name(helm: Any) -> None:
    service = helm.render().one("Service", "cache-encoder")["spec"]
    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False


def test_the_pool_grows_by_cpu_by_other_metrics_or_both(helm: Any) -> None:
    queued = {"type": "External", "external": {"metric": {"name": "queued"}}}

    def metrics(**values: Any) -> list[str]:
        scaling = {"enabled": True, **values}
        objects = helm.render({"encoder": {"autoscaling": scaling, "kind": "StatefulSet"}})
        scaler = objects.one("HorizontalPodAutoscaler")["spec"]
        assert scaler["scaleTargetRef"]["kind"] == "StatefulSet"
        return [each["type"] for each in scaler["metrics"]]

    assert metrics() == ["Resource"]
    assert metrics(metrics=[queued]) == ["Resource", "External"]
    assert metrics(metrics=[queued], targetCPUUtilizationPercentage=0) == ["External"]


@pytest.mark.parametrize(
    ("extra", "peers"),
    [([], 2), ([{"namespaceSelector": {"matchLabels": {"team": "search"}}}], 3)],
)
def test_only_injected_pods_tests_and_those_named_may_call_the_pool(
    helm: Any, extra: list[Any], peers: int
) -> None:
    policy = helm.render({"networkPolicy": {"clients": extra}}).one(
        "NetworkPolicy", "cache-encoder"
    )
    grpc, metrics = policy["spec"]["ingress"]
    assert [port["port"] for port in grpc["ports"]] == [50551]
    assert len(grpc["from"]) == peers
    assert [port["port"] for port in metrics["ports"]] == [50552]
    assert "from" not in metrics
