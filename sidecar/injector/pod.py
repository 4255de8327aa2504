"""What changes in a pod."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar import __version__
from sidecar.injector import container as sidecar
from sidecar.injector.annotations import (
    INJECT_LABEL,
    PREFIX,
    STATUS_INJECTED,
    STATUS_LABEL,
    VERSION_ANNOTATION,
    read_overrides,
)
from sidecar.injector.errors import InjectionError
from sidecar.injector.files import files_for
from sidecar.injector.patch import Changes
from sidecar.injector.shape import mapping, objects
from sidecar.injector.wiring import (
    LISTS,
    connect_containers,
    has_our_sidecar,
    native_place,
    sidecar_place,
)

if TYPE_CHECKING:
    from sidecar.injector.annotations import Overrides
    from sidecar.injector.container import Ports
    from sidecar.injector.patch import Operation
    from sidecar.injector.settings import InjectorSettings

_MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
_OS_LABEL = "kubernetes.io/os"
# What is made of a pod takes time with the square of their number.
_MOST_CONTAINERS = 500


@dataclass(frozen=True, slots=True)
class Injection:
    """What came of a pod that is to have a sidecar.

    ``operations`` of JSON Patch give it that; none if it has it already, or if it is left alone,
    and then ``left_alone`` says why. ``warnings`` tell what its author should look at.
    """

    operations: tuple[Operation, ...] = ()
    left_alone: str = ""
    warnings: tuple[str, ...] = ()


def inject(
    pod: dict[str, Any], *, namespace: str, settings: InjectorSettings, native: bool
) -> Injection:
    """Finds what gives a pod its sidecar.

    ``pod`` is its JSON as it came and is not changed. ``namespace`` is where it goes; empty if
    that is not known. ``native`` is the kind of sidecar unless the pod's annotation says which.
    A pod that has its sidecar keeps it as it is, and gets the label for it: then containers that
    are new are told of it.
    Raises `InjectionError`, mostly its kind `AnnotationError`.
    """
    if reason := _left_alone(pod, native=native):
        return Injection(left_alone=reason)
    labels = mapping(pod, "metadata", "labels")
    overrides = read_overrides(mapping(pod, "metadata", "annotations"), labels)
    spec, changes = mapping(pod, "spec"), Changes(pod)
    warnings: tuple[str, ...] = ()
    if not objects(spec, "containers"):
        raise InjectionError("the pod has no containers")
    if sidecar_place(spec) is None:
        if overrides.native_sidecar is not None:
            native = overrides.native_sidecar
        _add_sidecar(changes, overrides, settings, namespace=namespace, native=native)
        warnings = _warnings(spec)
    elif labels.get(STATUS_LABEL) != STATUS_INJECTED:
        if not has_our_sidecar(spec):
            raise InjectionError(
                f"the pod has a container named {sidecar.NAME} of its own: rename it, or label the"
                f' pod {INJECT_LABEL}: "false"'
            )
        # A copy of `kubectl debug` has lost its labels.
        changes.add("metadata", "labels", STATUS_LABEL, value=STATUS_INJECTED)
    connect_containers(changes, overrides.containers)
    return Injection(tuple(changes.operations), warnings=warnings)


def _left_alone(pod: dict[str, Any], *, native: bool) -> str:
    """Why a pod is not to be changed; empty if it is.

    Pods of Windows, mirrors of static pods, pods with a crowd of containers, and, without native
    sidecars, pods that are to end.
    """
    spec, annotations = mapping(pod, "spec"), mapping(pod, "metadata", "annotations")
    if "windows" in (mapping(spec, "os").get("name"), mapping(spec, "nodeSelector").get(_OS_LABEL)):
        return "it runs on Windows"
    if _MIRROR_ANNOTATION in annotations:
        return "it is a static pod, which its node has started already"
    if any(len(objects(spec, key)) > _MOST_CONTAINERS for key in LISTS):
        return f"it has more than {_MOST_CONTAINERS} containers"
    asked = annotations.get(f"{PREFIX}native-sidecar") in ("true", "false")
    ends = spec.get("restartPolicy") in ("Never", "OnFailure")
    if ends and not native and not asked and sidecar_place(spec) is None:
        return (
            "it is to end, and a sidecar that is not native would keep it from ending: that needs"
            " Kubernetes 1.29 or later"
        )
    return ""


def _warnings(spec: dict[str, Any]) -> tuple[str, ...]:
    """What keeps a sidecar from its Redis and its encoders."""
    if spec.get("hostNetwork") is True and spec.get("dnsPolicy") in (None, "ClusterFirst"):
        return (
            (
                "on the node's network no names of services are resolved: set dnsPolicy:"
                " ClusterFirstWithHostNet"
            ),
        )
    return ()


def _add_sidecar(
    changes: Changes,
    overrides: Overrides,
    settings: InjectorSettings,
    *,
    namespace: str,
    native: bool,
) -> None:
    spec = mapping(changes.document, "spec")
    ports = sidecar.choose_ports(spec, overrides, settings)
    _check_ports(spec, ports)
    files = files_for(spec, settings)
    container = sidecar.sidecar_container(
        spec,
        overrides,
        settings,
        namespace=namespace,
        native=native,
        ports=ports,
        mounts=files.mounts,
    )
    if native:
        changes.add("spec", "initContainers", native_place(spec), value=container)
    else:
        # Last: the first is what kubectl takes for the main one, and nothing waits for it anyway.
        changes.add("spec", "containers", "-", value=container)
    _add_socket(changes, spec)
    for volume in files.volumes:
        changes.add("spec", "volumes", "-", value=volume)
    if settings.run_as_group is not None:
        _add_group(changes, spec, settings.run_as_group)
    changes.add("metadata", "labels", STATUS_LABEL, value=STATUS_INJECTED)
    changes.add("metadata", "annotations", VERSION_ANNOTATION, value=__version__)


def _check_ports(spec: dict[str, Any], ports: Ports) -> None:
    """Two containers of a pod cannot listen on one port."""
    for container in (each for key in LISTS for each in objects(spec, key)):
        taken = [
            port.get("containerPort")
            for port in objects(container, "ports")
            if port.get("protocol", "TCP") == "TCP"
        ]
        for name, wanted in (("port", ports.grpc), ("metrics-port", ports.metrics)):
            if wanted is not None and wanted in taken:
                raise InjectionError(
                    f"container {container.get('name')} listens on port {wanted} like the sidecar:"
                    f" give the sidecar another with {PREFIX}{name}"
                )


def _add_socket(changes: Changes, spec: dict[str, Any]) -> None:
    for volume in objects(spec, "volumes"):
        if volume == sidecar.VOLUME:
            return
        if volume.get("name") == sidecar.VOLUME["name"]:
            raise InjectionError(
                f"the pod has a volume named {volume['name']} of its own, the name of the"
                " sidecar's: rename it"
            )
    changes.add("spec", "volumes", "-", value=sidecar.VOLUME)


def _add_group(changes: Changes, spec: dict[str, Any], group: int) -> None:
    """Containers of any user may connect to the socket, which is the sidecar's group's."""
    groups = mapping(spec, "securityContext").get("supplementalGroups")
    groups = [] if groups is None else groups
    if not isinstance(groups, list):
        raise InjectionError("spec.securityContext.supplementalGroups must be a list")
    if group not in groups:
        changes.add("spec", "securityContext", "supplementalGroups", "-", value=group)
