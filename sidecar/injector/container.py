"""The sidecar's container, and what the pod's other containers need to reach it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.injector.confinement import breach
from sidecar.injector.errors import AnnotationError
from sidecar.injector.patch import PatchError, apply
from sidecar.injector.resources import container_resources
from sidecar.injector.values import SOCKET_FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.injector.annotations import Overrides
    from sidecar.injector.settings import InjectorSettings

NAME = "embercache"
METRICS_PORT_NAME = "ember-metrics"
VOLUME = {
    "name": "embercache-socket",
    "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"},
}
FOLDER = SOCKET_FOLDER
ADDRESS = {"name": "EMBERCACHE_ADDRESS", "value": f"unix:{FOLDER}/embercache.sock"}
# A socket can be connected to through a read-only mount, and not be replaced.
APP_MOUNT = {"name": VOLUME["name"], "mountPath": FOLDER, "readOnly": True}

_DEFAULT_GRACE = 30.0
# Of a pod's grace period, most that is kept for the drain itself: calls end, queues are written.
_DRAIN_RESERVE = 5.0
_PROBE_TIMEOUT = 5
# Path, period in seconds and failures allowed. Models may take minutes to load.
_HTTP_PROBES = {
    "startupProbe": ("/readyz", 1, 300),
    "livenessProbe": ("/livez", 10, 6),
    "readinessProbe": ("/readyz", 5, 3),
}
# Starting a process costs more than a request.
_EXEC_PROBES = {
    "startupProbe": (3, 100),
    "livenessProbe": (30, 2),
    "readinessProbe": (15, 2),
}


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the sidecar listens beside its socket; None for not at all."""

    grpc: int | None
    metrics: int | None


def choose_ports(spec: dict[str, Any], overrides: Overrides, settings: InjectorSettings) -> Ports:
    """The sidecar's ports.

    A pod on the node's network gets those only that it names: ports would clash with those of
    other such pods, and every process of the node could reach them.
    """
    if spec.get("hostNetwork") is True:
        ports = Ports(overrides.port, overrides.metrics_port)
    else:
        ports = Ports(
            overrides.port or settings.port, overrides.metrics_port or settings.metrics_port
        )
    if ports.grpc is not None and ports.grpc == ports.metrics:
        raise AnnotationError(
            f"embercache.io/port and embercache.io/metrics-port are both {ports.grpc}: they must"
            " differ"
        )
    return ports


def sidecar_container(
    spec: dict[str, Any],
    overrides: Overrides,
    settings: InjectorSettings,
    *,
    namespace: str,
    native: bool,
    ports: Ports,
    mounts: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The container as it goes into the pod, with ``mounts`` beside the socket's.

    Raises `AnnotationError`.
    """
    container: dict[str, Any] = {
        "name": NAME,
        "image": overrides.image or settings.image,
        "args": ["serve"],
        "env": [
            *_environment(overrides, settings, namespace, ports),
            *_drain(spec.get("terminationGracePeriodSeconds"), settings, native=native),
            *settings.env,
        ],
        "resources": container_resources(spec, overrides, settings.resources),
        "volumeMounts": [{"name": VOLUME["name"], "mountPath": FOLDER}, *mounts],
        "securityContext": _security_context(settings),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **_probes(ports.metrics, "HTTPS" if settings.listens_with_tls else "HTTP"),
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    if ports.metrics is not None:
        container["ports"] = [{"name": METRICS_PORT_NAME, "containerPort": ports.metrics}]
    if native:
        container["restartPolicy"] = "Always"
    return _patched(container, overrides)


def _environment(
    overrides: Overrides, settings: InjectorSettings, namespace: str, ports: Ports
) -> list[dict[str, Any]]:
    values = {
        "SERVER_SOCKET": f"{FOLDER}/embercache.sock",
        "SERVER_ADDRESS": f"127.0.0.1:{ports.grpc}" if ports.grpc else "",
        "SERVER_METRICS_ADDRESS": f"[::]:{ports.metrics}" if ports.metrics else "",
        # Kubelets and Prometheus reach no other; it shows no text of users.
        "SERVER_INSECURE_METRICS": "true",
        "LOG_LEVEL": overrides.log_level or settings.log_level,
    }
    optional = {
        "MODEL_PACKS": overrides.model or settings.model,
        "ENCODER_TARGET": overrides.encoder_target or settings.encoder_target,
    }
    values |= {name: value for name, value in optional.items() if value}
    variables = [{"name": f"EMBERCACHE_{name}", "value": value} for name, value in values.items()]
    return [
        *variables,
        _cache_namespace(overrides.namespace or namespace),
        *_redis(overrides, settings),
    ]


def _cache_namespace(namespace: str) -> dict[str, Any]:
    name = "EMBERCACHE_CACHE_NAMESPACE"
    if namespace:
        return {"name": name, "value": namespace}
    # A file that is injected may not say where it will be applied.
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}


def _redis(overrides: Overrides, settings: InjectorSettings) -> list[dict[str, Any]]:
    name = "EMBERCACHE_REDIS_URL"
    if secret := overrides.redis_secret or settings.redis_secret_key:
        reference: dict[str, Any] = {"name": secret.name, "key": secret.key}
        if overrides.redis_secret is None:
            # Its author never heard of it: a namespace without it must not keep the app waiting.
            reference["optional"] = True
        return [{"name": name, "valueFrom": {"secretKeyRef": reference}}]
    return [{"name": name, "value": settings.redis_url}] if settings.redis_url else []


def _drain(grace: object, settings: InjectorSettings, *, native: bool) -> list[dict[str, Any]]:
    """How long the sidecar goes on after SIGTERM, within the pod's grace period.

    A native sidecar gets SIGTERM when the app has ended. Any other gets it together with the app,
    and serves until the app must have ended.
    """
    seconds = float(grace) if isinstance(grace, int) and grace >= 0 else _DEFAULT_GRACE
    longest = seconds - min(_DRAIN_RESERVE, seconds / 2)
    wanted = settings.drain_delay_seconds
    if wanted is None:
        wanted = 0.0 if native else longest
    delay = min(wanted, longest)
    # A fifth of the rest is for what is queued for Redis and disk.
    timeout = 0.8 * (seconds - delay)
    return [
        {"name": "EMBERCACHE_SERVER_DRAIN_DELAY", "value": f"{delay:g}s"},
        {"name": "EMBERCACHE_SERVER_DRAIN_TIMEOUT", "value": f"{timeout:g}s"},
    ]


def _probes(metrics_port: int | None, scheme: str) -> dict[str, Any]:
    if metrics_port is None:
        command = ["embercache", "health", "--timeout", f"{_PROBE_TIMEOUT - 1}s"]
        return {
            kind: _probe({"exec": {"command": command}}, period, failures)
            for kind, (period, failures) in _EXEC_PROBES.items()
        }
    place = {"port": metrics_port} | ({} if scheme == "HTTP" else {"scheme": scheme})
    return {
        kind: _probe({"httpGet": {"path": path, **place}}, period, failures)
        for kind, (path, period, failures) in _HTTP_PROBES.items()
    }


def _probe(handler: dict[str, Any], period: int, failures: int) -> dict[str, Any]:
    return {
        **handler,
        "periodSeconds": period,
        "failureThreshold": failures,
        "timeoutSeconds": _PROBE_TIMEOUT,
    }


def _security_context(settings: InjectorSettings) -> dict[str, Any]:
    """What the Pod Security Standard ``restricted`` asks for, whatever the pod says of itself."""
    context: dict[str, Any] = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if settings.run_as_user is not None:
        context["runAsUser"] = settings.run_as_user
    if settings.run_as_group is not None:
        context["runAsGroup"] = settings.run_as_group
    return context


def _patched(container: dict[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The container after ``embercache.io/config-patch``."""
    try:
        patched = apply(container, overrides.config_patch or ())
    except PatchError as error:
        raise AnnotationError(f"embercache.io/config-patch: {error}") from None
    if not isinstance(patched, dict):
        raise AnnotationError("embercache.io/config-patch: what is left is no container")
    for key in ("name", "restartPolicy"):
        if patched.get(key) != container.get(key):
            raise AnnotationError(f"embercache.io/config-patch: {key} cannot be changed")
    if found := breach(container, patched):
        raise AnnotationError(
            f"embercache.io/config-patch: {found}: the sidecar keeps to the Pod Security Standard"
            " restricted"
        )
    return patched
