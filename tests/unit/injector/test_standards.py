"""Injected pods against the schemas of Kubernetes and the Pod Security Standard ``restricted``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes_validate import ValidationError

if TYPE_CHECKING:
    from collections.abc import Callable

    Injected = Callable[..., dict[str, Any]]
    Violations = Callable[[dict[str, Any]], set[str]]

RESTRICTED = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
# What pods may say of themselves.
CONTEXTS = {
    "none": None,
    "restricted": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "root": {"runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": False, "fsGroup": 0},
    "unconfined": {"seccompProfile": {"type": "Unconfined"}, "supplementalGroups": [1]},
}
ANNOTATIONS = {
    "none": {},
    "all": {
        "embercache.io/model": "minilm",
        "embercache.io/namespace": "team",
        "embercache.io/redis-secret": "redis/url",
        "embercache.io/encoder-target": "dns:///encoder.cache.svc:50551",
        "embercache.io/log-level": "debug",
        "embercache.io/port": "6000",
        "embercache.io/metrics-port": "6001",
        "embercache.io/sidecar-cpu-request": "1e-1",
        "embercache.io/sidecar-cpu-limit": "2",
        "embercache.io/sidecar-memory-request": "600Mi",
        "embercache.io/sidecar-memory-limit": "1Gi",
        "embercache.io/image": "embercache:1",
        "embercache.io/containers": "app",
        "embercache.io/config-patch": json.dumps(
            [{"op": "add", "path": "/env/-", "value": {"name": "A", "value": "b"}}]
        ),
    },
}


@pytest.fixture(params=ANNOTATIONS)
def annotated(request: pytest.FixtureRequest, pod: dict[str, Any]) -> dict[str, Any]:
    """A pod without annotations of ours, and one with all."""
    pod["metadata"]["annotations"] = ANNOTATIONS[request.param]
    return pod


@pytest.mark.parametrize("host_network", [False, True])
@pytest.mark.parametrize("native", [True, False])
def test_an_injected_pod_is_valid_in_every_version_of_kubernetes(
    annotated: dict[str, Any],
    injected: Injected,
    check_schema: Callable[[dict[str, Any]], None],
    native: bool,
    host_network: bool,
) -> None:
    annotated["spec"]["hostNetwork"] = host_network
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "k", "key": "k"}}}]
    check_schema(injected(annotated, native=native, env=env, imagePullPolicy="Always"))


def test_the_check_of_the_schema_finds_an_unknown_field(
    pod: dict[str, Any], check_schema: Callable[[dict[str, Any]], None]
) -> None:
    check_schema(pod)
    pod["spec"]["containers"][0]["startUpProbe"] = {}
    with pytest.raises(ValidationError, match="startUpProbe"):
        check_schema(pod)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("host_network", [False, True])
def test_a_sidecar_violates_nothing_of_the_restricted_standard_that_its_pod_did_not(
    annotated: dict[str, Any],
    injected: Injected,
    violations: Violations,
    native: bool,
    context: str,
    host_network: bool,
) -> None:
    annotated["spec"] |= {"hostNetwork": host_network, "securityContext": CONTEXTS[context]}
    assert violations(injected(annotated, native=native)) == violations(annotated)


def test_a_restricted_pod_stays_restricted(
    pod: dict[str, Any], injected: Injected, violations: Violations
) -> None:
    pod["spec"]["securityContext"] = CONTEXTS["restricted"]
    for key in ("containers", "initContainers"):
        pod["spec"][key][0]["securityContext"] = RESTRICTED
    assert violations(injected(pod)) == set()


@pytest.mark.parametrize(
    ("change", "violation"),
    [
        ({"runAsNonRoot": False}, "app: runAsNonRoot"),
        ({"runAsNonRoot": None}, "app: runAsNonRoot"),
        ({"runAsUser": 0}, "app: runAsUser"),
        ({"allowPrivilegeEscalation": None}, "app: allowPrivilegeEscalation"),
        ({"capabilities": {}}, "app: capabilities.drop"),
        ({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}, "app: capabilities.add"),
        ({"seccompProfile": None}, "app: seccompProfile"),
        ({"seccompProfile": {"type": "Unconfined"}}, "app: seccompProfile"),
        ({"privileged": True}, "app: privileged"),
        ({"procMount": "Unmasked"}, "app: procMount"),
        ({"seLinuxOptions": {"type": "spc_t"}}, "app: seLinuxOptions"),
    ],
)
def test_the_check_of_the_standard_finds_what_it_is_to_find(
    violations: Violations, change: dict[str, Any], violation: str
) -> None:
    container = {"name": "app", "securityContext": RESTRICTED}
    assert violations({"spec": {"containers": [container]}}) == set()
    container["securityContext"] = RESTRICTED | change
    assert violations({"spec": {"containers": [container]}}) == {violation}
