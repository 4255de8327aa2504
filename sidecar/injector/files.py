"""Secrets and ConfigMaps of the pod's namespace that the sidecar has as files."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sidecar.injector.shape import objects
from sidecar.injector.values import TOKEN_FOLDER
from sidecar.injector.wiring import LISTS

if TYPE_CHECKING:
    from sidecar.injector.settings import FileMount, InjectorSettings

# Readable by any user of the one container that has them: the files are root's, and without
# fsGroup, which would change the owner of the pod's other volumes, the sidecar is in no group of
# theirs.
_MODE = 0o444


@dataclass(slots=True)
class Files:
    """Volumes of a pod, and how the sidecar mounts them."""

    volumes: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)


def files_for(spec: dict[str, Any], settings: InjectorSettings) -> Files:
    """What the sidecar of a pod is to have beside its socket.

    That is also an empty folder where the API server would else put the token of the pod's service
    account, which the sidecar has no use for.
    """
    taken, files = _taken_names(spec), Files()

    def add(stem: str, path: str, kind: str, source: dict[str, Any]) -> None:
        name = next(each for each in _names(stem) if each not in taken)
        taken.add(name)
        files.volumes.append({"name": name, kind: source})
        files.mounts.append({"name": name, "mountPath": path, "readOnly": True})

    add("embercache-no-token", TOKEN_FOLDER, "emptyDir", {})
    for secret in settings.secret_mounts:
        add("embercache-files", secret.path, "secret", _source("secretName", secret.secret, secret))
    for config in settings.config_map_mounts:
        add(
            "embercache-files", config.path, "configMap", _source("name", config.config_map, config)
        )
    return files


def _source(key: str, name: str, mount: FileMount) -> dict[str, Any]:
    return {key: name, "defaultMode": _MODE} | ({"optional": True} if mount.optional else {})


def _names(stem: str) -> itertools.chain[str]:
    return itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))


def _taken_names(spec: dict[str, Any]) -> set[str]:
    """Names of the pod's volumes, and of those that its containers mount.

    Else a container that names a volume which is not there would get one of the sidecar's.
    """
    containers = [each for key in LISTS for each in objects(spec, key)]
    mounts = [mount for each in containers for mount in objects(each, "volumeMounts")]
    return {str(each.get("name")) for each in (*objects(spec, "volumes"), *mounts)}
