"""What changes in a pod."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidecar.injector.patch import Operation
    from sidecar.injector.settings import InjectorSettings


def left_alone(pod: dict[str, Any], *, native: bool) -> str | None:
    """Why `inject` does not change a pod although it is asked to; None if it does.

    Pods of Windows, mirrors of static pods, and, without native sidecars, pods that are to end.
    """
    raise NotImplementedError


def inject(
    pod: dict[str, Any], *, namespace: str, settings: InjectorSettings, native: bool
) -> list[Operation]:
    """What gives a pod its sidecar, as operations of JSON Patch; none if there is nothing to do.

    ``pod`` is its JSON as it came and is not changed. ``namespace`` is where it goes; empty if
    that is not known. ``native`` is the kind of sidecar unless the pod's annotation says which.
    Raises `InjectionError`, mostly its kind `AnnotationError`.
    """
    raise NotImplementedError
