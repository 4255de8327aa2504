"""The sidecar's container."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.config_sources import all_settings, load_settings
from sidecar.injector.annotations import AnnotationError
from sidecar.injector.settings import SET_BY_INJECTOR

if TYPE_CHECKING:
    from collections.abc import Callable

    Sidecar = Callable[..., dict[str, Any]]
    Variables = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def sidecar(
    pod: dict[str, Any],
    injected: Callable[..., dict[str, Any]],
    sidecar_of: Callable[[dict[str, Any]], dict[str, Any]],
) -> Sidecar:
    """The sidecar of a pod with those annotations, fields of its spec, and settings."""

    def run(
        annotations: dict[str, str] | None = None,
        spec: dict[str, Any] | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        names = {f"embercache.io/{name}": text for name, text in (annotations or {}).items()}
        asked = pod | {
            "metadata": {"name": "web", "annotations": names},
            "spec": pod["spec"] | (spec or {}),
        }
        return sidecar_of(injected(asked, **settings))

    return run


def test_its_variables_are_settings_of_the_sidecar_that_it_accepts(
    sidecar: Sidecar, variables_of: Variables
) -> None:
    container = sidecar(model="minilm", encoderTarget="local", redisUrl="redis://redis:6379")
    variables = variables_of(container)
    assert set(variables) == SET_BY_INJECTOR
    assert set(variables) <= {setting.variable for setting in all_settings()}
    settings = load_settings(None, variables, {})
    assert settings.server.socket == "/run/embercache/embercache.sock"
    assert settings.server.address == "127.0.0.1:50551"
    assert settings.server.metrics_address == "[::]:50552"
    assert settings.redis.url.get_secret_value() == "redis://redis:6379"
    assert settings.encoder.target == "local"
    assert settings.model.packs == ("minilm",)
    assert settings.cache.namespace == "shop"
    assert settings.log.level == "info"
    assert container["args"] == ["serve"]


def test_what_nobody_set_is_left_to_the_sidecar_s_own_defaults(
    sidecar: Sidecar, variables_of: Variables
) -> None:
    absent = {"EMBERCACHE_REDIS_URL", "EMBERCACHE_ENCODER_TARGET", "EMBERCACHE_MODEL_PACKS"}
    container = sidecar()
    assert set(variables_of(container)) == SET_BY_INJECTOR - absent
    assert "imagePullPolicy" not in container


def test_annotations_win_over_settings(sidecar: Sidecar, variables_of: Variables) -> None:
    container = sidecar(
        {
            "model": "a",
            "namespace": "team",
            "redis-secret": "redis/URL",
            "encoder-target": "encoder:1",
            "log-level": "debug",
            "port": "6000",
            "metrics-port": "6001",
            "image": "own:1",
        },
        model="b",
        redisUrl="redis://redis",
        encoderTarget="local",
        image="embercache:1",
        imagePullPolicy="Always",
    )
    variables = variables_of(container)
    reference = {"secretKeyRef": {"name": "redis", "key": "URL"}}
    assert variables.items() >= {"EMBERCACHE_MODEL_PACKS": "a"}.items()
    assert variables["EMBERCACHE_CACHE_NAMESPACE"] == "team"
    assert variables["EMBERCACHE_REDIS_URL"] == reference
    assert variables["EMBERCACHE_ENCODER_TARGET"] == "encoder:1"
    assert variables["EMBERCACHE_LOG_LEVEL"] == "debug"
    assert variables["EMBERCACHE_SERVER_ADDRESS"] == "127.0.0.1:6000"
    assert variables["EMBERCACHE_SERVER_METRICS_ADDRESS"] == "[::]:6001"
    assert container["ports"] == [{"name": "ember-metrics", "containerPort": 6001}]
    assert container["image"] == "own:1"
    assert container["imagePullPolicy"] == "Always"


def test_the_redis_url_comes_from_the_secret_of_the_settings_if_that_is_there(
    sidecar: Sidecar, variables_of: Variables
) -> None:
    variables = variables_of(sidecar(redisSecret="redis"))
    reference = {"name": "redis", "key": "url", "optional": True}
    assert variables["EMBERCACHE_REDIS_URL"] == {"secretKeyRef": reference}


def test_a_secret_that_the_pod_itself_names_must_be_there(
    sidecar: Sidecar, variables_of: Variables
) -> None:
    variables = variables_of(sidecar({"redis-secret": "own"}, redisSecret="redis"))
    assert variables["EMBERCACHE_REDIS_URL"] == {"secretKeyRef": {"name": "own", "key": "url"}}


def test_further_variables_come_with_it(sidecar: Sidecar) -> None:
    further = [
        {"name": "EMBERCACHE_HOT_MAX_BYTES", "value": "64MiB"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "k", "key": "k"}}},
    ]
    assert sidecar(env=further)["env"][-2:] == further


def test_started_means_that_it_serves_and_alive_that_it_answers(sidecar: Sidecar) -> None:
    container = sidecar({"metrics-port": "6001"})
    paths = {
        kind: container[kind]["httpGet"]
        for kind in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert paths == {
        "startupProbe": {"path": "/readyz", "port": 6001},
        "livenessProbe": {"path": "/livez", "port": 6001},
        "readinessProbe": {"path": "/readyz", "port": 6001},
    }


def test_probes_are_encrypted_where_the_sidecar_s_listeners_are(sidecar: Sidecar) -> None:
    files = {"CERT": "tls.crt", "KEY": "tls.key"}
    env = [
        {"name": f"EMBERCACHE_TLS_{name}_FILE", "value": f"/etc/embercache/tls/{file}"}
        for name, file in files.items()
    ]
    container = sidecar(env=env)
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[kind]["httpGet"]["scheme"] == "HTTPS"


@pytest.mark.parametrize("host_network", [False, True], ids=["by HTTP", "by a command"])
def test_models_may_take_five_minutes_to_load(sidecar: Sidecar, host_network: bool) -> None:
    startup = sidecar({}, {"hostNetwork": host_network})["startupProbe"]
    assert ("exec" in startup) == host_network
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300


def test_why_it_failed_is_in_the_pod_s_status(sidecar: Sidecar) -> None:
    assert sidecar()["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_it_cannot_write_to_its_image(sidecar: Sidecar) -> None:
    assert sidecar()["securityContext"]["readOnlyRootFilesystem"] is True


def test_nothing_ends_it_before_its_time(sidecar: Sidecar) -> None:
    assert "lifecycle" not in sidecar()


@pytest.mark.parametrize("kind", ["native", "classic"])
def test_on_the_node_s_network_it_listens_on_its_socket_only(
    sidecar: Sidecar, variables_of: Variables, kind: str
) -> None:
    annotations = {"native-sidecar": str(kind == "native").lower()}
    container = sidecar(annotations, {"hostNetwork": True})
    variables = variables_of(container)
    settings = load_settings(None, {"EMBERCACHE_REDIS_URL": ""} | variables, {})
    assert settings.server.address == ""
    assert settings.server.metrics_address == ""
    assert settings.server.socket
    assert "ports" not in container
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = ["embercache", "health", "--timeout", "4s"]
        assert container[probe]["exec"] == {"command": command}
        assert "httpGet" not in container[probe]


def test_on_the_node_s_network_it_takes_the_ports_that_the_pod_names(
    sidecar: Sidecar, variables_of: Variables
) -> None:
    container = sidecar({"port": "6000", "metrics-port": "6001"}, {"hostNetwork": True})
    variables = variables_of(container)
    assert variables["EMBERCACHE_SERVER_ADDRESS"] == "127.0.0.1:6000"
    assert variables["EMBERCACHE_SERVER_METRICS_ADDRESS"] == "[::]:6001"
    assert container["readinessProbe"]["httpGet"]["port"] == 6001


def test_two_ports_that_are_the_same_are_an_error(sidecar: Sidecar) -> None:
    with pytest.raises(AnnotationError, match="are both 50552: they must differ"):
        sidecar({"port": "50552"})


@pytest.mark.parametrize(
    ("kind", "grace", "wanted", "delay", "timeout"),
    [
        ("native", None, None, 0, 24),
        ("native", 5, None, 0, 4),
        ("native", 30, 2, 2, 22.4),
        ("classic", None, None, 25, 4),
        ("classic", 30, None, 25, 4),
        ("classic", 600, None, 595, 4),
        ("classic", 4, None, 2, 1.6),
        ("classic", 0, None, 0, 0),
        ("classic", 30, 0, 0, 24),
        ("classic", 30, 10, 10, 16),
        ("classic", 30, 60, 25, 4),
    ],
)
def test_a_classic_sidecar_serves_until_the_app_must_have_ended_within_the_grace_period(
    sidecar: Sidecar,
    variables_of: Variables,
    kind: str,
    grace: int | None,
    wanted: float | None,
    delay: float,
    timeout: float,
) -> None:
    annotations = {"native-sidecar": str(kind == "native").lower()}
    spec = {"terminationGracePeriodSeconds": grace}
    container = sidecar(annotations, spec, drainDelaySeconds=wanted)
    server = load_settings(None, variables_of(container), {}).server
    assert (server.drain_delay, server.drain_timeout) == (delay, timeout)
    assert server.drain_delay + server.drain_timeout <= (30 if grace is None else grace)


def test_it_asks_for_cpu_and_memory_even_if_the_settings_do_not(sidecar: Sidecar) -> None:
    assert sidecar(resources={})["resources"] == {"requests": {"cpu": "100m", "memory": "512Mi"}}
    limited = sidecar(resources={"limits": {"cpu": "50m", "memory": "64Mi"}})["resources"]
    assert limited["requests"] == limited["limits"] == {"cpu": "50m", "memory": "64Mi"}


def test_resources_of_other_names_come_with_it(sidecar: Sidecar) -> None:
    resources = {"limits": {"nvidia.com/gpu": "1"}, "requests": {"ephemeral-storage": "1Gi"}}
    found = sidecar(resources=resources)["resources"]
    assert found["limits"] == {"nvidia.com/gpu": "1"}
    assert found["requests"] == {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"}


def test_resources_are_annotated_one_by_one(sidecar: Sidecar) -> None:
    annotations = {
        "sidecar-cpu-request": "200m",
        "sidecar-cpu-limit": "2",
        "sidecar-memory-request": "2Gi",
        "sidecar-memory-limit": "4Gi",
    }
    assert sidecar(annotations)["resources"] == {
        "requests": {"cpu": "200m", "memory": "2Gi"},
        "limits": {"cpu": "2", "memory": "4Gi"},
    }


def test_a_default_request_gives_way_to_an_annotated_limit(sidecar: Sidecar) -> None:
    resources = sidecar({"sidecar-memory-limit": "256Mi"})["resources"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"] == "256Mi"


@pytest.mark.parametrize(
    "annotations",
    [
        {"sidecar-memory-request": "2Gi"},
        {"sidecar-memory-request": "2Gi", "sidecar-memory-limit": "1024Mi"},
    ],
)
def test_a_request_above_its_limit_is_an_error(
    sidecar: Sidecar, annotations: dict[str, str]
) -> None:
    with pytest.raises(AnnotationError) as caught:
        sidecar(annotations)
    limit = annotations.get("sidecar-memory-limit", "1Gi")
    assert str(caught.value) == (
        f"embercache.io/sidecar-memory-request: 2Gi is more than the limit, {limit}: set"
        " embercache.io/sidecar-memory-limit too"
    )


def test_a_pod_with_resources_as_a_whole_shares_them_unless_annotated(sidecar: Sidecar) -> None:
    spec = {"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}
    assert sidecar({}, spec)["resources"] == {}
    annotated = sidecar({"sidecar-cpu-request": "100m"}, spec)
    assert annotated["resources"] == {"requests": {"cpu": "100m"}}


def patch(*operations: dict[str, Any]) -> dict[str, str]:
    return {"config-patch": json.dumps(operations)}


def test_a_config_patch_changes_the_sidecar_s_container(sidecar: Sidecar) -> None:
    variable = {"name": "EMBERCACHE_HOT_MAX_BYTES", "value": "1GiB"}
    container = sidecar(
        patch(
            {"op": "add", "path": "/env/-", "value": variable},
            {"op": "replace", "path": "/livenessProbe/periodSeconds", "value": 60},
            {"op": "remove", "path": "/ports"},
        )
    )
    assert container["env"][-1] == variable
    assert container["livenessProbe"]["periodSeconds"] == 60
    assert "ports" not in container


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            {"op": "remove", "path": "/lifecycle"},
            "operation 1 (remove /lifecycle): there is no 'lifecycle' there",
        ),
        (
            {"op": "replace", "path": "/spec/containers/0/image", "value": "own"},
            "operation 1 (replace /spec/containers/0/image): there is no 'spec' there",
        ),
        ({"op": "add", "path": "", "value": []}, "what is left is no container"),
        ({"op": "replace", "path": "/name", "value": "app"}, "name cannot be changed"),
        ({"op": "remove", "path": "/restartPolicy"}, "restartPolicy cannot be changed"),
    ],
)
def test_a_config_patch_that_cannot_be_applied_is_an_error(
    sidecar: Sidecar, operation: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        sidecar(patch(operation))
    assert str(caught.value) == f"embercache.io/config-patch: {message}"


def test_a_config_patch_leaves_the_rest_of_the_pod_as_it_is(
    pod: dict[str, Any], injected: Callable[..., dict[str, Any]]
) -> None:
    plain = injected(pod | {"metadata": {"name": "web", "annotations": {}}})
    operation = {"op": "add", "path": "/containers", "value": [{"name": "app", "image": "evil"}]}
    annotations = {f"embercache.io/{name}": text for name, text in patch(operation).items()}
    patched = injected(pod | {"metadata": {"name": "web", "annotations": annotations}})
    assert patched["spec"]["containers"] == plain["spec"]["containers"]
    assert patched["spec"]["initContainers"][1:] == plain["spec"]["initContainers"][1:]


def test_the_user_is_left_to_a_platform_that_assigns_one(sidecar: Sidecar) -> None:
    context = sidecar(runAsUser=None, runAsGroup=None)["securityContext"]
    assert not {"runAsUser", "runAsGroup"} & set(context)
    assert context["runAsNonRoot"] is True
    own = sidecar(runAsUser=1000, runAsGroup=2000)["securityContext"]
    assert (own["runAsUser"], own["runAsGroup"]) == (1000, 2000)
