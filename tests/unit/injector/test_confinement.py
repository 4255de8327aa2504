"""What a pod's author cannot make of the sidecar by annotations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.injector.annotations import AnnotationError
from sidecar.injector.patch import apply
from sidecar.injector.pod import inject
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    Violations = Callable[[dict[str, Any]], set[str]]

SETTINGS = InjectorSettings.model_validate(
    {"secretMounts": [{"secret": "cache-keys", "path": "/etc/embercache/keys"}]}
)
CONTEXT = "of securityContext, only runAsUser and runAsGroup can be changed"


def patched_by(*operations: dict[str, Any]) -> dict[str, Any]:
    """A pod that was injected with this patch of its sidecar."""
    annotations = {"embercache.io/config-patch": json.dumps(operations)}
    pod: dict[str, Any] = {
        "metadata": {"annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }
    result = inject(pod, namespace="shop", settings=SETTINGS, native=True)
    injected: dict[str, Any] = apply(pod, result.operations)
    return injected


def set_to(path: str, value: Any) -> dict[str, Any]:
    return {"op": "add", "path": path, "value": value}


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (set_to("/securityContext/privileged", True), CONTEXT),
        (set_to("/securityContext/allowPrivilegeEscalation", True), CONTEXT),
        (set_to("/securityContext/readOnlyRootFilesystem", False), CONTEXT),
        (set_to("/securityContext/runAsNonRoot", False), CONTEXT),
        (set_to("/securityContext/capabilities/add", ["SYS_ADMIN"]), CONTEXT),
        (set_to("/securityContext/procMount", "Unmasked"), CONTEXT),
        (set_to("/securityContext/seccompProfile/type", "Unconfined"), CONTEXT),
        (set_to("/securityContext/seLinuxOptions", {"type": "spc_t"}), CONTEXT),
        (set_to("/securityContext/appArmorProfile", {"type": "Unconfined"}), CONTEXT),
        (set_to("/securityContext/windowsOptions", {"hostProcess": True}), CONTEXT),
        (set_to("/securityContext", {}), CONTEXT),
        (set_to("/securityContext", None), CONTEXT),
        (set_to("/securityContext", []), CONTEXT),
        ({"op": "remove", "path": "/securityContext"}, CONTEXT),
        (set_to("/securityContext/runAsUser", 0), "runAsUser cannot be 0, which is root"),
        (set_to("/ports/0/hostPort", 80), "hostPort cannot be set"),
        (set_to("/ports/-", {"containerPort": 1, "hostPort": 80}), "hostPort cannot be set"),
        (
            set_to("/livenessProbe/httpGet/host", "169.254.169.254"),
            "probes and hooks cannot go to another host",
        ),
        (
            set_to("/lifecycle", {"postStart": {"httpGet": {"host": "10.0.0.1", "port": 80}}}),
            "probes and hooks cannot go to another host",
        ),
        (
            set_to("/readinessProbe", {"tcpSocket": {"host": "10.0.0.1", "port": 80}}),
            "probes and hooks cannot go to another host",
        ),
    ],
)
def test_a_patch_that_would_loosen_what_confines_the_sidecar_is_refused(
    operation: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnnotationError) as caught:
        patched_by(operation)
    assert str(caught.value) == (
        f"embercache.io/config-patch: {message}: the sidecar keeps to the Pod Security Standard"
        " restricted"
    )


def test_the_user_and_group_of_one_pod_s_sidecar_can_be_others() -> None:
    context = patched_by(
        set_to("/securityContext/runAsUser", 1000), set_to("/securityContext/runAsGroup", 1000)
    )["spec"]["initContainers"][0]["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1000, 1000)
    assert context["runAsNonRoot"] is True


VALUES = st.sampled_from([None, True, False, 0, 1, 80, "", "Unconfined", "10.0.0.1", {}, []])
KEYS = st.sampled_from(
    [
        *("privileged", "capabilities", "add", "drop", "seccompProfile", "type", "runAsUser"),
        *("runAsNonRoot", "allowPrivilegeEscalation", "hostPort", "host", "httpGet", "procMount"),
    ]
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
PATHS = st.sampled_from(
    [
        *("/securityContext", "/ports", "/ports/-", "/ports/0", "/livenessProbe", "/lifecycle"),
        *("/startupProbe/httpGet", "/readinessProbe", "/ports/0/hostPort"),
        "/livenessProbe/httpGet/host",
    ]
) | st.builds("/securityContext/{}".format, KEYS)


@given(
    operations=st.lists(
        st.builds(lambda path, value: set_to(path, value), PATHS, TREES), min_size=1, max_size=4
    )
)
def test_whatever_a_patch_says_the_sidecar_stays_within_the_restricted_standard(
    violations: Violations, operations: list[dict[str, Any]]
) -> None:
    try:
        pod = patched_by(*operations)
    except AnnotationError:
        return
    sidecar = pod["spec"]["initContainers"][0]
    ports = sidecar.get("ports")
    if not isinstance(ports, list) or not all(isinstance(port, dict) for port in ports):
        return  # The API server takes no such pod.
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        handler = sidecar.get(probe) or {}
        if not isinstance(handler, dict) or not isinstance(handler.get("httpGet") or {}, dict):
            return
        sidecar[probe] = {key: value or {} for key, value in handler.items()}
    found = violations(pod)
    assert not [each for each in found if each.startswith("embercache: ")]


def test_volumes_of_the_pod_are_no_part_of_a_patch() -> None:
    volumes = [{"name": "host", "hostPath": {"path": "/"}}]
    patched = patched_by(set_to("/volumes", volumes))
    assert "hostPath" not in json.dumps(patched["spec"]["volumes"])


def test_what_a_patch_mounts_are_volumes_that_the_pod_has_anyway() -> None:
    mount = {"name": "embercache-files", "mountPath": "/elsewhere"}
    plain, patched = patched_by(), patched_by(set_to("/volumeMounts/-", mount))
    assert patched["spec"]["volumes"] == plain["spec"]["volumes"]
    assert patched["spec"]["containers"] == plain["spec"]["containers"]
