"""How the pod's own containers reach the sidecar: its address, and the folder of its socket."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from sidecar.injector import container as sidecar
from sidecar.injector.annotations import PREFIX
from sidecar.injector.errors import AnnotationError, InjectionError
from sidecar.injector.shape import mapping, objects

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.injector.patch import Changes

LISTS = ("initContainers", "containers")
MESH_PROXIES = ("istio-proxy", "linkerd-proxy")
"""Containers of service meshes that all traffic of the pod goes through."""

# Kinds of volumes that nobody writes to, whatever the mount says.
_READ_ONLY = {"configMap", "downwardAPI", "image", "projected", "secret"}


def sidecar_place(spec: dict[str, Any]) -> tuple[str, int] | None:
    """The list and the index of the sidecar; None if there is none."""
    for key in LISTS:
        for index, container in enumerate(objects(spec, key)):
            if container.get("name") == sidecar.NAME:
                return key, index
    return None


def has_our_sidecar(spec: dict[str, Any]) -> bool:
    """Whether the container with the sidecar's name shares the socket's volume, as ours does."""
    place = sidecar_place(spec)
    if place is None or sidecar.VOLUME not in objects(spec, "volumes"):
        return False
    key, index = place
    return any(
        mount.get("name") == sidecar.VOLUME["name"] and mount.get("mountPath") == sidecar.FOLDER
        for mount in objects(objects(spec, key)[index], "volumeMounts")
    )


def native_place(spec: dict[str, Any]) -> int:
    """Where a native sidecar goes among the init containers.

    First, so that the pod's own can call it; but behind the native proxy of a mesh, as no
    connection gets out of the pod before that runs.
    """
    places = [
        index
        for index, container in enumerate(objects(spec, "initContainers"), start=1)
        if container.get("name") in MESH_PROXIES and container.get("restartPolicy") == "Always"
    ]
    return places[-1] if places else 0


def connect_containers(changes: Changes, chosen: Sequence[str] | None) -> None:
    """Gives address and socket to the containers that lack them.

    ``chosen`` are names; None for all but the sidecars of others and the proxies of meshes. An init
    container that runs before the sidecar gets nothing. Raises `InjectionError`.
    """
    found = _within_reach(mapping(changes.document, "spec"))
    if chosen is not None:
        _check_chosen(chosen, [container.get("name") for *_, container in found])
    volumes = {
        str(each.get("name")): each
        for each in objects(mapping(changes.document, "spec"), "volumes")
    }
    for key, index, container in found:
        name = container.get("name")
        if (not _is_of_others(key, container)) if chosen is None else (name in chosen):
            _connect(changes, key, index, container, volumes)


def _within_reach(spec: dict[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    """The containers that run while the sidecar does, with their places."""
    place = sidecar_place(spec)
    first = {"containers": 0}
    if place is not None and place[0] == "initContainers":
        first = {"initContainers": place[1], "containers": 0}
    return [
        (key, index, container)
        for key, start in first.items()
        for index, container in enumerate(objects(spec, key))
        if index >= start and (key, index) != place
    ]


def _is_of_others(key: str, container: dict[str, Any]) -> bool:
    is_native_sidecar = key == "initContainers" and container.get("restartPolicy") == "Always"
    return is_native_sidecar or container.get("name") in MESH_PROXIES


def _check_chosen(chosen: Sequence[str], names: Sequence[Any]) -> None:
    known = [name for name in names if isinstance(name, str)]
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            guess = f"did you mean {near[0]}? " if near else ""
            raise AnnotationError(
                f"{PREFIX}containers: no container {name} runs beside the sidecar; {guess}There"
                f" are: {', '.join(known)}"
            )


def _connect(
    changes: Changes,
    key: str,
    index: int,
    container: dict[str, Any],
    volumes: dict[str, dict[str, Any]],
) -> None:
    variables = [variable.get("name") for variable in objects(container, "env")]
    if sidecar.ADDRESS["name"] not in variables:
        # At the beginning, so that the others can refer to it with $(EMBERCACHE_ADDRESS).
        changes.add("spec", key, index, "env", 0, value=sidecar.ADDRESS)
    mounts = [
        (str(mount.get("mountPath")).rstrip("/"), mount)
        for mount in objects(container, "volumeMounts")
    ]
    if (sidecar.FOLDER, sidecar.VOLUME["name"]) in [
        (path, each.get("name")) for path, each in mounts
    ]:
        return
    for path, mount in mounts:
        if why := _in_the_way(path, mount, volumes.get(str(mount.get("name")), {})):
            raise InjectionError(
                f"container {container.get('name')} mounts {why}: mount it elsewhere, or leave the"
                f" container out with {PREFIX}containers"
            )
    changes.add("spec", key, index, "volumeMounts", "-", value=sidecar.APP_MOUNT)


def _in_the_way(path: str, mount: dict[str, Any], volume: dict[str, Any]) -> str:
    """What keeps the socket's folder from being mounted beside another mount; empty for nothing.

    The folder is made where it is not there, which takes a volume that can be written to; and
    that of the node is not for us to write to.
    """
    if f"{path}/".startswith(f"{sidecar.FOLDER}/"):
        return f"a volume of its own at {path}, where the sidecar's socket goes"
    if not sidecar.FOLDER.startswith(f"{path}/"):
        return ""
    below = f"at {path or '/'}, and the sidecar's socket needs the folder {sidecar.FOLDER} in it"
    if volume.get("hostPath") is not None:
        return f"a folder of the node {below}"
    if mount.get("readOnly") is True or not _READ_ONLY.isdisjoint(volume):
        return f"a volume that is read-only {below}"
    return ""
