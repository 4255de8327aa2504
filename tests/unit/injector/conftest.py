"""Pods, and what Kubernetes would say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kubernetes_validate
import pytest

from sidecar.injector.patch import apply
from sidecar.injector.pod import inject
from sidecar.injector.settings import InjectorSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NATIVE_SINCE = 29
LATEST = 37
# https://kubernetes.io/docs/concepts/security/pod-security-standards/
SAFE_SELINUX = {None, "", *(f"container{rest}_t" for rest in ("", "_init", "_kvm", "_engine"))}
SAFE_SYSCTLS = {
    *("kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies"),
    *("net.ipv4.ping_group_range", "net.ipv4.ip_unprivileged_port_start"),
    *("net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time"),
    *("net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl"),
    *("net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"),
}
RESTRICTED_VOLUMES = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim"),
    *("projected", "secret"),
}
LISTS = ("initContainers", "containers", "ephemeralContainers")
ADDRESS = {"name": "EMBERCACHE_ADDRESS", "value": "unix:/run/embercache/embercache.sock"}
MOUNT = {"name": "embercache-socket", "mountPath": "/run/embercache", "readOnly": True}


def restricted_violations(pod: dict[str, Any]) -> set[str]:
    """How a pod violates the Pod Security Standard ``restricted``, ``baseline`` included."""
    spec = pod["spec"]
    context = spec.get("securityContext") or {}
    found = set(_of_pod(spec, context))
    for key in LISTS:
        for container in spec.get(key) or []:
            for violation in _of_container(container, context):
                found.add(f"{container.get('name')}: {violation}")
    return found


def _of_pod(spec: dict[str, Any], context: dict[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield name
    for volume in spec.get("volumes") or []:
        if set(volume) - {"name"} - RESTRICTED_VOLUMES:
            yield f"volume {volume['name']}"
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in SAFE_SYSCTLS:
            yield "sysctls"
    yield from _of_context(context)


def _of_container(container: dict[str, Any], pod_context: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext") or {}
    yield from _of_context(context)
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if not context.get("runAsNonRoot", pod_context.get("runAsNonRoot")):
        yield "runAsNonRoot"
    seccomp = context.get("seccompProfile") or pod_context.get("seccompProfile") or {}
    if seccomp.get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    capabilities = context.get("capabilities") or {}
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if context.get("procMount") not in (None, "Default"):
        yield "procMount"
    if any(port.get("hostPort") for port in container.get("ports") or []):
        yield "hostPort"
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        for handler in ("httpGet", "tcpSocket"):
            if container.get(probe, {}).get(handler, {}).get("host"):
                yield f"host of {probe}"


def _of_context(context: dict[str, Any]) -> Iterator[str]:
    if context.get("runAsUser") == 0:
        yield "runAsUser"
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot"
    if (context.get("seccompProfile") or {}).get("type") == "Unconfined":
        yield "seccompProfile"
    if (context.get("appArmorProfile") or {}).get("type") == "Unconfined":
        yield "appArmorProfile"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type") not in SAFE_SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"


@pytest.fixture(scope="session")
def violations() -> Callable[[dict[str, Any]], set[str]]:
    """How a pod violates the Pod Security Standard ``restricted``."""
    return restricted_violations


def check_against(version: str) -> Callable[[dict[str, Any]], None]:
    def check(manifest: dict[str, Any]) -> None:
        kubernetes_validate.validate(manifest, version, strict=True)

    return check


@pytest.fixture(params=[f"1.{minor}" for minor in range(NATIVE_SINCE, LATEST + 1)])
def check_schema(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], None]:
    """Checks an object against the schema of a version of Kubernetes; unknown fields are errors."""
    return check_against(request.param)


@pytest.fixture
def check_latest_schema() -> Callable[[dict[str, Any]], None]:
    """The same, for the last version only."""
    return check_against(f"1.{LATEST}")


@pytest.fixture(scope="session")
def injected() -> Callable[..., dict[str, Any]]:
    """A pod with its sidecar. Keywords beside ``native`` are settings of the injector."""

    def run(pod: dict[str, Any], *, native: bool = True, **settings: Any) -> dict[str, Any]:
        chosen = InjectorSettings.model_validate(settings)
        result = inject(pod, namespace="shop", settings=chosen, native=native)
        patched: dict[str, Any] = apply(pod, result.operations)
        return patched

    return run


@pytest.fixture
def pod() -> dict[str, Any]:
    """A pod with an init container and an app, as short as Kubernetes takes it."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web"},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "web"}],
            "containers": [{"name": "app", "image": "web"}],
        },
    }


@pytest.fixture(scope="session")
def sidecar_of() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The sidecar's container in an injected pod; fails unless there is exactly one."""

    def find(pod: dict[str, Any]) -> dict[str, Any]:
        (found,) = [
            container
            for key in LISTS
            for container in pod["spec"].get(key) or []
            if container["name"] == "embercache"
        ]
        return dict(found)

    return find


@pytest.fixture(scope="session")
def variables_of() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The environment of a container: each variable's value, or where it comes from."""

    def read(container: dict[str, Any]) -> dict[str, Any]:
        variables = container.get("env") or []
        assert len({each["name"] for each in variables}) == len(variables)
        return {each["name"]: each.get("value", each.get("valueFrom")) for each in variables}

    return read


@pytest.fixture(scope="session")
def names() -> Callable[[dict[str, Any], str], list[str]]:
    """The names of a pod's containers in the list with that key."""
    return lambda pod, key: [container["name"] for container in pod["spec"].get(key, [])]


@pytest.fixture(scope="session")
def reached() -> Callable[[dict[str, Any]], set[str]]:
    """The containers of a pod that have the address and the socket."""
    return lambda pod: {
        container["name"]
        for key in ("initContainers", "containers")
        for container in pod["spec"].get(key) or []
        if ADDRESS in container.get("env", []) and MOUNT in container.get("volumeMounts", [])
    }


@pytest.fixture(scope="session")
def annotate() -> Callable[..., dict[str, Any]]:
    """A pod with annotations of ours, which are written with ``_`` for ``-``."""

    def run(pod: dict[str, Any], **annotations: str) -> dict[str, Any]:
        own = {f"embercache.io/{key.replace('_', '-')}": text for key, text in annotations.items()}
        return pod | {"metadata": pod["metadata"] | {"annotations": own}}

    return run
